//! This node: the one place where desired state is derived from the leases and compared with what
//! the host has, both for the kernel path and for eBPF.
//!
//! ```text
//! leases ─▶ usable peers ─┬─▶ routes, neighbours, FDB entries                 (kernel path)
//!                         └─▶ way over the underlay ─▶ peers, remotes        (eBPF)
//! ```
//!
//! A [`Node`] has one owner, the loop in [`run`]; everybody else sends it messages. Each pass of
//! [`Node::reconcile`] looks at as much of the host as its [`Scope`] says. Where only leases have
//! changed and no other lease is concerned, which is nearly always, [`follow`] takes the same steps
//! for the peers of these leases alone. What a backend wants is asked of [`Backend`]; nothing here
//! knows which it is.

mod datapath;
mod echo;
mod follow;
mod leases;
mod others;
mod report;
pub mod run;
mod scope;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bytemuck::Zeroable as _;
use flannel_ebpf::abi::{self, Encap};
use ipnetwork::Ipv4Network;
use tracing::{info, warn};

pub use self::datapath::Datapath;
use self::echo::{Doubts, Word};
use self::others::Others;
pub use self::scope::Scope;
use crate::backend::entries::{apply, read_actual};
use crate::backend::peer::{Ignored, Own, Peer, usable_peers};
use crate::backend::{Backend, Device, Place, Reach};
use crate::cli::DatapathMode;
use crate::dataplane::maps::Part;
use crate::dataplane::{self, Attachment, Interfaces};
use crate::error::chain;
use crate::lease::{Lease, LeaseTable};
use crate::netlink::monitor::NetlinkEvent;
use crate::netlink::route::Via;
use crate::netlink::{self, MacAddr, Netlink};
use crate::plan::{Action, KernelState, plan};
use crate::underlay::{Local, NotPlain, Underlay, outer_headers};

/// What a node is made from: decided before, fixed for the run but for the subnet, which a node
/// that lost its lease may have to change.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Name of the external interface.
    pub external: String,
    /// Its MTU at the start, which the device's and the pods' follow from.
    pub external_mtu: u32,
    /// Source address of the tunnel.
    pub local: Ipv4Addr,
    /// Address advertised to peers.
    pub public_ip: Ipv4Addr,
    /// The whole network.
    pub network: Ipv4Network,
    /// The own subnet.
    pub subnet: Ipv4Network,
}

/// Peers that eBPF leaves to the kernel, with the reason.
type LeftToKernel = Vec<(Ipv4Network, NotPlain)>;

/// Why a pass could not be finished. What was right before stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The external interface is not there.
    #[error("external interface {0} is gone")]
    NoExternal(String),
    /// The backend's device, or what belongs to it, could not be set up.
    #[error("{0:#}")]
    Backend(anyhow::Error),
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
    backend: Box<dyn Backend>,
    device: Option<Device>,
    local: Local,
    datapath: Datapath,
    others: Others,
    leases: LeaseTable,
    underlay: Underlay,
    /// Entries as last read or written.
    actual: KernelState,
    doubts: Doubts,
    peers: Vec<Peer>,
    ignored: Vec<Ignored>,
    /// Peers that eBPF leaves to the kernel.
    kernel: LeftToKernel,
    /// Kernel entries that could not be made at the last try, with the reason of the first.
    failed: Option<(usize, String)>,
    /// What went wrong with the last pass.
    error: Option<String>,
    /// Whether the external interface has another MTU than at the start, or not its address.
    has_moved: bool,
}

impl Node {
    /// A node whose backend is set up.
    ///
    /// # Errors
    /// The device or its address could not be set up.
    pub async fn new(
        netlink: Netlink,
        spec: NodeSpec,
        mut backend: Box<dyn Backend>,
        datapath: Datapath,
    ) -> Result<Self, Error> {
        let (device, local) = set_up(&netlink, &spec, &mut *backend).await?;
        let actual = read_actual(&netlink, device.as_ref().map(|device| device.index)).await?;
        Ok(Self {
            spec,
            netlink,
            backend,
            device,
            local,
            datapath,
            others: Others::default(),
            leases: LeaseTable::default(),
            underlay: Underlay::default(),
            actual,
            doubts: Doubts::default(),
            peers: Vec::new(),
            ignored: Vec::new(),
            kernel: Vec::new(),
            failed: None,
            error: None,
            has_moved: false,
        })
    }

    /// Takes another subnet from the next pass on, which has to look at everything.
    pub fn set_subnet(&mut self, subnet: Ipv4Network) {
        self.spec.subnet = subnet;
    }

    /// Whether the dataplane is in use.
    #[must_use]
    pub fn has_dataplane(&self) -> bool {
        self.datapath.is_ebpf()
    }

