//! One run of the agent, from its settings to its end.
//!
//! The order can be seen from outside, and is flannel's: network config, external interface,
//! device, lease, traffic rules, `subnet.env`, peers, `READY=1`. What is new is the dataplane: it
//! is opened first, so that `--datapath=ebpf` refuses before anything is touched, and attached
//! last, when its maps know the peers. An earlier run's programs and entries work on until then.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ipnetwork::Ipv4Network;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backend::vxlan::device::{Device, DeviceSpec, ensure_device};
use crate::backend::vxlan::{BackendData, VxlanConfig, vtep_mac};
use crate::cli::DatapathMode;
use crate::config::{Config, RulesConfig};
use crate::control::ControlSocket;
use crate::dataplane::{self, Dataplane};
use crate::error::chain;
use crate::health::Health;
use crate::iface::{self, ExternalInterface};
use crate::lease::LeaseAttrs;
use crate::netlink::monitor::Monitor;
use crate::netlink::{MacAddr, Netlink};
use crate::network::{Backend, NetworkConfig};
use crate::node::run::{Fallback, Inputs};
use crate::node::{self, Node, NodeSpec};
use crate::notify::{Notifier, keep_told, summary};
use crate::rules::{self, Rules};
use crate::state::State;
use crate::status;
use crate::status_source::{LeaseView, Phase, StatusSource};
use crate::subnet::Timing;
use crate::subnet::acquire::{HeldLease, Wish, acquire, find_lease};
use crate::subnet::file::{PreviousSubnet, SubnetEnv};
use crate::subnet::hold::{Holder, LeaseEvent};
use crate::subnet::settings::{wait_for_network, watch_network};
use crate::subnet::store::Store;
use crate::subnet::watch::watch_leases;

/// Changes of leases that wait for the node.
const LEASE_QUEUE: usize = 1_024;
/// Requests that wait for the node.
const REQUEST_QUEUE: usize = 16;

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
    let status = move || {
        let phase = phases.borrow().clone();
        phase.status()
    };
    if let Some(address) = config.health {
        let health = Health::bind(address).await?;
        info!(%address, "offering /healthz and /readyz");
        tokio::spawn(health.serve(status.clone(), end.clone()));
    }
    tokio::spawn(control.serve(status.clone(), end.clone()));
    let (told, watchdog, cancel) = (Arc::clone(&notifier), config.watchdog, end.clone());
    tokio::spawn(async move { keep_told(&told, watchdog, status, &cancel).await });
    let (dataplane, datapath) = open_dataplane(&config)?;

    let store = Store::new(&config.etcd)?;
    let timing = Timing::new(config.renew_margin);
    notifier.status("waiting for the network config");
    let Some(network) = wait_for_network(&store, &timing, &stop).await else {
        return Ok(());
    };
    let overlay = network
        .ipv4
        .context("EnableIPv4 is false: IPv6-only networks are not supported")?;
    let vxlan = vxlan_config(&network)?;

    let netlink = Netlink::open()?;
    let external = choose_interface(&config).await?;
    info!(
        interface = external.name,
        address = %external.address,
        public_ip = %external.public_ip,
        "external interface"
    );

    let Some(mac) = known_mac(&config, &store, &vxlan, &external, &timing, &stop).await else {
        return Ok(());
    };
    let (device, backend_data) = set_up_device(&config, &netlink, &vxlan, &external, mac).await?;
    phase.send_replace(Phase::Starting("a lease"));
    notifier.status("waiting for a lease");
    let wish = wish(&config, &network, &external, backend_data);
    let mut rng = StdRng::from_os_rng();
    let Some(lease) = acquire(&store, &network, &wish, &timing, &mut rng, &stop).await else {
        return Ok(());
    };
    let lease = lease?;
    info!(subnet = %lease.subnet, "lease held");
    let rules = set_rules(&config, &netlink, overlay.network, &lease).await?;
    write_subnet_file(&config, overlay.network, &lease, device.mtu, &mut rng)?;

    let spec = NodeSpec {
        external: external.name,
        local: external.address,
        public_ip: external.public_ip,
        device,
        network: overlay.network,
        subnet: lease.subnet.v4,
    };
    let run = Run {
        dataplane,
        datapath,
        netlink,
        store,
        timing,
        spec,
        network,
        wish,
        lease,
        rules,
        end,
    };
    let outcome = serve(&config, &notifier, &phase, run).await;
    notifier.stopping();
    outcome
}

