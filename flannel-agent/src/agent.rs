//! The agent's life, from its settings to its end.
//!
//! The order can be seen from outside, and is flannel's: network config, external interface,
//! device, lease, traffic rules, `subnet.env`, peers, `READY=1`. What is new is the dataplane: what
//! it needs is asked for first, so that `--datapath=ebpf` refuses before anything is touched, and
//! it is attached last, when its maps know the peers. An earlier run's programs and entries work on
//! until then.
//!
//! ```text
//! run ─▶ begin ─▶ serve ─▶ the end
//!          ▲        │
//!          └────────┘ the external interface has another address: all over again, in place
//! ```

mod begin;
mod datapath;
mod earlier;
mod external;
mod serve;

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::begin::begin;
use self::serve::{Outcome, serve};
use crate::config::Config;
use crate::control::{self, ControlSocket, Request};
use crate::health::Health;
use crate::notify::{Notifier, keep_told};
use crate::status_source::Phase;
use crate::subnet::Timing;
use crate::subnet::settings::wait_for_network;
use crate::subnet::store::Store;

/// Runs the agent until `stop` is cancelled.
///
/// # Errors
/// What keeps it from starting, or the loss of its lease.
pub async fn run(config: Config, stop: CancellationToken) -> Result<()> {
    require_net_admin()?;
    let notifier = Arc::new(Notifier::new(config.notify_socket.as_deref()));
    let (phase, phases) = watch::channel(Phase::Starting("the network config"));
    let control = ControlSocket::bind(&config.run_dir).await?;
    // Tasks of this run end with it, whichever way it ends.
    let end = stop.child_token();
    let _guard = end.clone().drop_guard();
    let asked = phases.clone();
    let status = move || {
        let phase = phases.borrow().clone();
        phase.status()
    };
    if let Some(address) = config.health {
        let health = Health::bind(address).await?;
        info!(%address, "offering /healthz and /readyz");
        tokio::spawn(health.serve(status.clone(), end.clone()));
    }
    let handle = move |request| {
        let phase = asked.borrow().clone();
        answer(phase, request)
    };
    tokio::spawn(control.serve(handle, end.clone()));
    let (told, watchdog, cancel) = (Arc::clone(&notifier), config.watchdog, end.clone());
    tokio::spawn(async move { keep_told(&told, watchdog, status, &cancel).await });
    datapath::check(&config)?;
    datapath::prepare(&config);

    let agent = Agent {
        store: Store::new(&config.etcd)?,
        timing: Timing::new(config.renew_margin),
        config,
        notifier,
        phase,
        end,
    };
    agent.notifier.status("waiting for the network config");
    // For the whole run: who changes it decides when each node takes it, by a restart.
    let Some(network) = wait_for_network(&agent.store, &agent.timing, &agent.end).await else {
        return Ok(());
    };
    let mut is_first = true;
    loop {
        let Some(begun) = begin(&agent, network.clone(), is_first).await? else {
            return Ok(());
        };
        is_first = false;
        match serve(&agent, begun).await? {
            Outcome::End => break,
            Outcome::Again => {
                let starting = Phase::Starting("the node to follow its external interface");
                agent.phase.send_replace(starting);
            }
        }
    }
    agent.notifier.stopping();
    Ok(())
}

/// Answers a client of the control socket.
async fn answer(phase: Phase, request: Request) -> control::Answer {
    let text = match request {
        Request::Status => serde_json::to_string(&phase.status().await?),
        Request::FastPath { mode } => serde_json::to_string(&phase.set_fast_path(mode).await?),
        Request::Datapath { mode } => serde_json::to_string(&phase.set_datapath(mode).await?),
    };
    text.map_err(|error| error.to_string())
}

/// What lasts for the whole of a run.
struct Agent {
    config: Config,
    store: Store,
    timing: Timing,
    notifier: Arc<Notifier>,
    phase: watch::Sender<Phase>,
    /// Cancelled at the end of the run.
    end: CancellationToken,
}

/// Every change of the host's network needs this; say so before anything half works.
fn require_net_admin() -> Result<()> {
    /// Number of the capability (linux/capability.h).
    const CAP_NET_ADMIN: u32 = 12;
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    if (effective >> CAP_NET_ADMIN) & 1 == 0 {
        bail!("flannel-agent changes the host's network and needs CAP_NET_ADMIN: run it as root");
    }
    Ok(())
}