    /// Programs of the dataplane in use.
    #[must_use]
    pub fn programs(&self) -> &'static [Attachment] {
        self.datapath.programs()
    }

    /// Whether the external interface is not what the node was made for: its address or its MTU is
    /// another one.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// Whether something is to be tried again although nothing has changed.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        self.failed.is_some()
    }

    /// Leaves all packets to the kernel path from here on: what was attached is detached.
    pub fn give_up_dataplane(&mut self, reason: String) {
        let interfaces = Interfaces {
            external: &self.spec.external,
            device: self.device.as_ref().map(|device| device.name.as_str()),
        };
        self.datapath.close(interfaces, reason);
        self.kernel.clear();
        self.backend.set_ebpf(false);
    }

    /// Changes the data path under traffic: the kernel path is complete at all times, and eBPF is
    /// attached when its maps are.
    ///
    /// # Errors
    /// eBPF is asked for and cannot be had; packets go on as before.
    pub async fn set_datapath(&mut self, mode: DatapathMode) -> Result<(), Error> {
        let before = self.has_dataplane();
        self.datapath.select(mode)?;
        if mode == DatapathMode::Kernel {
            self.give_up_dataplane("asked for".to_owned());
            return Ok(());
        }
        let reconciled = self.reconcile(Scope::ALL).await;
        match reconciled {
            Err(Error::Dataplane(error)) if !before => {
                let reason = format!("eBPF cannot be used here: {}", chain(&error));
                self.give_up_dataplane(reason);
                Err(Error::Dataplane(error))
            }
            // Anything else is not about the data path, and is tried again.
            _ => Ok(()),
        }
    }

    /// Names of the node's interfaces.
    #[must_use]
    pub fn interfaces(&self) -> Interfaces<'_> {
        Interfaces {
            external: &self.spec.external,
            device: self.device.as_ref().map(|device| device.name.as_str()),
        }
    }

    fn device_index(&self) -> Option<u32> {
        self.device.as_ref().map(|device| device.index)
    }

    /// What an event of the kernel's asks this node to look at; nothing if it tells what the node
    /// has done itself. Entries of peers are looked at if [`in_doubt`](Self::in_doubt) says so.
    #[must_use]
    pub fn scope_of(&mut self, event: &NetlinkEvent) -> Option<Scope> {
        let device = self.device_index();
        let word = self.doubts.hear(event, device, &self.actual);
        let scope = Scope::of(event, device, self.local.ifindex);
        match word {
            Word::Known => None,
            Word::Doubted => scope.map(|scope| Scope {
                entries: false,
                ..scope
            }),
            Word::Other => scope,
        }
    }

    /// What to look at since something else was heard of it than is known.
    #[must_use]
    pub fn in_doubt(&self) -> Scope {
        Scope {
            entries: self.doubts.any(),
            ..Scope::LEASES
        }
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
        let changed = self.leases.take_changed();
        if let Some(change) = self.peer_change(scope, &changed) {
            return self.follow(change).await;
        }
        if scope.device {
            let (device, local) = set_up(&self.netlink, &self.spec, &mut *self.backend).await?;
            if local != self.local {
                // What was found for the old interface says nothing of this one.
                self.underlay.forget_routes();
            }
            (self.device, self.local) = (device, local);
            let addresses = self.netlink.addresses(self.local.ifindex).await?;
            let has_address = addresses.iter().any(|it| it.ip() == self.spec.local);
            self.has_moved = !has_address || self.local.mtu != self.spec.external_mtu;
        }
        if scope.device || scope.entries {
            self.read_entries().await?;
        }
        if scope.routes {
            self.underlay.forget_routes();
        }
        self.choose_peers().await;
        self.sync_entries().await?;
        self.backend.sync_peers(&self.peers, &self.leases).await;
        self.backend.set_ebpf(self.datapath.is_ebpf());
        self.sync_dataplane(scope).await
    }

    /// This node, as peers must not be.
    fn own(&self) -> Own {
        Own {
            network: self.spec.network,
            subnet: self.spec.subnet,
            public_ip: self.spec.public_ip,
            local: self.spec.local,
            mac: self.device.as_ref().and_then(|device| device.mac),
        }
    }

    /// Which leases are peers, and how each is reached.
    async fn choose_peers(&mut self) {
        let leases = self.leases.peers(self.spec.subnet);
        let accept = |lease: &Lease| self.backend.accept(lease);
        let (mut peers, ignored) = usable_peers(leases, &self.own(), accept);
        report::log_ignored(&self.ignored, &ignored);
        self.underlay.retain(&peers);
        self.choose_reach(&mut peers).await;
        (self.peers, self.ignored) = (peers, ignored);
    }

    /// How each of these peers is reached.
    async fn choose_reach(&mut self, peers: &mut [Peer]) {
        match self.backend.reach() {
            Reach::Tunnel | Reach::None => {}
            Reach::Direct => {
                for peer in peers {
                    peer.direct = Some(self.local.ifindex);
                }
            }
            Reach::TunnelUnlessOnLink => {
                self.underlay.resolve_links(&self.netlink, peers).await;
                for peer in peers {
                    peer.direct = self.underlay.link_of(peer.public_ip);
                }
            }
        }
    }

    /// Routes, neighbours and FDB entries of all peers.
    async fn sync_entries(&mut self) -> Result<(), Error> {
        let desired = self.desired_entries(&self.peers);
        let actions = plan(&desired, &self.actual);
        if self.carry_out(actions).await? {
            self.actual = desired;
        }
        Ok(())
    }

    /// Carries out a plan; says whether all is as planned. If not, what is there has been read.
    async fn carry_out(&mut self, actions: Vec<Action>) -> Result<bool, Error> {
        if actions.is_empty() {
            self.failed = None;
            return Ok(true);
        }
        let count = actions.len();
        let failed = apply(&self.netlink, self.device_index(), actions).await;
        info!(
            changes = count - failed.len(),
            failed = failed.len(),
            "programmed peers"
        );
        let Some((action, error)) = failed.first() else {
            self.failed = None;
            return Ok(true);
        };
        let first = chain(error);
        // Once per kind of failure, not once per try.
        if self
            .failed
            .as_ref()
            .is_none_or(|(_, reason)| *reason != first)
        {
            warn!(
                ?action,
                error = first,
                count = failed.len(),
                "entries could not be made"
            );
        }
        self.failed = Some((failed.len(), first));
        self.read_entries().await?;
        Ok(false)
    }

    async fn read_entries(&mut self) -> Result<(), Error> {
        self.actual = read_actual(&self.netlink, self.device_index()).await?;
        self.doubts.clear();
        Ok(())
    }

    /// What the kernel path to these peers needs.
    fn desired_entries(&self, peers: &[Peer]) -> KernelState {
        let mut state = KernelState::default();
        if self.backend.reach() == Reach::None {
            return state;
        }
        for peer in peers {
            match (peer.direct, &self.device) {
                (Some(oif), _) => {
                    let via = Via {
                        oif,
                        gateway: peer.public_ip,
                        is_onlink: false,
                    };
                    state.routes.insert(peer.subnet, via);
                }
                (None, Some(device)) => self.backend.add_tunnel(device, peer, &mut state),
                (None, None) => {}
            }
        }
        state
    }

    /// Maps, and with the first pass the attachment.
    async fn sync_dataplane(&mut self, scope: Scope) -> Result<(), Error> {
        if !self.has_dataplane() {
            return Ok(());
        }
        let look = scope.neighbours || scope.device;
        let peers = std::mem::take(&mut self.peers);
        let synced = self.sync_maps(&peers, Part::All, Part::All, look).await;
        self.peers = peers;
        let (kernel, unresolved) = synced?;
        self.kernel = kernel;
        self.attach(scope).await?;
        if scope.device {
            self.keep_xdp().await?;
        }
        probe(&self.netlink, self.local.ifindex, unresolved).await;
        Ok(())
    }

    /// The XDP program, which comes after all others are attached.
    async fn keep_xdp(&mut self) -> Result<(), Error> {
        let links = self.netlink.links().await?;
        let external = links.iter().find(|link| link.name == self.spec.external);
        if let (Some(external), Some(dataplane)) = (external, self.datapath.dataplane())
            && dataplane.is_attached()
        {
            dataplane.keep_xdp(external, &links);
        }
        Ok(())
    }

    /// Makes the maps, or the part of them that is about some peers, what these peers ask for. Says
    /// which peers are left to the kernel, and which next hops have to be resolved.
    async fn sync_maps(
        &mut self,
        peers: &[Peer],
        subnets: Part<'_>,
        addresses: Part<'_>,
        look_at_neighbours: bool,
    ) -> Result<(LeftToKernel, BTreeSet<Ipv4Addr>), Error> {
        let Some(dataplane) = self.datapath.dataplane() else {
            return Ok(Default::default());
        };
        let underlay = &mut self.underlay;
        underlay
            .resolve_routes(&self.netlink, &self.local, peers)
            .await;
        let mut unresolved = underlay.unresolved(peers);
        if look_at_neighbours || !unresolved.is_empty() {
            underlay.read_neighbours(&self.netlink, &self.local).await?;
            unresolved = underlay.unresolved(peers);
        }
        let ttl = default_ttl();
        let (backend, device, local) = (&*self.backend, self.device.as_ref(), &self.local);
        let desired = underlay.desired(local, peers, |peer, mac, mtu| {
            entry(backend, device, local, ttl, peer, mac, mtu)
        });
        let direct = peers.iter().filter(|peer| peer.direct.is_some());
        let direct: BTreeSet<_> = direct.map(|peer| peer.subnet.network().octets()).collect();
        let maps = dataplane.maps();
        let mut sync = || {
            maps.set_config(&config(backend, device, local))?;
            // Senders first: whoever hears from us may answer.
            maps.sync_remotes(&desired.remotes, addresses)?;
            maps.sync_peers(&desired.peers, subnets)?;
            maps.sync_traffic(&direct, subnets)
        };
        sync().map_err(dataplane::Error::from)?;
        // To a direct peer the kernel's route is the way, not what is left of one.
        let mut kernel = desired.kernel;
        kernel.retain(|(subnet, _)| !direct.contains(&subnet.network().octets()));
        Ok((kernel, unresolved))
    }

    /// Asks the kernel to look after the neighbour entries in use, which packets that bypass the
    /// stack do not do: it verifies them as it would under traffic, and tells if one fails.
    pub async fn keep_neighbours(&self) {
        if self.has_dataplane() {
            probe(&self.netlink, self.local.ifindex, self.underlay.next_hops()).await;
        }
    }
}

