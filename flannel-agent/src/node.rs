//! This node: the one place where desired state is derived from the leases and compared with what
//! the host has, both for the kernel path and for eBPF.
//!
//! ```text
//! leases ─▶ usable peers ─┬─▶ routes, neighbours, FDB of the tunnel device   (kernel path)
//!                         └─▶ way over the underlay ─▶ peers, remotes        (eBPF)
//! ```
//!
//! A [`Node`] has one owner, the loop in [`run`]; everybody else sends it messages. Each pass of
//! [`Node::reconcile`] looks at as much of the host as its [`Scope`] says, so that a single lease
//! costs its difference and an overrun costs a full comparison, by the same code.

mod report;
pub mod run;
mod scope;

use std::net::Ipv4Addr;

use flannel_ebpf::abi;
use flannel_ebpf::wire::Vxlan;
use ipnetwork::Ipv4Network;
use tracing::{info, warn};

pub use self::scope::Scope;
use crate::backend::vxlan::device::{
    Device, DeviceChange, DeviceError, DeviceSpec, ensure_address, ensure_device,
};
use crate::backend::vxlan::entries::{apply, read_actual};
use crate::backend::vxlan::{Ignored, Own, Peer, desired_state, usable_peers};
use crate::dataplane::{self, Dataplane};
use crate::error::chain;
use crate::lease::LeaseTable;
use crate::netlink::{self, MacAddr, Netlink};
use crate::plan::{KernelState, plan};
use crate::underlay::{Desired, Local, NotPlain, Underlay};

/// What a node is made from: decided before, fixed for the run but for the subnet, which a node
/// that lost its lease may have to change.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Name of the external interface.
    pub external: String,
    /// Source address of the tunnel.
    pub local: Ipv4Addr,
    /// Address advertised to peers.
    pub public_ip: Ipv4Addr,
    /// The tunnel device; its `mac` and `mtu` as they came out.
    pub device: DeviceSpec,
    /// The whole network.
    pub network: Ipv4Network,
    /// The own subnet.
    pub subnet: Ipv4Network,
}

/// Why a pass could not be finished. What was right before stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The external interface is not there.
    #[error("external interface {0} is gone")]
    NoExternal(String),
    /// The tunnel device could not be set up.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A netlink call failed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The dataplane failed.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
}

/// The state of the node as the agent knows it.
pub struct Node {
    spec: NodeSpec,
    netlink: Netlink,
    device: Device,
    local: Local,
    dataplane: Option<Dataplane>,
    leases: LeaseTable,
    underlay: Underlay,
    /// Entries of the device as last read or written.
    actual: KernelState,
    peers: Vec<Peer>,
    ignored: Vec<Ignored>,
    /// Peers that eBPF leaves to the kernel.
    kernel: Vec<(Ipv4Network, NotPlain)>,
    /// Kernel entries that could not be made at the last try.
    failed: usize,
    /// What went wrong with the last pass.
    error: Option<String>,
    /// Why a dataplane that was to be had was given up.
    given_up: Option<String>,
}

impl Node {
    /// A node whose tunnel device is up.
    ///
    /// # Errors
    /// The device or its address could not be set up.
    pub async fn new(
        netlink: Netlink,
        spec: NodeSpec,
        dataplane: Option<Dataplane>,
    ) -> Result<Self, Error> {
        let (device, local) = set_up(&netlink, &spec).await?;
        let actual = read_actual(&netlink, &device).await?;
        Ok(Self {
            spec,
            netlink,
            device,
            local,
            dataplane,
            leases: LeaseTable::default(),
            underlay: Underlay::default(),
            actual,
            peers: Vec::new(),
            ignored: Vec::new(),
            kernel: Vec::new(),
            failed: 0,
            error: None,
            given_up: None,
        })
    }

    /// The leases, to be changed by the owner before a pass.
    pub fn leases(&mut self) -> &mut LeaseTable {
        &mut self.leases
    }

    /// Takes another subnet from the next pass on, which has to look at everything.
    pub fn set_subnet(&mut self, subnet: Ipv4Network) {
        self.spec.subnet = subnet;
    }

    /// Whether the dataplane is in use.
    #[must_use]
    pub fn has_dataplane(&self) -> bool {
        self.dataplane.is_some()
    }

    /// Leaves all packets to the kernel path from here on: what was attached is detached.
    pub fn give_up_dataplane(&mut self, reason: String) {
        if let Some(dataplane) = self.dataplane.take() {
            dataplane.remove(&[&self.spec.external, &self.device.name]);
        }
        self.kernel.clear();
        self.given_up = Some(reason);
    }

    /// Indices of tunnel device and external interface, for telling events apart.
    #[must_use]
    pub fn interfaces(&self) -> (u32, u32) {
        (self.device.index, self.local.ifindex)
    }

    /// One pass: makes the host what the leases say, as far as `scope` looks.
    ///
    /// # Errors
    /// See [`Error`]; the caller tries again with the next event or tick.
    pub async fn reconcile(&mut self, scope: Scope) -> Result<(), Error> {
        let result = self.pass(scope).await;
        let error = result.as_ref().err().map(|error| chain(error));
        // Once per change, not once per try.
        if let Some(error) = error.as_ref().filter(|_| error != self.error) {
            warn!(error, "the node is not as it should be");
        }
        self.error = error;
        result
    }

