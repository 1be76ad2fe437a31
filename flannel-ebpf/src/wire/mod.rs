//! Headers as they are on the wire.
//!
//! Every field is an octet array in network order, so a header has alignment 1, can be read at any
//! offset of a packet, and its `Debug` and its `bpftool` dump show the octets of an address as a
//! person writes them. Wide loads come from the BPF target's `allows-misaligned-mem-access`.

mod checksum;
mod ethernet;
mod frame;
mod ipv4;
mod udp;
mod vxlan;

pub use self::checksum::{checksum, fold, sum};
pub use self::ethernet::{Addresses, ETHERTYPE_IPV4, Ethernet};
pub use self::frame::{Datagram, Headers, IpFrame, UdpFrame, VxlanFrame, VxlanShim};
pub use self::ipv4::{
    Ipv4, MORE_FRAGMENTS, PROTOCOL_ICMP, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP,
};
pub use self::udp::Udp;
pub use self::vxlan::{VXLAN_FLAG_VNI, Vxlan};
