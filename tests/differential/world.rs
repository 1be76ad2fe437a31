//! Addresses of the node under test and of everything around it. All are fixed, so that a packet
//! written down in one run means the same in every other.
//!
//! ```text
//! pods 10.5.5.2, .3 ─ cni0 10.5.5.1 ─ flannel.1 10.5.5.0 ─ eth0 192.168.7.10 ═══ wire ═══ far end
//! ```

/// Underlay address of the node.
pub(crate) const NODE: [u8; 4] = [192, 168, 7, 10];
/// Link-layer address of the node's external interface.
pub(crate) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 7, 10];
/// Link-layer address of the far end of the wire.
pub(crate) const FAR_MAC: [u8; 6] = station(11);
/// Link-layer address of the node's tunnel device.
pub(crate) const VTEP_MAC: [u8; 6] = [0x5e, 0, 0, 0, 0, 5];
/// Link-layer address of the bridge.
pub(crate) const BRIDGE_MAC: [u8; 6] = in_subnet(5, 1);
/// The node's subnet, its tunnel device's address.
pub(crate) const SUBNET: [u8; 4] = [10, 5, 5, 0];
/// Address of the bridge.
pub(crate) const BRIDGE: [u8; 4] = [10, 5, 5, 1];
/// The pod that packets under test come from and go to.
pub(crate) const POD: [u8; 4] = [10, 5, 5, 2];
/// Its link-layer address.
pub(crate) const POD_MAC: [u8; 6] = in_subnet(5, 2);
/// The pod that sentinels come from and go to.
pub(crate) const OTHER_POD: [u8; 4] = [10, 5, 5, 3];
/// Its link-layer address.
pub(crate) const OTHER_POD_MAC: [u8; 6] = in_subnet(5, 3);
/// The pod of the first peer, where that is a real node.
pub(crate) const FAR_POD: [u8; 4] = [10, 5, 1, 2];
/// Its link-layer address, and that of its bridge.
pub(crate) const FAR_POD_MAC: [u8; 6] = in_subnet(1, 2);
pub(crate) const FAR_BRIDGE_MAC: [u8; 6] = in_subnet(1, 1);
/// Whence that node answers: its tunnel device, its bridge, and itself.
pub(crate) const FAR_NODE: [[u8; 4]; 3] = [[10, 5, 1, 0], [10, 5, 1, 1], [192, 168, 7, 21]];
/// A sender on the underlay without a lease.
pub(crate) const STRANGER: [u8; 4] = [192, 168, 7, 99];
/// The router of the underlay, next hop of what is not on the link.
pub(crate) const ROUTER: u8 = 41;
/// MTU of the underlay.
pub(crate) const UNDERLAY_MTU: usize = 1500;

/// The link-layer address of a station on the underlay, 192.168.7.`last`.
pub(crate) const fn station(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 7, last]
}

/// The link-layer address of 10.5.`third`.`last`, on a bridge.
pub(crate) const fn in_subnet(third: u8, last: u8) -> [u8; 6] {
    [2, 0, 0, 0, third, last]
}

/// A node that the one under test has a lease of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// Address of its subnet.
    pub subnet: [u8; 4],
    /// Length of its subnet's prefix.
    pub prefix_len: u8,
    /// Underlay address.
    pub public: [u8; 4],
    /// Link-layer address of its tunnel device.
    pub vtep: [u8; 6],
    /// How the node reaches it, `ip route` words; empty: on the link.
    pub route: &'static str,
}

/// The peers, one for each kind of way. Those that eBPF carries come first.
pub(crate) const PEERS: [Peer; 5] = [
    Peer {
        subnet: [10, 5, 1, 0],
        prefix_len: 24,
        public: [192, 168, 7, 21],
        vtep: [0x5e, 0, 0, 0, 0, 1],
        route: "",
    },
    Peer {
        subnet: [10, 5, 2, 0],
        prefix_len: 24,
        public: [192, 168, 7, 22],
        vtep: [0x5e, 0, 0, 0, 0, 2],
        route: "",
    },
    // Behind a router, and on a narrower path.
    Peer {
        subnet: [10, 5, 4, 0],
        prefix_len: 24,
        public: [192, 168, 9, 4],
        vtep: [0x5e, 0, 0, 0, 0, 4],
        route: "via 192.168.7.41 mtu 1400",
    },
    // The kernel balances: no entry that eBPF could use.
    Peer {
        subnet: [10, 5, 3, 0],
        prefix_len: 24,
        public: [192, 168, 9, 3],
        vtep: [0x5e, 0, 0, 0, 0, 3],
        route: "nexthop via 192.168.7.41 nexthop via 192.168.7.42",
    },
    // A subnet of another size than the network's.
    Peer {
        subnet: [10, 5, 16, 0],
        prefix_len: 20,
        public: [192, 168, 7, 23],
        vtep: [0x5e, 0, 0, 0, 0, 6],
        route: "",
    },
];

/// How many of [`PEERS`] eBPF carries.
pub(crate) const CARRIED: usize = 3;
