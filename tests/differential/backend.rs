//! What differs between flannel's backends, as far as the comparison is concerned: one row each.

use flannel_tests::bed::Bed;

use crate::mask::{self, Masked};
use crate::socket::Seen;
use crate::world::{NODE, Peer, VTEP_MAC};

/// A backend whose two data paths are compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backend {
    /// What an agent finds as `Backend` in the network configuration.
    pub config: &'static str,
    /// The device that packets to peers are routed to.
    pub device: &'static str,
    /// `BackendType` and `BackendData` of a lease, from the VTEP of its node.
    pub lease: fn(vtep: [u8; 6]) -> String,
    /// `ip` lines for the node before an agent starts, for what would otherwise be drawn by lot.
    pub prepare: fn() -> String,
    /// A frame on the wire from a peer, around an inner frame or packet: what nobody could object
    /// to. Sentinels are made by it.
    pub wrap: fn(from: &Peer, inner_packet: &[u8]) -> Vec<u8>,
    /// Takes what may differ out of a frame that came out on the wire.
    pub mask: fn(&mut Seen) -> Masked,
}

/// flannel's vxlan.
pub(crate) const VXLAN: Backend = Backend {
    config: r#"{"Type":"vxlan"}"#,
    device: "flannel.1",
    lease: |vtep| {
        let mac = colons(vtep);
        format!(r#""BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}"#)
    },
    prepare: || {
        let [a, b, c, d] = NODE;
        let mac = colons(VTEP_MAC);
        format!(
            "link add flannel.1 address {mac} type vxlan id 1 dev eth0 local {a}.{b}.{c}.{d} \
             dstport 8472 nolearning"
        )
    },
    wrap: |from, packet| {
        crate::generate::Tunnel::from_peer(from, packet.to_vec())
            .frame()
            .bytes
    },
    mask: mask::vxlan,
};

/// An address as tools write it.
pub(crate) fn colons(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// Four octets as tools write them.
pub(crate) fn dots(address: [u8; 4]) -> String {
    address.map(|octet| octet.to_string()).join(".")
}

impl Backend {
    /// The value of a lease.
    pub(crate) fn lease_value(&self, public: [u8; 4], vtep: [u8; 6]) -> String {
        let (public, data) = (dots(public), (self.lease)(vtep));
        format!(r#"{{"PublicIP":"{public}","PublicIPv6":null,{data}}}"#)
    }

    /// Puts all leases into the store of a bed: the node's own, so that it keeps its subnet, and
    /// those of its peers.
    pub(crate) fn put_leases(&self, bed: &Bed) -> anyhow::Result<()> {
        use flannel_tests::agent::PREFIX;
        let config = format!(r#"{{"Network":"10.5.0.0/16","Backend":{}}}"#, self.config);
        bed.etcd.put(&format!("{PREFIX}/config"), &config)?;
        let own = (crate::world::SUBNET, 24, NODE, VTEP_MAC);
        let peers = crate::world::PEERS.map(|p| (p.subnet, p.prefix_len, p.public, p.vtep));
        for (subnet, len, public, vtep) in peers.into_iter().chain([own]) {
            let key = format!("{PREFIX}/subnets/{}-{len}", dots(subnet));
            bed.etcd.put(&key, &self.lease_value(public, vtep))?;
        }
        Ok(())
    }
}
