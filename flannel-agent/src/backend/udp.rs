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
mod vnet;

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnetwork::Ipv4Network;

use crate::lease::Lease;
use table::Table;

/// Name that the network config has for this backend. Leases of it have an empty `BackendType`.
pub const BACKEND_TYPE: &str = "udp";

/// Name of the device. flannel asks the kernel for `flannel%d`, which gives this one.
pub const DEVICE_NAME: &str = "flannel0";

/// Port that packets are sent to and from unless the network config has another.
pub const DEFAULT_PORT: u16 = 8285;

/// Bytes that encapsulation puts before an inner packet: IPv4 20, UDP 8.
pub const OVERHEAD: u32 = 28;

/// Smallest MTU that a link with IPv4 may have (RFC 791, section 3.2).
const MIN_MTU: u32 = 68;

/// The udp part of the network configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpConfig {
    /// Port of this node and, since leases have none, of all peers.
    pub port: u16,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self { port: DEFAULT_PORT }
    }
}

/// Largest inner packet over an external interface with this MTU, if one fits at all.
#[must_use]
pub fn device_mtu(external_mtu: u32) -> Option<u32> {
    external_mtu
        .checked_sub(OVERHEAD)
        .filter(|mtu| *mtu >= MIN_MTU)
}

/// This node, which no peer may be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// The whole network.
    pub network: Ipv4Network,
    /// Leased subnet.
    pub subnet: Ipv4Network,
    /// Address advertised to peers.
    pub public_ip: Ipv4Addr,
    /// Address of the external interface, which the socket is bound to.
    pub local: Ipv4Addr,
}

/// A node that packets can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its subnet.
    pub subnet: Ipv4Network,
    /// Its underlay address.
    pub public_ip: Ipv4Addr,
}

/// A lease that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Its subnet.
    pub subnet: Ipv4Network,
    /// Why.
    pub reason: IgnoredReason,
}

/// Why a lease is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoredReason {
    /// No packet can be sent there.
    #[error("public IP {0} is not the address of a host")]
    BadPublicIp(Ipv4Addr),
    /// Two nodes claim one address; packets would come back.
    #[error("public IP {0} is our own")]
    OwnPublicIp(Ipv4Addr),
    /// The device has no packets for it.
    #[error(
        "subnet is outside of the network, {0}; if the network config has changed, restart this \
         agent"
    )]
    OutsideNetwork(Ipv4Network),
    /// Packets of local pods would leave the host.
    #[error("subnet overlaps our own, {0}")]
    OverlapsOwn(Ipv4Network),
}

/// The peers among `leases`, whatever backend they name, as for flannel, and the rest with the
/// reason. Subnets of peers may overlap: see [`table`].
pub fn usable_peers<'a>(
    leases: impl IntoIterator<Item = &'a Lease>,
    own: &Own,
) -> (Vec<Peer>, Vec<Ignored>) {
    let mut peers = Vec::new();
    let mut ignored = Vec::new();
    for lease in leases {
        let peer = Peer {
            subnet: lease.subnet.v4,
            public_ip: lease.attrs.public_ip,
        };
        match why_not(peer, own) {
            None => peers.push(peer),
            Some(reason) => ignored.push(Ignored {
                subnet: peer.subnet,
                reason,
            }),
        }
    }
    (peers, ignored)
}

fn why_not(peer: Peer, own: &Own) -> Option<IgnoredReason> {
    let Peer { subnet, public_ip } = peer;
    let is_host = public_ip.octets()[0] != 0
        && !public_ip.is_loopback()
        && !public_ip.is_multicast()
        && !public_ip.is_broadcast();
    if !is_host {
        Some(IgnoredReason::BadPublicIp(public_ip))
    } else if !subnet.is_subnet_of(own.network) {
        Some(IgnoredReason::OutsideNetwork(own.network))
    } else if subnet.overlaps(own.subnet) {
        Some(IgnoredReason::OverlapsOwn(own.subnet))
    } else if public_ip == own.public_ip || public_ip == own.local {
        Some(IgnoredReason::OwnPublicIp(public_ip))
    } else {
        None
    }
}

/// What the proxy needs to know of `peers`.
#[must_use]
pub fn table(peers: &[Peer], config: UdpConfig) -> Table {
    let entry = |peer: &Peer| (peer.subnet, SocketAddrV4::new(peer.public_ip, config.port));
    Table::new(peers.iter().map(entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{LeaseAttrs, Subnet};

    fn lease(subnet: &str, public_ip: [u8; 4], backend: &str) -> Lease {
        Lease {
            subnet: Subnet {
                v4: subnet.parse().unwrap(),
                v6: None,
            },
            attrs: LeaseAttrs {
                public_ip: public_ip.into(),
                public_ipv6: None,
                backend_type: backend.into(),
                backend_data: None,
                backend_v6_data: None,
            },
        }
    }

    #[test]
    fn every_lease_of_another_host_is_a_peer_whatever_its_backend() {
        let own = Own {
            network: "10.5.0.0/16".parse().unwrap(),
            subnet: "10.5.1.0/24".parse().unwrap(),
            public_ip: [203, 0, 113, 1].into(),
            local: [192, 168, 7, 11].into(),
        };
        let leases = [
            lease("10.5.2.0/24", [192, 168, 7, 12], ""),
            lease("10.5.3.0/24", [192, 168, 7, 13], "vxlan"),
            lease("10.5.0.0/20", [192, 168, 7, 14], ""),
            lease("10.6.1.0/24", [192, 168, 7, 15], ""),
            lease("10.5.4.0/24", [192, 168, 7, 11], ""),
            lease("10.5.5.0/24", [203, 0, 113, 1], ""),
            lease("10.5.6.0/24", [127, 0, 0, 1], ""),
            lease("10.5.7.0/24", [0, 0, 0, 0], ""),
            lease("10.5.8.0/24", [224, 0, 0, 1], ""),
        ];
        let (peers, ignored) = usable_peers(&leases, &own);
        let subnets: Vec<_> = peers.iter().map(|peer| peer.subnet.to_string()).collect();
        assert_eq!(subnets, ["10.5.2.0/24", "10.5.3.0/24"]);
        let reasons: Vec<_> = ignored.into_iter().map(|ignored| ignored.reason).collect();
        let expected = [
            IgnoredReason::OverlapsOwn(own.subnet),
            IgnoredReason::OutsideNetwork(own.network),
            IgnoredReason::OwnPublicIp(own.local),
            IgnoredReason::OwnPublicIp(own.public_ip),
            IgnoredReason::BadPublicIp([127, 0, 0, 1].into()),
            IgnoredReason::BadPublicIp([0; 4].into()),
            IgnoredReason::BadPublicIp([224, 0, 0, 1].into()),
        ];
        assert_eq!(reasons, expected);

        let table = table(&peers, UdpConfig { port: 8286 });
        let peer = table.get([10, 5, 3, 200].into());
        assert_eq!(peer, Some("192.168.7.13:8286".parse().unwrap()));
    }

    #[test]
    fn the_device_has_room_for_the_outer_headers() {
        assert_eq!(device_mtu(1500), Some(1472));
        assert_eq!(device_mtu(68 + 28), Some(68));
        assert_eq!(device_mtu(95), None);
        assert_eq!(device_mtu(20), None);
    }
}
