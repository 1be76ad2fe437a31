//! Where the two paths differ on purpose. Packets of these kinds are kept out of the comparison
//! and have a test of their own, which demands exactly the difference that is described here.

use crate::generate::{checksum_offset, pseudo, Ip};
use crate::mask::internet_checksum;
use crate::socket::{Frame, Offload};

/// Where the outer UDP header stands.
const UDP: usize = 34;
/// Where the inner IP header stands.
const INNER: usize = 64;

/// Whether a frame on the wire is a tunnel packet whose outer checksum is wrong by exactly as much
/// as its inner one: a payload that was damaged on the way. The kernel reads the payload and drops
/// the packet on this host; eBPF verifies the headers alone, and the pod drops it by the inner
/// checksum (`docs/architecture.md`, choices in the programs).
pub(crate) fn is_damaged_payload(frame: &Frame) -> bool {
    let Frame { bytes, offload } = frame;
    if offload.flags & Offload::NEEDS_CHECKSUM != 0 || bytes.len() < INNER + 20 {
        return false;
    }
    let (outer, inner) = (&bytes[14..34], &bytes[INNER..INNER + 20]);
    if outer[0] != 0x45 || inner[0] != 0x45 || bytes[UDP + 6..UDP + 8] == [0, 0] {
        return false;
    }
    let Some(field) = checksum_offset(inner[9]) else {
        return false;
    };
    // An inner datagram without a checksum has nothing else to go by: the kernel verifies it.
    let is_guarded = bytes
        .get(INNER + 20 + field..INNER + 20 + field + 2)
        .is_some_and(|sum| inner[9] != 17 || sum != [0, 0]);
    let len = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let segment = bytes.get(INNER + 20..INNER + len(INNER + 2));
    let datagram = bytes.get(UDP..UDP + len(UDP + 4));
    let (Some(segment), Some(datagram), true) = (segment, datagram, is_guarded) else {
        return false;
    };
    let outer_rest = rest(outer, datagram);
    outer_rest != 0 && outer_rest == rest(inner, segment)
}

/// What a datagram's sum lacks to be right.
fn rest(ip: &[u8], datagram: &[u8]) -> u16 {
    let protocol = ip[9];
    let mut header = Ip::between([ip[12], ip[13], ip[14], ip[15]], [ip[16], ip[17], ip[18], ip[19]]);
    header.protocol = protocol;
    let pseudo = pseudo(&header, datagram.len());
    let covered = if protocol == 1 {
        datagram.to_vec()
    } else {
        [&pseudo[..], datagram].concat()
    };
    u16::from_be_bytes(internet_checksum(&covered))
}
