//! The `flannel-agent` program: command line, logging, exit code.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong command line, 3 no agent to ask.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use flannel_agent::cli::{self, Command, Output, Stop};
use flannel_agent::config::Config;
use flannel_agent::control::{ControlError, ControlSocket, request_status};
use flannel_agent::subnet::Timing;
use flannel_agent::subnet::acquire::{Wish, acquire};
use flannel_agent::subnet::file::{PreviousSubnet, SubnetEnv};
use flannel_agent::subnet::keep::keep;
use flannel_agent::subnet::settings::wait_for_network;
use flannel_agent::subnet::store::Store;
use flannel_agent::subnet::watch::watch_leases;
use flannel_agent::{iface, lease, notify, status, status_view};
use rand::SeedableRng as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

fn main() -> ExitCode {
    let parsed = match cli::parse(std::env::args_os().skip(1), |name| std::env::var_os(name)) {
        Ok(parsed) => parsed,
        Err(Stop { code, text }) => {
            // Nobody is left to be told when this fails.
            let _ = match code {
                0 => std::io::stdout().write_all(text.as_bytes()),
                _ => std::io::stderr().write_all(text.as_bytes()),
            };
            return ExitCode::from(code);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(dispatch(parsed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.downcast_ref() {
                Some(ControlError::NotRunning { .. }) => ExitCode::from(3),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn dispatch(parsed: cli::Parsed) -> anyhow::Result<()> {
    match parsed.command {
        Command::Run(args) => {
            let (config, unusual) = Config::new(*args, |name| std::env::var_os(name))?;
            tracing_subscriber::fmt()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal())
                .with_max_level(config.log_level)
                .init();
            for warning in parsed.warnings.into_iter().chain(unusual) {
                warn!("{warning}");
            }
            run(config).await
        }
        Command::Status { place, output } => {
            let status = request_status(&place.run_dir).await?;
            let text = match output {
                Output::Text => status_view::render(&status),
                Output::Json => serde_json::to_string_pretty(&status)? + "\n",
            };
            std::io::stdout().write_all(text.as_bytes())?;
            Ok(())
        }
        Command::Cleanup { .. } => {
            anyhow::bail!("cleanup is not wired up in this provisional main")
        }
    }
}

/// The control plane alone, until the run loop of the library takes its place.
async fn run(config: Config) -> anyhow::Result<()> {
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        stop.cancel();
    });
    let notifier = notify::Notifier::new(config.notify_socket.as_deref());
    let timing = Timing::new(config.renew_margin);
    let store = Store::new(&config.etcd)?;
    let socket = ControlSocket::bind(&config.run_dir).await?;
    let Some(network) = wait_for_network(&store, &timing, &cancel).await else {
        return Ok(());
    };
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let host = iface::read_host(&handle, &config.interface).await?;
    let external = iface::choose(&host, &config.interface)?;
    info!(?external, "external interface");
    let mut rng = rand::rngs::StdRng::from_os_rng();
    let wish = Wish {
        attrs: lease::LeaseAttrs {
            public_ip: external.public_ip,
            public_ipv6: None,
            backend_type: network.backend.name().into(),
            backend_data: None,
            backend_v6_data: None,
        },
        previous: PreviousSubnet::load(&config.subnet_file)?.subnet(),
    };
    let Some(held) = acquire(&store, &network, &wish, &timing, &mut rng, &cancel).await else {
        return Ok(());
    };
    let held = held?;
    let env = SubnetEnv {
        v4: network
            .ipv4
            .map(|overlay| (overlay.network, held.subnet.v4)),
        v6: None,
        mtu: external.mtu - 50,
        ip_masq: false,
    };
    env.write(&config.subnet_file, &mut rng)?;
    let (changes, mut received) = mpsc::channel(64);
    let (report, health) = watch::channel(status::Store::default());
    let (term, _) = watch::channel(held.term);
    tokio::spawn(socket.serve(
        move || {
            let store = health.borrow().clone();
            async move { provisional_status(store) }
        },
        cancel.clone(),
    ));
    notifier.ready();
    let follow = watch_leases(&store, &timing, changes, report, &cancel);
    let print = async {
        while let Some(change) = received.recv().await {
            info!(?change, "leases");
        }
    };
    let (loss, (), ()) = tokio::join!(
        async {
            let loss = keep(&store, held, &timing, &term, &cancel).await;
            cancel.cancel();
            loss
        },
        follow,
        print
    );
    notifier.stopping();
    loss.map_or(Ok(()), |loss| Err(loss.into()))
}

fn provisional_status(store: status::Store) -> status::Status {
    let text = r#"{"version":"0","pid":0,"uptime_secs":0,"ready":false,"problems":["provisional"],
        "backend":"vxlan","interface":{"name":"","index":0,"mtu":0,"address":"0.0.0.0"},
        "lease":{"subnet":"","network":"","public_ip":"0.0.0.0","expires_in_secs":null},
        "device":null,"datapath":{"requested":"","active":"","reason":"","programs":[],"counters":[]},
        "peers":{"total":0,"ebpf":0,"kernel":[],"ignored":[]},
        "store":{"endpoints":[],"connected":false,"revision":0,"error":null}}"#;
    match serde_json::from_str(text) {
        Ok(status) => status::Status { store, ..status },
        Err(error) => unreachable!("{error}"),
    }
}