async fn choose_interface(config: &Config) -> Result<ExternalInterface> {
    let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket")?;
    let connection = tokio::spawn(connection);
    let host = iface::read_host(&handle, &config.interface).await;
    connection.abort();
    Ok(iface::choose(&host?, &config.interface)?)
}

/// What this node asks of the lease store.
fn wish(
    config: &Config,
    network: &NetworkConfig,
    external: &ExternalInterface,
    backend_data: Box<RawValue>,
) -> Wish {
    let previous = PreviousSubnet::load(&config.subnet_file).unwrap_or_else(|error| {
        warn!(error = chain(&error), "the previous subnet is not known");
        PreviousSubnet::default()
    });
    Wish {
        attrs: LeaseAttrs {
            public_ip: external.public_ip,
            public_ipv6: None,
            backend_type: network.backend.name().to_owned(),
            backend_data: Some(backend_data),
            backend_v6_data: None,
        },
        previous: previous.subnet(),
    }
}

/// All that the running phase is made from.
struct Run {
    dataplane: Option<Dataplane>,
    datapath: status::Datapath,
    netlink: Netlink,
    store: Store,
    timing: Timing,
    spec: NodeSpec,
    network: NetworkConfig,
    wish: Wish,
    lease: HeldLease,
    rules: Rules,
    end: CancellationToken,
}

/// Runs the node beside what feeds it, until it ends or the lease is lost.
async fn serve(
    config: &Config,
    notifier: &Notifier,
    phase: &watch::Sender<Phase>,
    run: Run,
) -> Result<()> {
    let Run {
        dataplane,
        datapath,
        netlink,
        store,
        timing,
        spec,
        network,
        wish,
        lease,
        rules,
        end,
    } = run;
    let (changes, leases) = mpsc::channel(LEASE_QUEUE);
    let (request, requests) = mpsc::channel(REQUEST_QUEUE);
    let (ready, is_ready) = oneshot::channel();
    let (became_ready, ready_flag) = watch::channel(false);
    let (term, lease_term) = watch::channel(lease.term);
    let (view, lease_view) = watch::channel(LeaseView {
        subnet: spec.subnet,
        problem: None,
    });
    let (notice, network_notice) = watch::channel(None);
    let (own_subnet, subnet) = watch::channel(spec.subnet);
    let (health, store_health) = watch::channel(status::Store {
        endpoints: store.endpoints(),
        ..status::Store::default()
    });
    // Subscribed to before the node reads anything, so that no change falls in between.
    let monitor = Monitor::open()?;
    let mut node = Node::new(netlink, spec.clone(), dataplane).await?;
    phase.send_replace(Phase::Running(Box::new(StatusSource {
        started: Instant::now(),
        ready: ready_flag,
        datapath,
        spec: spec.clone(),
        lease: lease_view,
        notice: network_notice,
        term: lease_term,
        store: store_health,
        rules: rules.problems(),
        node: request,
    })));

    let fallback = match config.datapath {
        DatapathMode::Ebpf => Fallback::Refuse,
        DatapathMode::Auto | DatapathMode::Kernel => Fallback::Kernel,
    };
    let inputs = Inputs {
        leases,
        monitor,
        requests,
        subnet: subnet.clone(),
        ready,
    };
    let holder = Holder {
        store: &store,
        network: &network,
        wish: &wish,
        timing: &timing,
        on_loss: config.on_lease_loss,
        term: &term,
    };
    let follow_lease = |event: LeaseEvent<'_>| match event {
        LeaseEvent::Lost(loss) => view.send_modify(|view| {
            view.problem = Some(format!("{loss}, acquiring a lease again"));
        }),
        LeaseEvent::Held(lease) => {
            let subnet = lease.subnet.v4;
            own_subnet.send_if_modified(|own| std::mem::replace(own, subnet) != subnet);
            let mut rng = StdRng::from_os_rng();
            let written = write_subnet_file(config, spec.network, lease, spec.device.mtu, &mut rng);
            let problem = written.err().map(|error| format!("{error:#}"));
            view.send_replace(LeaseView { subnet, problem });
        }
    };
    let mut rng = StdRng::from_os_rng();
    let announce = async {
        if is_ready.await.is_ok() {
            remove_unused_dataplane(config, &spec);
            became_ready.send_replace(true);
            notifier.ready();
            let phase = phase.borrow().clone();
            if let Ok(status) = phase.status().await {
                notifier.status(&summary(&status));
            }
            info!("ready");
        }
        std::future::pending().await
    };
    tokio::select! {
        result = node::run::run(&mut node, inputs, fallback, end.clone()) => Ok(result?),
        held = holder.hold(lease, &mut rng, follow_lease, &end) => Ok(held?),
        () = watch_network(&store, &network, &timing, &notice, &end) => Ok(()),
        () = watch_leases(&store, &timing, changes, health, &end) => Ok(()),
        never = keep_rules(rules, config.rules.resync, subnet) => match never {},
        never = announce => never,
    }
}

