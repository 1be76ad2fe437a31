//! The udp backend: flannel's oldest, which needs nothing of the kernel but a TUN device.
//!
//! All of the network is routed into one device, `flannel0`. What comes out of it is sent as it
//! is, IPv4 header first, in one UDP datagram to the peer whose subnet it is for; what is received
//! goes back into the device. No peer advertises more than its address, and all use one port.
//!
//! This file has what is decided; effects are in [`device`] (the TUN device, its address and
//! route), [`socket`] (the port) and [`proxy`] (the packets).

mod checksum;
mod coalesce;
pub mod counters;
pub mod device;
mod egress;
mod icmp;
mod ingress;
mod packet;
pub mod proxy;
mod segment;
pub mod socket;
mod sys;
pub mod table;
mod unfilled;
mod vnet;

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use flannel_ebpf::abi::Encap;
use flannel_ebpf::wire::{Headers, Udp as UdpHeader};
use tracing::info;

use self::counters::Counters;
use self::device::{DeviceChange, DeviceSpec, ensure_device, queue_count};
use self::proxy::{Proxy, ProxySpec};
use self::socket::Sockets;
use self::table::Table;
use super::peer::{IgnoredReason, Peer};
use super::{Advert, Backend, Device, Place, Reach};
use crate::dataplane::{Attachment, Direction, Interface};
use crate::iface::ExternalInterface;
use crate::lease::{Lease, LeaseTable};
use crate::netlink::{MacAddr, Netlink};
use crate::network;

/// Name of the device. flannel asks the kernel for `flannel%d`, which gives this one.
pub const DEVICE_NAME: &str = "flannel0";

/// Bytes that encapsulation puts before an inner packet: IPv4 20, UDP 8.
pub const OVERHEAD: u32 = 28;

/// Smallest MTU that a link with IPv4 may have (RFC 791, section 3.2).
const MIN_MTU: u32 = 68;

/// Receiving first: a node that sends by eBPF should be able to take the answer.
pub const PROGRAMS: [Attachment; 2] = [
    Attachment {
        program: "udp_decap",
        interface: Interface::External,
        direction: Direction::Ingress,
        handle: 3,
    },
    Attachment {
        program: "udp_encap",
        interface: Interface::Device,
        direction: Direction::Egress,
        handle: 3,
    },
];

/// Largest inner packet over an external interface with this MTU, if one fits at all.
#[must_use]
pub fn device_mtu(external_mtu: u32) -> Option<u32> {
    external_mtu
        .checked_sub(OVERHEAD)
        .filter(|mtu| *mtu >= MIN_MTU)
}

/// The backend.
#[derive(Debug)]
pub struct Udp {
    options: network::Udp,
    peers: Vec<Peer>,
    state: State,
}

/// How far it has come.
#[derive(Debug)]
enum State {
    /// Nothing is there yet.
    New,
    /// The port is ours; what peers send waits.
    Bound(Sockets),
    /// Packets are carried.
    Running(Box<device::Device>, Proxy),
}

impl Udp {
    /// The backend with these options.
    #[must_use]
    pub fn new(options: network::Udp) -> Self {
        Self {
            options,
            peers: Vec::new(),
            state: State::New,
        }
    }

    fn table(&self) -> Table {
        let entry = |peer: &Peer| {
            let to = SocketAddrV4::new(peer.public_ip, self.options.port);
            (peer.subnet, to)
        };
        Table::new(self.peers.iter().map(entry))
    }
}

