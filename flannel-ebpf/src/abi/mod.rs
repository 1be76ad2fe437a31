//! The contract between the BPF programs and user space: maps, their keys and values, counters.
//!
//! A pinned map outlives the agent that made it, so every change of a layout here is a change of
//! [`VERSION`], and each version has its own pin directory: an upgraded agent fills maps of its
//! own version, replaces the programs, and only then removes the old ones.

mod counter;
mod fast;
mod map;

pub use self::counter::{
    Counter, EgressCounters, EgressOutcome, FastCounters, FastOutcome, IngressCounters,
    IngressOutcome,
};
pub use self::fast::{Candidate, FastPath, Flow, FlowKey, WAYS, set};
pub use self::map::{Config, Encap, Peer, Remote, Stripped, Traffic};

/// Version of every layout in this module.
pub const VERSION: u32 = 8;

/// Names of the maps, in the object, in the kernel and in the pin directory. The kernel keeps 15
/// characters.
pub mod map_name {
    /// One [`Config`](super::Config).
    pub const CONFIG: &str = "config";
    /// Subnet address → [`Peer`](super::Peer).
    pub const PEERS: &str = "peers";
    /// Underlay address → [`Remote`](super::Remote).
    pub const REMOTES: &str = "remotes";
    /// One [`EgressCounters`](super::EgressCounters) per CPU.
    pub const EGRESS: &str = "egress";
    /// One [`FastCounters`](super::FastCounters) per CPU.
    pub const FAST: &str = "fast";
    /// One [`FastPath`](super::FastPath).
    pub const FAST_PATH: &str = "fast_path";
    /// Slots: each one [`Flow`](super::Flow), which says whose it is.
    pub const FLOWS: &str = "flows";
    /// [`FlowKey`](super::FlowKey) → [`Candidate`](super::Candidate).
    pub const CANDIDATES: &str = "candidates";
    /// One [`IngressCounters`](super::IngressCounters) per CPU.
    pub const INGRESS: &str = "ingress";
    /// Subnet address of a direct peer → one [`Traffic`](super::Traffic) per CPU.
    pub const TRAFFIC: &str = "traffic";
}

/// Peers, and remotes, that fit; 65 536 /24 subnets are all that a /8 network has.
pub const MAX_PEERS: usize = 65_536;

/// Slots of the table of flows by default; flows without one stay on the standard path.
pub const MAX_FLOWS: usize = 262_144;

/// Candidates that fit; the least recently used give way.
pub const MAX_CANDIDATES: usize = 16_384;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::wire::{ETHERTYPE_IPV4, Ethernet, Headers, Ipv4, Udp, Vxlan};

    /// A peer 10.5.2.0/24 at 192.168.7.12, seen from 192.168.7.11.
    pub(crate) fn peer() -> Peer {
        let headers = Headers {
            outer: Ethernet {
                destination: [2, 0, 0, 0, 0, 12],
                source: [2, 0, 0, 0, 0, 11],
                ethertype: ETHERTYPE_IPV4,
            },
            ip: Ipv4 {
                version_ihl: Ipv4::VERSION_IHL,
                tos: 0,
                total_len: [0; 2],
                id: [0; 2],
                fragment: [0; 2],
                ttl: 64,
                protocol: 17,
                checksum: [0; 2],
                source: [192, 168, 7, 11],
                destination: [192, 168, 7, 12],
            },
            udp: Udp {
                source: [0; 2],
                destination: 8472_u16.to_be_bytes(),
                len: [0; 2],
                checksum: [0; 2],
            },
            vxlan: Vxlan::new(1),
            inner: Ethernet {
                destination: [0x5e, 1, 2, 3, 4, 12],
                source: [0x5e, 1, 2, 3, 4, 11],
                ethertype: ETHERTYPE_IPV4,
            },
        };
        Peer::new(headers, Encap::Vxlan, 1450, 7)
    }

    /// The other side's view of the same two nodes.
    pub(crate) fn config() -> Config {
        Config {
            vxlan: Vxlan::new(1),
            subnet_mask: [255, 255, 255, 0],
            local_ip: [192, 168, 7, 12],
            vtep_mac: [0x5e, 1, 2, 3, 4, 12],
            udp_port: 8472_u16.to_be_bytes(),
            device_ifindex: 9,
            external_mac: [2, 0, 0, 0, 0, 12],
            reserved: [0; 6],
        }
    }
}
