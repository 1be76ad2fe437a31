//! What differs between flannel's backends, as far as the comparison is concerned: one row each.

use anyhow::Result;
use flannel_tests::agent::PREFIX;
use flannel_tests::bed::Bed;

use crate::generate::{Encap, Tunnel};
use crate::mask::{self, Masked};
use crate::socket::Seen;
use crate::twin::Exit;
use crate::world::{CARRIED, FAR_MAC, NODE, NODE_MAC, PEERS, Peer, SUBNET, VTEP_MAC};

/// A backend whose two data paths are compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backend {
    /// What an agent finds as `Backend` in the network configuration.
    pub config: &'static str,
    /// `BackendType` and `BackendData` of a lease, with a comma in front, from the VTEP of a node.
    pub lease: fn(vtep: [u8; 6]) -> String,
    /// The device that packets to peers are routed to; a bridge where there is none.
    pub device: &'static str,
    /// `ip` lines for the node before an agent starts, for what would otherwise be drawn by lot.
    pub prepare: fn(vtep: [u8; 6], public: [u8; 4]) -> String,
    /// How many peers eBPF carries.
    pub carried: usize,
    /// A frame on the wire from a peer around a packet between pods. It is right, and, if it can
    /// be helped, left to the kernel path by eBPF.
    pub wrap: fn(from: &Peer, packet: Vec<u8>) -> Vec<u8>,
    /// Takes what may differ out of a frame that came out on the wire.
    pub mask: fn(&mut Seen) -> Masked,
    /// What the wire has around packets, if anything.
    pub encap: Option<Encap>,
    /// Where frames are compared.
    pub exits: &'static [Exit],
    /// Whether the kernel path is a process, which is overtaken, and which merges packets.
    pub is_proxied: bool,
}

/// flannel's vxlan.
pub(crate) const VXLAN: Backend = Backend {
    config: r#"{"Type":"vxlan"}"#,
    lease: |vtep| {
        let mac = colons(vtep);
        format!(r#","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}"#)
    },
    device: "flannel.1",
    prepare: |vtep, public| {
        let (mac, local) = (colons(vtep), dots(public));
        format!(
            "link add flannel.1 address {mac} type vxlan id 1 dev eth0 local {local} \
             dstport 8472 nolearning"
        )
    },
    carried: CARRIED,
    wrap: |from, packet| wrap(Encap::Vxlan, from, packet),
    mask: mask::vxlan,
    encap: Some(Encap::Vxlan),
    exits: &Exit::ALL,
    is_proxied: false,
};

/// flannel's udp.
pub(crate) const UDP: Backend = Backend {
    config: r#"{"Type":"udp"}"#,
    lease: |_| String::new(),
    device: "flannel0",
    prepare: |_, _| String::new(),
    wrap: |from, packet| wrap(Encap::Udp, from, packet),
    mask: mask::udp,
    encap: Some(Encap::Udp),
    // What the proxy writes to the device depends on how fast packets come.
    exits: &[Exit::Wire, Exit::Pod, Exit::OtherPod, Exit::FarPod],
    is_proxied: true,
    ..VXLAN
};

/// flannel's host-gw: routes, on which eBPF only counts.
pub(crate) const HOST_GW: Backend = Backend {
    config: r#"{"Type":"host-gw"}"#,
    lease: |_| r#","BackendType":"host-gw""#.to_owned(),
    device: "cni0",
    prepare: |_, _| String::new(),
    carried: 0,
    wrap: |_, packet| [&NODE_MAC[..], &FAR_MAC, &[0x08, 0x00], &packet].concat(),
    mask: |_| Ok(None),
    encap: None,
    ..VXLAN
};

/// In a tunnel, with an option in the outer header.
fn wrap(encap: Encap, from: &Peer, packet: Vec<u8>) -> Vec<u8> {
    let mut tunnel = Tunnel::from_peer(encap, from, packet);
    // No operation, four times.
    tunnel.ip.options = vec![1; 4];
    tunnel.frame().bytes
}

/// An address as tools write it.
pub(crate) fn colons(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// Four octets as tools write them.
pub(crate) fn dots(address: [u8; 4]) -> String {
    address.map(|octet| octet.to_string()).join(".")
}

impl Backend {
    /// Whether a peer can be one: without a tunnel there must be no router in between.
    pub(crate) fn can_reach(&self, peer: &Peer) -> bool {
        self.encap.is_some() || peer.route.is_empty()
    }

    /// Puts all leases into the store of a bed: the node's own, so that it keeps its subnet, and
    /// those of its peers.
    pub(crate) fn put_leases(&self, bed: &Bed) -> Result<()> {
        let config = format!(r#"{{"Network":"10.5.0.0/16","Backend":{}}}"#, self.config);
        bed.etcd.put(&format!("{PREFIX}/config"), &config)?;
        let own = (SUBNET, 24, NODE, VTEP_MAC);
        let peers = PEERS.iter().filter(|peer| self.can_reach(peer));
        let peers = peers.map(|p| (p.subnet, p.prefix_len, p.public, p.vtep));
        for (subnet, len, public, vtep) in peers.chain([own]) {
            let key = format!("{PREFIX}/subnets/{}-{len}", dots(subnet));
            let (public, data) = (dots(public), (self.lease)(vtep));
            let value = format!(r#"{{"PublicIP":"{public}","PublicIPv6":null{data}}}"#);
            bed.etcd.put(&key, &value)?;
        }
        Ok(())
    }
}