#[async_trait]
impl Backend for Udp {
    fn name(&self) -> &'static str {
        "udp"
    }

    fn device_name(&self) -> Option<String> {
        Some(DEVICE_NAME.to_owned())
    }

    fn reach(&self) -> Reach {
        Reach::Tunnel
    }

    fn programs(&self) -> &'static [Attachment] {
        &PROGRAMS
    }

    fn pod_mtu(&self, external_mtu: u32) -> Option<u32> {
        device_mtu(external_mtu)
    }

    /// Takes the port, so that a node that cannot have it asks for no lease.
    async fn prepare(&mut self, _: &Netlink, external: &ExternalInterface) -> Result<Advert> {
        let address = SocketAddrV4::new(external.address, self.options.port);
        self.state = State::Bound(Sockets::bind(address, queue_count())?);
        Ok(Advert::default())
    }

    async fn set_up(&mut self, netlink: &Netlink, place: &Place) -> Result<Option<Device>> {
        let Place {
            external,
            local,
            network,
            subnet,
        } = place;
        let spec = DeviceSpec {
            name: DEVICE_NAME.to_owned(),
            mtu: device_mtu(external.mtu).with_context(|| {
                let mtu = external.mtu;
                format!(
                    "the MTU of {}, {mtu}, leaves no room for a tunnel",
                    external.name
                )
            })?,
            address: subnet.network(),
            network: *network,
            queues: queue_count(),
        };
        let held = match &self.state {
            State::Running(device, _) => Some(&**device),
            State::New | State::Bound(_) => None,
        };
        let (device, change) = ensure_device(netlink, &spec, held).await?;
        if change != DeviceChange::Kept {
            info!(device = device.name, ?change, "set up the TUN device");
        }
        let found = Device {
            name: device.name.clone(),
            index: device.index,
            mtu: device.mtu,
            mac: None,
            vni: None,
            port: self.options.port,
        };
        let peers = self.table();
        self.state = match std::mem::replace(&mut self.state, State::New) {
            State::Running(_, proxy) if proxy.is_running() => {
                proxy.set_device(&device, spec.address);
                State::Running(Box::new(device), proxy)
            }
            other => {
                let sockets = match other {
                    State::Bound(sockets) => sockets,
                    // A proxy that has ended gives its port back.
                    State::New | State::Running(..) => {
                        drop(other);
                        let address = SocketAddrV4::new(*local, self.options.port);
                        Sockets::bind(address, spec.queues)?
                    }
                };
                let proxy = Proxy::start(ProxySpec {
                    sockets,
                    device: &device,
                    address: spec.address,
                    peers,
                })?;
                State::Running(Box::new(device), proxy)
            }
        };
        Ok(Some(found))
    }

    /// Whatever its backend, as in flannel: leases of this one name none.
    fn accept(&self, _: &Lease) -> Result<Option<MacAddr>, IgnoredReason> {
        Ok(None)
    }

    fn encap(&self) -> Encap {
        Encap::Udp
    }

    /// Flannel's proxy sends from the port that it listens on.
    fn finish_headers(&self, device: &Device, _: &Peer, headers: Headers) -> Headers {
        let port = device.port.to_be_bytes();
        Headers {
            udp: UdpHeader {
                source: port,
                destination: port,
                ..headers.udp
            },
            ..headers
        }
    }

    async fn sync_peers(&mut self, peers: &[Peer], _: &LeaseTable) {
        if self.peers == peers {
            return;
        }
        self.peers = peers.to_vec();
        if let State::Running(_, proxy) = &self.state {
            proxy.set_peers(self.table());
        }
    }

    fn set_ebpf(&mut self, is_used: bool) {
        if let State::Running(_, proxy) = &self.state {
            proxy.set_kin(is_used);
        }
    }

    fn proxy(&self) -> Option<Counters> {
        match &self.state {
            State::Running(_, proxy) => Some(proxy.counters()),
            State::New | State::Bound(_) => None,
        }
    }

    fn problems(&self) -> Vec<String> {
        let State::Running(device, proxy) = &self.state else {
            return Vec::new();
        };
        let mut problems = Vec::new();
        if !device.has_route {
            problems.push(format!(
                "the network is not routed into {}: another route to it is there, see `ip route`",
                device.name
            ));
        }
        if !proxy.is_running() {
            problems.push("a thread of the proxy has ended, which is a bug".to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_leaves_room_for_the_headers() {
        assert_eq!(device_mtu(1500), Some(1472));
        assert_eq!(device_mtu(96), Some(68));
        assert_eq!(device_mtu(95), None);
    }
}