    async fn pass(&mut self, scope: Scope) -> Result<(), Error> {
        if scope.device {
            let (device, local) = set_up(&self.netlink, &self.spec).await?;
            if local != self.local {
                // What was found for the old interface says nothing of this one.
                self.underlay.forget_routes();
            }
            (self.device, self.local) = (device, local);
        }
        if scope.device || scope.entries {
            self.actual = read_actual(&self.netlink, &self.device).await?;
        }
        let own = Own {
            network: self.spec.network,
            subnet: self.spec.subnet,
            public_ip: self.spec.public_ip,
            local: self.spec.local,
            mac: self.device.mac,
        };
        let (peers, ignored) = usable_peers(self.leases.peers(self.spec.subnet), &own);
        report::log_ignored(&self.ignored, &ignored);
        (self.peers, self.ignored) = (peers, ignored);
        self.sync_entries().await?;
        if scope.routes {
            self.underlay.forget_routes();
        }
        self.sync_dataplane(scope).await
    }

    /// Routes, neighbours and FDB entries of the device.
    async fn sync_entries(&mut self) -> Result<(), Error> {
        let desired = desired_state(&self.peers);
        let actions = plan(&desired, &self.actual);
        if actions.is_empty() {
            self.failed = 0;
            return Ok(());
        }
        let failed = apply(&self.netlink, &self.device, &actions).await;
        info!(
            changes = actions.len() - failed.len(),
            failed = failed.len(),
            "programmed peers"
        );
        if let Some((action, error)) = failed.first() {
            warn!(
                ?action,
                error = chain(error),
                count = failed.len(),
                "entries could not be made"
            );
            self.actual = read_actual(&self.netlink, &self.device).await?;
        } else {
            self.actual = desired;
        }
        self.failed = failed.len();
        Ok(())
    }

    /// Maps, and with the first pass the attachment.
    async fn sync_dataplane(&mut self, scope: Scope) -> Result<(), Error> {
        let Some(dataplane) = &mut self.dataplane else {
            return Ok(());
        };
        self.underlay
            .resolve_routes(&self.netlink, &self.local, &self.peers)
            .await;
        let mut unresolved = self.underlay.unresolved();
        if scope.neighbours || scope.device || !unresolved.is_empty() {
            self.underlay
                .read_neighbours(&self.netlink, &self.local)
                .await?;
            unresolved = self.underlay.unresolved();
        }
        let Desired {
            peers,
            remotes,
            kernel,
        } = self
            .underlay
            .desired(&self.local, default_ttl(), &self.peers);
        let maps = dataplane.maps();
        let config = config(&self.local, self.device.index);
        maps.set_config(&config).map_err(dataplane::Error::from)?;
        // Senders first: whoever hears from us may answer.
        maps.sync_remotes(&remotes)
            .map_err(dataplane::Error::from)?;
        maps.sync_peers(&peers).map_err(dataplane::Error::from)?;
        self.kernel = kernel;
        if dataplane.programs().is_empty() || (scope.device && !dataplane.is_attached()) {
            dataplane.attach(&self.device.name, &self.spec.external)?;
        }
        probe(&self.netlink, self.local.ifindex, unresolved).await;
        Ok(())
    }

    /// Asks the kernel to look after the neighbour entries in use, which packets that bypass the
    /// stack do not do: it verifies them as it would under traffic, and tells if one fails.
    pub async fn keep_neighbours(&self) {
        if self.has_dataplane() {
            probe(&self.netlink, self.local.ifindex, self.underlay.next_hops()).await;
        }
    }
}

/// Makes the tunnel device and its address, and reads what is beneath it.
async fn set_up(netlink: &Netlink, spec: &NodeSpec) -> Result<(Device, Local), Error> {
    let gone = || Error::NoExternal(spec.external.clone());
    let external = netlink
        .link_by_name(&spec.external)
        .await?
        .ok_or_else(gone)?;
    let device_spec = DeviceSpec {
        lower: external.index,
        ..spec.device.clone()
    };
    let (device, change) = ensure_device(netlink, &device_spec).await?;
    if change != DeviceChange::Kept {
        info!(device = device.name, mac = %device.mac, ?change, "set up the tunnel device");
    }
    ensure_address(netlink, &device, spec.subnet, spec.network).await?;
    let local = Local {
        ifindex: external.index,
        // A device without link-layer addresses (a tunnel as underlay) resolves no neighbour, so
        // nothing is ever sent with this.
        mac: external.mac.unwrap_or(MacAddr([0; 6])),
        address: spec.local,
        mtu: external.mtu,
        vtep_mac: device.mac,
        vni: device.vni,
        port: device.port,
        subnet_len: spec.subnet.prefix(),
    };
    Ok((device, local))
}

fn config(local: &Local, device_ifindex: u32) -> abi::Config {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(local.subnet_len))
        .unwrap_or(0);
    abi::Config {
        vxlan: Vxlan::new(local.vni),
        subnet_mask: mask.to_be_bytes(),
        local_ip: local.address.octets(),
        vtep_mac: local.vtep_mac.0,
        udp_port: local.port.to_be_bytes(),
        device_ifindex,
        reserved: 0,
    }
}

async fn probe(netlink: &Netlink, ifindex: u32, hops: impl IntoIterator<Item = Ipv4Addr>) {
    for hop in hops {
        if let Err(error) = netlink.probe_neighbour(ifindex, hop).await {
            warn!(%hop, error = chain(&error), "cannot have the neighbour resolved");
        }
    }
}

/// Time to live of packets that this host sends, as the kernel's tunnel takes it.
fn default_ttl() -> u8 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl");
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(64)
}
