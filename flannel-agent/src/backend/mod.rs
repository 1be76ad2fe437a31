//! Backends: how packets for a peer's subnet get to the peer.
//!
//! A backend is one file here, with a folder of its own where it has more to do, that implements
//! [`Backend`]; its programs are one file in `flannel-ebpf/src/programs`. The rest of the agent
//! knows no backend: [`crate::node`] asks this trait what a device, an entry or a header should be,
//! and does the comparing, ordering and repairing for all of them alike.
//!
//! | backend     | peers are reached by                           | device        |
//! |-------------|------------------------------------------------|---------------|
//! | `vxlan`     | VXLAN; on the own link by routes, if so wished | `flannel.VNI` |
//! | `udp`       | UDP, also from user space                      | `flannel0`    |
//! | `host_gw`   | routes through their own address               | none          |
//! | `alloc`     | nothing of ours                                | none          |
//! | `extension` | what commands of the operator set up           | none of ours  |

pub mod alloc;
pub mod entries;
pub mod extension;
pub mod host_gw;
pub mod peer;
pub mod udp;
pub mod vxlan;

use std::net::Ipv4Addr;

use anyhow::Result;
use async_trait::async_trait;
use flannel_ebpf::abi::{self, Encap};
use flannel_ebpf::wire::Headers;
use ipnetwork::Ipv4Network;
use serde_json::value::RawValue;

use crate::dataplane::Attachment;
use crate::iface::ExternalInterface;
use crate::lease::{Lease, LeaseTable};
use crate::netlink::link::Link;
use crate::netlink::{MacAddr, Netlink};
use crate::network;
use crate::plan::KernelState;
use crate::state::DeviceState;

use self::peer::{IgnoredReason, Peer};

/// The programs of all backends: those that an earlier run may have left.
pub const ALL_PROGRAMS: [&[Attachment]; 3] = [&vxlan::PROGRAMS, &udp::PROGRAMS, &host_gw::PROGRAMS];

/// How peers are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All through the tunnel device.
    Tunnel,
    /// Through the tunnel device, but by a plain route where the kernel has the peer on a link.
    TunnelUnlessOnLink,
    /// All by plain routes on the external interface.
    Direct,
    /// Not by us.
    None,
}

/// What is known before there is a lease.
#[derive(Debug, Default)]
pub struct Advert {
    /// `BackendData` of the own lease.
    pub backend_data: Option<Box<RawValue>>,
    /// Link-layer address of the device, where peers must know it.
    pub mac: Option<MacAddr>,
}

/// Where the backend works: the external interface as it is now, and the own addresses.
#[derive(Debug, Clone)]
pub struct Place {
    /// The external interface.
    pub external: Link,
    /// Address on it: source of the tunnel.
    pub local: Ipv4Addr,
    /// The whole network.
    pub network: Ipv4Network,
    /// The own subnet.
    pub subnet: Ipv4Network,
}

/// The device of a backend, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Name.
    pub name: String,
    /// Kernel index.
    pub index: u32,
    /// Largest inner packet, bytes.
    pub mtu: u32,
    /// Link-layer address, if it has one.
    pub mac: Option<MacAddr>,
    /// VXLAN network identifier.
    pub vni: Option<u32>,
    /// UDP port of the tunnel.
    pub port: u16,
}

/// What sets one backend apart from the others.
///
/// The order of calls: [`prepare`](Self::prepare) before the lease, then [`set_up`](Self::set_up)
/// at the first and at every pass that looks at devices, and after it any of the others.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Name in the network config.
    fn name(&self) -> &'static str;

    /// Name of the device, for backends with one.
    fn device_name(&self) -> Option<String> {
        None
    }

    /// How peers are reached.
    fn reach(&self) -> Reach;

    /// Programs of the eBPF dataplane.
    fn programs(&self) -> &'static [Attachment];

    /// Largest packet of a pod over an external interface with this MTU, bytes; `None` if none fits.
    fn pod_mtu(&self, external_mtu: u32) -> Option<u32>;

    /// Makes what peers must be told of.
    ///
    /// # Errors
    /// What keeps this node from taking part.
    async fn prepare(&mut self, netlink: &Netlink, external: &ExternalInterface) -> Result<Advert>;

    /// Makes the device and what belongs to it what they should be; costs a look if they are.
    ///
    /// # Errors
    /// What is in the way, with the remedy.
    async fn set_up(&mut self, netlink: &Netlink, place: &Place) -> Result<Option<Device>>;

    /// Whether this backend can reach the holder of a lease, and under which link-layer address in
    /// the tunnel, if that matters.
    ///
    /// # Errors
    /// Why not.
    fn accept(&self, lease: &Lease) -> Result<Option<MacAddr>, IgnoredReason>;

    /// Adds what the kernel path to a tunnelled peer needs.
    fn add_tunnel(&self, _device: &Device, _peer: &Peer, _state: &mut KernelState) {}

    /// Kind of the tunnel's headers.
    fn encap(&self) -> Encap {
        Encap::Direct
    }

    /// Completes the headers of packets to a tunnelled peer: what is not of link or IPv4.
    fn finish_headers(&self, _device: &Device, _peer: &Peer, headers: Headers) -> Headers {
        headers
    }

    /// Completes what the programs know of this node.
    fn finish_config(&self, _device: &Device, config: abi::Config) -> abi::Config {
        config
    }

    /// Takes notice of the peers, for backends with a data path of their own. Must not wait for
    /// what peers may delay.
    async fn sync_peers(&mut self, _peers: &[Peer], _leases: &LeaseTable) {}

    /// Takes notice of whether the programs take part, for backends with a data path of their own.
    fn set_ebpf(&mut self, _is_used: bool) {}

    /// What a proxy has carried and refused, for backends with one.
    fn proxy(&self) -> Option<udp::counters::Counters> {
        None
    }

    /// What is not as it should be, a sentence each.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The backend of a network. `known_mac` is the link-layer address that this node had before.
#[must_use]
pub fn new(options: &network::Backend, known_mac: Option<MacAddr>) -> Box<dyn Backend> {
    match options {
        network::Backend::Vxlan(options) => Box::new(vxlan::Vxlan::new(options.clone(), known_mac)),
        network::Backend::Udp(options) => Box::new(udp::Udp::new(options.clone())),
        network::Backend::HostGw => Box::new(host_gw::HostGw),
        network::Backend::Alloc => Box::new(alloc::Alloc),
        network::Backend::Extension(options) => Box::new(extension::Extension::new(
            options.clone(),
            // The commands of the operator, not the agent, read it.
            std::env::vars_os(),
        )),
    }
}

/// Whether the device is there and is the one that an agent made. A vxlan device of the same name
/// that somebody else has made has another link-layer address.
///
/// # Errors
/// The kernel could not be asked.
pub async fn is_own_device(netlink: &Netlink, device: &DeviceState) -> Result<bool> {
    let Some(link) = netlink.link_by_name(&device.name).await? else {
        return Ok(false);
    };
    Ok(match device.mac {
        Some(mac) => link.vxlan.is_some() && link.mac == Some(mac),
        None => link.kind.as_deref() == Some("tun") && link.mac.is_none(),
    })
}

/// Deletes a device of an agent's, and with it all its entries; says whether it was there.
///
/// # Errors
/// What the kernel said.
pub async fn remove_device(netlink: &Netlink, device: &DeviceState) -> Result<bool> {
    if !is_own_device(netlink, device).await? {
        return Ok(false);
    }
    if let Some(link) = netlink.link_by_name(&device.name).await? {
        netlink.remove_link(link.index).await?;
    }
    Ok(true)
}