/// Keeps the traffic rules for the own subnet as it is.
async fn keep_rules(
    mut rules: Rules,
    period: Duration,
    mut subnet: watch::Receiver<Ipv4Network>,
) -> Infallible {
    loop {
        tokio::select! {
            never = rules.keep(period) => match never {},
            Ok(()) = subnet.changed() => {}
        }
        let subnet = *subnet.borrow_and_update();
        rules.set_subnet(subnet).await;
    }
}

/// Programs and maps that an earlier run left, on a node that is to use none.
fn remove_unused_dataplane(config: &Config, spec: &NodeSpec) {
    if config.datapath != DatapathMode::Kernel {
        return;
    }
    match dataplane::remove(&config.bpf_pin_path, &[&spec.external, &spec.device.name]) {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => info!(?removed, "removed the eBPF dataplane of an earlier run"),
        Err(error) => warn!(
            error = chain(&error),
            "the eBPF dataplane of an earlier run stays"
        ),
    }
}

/// The dataplane that is to be used, if any, and why.
fn open_dataplane(config: &Config) -> Result<(Option<Dataplane>, status::Datapath)> {
    let datapath = |active: &str, reason: String| status::Datapath {
        requested: config.datapath.to_string(),
        active: active.to_owned(),
        reason,
        programs: Vec::new(),
        counters: Vec::new(),
    };
    if config.datapath == DatapathMode::Kernel {
        return Ok((
            None,
            datapath("kernel", "asked for by --datapath=kernel".into()),
        ));
    }
    let options = dataplane::Options {
        pin_path: config.bpf_pin_path.clone(),
        tc_attach: config.tc_attach,
        log_level: config.ebpf_log_level as u8,
    };
    match Dataplane::open(&options) {
        Ok(mut dataplane) => {
            if options.log_level > 0 {
                dataplane.start_logging();
            }
            let reason = "the kernel can";
            Ok((Some(dataplane), datapath("ebpf", reason.into())))
        }
        Err(error) if config.datapath == DatapathMode::Ebpf => {
            Err(anyhow::Error::from(error).context("--datapath=ebpf cannot be used here"))
        }
        Err(error) => {
            let reason = format!("eBPF cannot be used here: {}", chain(&error));
            warn!("datapath: kernel ({reason})");
            Ok((None, datapath("kernel", reason)))
        }
    }
}

/// The VTEP MAC that this node had before, so that peers need not learn another one: from its own
/// state, or, since that does not outlive a reboot, from its lease. `None` after cancellation.
async fn known_mac(
    config: &Config,
    store: &Store,
    vxlan: &VxlanConfig,
    external: &ExternalInterface,
    timing: &Timing,
    stop: &CancellationToken,
) -> Option<Option<MacAddr>> {
    let kept = State::load(&config.run_dir).unwrap_or_else(|error| {
        warn!(%error, "the state of an earlier run cannot be read");
        None
    });
    let name = vxlan.device_name();
    if let Some(state) = kept.filter(|state| state.device == name) {
        return Some(Some(state.vtep_mac));
    }
    let lease = find_lease(store, external.public_ip, timing, stop).await?;
    let attrs = lease.map(|lease| lease.attrs);
    let mac = attrs.and_then(|attrs| vtep_mac(attrs.backend_data.as_deref()).ok());
    if let Some(mac) = mac {
        info!(%mac, "taking the VTEP MAC over from the lease of this node");
    }
    Some(mac)
}

