//! Which packets a flow on the fast path may consist of, and what proves that the rules in force
//! let one through unchanged.

use bytemuck::{Pod, Zeroable};

use crate::abi::{Candidate, FlowKey};
use crate::wire::{Addresses, Ipv4, PROTOCOL_TCP, PROTOCOL_UDP, fold, sum};

/// The start of a transport header, which TCP and UDP have in common as far as the ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Transport {
    /// Source and destination port, network order.
    pub ports: [u8; 4],
    /// TCP: sequence number. UDP: length and checksum.
    pub rest: [u8; 4],
}

/// Where TCP's flags stand in its header, bytes.
pub const TCP_FLAGS: usize = 13;

/// Flags of packets that begin or end a connection, and that the stack should therefore see: FIN,
/// SYN and RST (RFC 9293, section 3.1). No TCP packet on the fast path has them.
pub const TCP_CLEAR: u8 = 0b0000_0111;
/// The flag that every TCP packet on the fast path has: ACK, as all others of a connection.
/// Conntrack calls packets with none of the four invalid, and rules against port scans look for them:
/// both decide by the packet, not by the flow.
pub const TCP_SET: u8 = 0b0001_0000;

/// Least time to live of a packet on the fast path: both hosts take one hop off, and where the
/// tunnel counts as a hop at each end, another.
pub const MIN_TTL: u8 = 5;

/// The priority in queues that forwarding gives to a packet by its type of service: by the class of
/// RFC 1349 that is in bits 3 and 4 (`rt_tos2priority` in `include/net/route.h`; the other bits make no
/// difference there). What a pod's socket has asked for ends at its veth.
#[inline(always)]
#[must_use]
pub const fn priority(tos: u8) -> u32 {
    // TC_PRIO_BESTEFFORT, _BULK, _INTERACTIVE and _INTERACTIVE_BULK, an octet each, by the class.
    const BY_CLASS: u32 = u32::from_le_bytes([0, 2, 6, 4]);
    BY_CLASS >> (tos & 0b0001_1000) & 0b111
}

/// The type of service without the bits of ECN, which may differ between packets of a flow.
#[inline(always)]
#[must_use]
pub const fn service(tos: u8) -> u8 {
    tos & !0b11
}

/// How long the outcome of a candidate is waited for before another packet of its flow is noted,
/// nanoseconds: longer than a packet waits in a backlog, and short beside the bound.
pub const PATIENCE: u64 = 20_000_000;

/// How long a flow's slot stays its own after the end of its admission, nanoseconds. What is queued
/// on its way into the pod is looked up there; a thousand times what a full backlog takes.
pub const LINGER: u64 = 3_000_000_000;

/// The flow of a packet, if packets of its kind may be on the fast path at all: whole datagrams of
/// TCP and UDP, without options, as long as the frame says (`len`, bytes from the IPv4 header on),
/// that have hops left for the way. `tcp_flags` is asked for of TCP.
#[inline(always)]
#[must_use]
pub fn flow_of(
    ip: &Ipv4,
    len: u32,
    transport: &Transport,
    tcp_flags: impl FnOnce() -> Option<u8>,
) -> Option<FlowKey> {
    if ip.version_ihl != Ipv4::VERSION_IHL
        || ip.is_fragment()
        || ip.ttl < MIN_TTL
        || u32::from(u16::from_be_bytes(ip.total_len)) != len
    {
        return None;
    }
    match ip.protocol {
        PROTOCOL_UDP => {}
        PROTOCOL_TCP if tcp_flags()? & (TCP_CLEAR | TCP_SET) == TCP_SET => {}
        _ => return None,
    }
    conversation(ip, transport.ports)
}

/// The flow of a packet of whatever kind that tells it.
#[inline(always)]
#[must_use]
pub fn conversation(ip: &Ipv4, ports: [u8; 4]) -> Option<FlowKey> {
    let has_ports = matches!(ip.protocol, PROTOCOL_TCP | PROTOCOL_UDP) && ip.is_first();
    has_ports.then(|| FlowKey {
        source: ip.source,
        destination: ip.destination,
        ports,
        protocol: ip.protocol.into(),
    })
}

/// Whether a header's checksum is right: the stack drops a packet of which it is not.
#[inline(always)]
#[must_use]
pub fn is_intact(ip: &Ipv4) -> bool {
    fold(sum(bytemuck::bytes_of(ip))) == 0xffff
}

