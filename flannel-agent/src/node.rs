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
mod entries;
mod follow;
mod leases;
mod maps;
mod others;
mod report;
pub mod run;
mod scope;

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use tracing::warn;

pub use self::datapath::Datapath;
use self::echo::{Doubts, Word};
use self::maps::LeftToKernel;
use self::others::Others;
pub use self::scope::Scope;
use crate::backend::entries::forms::Forms;
use crate::backend::peer::{Ignored, Own, Peer, usable_peers};
use crate::backend::{Backend, Device, Place, Reach};
use crate::cli::DatapathMode;
use crate::dataplane::{self, Attachment, Interfaces};
use crate::error::chain;
use crate::lease::{Lease, LeaseTable};
use crate::netlink::monitor::NetlinkEvent;
use crate::netlink::{self, MacAddr, Netlink};
use crate::plan::KernelState;
use crate::underlay::{Local, Underlay};

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
    /// How the routes among them are made.
    forms: Forms,
    doubts: Doubts,
    peers: Vec<Peer>,
    ignored: Vec<Ignored>,
    /// Peers that eBPF leaves to the kernel.
    kernel: LeftToKernel,
    /// Kernel entries that could not be made at the last try, with the reason of the first.
    failed: Option<(usize, String)>,
    /// What went wrong with the last pass.
    error: Option<String>,
    /// Whether the external interface is gone, has another MTU than at the start, or not its address.
    has_moved: bool,
}

/// A node with its device, and without a data path.
pub struct Made {
    netlink: Netlink,
    spec: NodeSpec,
    backend: Box<dyn Backend>,
    device: Option<Device>,
    local: Local,
}

impl Made {
    /// Sets the backend up.
    ///
    /// # Errors
    /// The device or its address could not be set up.
    pub async fn new(
        netlink: Netlink,
        spec: NodeSpec,
        mut backend: Box<dyn Backend>,
    ) -> Result<Self, Error> {
        let (device, local) = set_up(&netlink, &spec, &mut *backend).await?;
        Ok(Self {
            netlink,
            spec,
            backend,
            device,
            local,
        })
    }
}

impl Node {
    /// The node, to be run.
    #[must_use]
    pub fn new(made: Made, datapath: Datapath) -> Self {
        let Made {
            netlink,
            spec,
            backend,
            device,
            local,
        } = made;
        Self {
            spec,
            netlink,
            backend,
            device,
            local,
            datapath,
            others: Others::default(),
            leases: LeaseTable::default(),
            underlay: Underlay::default(),
            // Read by the first pass.
            actual: KernelState::default(),
            forms: Forms::default(),
            doubts: Doubts::default(),
            peers: Vec::new(),
            ignored: Vec::new(),
            kernel: Vec::new(),
            failed: None,
            error: None,
            has_moved: false,
        }
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

    /// Whether the external interface is not what the node was made for: it is gone, or its address or
    /// its MTU is another one.
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
        let known = (&self.actual, &self.forms);
        let word = self.doubts.hear(event, device, known);
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
            let made = set_up(&self.netlink, &self.spec, &mut *self.backend).await;
            // It may have another name now, or another interface its address.
            self.has_moved = matches!(made, Err(Error::NoExternal(_)));
            let (device, local) = made?;
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