/// Sets the backend up, and reads what is beneath it.
async fn set_up(
    netlink: &Netlink,
    spec: &NodeSpec,
    backend: &mut dyn Backend,
) -> Result<(Option<Device>, Local), Error> {
    let gone = || Error::NoExternal(spec.external.clone());
    let external = netlink
        .link_by_name(&spec.external)
        .await?
        .ok_or_else(gone)?;
    let mut local = Local {
        ifindex: external.index,
        // A device without link-layer addresses (a tunnel as underlay) resolves no neighbour, so
        // nothing is ever sent with this.
        mac: external.mac.unwrap_or(MacAddr([0; 6])),
        address: spec.local,
        mtu: external.mtu,
        port: None,
        overhead: backend.encap().overhead() as u32,
        subnet_len: spec.subnet.prefix(),
        completes_checksums: external.completes_checksums(),
    };
    let place = Place {
        external,
        local: spec.local,
        network: spec.network,
        subnet: spec.subnet,
    };
    let device = backend
        .set_up(netlink, &place)
        .await
        .map_err(Error::Backend)?;
    local.port = device.as_ref().map(|device| device.port);
    Ok((device, local))
}

/// A peer's entry in the maps.
fn entry(
    backend: &dyn Backend,
    device: Option<&Device>,
    local: &Local,
    ttl: u8,
    peer: &Peer,
    next_hop: MacAddr,
    mtu: u32,
) -> abi::Peer {
    let headers = outer_headers(local, ttl, peer, next_hop);
    let (encap, headers) = match device.filter(|_| peer.direct.is_none()) {
        Some(device) => (
            backend.encap(),
            backend.finish_headers(device, peer, headers),
        ),
        None => (Encap::Direct, headers),
    };
    let inner_mtu = mtu.saturating_sub(encap.overhead() as u32);
    // Behind VXLAN is a kernel, which reads all that another one sends.
    let needs_kin = encap == Encap::Udp && !local.completes_checksums;
    abi::Peer {
        needs_kin: needs_kin.into(),
        ..abi::Peer::new(headers, encap, inner_mtu, local.ifindex)
    }
}

/// What the programs know of this node.
fn config(backend: &dyn Backend, device: Option<&Device>, local: &Local) -> abi::Config {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(local.subnet_len))
        .unwrap_or(0);
    let config = abi::Config {
        subnet_mask: mask.to_be_bytes(),
        local_ip: local.address.octets(),
        udp_port: local.port.unwrap_or(0).to_be_bytes(),
        device_ifindex: device.map_or(0, |device| device.index),
        external_mac: local.mac.0,
        ..abi::Config::zeroed()
    };
    match device {
        Some(device) => backend.finish_config(device, config),
        None => config,
    }
}

async fn probe(netlink: &Netlink, ifindex: u32, hops: BTreeSet<Ipv4Addr>) {
    match netlink.probe_neighbours(ifindex, hops).await {
        Ok(failed) => {
            for (hop, error) in failed {
                warn!(%hop, error = chain(&error), "cannot have the neighbour resolved");
            }
        }
        Err(error) => warn!(error = chain(&error), "cannot have neighbours resolved"),
    }
}

/// Time to live of packets that this host sends, as the kernel's tunnel takes it.
fn default_ttl() -> u8 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl");
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(64)
}