/// Whether the outcome of a candidate is still to be waited for at `now`, nanoseconds.
#[inline(always)]
#[must_use]
pub const fn is_awaited(candidate: &Candidate, now: u64) -> bool {
    candidate.is_first == 0 && now < candidate.noted + PATIENCE
}

/// Whether a packet that has come through routing and netfilter is the candidate that went in, with
/// nothing changed but one hop. The first packet of a flow proves nothing.
#[inline(always)]
#[must_use]
pub fn is_unchanged(candidate: &Candidate, ip: &Ipv4, transport: &Transport) -> bool {
    let before = &candidate.ip;
    candidate.is_first == 0
        && before.tos == ip.tos
        && before.total_len == ip.total_len
        && before.id == ip.id
        && before.fragment == ip.fragment
        && before.ttl == ip.ttl.wrapping_add(1)
        && distinctive(before, candidate.transport) == distinctive(ip, transport.rest)
}

/// What tells packets of a flow apart, of octets 4 to 7 of the transport header: TCP's sequence
/// number, UDP's length. A UDP checksum may be filled in on the way, where the sender has left that
/// to a device.
#[inline(always)]
fn distinctive(ip: &Ipv4, rest: [u8; 4]) -> u32 {
    let word = u32::from_be_bytes(rest);
    match ip.protocol {
        PROTOCOL_UDP => word >> 16,
        _ => word,
    }
}

/// What stands in the place of the source address in a frame that is queued on its way into a pod:
/// it is ours to write until the frame is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// How often the frame goes through the queue, from now on.
    pub rounds: u8,
    /// The admission that it was queued under, by the low half of [`Flow::expires`](crate::abi::Flow::expires).
    pub admission: u32,
}

impl Ticket {
    /// The addresses of a frame with it.
    #[inline(always)]
    #[must_use]
    pub const fn instead_of_source(self, addresses: Addresses) -> Addresses {
        let [a, b, c, d] = self.admission.to_ne_bytes();
        Addresses::new(addresses.destination(), [self.rounds, 0, a, b, c, d])
    }

    /// That of a frame with these addresses, if it is a queued one.
    #[inline(always)]
    #[must_use]
    pub const fn of_source(addresses: Addresses) -> Self {
        let [rounds, _, a, b, c, d] = addresses.source();
        Self {
            rounds,
            admission: u32::from_ne_bytes([a, b, c, d]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_take_a_packet_as_behind_forwarding() {
        // `ip_tos2prio` of the kernel, by `(tos & 0x1e) >> 1`.
        let table = [0, 0, 0, 0, 2, 2, 2, 2, 6, 6, 6, 6, 4, 4, 4, 4];
        for tos in 0..=u8::MAX {
            let class = usize::from(tos & 0x1e) >> 1;
            assert_eq!(priority(tos), table[class], "{tos:#x}");
        }
    }

    #[test]
    fn a_ticket_fits_in_an_address() {
        let ticket = Ticket {
            rounds: 2,
            admission: 0xfedc_ba98,
        };
        let addresses = Addresses::new([1, 2, 3, 4, 5, 6], [7; 6]);
        let queued = ticket.instead_of_source(addresses);
        assert_eq!(Ticket::of_source(queued), ticket);
        assert_eq!(queued.destination(), addresses.destination());
    }

    #[test]
    fn only_tcp_packets_within_a_connection_may_be_on_the_fast_path() {
        let ip = Ipv4 {
            version_ihl: Ipv4::VERSION_IHL,
            ttl: 64,
            total_len: 40_u16.to_be_bytes(),
            protocol: PROTOCOL_TCP,
            ..Zeroable::zeroed()
        };
        let transport = Zeroable::zeroed();
        let may_be = |flags: u8| flow_of(&ip, 40, &transport, || Some(flags)).is_some();
        // ACK, with push, urgent or congestion flags.
        for flags in [0x10, 0x18, 0x30, 0xd0] {
            assert!(may_be(flags), "{flags:#x}");
        }
        // SYN, SYN and ACK, FIN and ACK, RST, RST and ACK; none; push and urgent alone.
        for flags in [0x02, 0x12, 0x11, 0x04, 0x14, 0x00, 0x28] {
            assert!(!may_be(flags), "{flags:#x}");
        }
    }
}
