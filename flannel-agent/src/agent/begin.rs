//! From nothing to a lease, and to a node that knows where it is.

use anyhow::{Context as _, Result, bail};
use ipnetwork::Ipv4Network;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::value::RawValue;
use tracing::{info, warn};

use super::{Agent, datapath, earlier, external};
use crate::backend;
use crate::config::{Config, RulesConfig};
use crate::error::chain;
use crate::iface::ExternalInterface;
use crate::lease::LeaseAttrs;
use crate::netlink::Netlink;
use crate::netlink::monitor::Monitor;
use crate::network::{Backend, NetworkConfig};
use crate::node::{Made, Node, NodeSpec};
use crate::rules::{self, Rules};
use crate::state::State;
use crate::status_source::Phase;
use crate::subnet::acquire::{HeldLease, Wish, acquire, list_leases};
use crate::subnet::file::{PreviousSubnet, SubnetEnv};
use crate::subnet::store::Listing;

/// All that the running phase is made from.
pub(super) struct Begun {
    pub(super) network: NetworkConfig,
    pub(super) external: ExternalInterface,
    pub(super) state: State,
    pub(super) wish: Wish,
    /// All leases, as they were shortly before this node had its own.
    pub(super) leases: Listing,
    pub(super) lease: HeldLease,
    pub(super) rules: Rules,
    pub(super) spec: NodeSpec,
    pub(super) pod_mtu: u32,
    pub(super) node: Node,
    pub(super) netlink: Netlink,
    pub(super) monitor: Monitor,
}

/// Starts up to the point where peers can be programmed, for the first time in this run or again;
/// `None` after cancellation.
///
/// # Errors
/// What keeps the agent from starting.
pub(super) async fn begin(
    agent: &Agent,
    network: NetworkConfig,
    is_first: bool,
) -> Result<Option<Begun>> {
    let Agent {
        config,
        store,
        timing,
        notifier,
        phase,
        end,
    } = agent;
    let overlay = network
        .ipv4
        .context("EnableIPv4 is false: IPv6-only networks are not supported")?;

    datapath::make_room(config).await;
    // Which programs these are the MAC does not decide.
    let programs = backend::new(&network.backend, None).programs();
    let opening = datapath::Opening::new(config, programs, is_first);
    let netlink = Netlink::open()?;
    let external = external::choose(config, &network.backend).await?;
    info!(
        interface = external.name,
        address = %external.address,
        public_ip = %external.public_ip,
        "external interface"
    );

    let earlier = earlier::load(config);
    let Some(leases) = list_leases(store, timing, end).await else {
        return Ok(None);
    };
    let known_mac = match &network.backend {
        Backend::Vxlan(vxlan) => {
            let device = backend::vxlan::device_name(vxlan.vni);
            earlier::known_mac(earlier.as_ref(), &leases, &device, external.public_ip)
        }
        _ => None,
    };
    let mut backend = backend::new(&network.backend, known_mac);
    // Where it is refused, nothing has been touched, and no lease been taken.
    let opening = opening.not_refused(config).await?;
    let Some(pod_mtu) = backend.pod_mtu(external.mtu) else {
        bail!(
            "the MTU of {}, {}, leaves no room for a tunnel",
            external.name,
            external.mtu
        );
    };
    let advert = tokio::select! {
        advert = backend.prepare(&netlink, &external) => advert?,
        () = end.cancelled() => return Ok(None),
    };
    let state = earlier::note(config, earlier.as_ref(), &*backend, advert.mac, &external)?;

    phase.send_replace(Phase::Starting("a lease"));
    notifier.status("waiting for a lease");
    let wish = wish(
        config,
        network.backend.lease_type(),
        advert.backend_data,
        &external,
        earlier.as_ref(),
    );
    let mut rng = StdRng::from_os_rng();
    let known = Some(&leases);
    let acquired = acquire(store, &network, &wish, timing, &mut rng, known, end);
    let Some(lease) = acquired.await else {
        return Ok(None);
    };
    let lease = lease?;
    info!(subnet = %lease.subnet, "lease held");
    let opening = opening.begin();
    let rules = set_rules(config, &netlink, overlay.network, &lease).await?;

    let spec = NodeSpec {
        external: external.name.clone(),
        external_mtu: external.mtu,
        local: external.address,
        public_ip: external.public_ip,
        network: overlay.network,
        subnet: lease.subnet.v4,
    };
    // Subscribed to before the node reads anything, so that no change falls in between.
    let monitor = Monitor::open()?;
    let made = tokio::select! {
        made = Made::new(netlink.clone(), spec.clone(), backend) => made?,
        () = end.cancelled() => return Ok(None),
    };
    write_subnet_file(config, overlay.network, &lease, pod_mtu)?;
    let node = Node::new(made, opening.done().await?);
    Ok(Some(Begun {
        network,
        external,
        state,
        wish,
        leases,
        lease,
        rules,
        spec,
        pod_mtu,
        node,
        netlink,
        monitor,
    }))
}

/// What this node asks of the lease store.
fn wish(
    config: &Config,
    lease_type: &str,
    backend_data: Option<Box<RawValue>>,
    external: &ExternalInterface,
    earlier: Option<&State>,
) -> Wish {
    let previous = PreviousSubnet::load(&config.subnet_file).unwrap_or_else(|error| {
        warn!(error = chain(&error), "the previous subnet is not known");
        PreviousSubnet::default()
    });
    Wish {
        attrs: LeaseAttrs {
            public_ip: external.public_ip,
            public_ipv6: None,
            backend_type: lease_type.to_owned(),
            backend_data,
            backend_v6_data: None,
        },
        previous: previous.subnet(),
        former_ip: earlier.map(|state| state.public_ip),
    }
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

/// Writes `subnet.env`.
pub(super) fn write_subnet_file(
    config: &Config,
    network: Ipv4Network,
    lease: &HeldLease,
    mtu: u32,
) -> Result<()> {
    let env = SubnetEnv {
        v4: Some((network, lease.subnet.v4)),
        v6: None,
        mtu,
        ip_masq: config.rules.masquerade.is_some(),
    };
    env.write(&config.subnet_file, &mut StdRng::from_os_rng())?;
    info!(file = %config.subnet_file.display(), "wrote the environment file");
    Ok(())
}