/// Takes our filter off an external interface that is not it any more: a filter on clsact, unlike a
/// pinned link, is nowhere else remembered.
fn leave_former_interface(config: &Config, state: &State) {
    let Ok(Some(former)) = State::load(&config.run_dir) else {
        return;
    };
    if former.external == state.external {
        return;
    }
    match dataplane::leave(&former.external) {
        Ok(true) => info!(interface = former.external, "took our program off"),
        Ok(false) => {}
        Err(error) => warn!(
            interface = former.external,
            error = chain(&error),
            "our program stays on the former external interface"
        ),
    }
}

fn vxlan_config(network: &NetworkConfig) -> Result<VxlanConfig> {
    let Backend::Vxlan(vxlan) = &network.backend else {
        bail!("backend {} is not wired up yet", network.backend.name());
    };
    Ok(VxlanConfig {
        vni: vxlan.vni,
        port: vxlan.port,
        mtu: vxlan.mtu,
        learning: vxlan.learning,
        gbp: vxlan.gbp,
    })
}

/// Makes the tunnel device, so that its MAC can be advertised.
async fn set_up_device(
    config: &Config,
    netlink: &Netlink,
    vxlan: &VxlanConfig,
    external: &ExternalInterface,
    mac: Option<MacAddr>,
) -> Result<(DeviceSpec, Box<RawValue>)> {
    let Some(mtu) = vxlan.device_mtu(external.mtu) else {
        bail!(
            "the MTU of {}, {}, leaves no room for a tunnel",
            external.name,
            external.mtu
        );
    };
    let spec = DeviceSpec {
        name: vxlan.device_name(),
        vni: vxlan.vni,
        lower: external.index,
        local: external.address,
        port: vxlan.port,
        mtu,
        mac: mac.unwrap_or_else(|| MacAddr::random_local(&mut rand::rng())),
        learning: vxlan.learning,
        gbp: vxlan.gbp,
    };
    let (device, _) = ensure_device(netlink, &spec).await?;
    let Device { mac, vni, .. } = device;
    let state = State {
        device: device.name,
        vtep_mac: mac,
        external: external.name.clone(),
        public_ip: external.public_ip,
        bpf_pin_path: config.bpf_pin_path.clone(),
        subnet_file: config.subnet_file.clone(),
    };
    leave_former_interface(config, &state);
    state
        .store(&config.run_dir)
        .with_context(|| format!("write {}", State::path(&config.run_dir).display()))?;
    let data = BackendData { vni, vtep_mac: mac }.to_json()?;
    Ok((DeviceSpec { mac, ..spec }, data))
}

/// Sets the traffic rules, and takes over what stock flannel has left of its own.
async fn set_rules(
    config: &Config,
    netlink: &Netlink,
    network: Ipv4Network,
    lease: &HeldLease,
) -> Result<Rules> {
    let RulesConfig {
        masquerade,
        forward,
        blackhole,
        resync: _,
    } = config.rules;
    let spec = rules::Spec {
        network,
        subnet: lease.subnet.v4,
        masquerade,
        forward,
        blackhole,
    };
    let rules = Rules::start(spec, netlink.clone()).await;
    rules.context("--ip-masq is asked for, and traffic cannot be masqueraded")
}

fn write_subnet_file(
    config: &Config,
    network: Ipv4Network,
    lease: &HeldLease,
    mtu: u32,
    rng: &mut StdRng,
) -> Result<()> {
    let env = SubnetEnv {
        v4: Some((network, lease.subnet.v4)),
        v6: None,
        mtu,
        ip_masq: config.rules.masquerade.is_some(),
    };
    env.write(&config.subnet_file, rng)?;
    info!(file = %config.subnet_file.display(), "wrote the environment file");
    Ok(())
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
