//! What two right answers to one packet may differ in, taken out of the frames before they are
//! compared, and checked by itself where a wrong value can be told.
//!
//! - A checksum that is left to a device is made, as the device would.
//! - Identification of what the node itself has written, and the header checksum over it.
//! - Source port of the tunnel: in the range, and one for all packets of a flow. It must be the
//!   same where the packet brings a hash along.
//! - UDP checksum of the tunnel: absent, or right.

use flannel_ebpf::wire::{checksum, fold, sum};

use crate::generate::Encap;
use crate::socket::{Offload, Seen};
use crate::world::{BRIDGE, CARRIED, FAR_NODE, NODE, OTHER_POD, PEERS, POD, SUBNET};

/// Octets of the link-layer header.
const ETHERNET: usize = 14;
/// Octets of an IPv4 header without options.
const IP: usize = 20;
/// Where the outer UDP header stands.
const UDP: usize = ETHERNET + IP;
/// Where the inner IP header stands.
const INNER: usize = UDP + 8 + 8 + ETHERNET;
/// Port of the tunnel.
const PORT: [u8; 2] = 8472_u16.to_be_bytes();
/// Port of the tunnel in a pod.
const NESTED_PORT: [u8; 2] = 4789_u16.to_be_bytes();
/// Octets in front of the packet in that tunnel.
const NESTED: usize = IP + 8 + 8 + ETHERNET;
/// Source ports that a tunnel may use: the default of `net.ipv4.ip_local_port_range`.
const SOURCE_PORTS: std::ops::Range<u16> = 32_768..60_999;

/// The flow of a packet that eBPF has put into a tunnel, and the source port that it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Inner addresses, protocol and ports.
    pub key: [u8; 13],
    pub source_port: u16,
}

/// What was learnt on the way, or what is wrong with the frame whatever the other path does.
pub(crate) type Masked = Result<Option<Flow>, String>;

/// The part that every exit and backend shares.
pub(crate) fn any(seen: &mut Seen) {
    finish_checksum(seen);
    // Where the linear part of a buffer ends is nobody's business but the kernel's.
    seen.offload.header_len = 0;
    forget_own_id(&mut seen.bytes, ETHERNET);
}

/// Blots out the identification of a whole datagram that must not be fragmented: it means nothing
/// (RFC 6864), and the kernel numbers those that were merged and taken apart again.
pub(crate) fn merged(bytes: &mut [u8]) {
    forget_merged_id(bytes, ETHERNET);
}

fn forget_merged_id(bytes: &mut [u8], at: usize) {
    if let Some(header) = bytes.get_mut(at..at + IP)
        && header[0] == 0x45
        && header[6] == 0x40
        && header[9] == 17
        && fold(sum(header)) == 0xffff
    {
        header[4..6].fill(0);
        header[10..12].fill(0);
    }
}

/// Whether a frame holds, at `at`, a whole packet of a flow between a pod here and one of a peer, as
/// eBPF carries it: its place among others of its kind does not depend on how fast a process is.
pub(crate) fn is_of_a_stream(bytes: &[u8], at: usize) -> bool {
    let Some(packet) = bytes.get(at..).filter(|packet| packet.len() >= IP) else {
        return false;
    };
    let pods = [POD, OTHER_POD];
    let is_pod = |address: &[u8]| pods.iter().any(|pod| pod == address);
    let is_remote = |address: &[u8]| {
        let mut peers = PEERS[..CARRIED].iter();
        peers.any(|peer| peer.subnet[..3] == address[..3])
    };
    let (source, destination) = (&packet[12..16], &packet[16..20]);
    let is_between =
        is_pod(source) && is_remote(destination) || is_remote(source) && is_pod(destination);
    packet[0] == 0x45
        && usize::from(u16::from_be_bytes([packet[2], packet[3]])) == packet.len()
        && packet[6] & 0x3f | packet[7] == 0
        && matches!(packet[9], 6 | 17)
        && fold(sum(&packet[..IP])) == 0xffff
        && is_between
}

/// Whether a frame of the udp backend holds "port unreachable" (RFC 792), from the node itself.
pub(crate) fn is_port_unreachable(bytes: &[u8]) -> bool {
    let at = UDP + 8;
    bytes.get(at..at + IP + 2).is_some_and(|inner| {
        inner[0] == 0x45
            && inner[9] == 1
            && inner[IP..] == [3, 3]
            && [BRIDGE, SUBNET].iter().any(|own| inner[12..16] == own[..])
    })
}

/// A frame on the wire of the vxlan backend.
pub(crate) fn vxlan(seen: &mut Seen) -> Masked {
    let Seen { bytes, offload, .. } = seen;
    let is_tunnel = bytes.len() >= INNER
        && bytes[12..15] == [0x08, 0x00, 0x45]
        && bytes[23] == 17
        && bytes[26..30] == NODE;
    let is_later_fragment = is_tunnel && bytes[20] & 0x1f | bytes[21] != 0;
    if !is_tunnel || is_later_fragment || bytes[UDP + 2..UDP + 4] != PORT {
        return Ok(None);
    }
    if bytes[20] & 0x20 != 0 {
        // Only the kernel fragments, for both: port and checksum are the same.
        forget_own_id(bytes, INNER);
        return Ok(None);
    }
    let is_carried = bytes[UDP + 6..UDP + 8] == [0, 0];
    if !is_carried && is_finished(offload) && !is_udp_right(bytes) {
        return Err("the UDP checksum of the tunnel is wrong".to_owned());
    }
    let source_port = u16::from_be_bytes([bytes[UDP], bytes[UDP + 1]]);
    if !SOURCE_PORTS.contains(&source_port) {
        return Err(format!("source port {source_port} is out of range"));
    }
    bytes[UDP + 6..UDP + 8].fill(0);
    forget_own_id(bytes, INNER);
    if is_nested(&bytes[INNER..]) {
        // The tunnel device in the pod gives a packet with ports a hash, by which both paths go.
        if bytes.get(INNER + NESTED..).and_then(flow_key).is_none() {
            bytes[UDP..UDP + 2].fill(0);
        }
        return Ok(None);
    }
    bytes[UDP..UDP + 2].fill(0);
    let key = flow_key(&bytes[INNER..]).filter(|_| is_carried);
    Ok(key.map(|key| Flow { key, source_port }))
}

/// A frame on the wire of the udp backend. Ports are those of the proxy's socket.
pub(crate) fn udp(seen: &mut Seen) -> Masked {
    let Seen { bytes, offload, .. } = seen;
    let is_tunnel = bytes.len() >= UDP + 8
        && bytes[12..15] == [0x08, 0x00, 0x45]
        && bytes[23] == 17
        && bytes[26..30] == NODE
        && bytes[UDP + 2..UDP + 4] == Encap::Udp.port().to_be_bytes();
    if !is_tunnel || bytes[20] & 0x1f | bytes[21] != 0 {
        return Ok(None);
    }
    // A node with programs leaves it out, and tells kin by that; one without fills it in. Of
    // fragments the kernel makes it, on both.
    let is_fragment = bytes[20] & 0x20 != 0;
    let is_absent = bytes[UDP + 6..UDP + 8] == [0, 0];
    if !is_absent && !is_fragment && is_finished(offload) && !is_udp_right(bytes) {
        return Err("the UDP checksum of the tunnel is wrong".to_owned());
    }
    bytes[UDP + 6..UDP + 8].fill(0);
    forget_own_id(bytes, UDP + 8);
    forget_merged_id(bytes, UDP + 8);
    Ok(None)
}

/// Whether a checksum can be asked for: of an aggregate the sum is made for each segment, and what is
/// left to a device at a place outside of the frame (the kernel forgets that the place was in a header
/// which it has taken off) nobody can make.
fn is_finished(offload: &Offload) -> bool {
    offload.gso_type == 0 && offload.flags & Offload::NEEDS_CHECKSUM == 0
}

/// Does what is left to a device.
fn finish_checksum(seen: &mut Seen) {
    let Seen { bytes, offload, .. } = seen;
    if offload.flags & Offload::NEEDS_CHECKSUM == 0 || offload.gso_type != 0 {
        return;
    }
    let start = usize::from(offload.checksum_start);
    let field = start + usize::from(offload.checksum_offset);
    if field + 2 <= bytes.len() {
        let mut value = internet_checksum(&bytes[start..]);
        // Zero would mean "none" to UDP; devices write its other form for all protocols.
        if value == [0, 0] {
            value = [0xff; 2];
        }
        bytes[field..field + 2].copy_from_slice(&value);
        *offload = Offload::default();
    }
}

/// Blots out the identification of a packet that the node has written, or the tunnel device in a
/// pod, if there is one at `at`.
fn forget_own_id(bytes: &mut [u8], at: usize) {
    let Some(header) = bytes.get(at..at + IP) else {
        return;
    };
    let is_own = [NODE, BRIDGE, SUBNET]
        .iter()
        .any(|own| header[12..16] == own[..]);
    let len = usize::from(header[0] & 0xf) * 4;
    // Of a real peer only what it can have written itself: a pod may claim its address.
    let is_error = header[9] == 1 && matches!(bytes.get(at + len), Some(3 | 11 | 12));
    let is_own = is_own || is_error && FAR_NODE.iter().any(|far| header[12..16] == far[..]);
    let is_nested = is_nested(&bytes[at..]);
    if header[0] >> 4 != 4 || !(is_own || is_nested) || len < IP {
        return;
    }
    let Some(header) = bytes.get_mut(at..at + len) else {
        return;
    };
    // A wrong header checksum stays in sight.
    if fold(sum(header)) == 0xffff {
        header[4..6].fill(0);
        header[10..12].fill(0);
    }
}

/// Whether an inner packet is of the tunnel device in a pod.
fn is_nested(inner: &[u8]) -> bool {
    inner.len() >= IP + 4
        && inner[0] == 0x45
        && inner[9] == 17
        && inner[12..16] == POD
        && inner[IP + 2..IP + 4] == NESTED_PORT
}

/// The flow of an inner packet, where it is plain to see.
fn flow_key(inner: &[u8]) -> Option<[u8; 13]> {
    let is_plain = inner.len() >= IP + 4
        && inner[0] == 0x45
        && matches!(inner[9], 6 | 17)
        && inner[6] & 0x3f | inner[7] == 0;
    let mut key = [0; 13];
    key[..8].copy_from_slice(inner.get(12..20)?);
    key[8..12].copy_from_slice(inner.get(20..24)?);
    key[12] = inner[9];
    is_plain.then_some(key)
}

/// Whether the checksum of a UDP datagram behind a plain IPv4 header is right.
fn is_udp_right(frame: &[u8]) -> bool {
    let len = usize::from(u16::from_be_bytes([frame[UDP + 4], frame[UDP + 5]]));
    let Some(datagram) = frame.get(UDP..UDP + len) else {
        return false;
    };
    let pseudo = sum(&frame[26..34]) + sum(&[0, 17]) + sum(&frame[UDP + 4..UDP + 6]);
    fold(pseudo + u32::from(!u16::from_ne_bytes(internet_checksum(datagram)))) == 0xffff
}

/// The Internet checksum of any number of octets.
pub(crate) fn internet_checksum(bytes: &[u8]) -> [u8; 2] {
    // `sum` takes even lengths below 64 KiB.
    let (even, last) = bytes.split_at(bytes.len() & !1);
    let total: u32 = even
        .chunks(1 << 12)
        .map(|part| u32::from(fold(sum(part))))
        .sum();
    let last = last.first().map_or(0, |octet| sum(&[*octet, 0]));
    checksum(total + last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Tunnel;
    use crate::world::PEERS;

    /// A frame as the node would send it, with or without a checksum.
    fn seen(with_checksum: bool) -> Seen {
        let mut tunnel = Tunnel::from_peer(Encap::Vxlan, &PEERS[0], vec![0x45; 101]);
        std::mem::swap(&mut tunnel.ip.source, &mut tunnel.ip.destination);
        tunnel.udp.with_checksum = with_checksum;
        Seen {
            bytes: tunnel.frame().bytes,
            offload: Offload::default(),
            kind: 0,
            vlan: None,
        }
    }

    #[test]
    fn a_right_checksum_is_as_good_as_none() {
        let [mut without, mut with] = [seen(false), seen(true)];
        assert_ne!(without, with);
        assert!(vxlan(&mut without).is_ok());
        assert!(vxlan(&mut with).is_ok());
        assert_eq!(without, with);
    }

    #[test]
    fn a_wrong_checksum_is_found() {
        for at in [UDP + 7, INNER + 3, INNER + 100] {
            let mut seen = seen(true);
            seen.bytes[at] ^= 1;
            assert!(vxlan(&mut seen).is_err(), "octet {at}");
        }
    }

    #[test]
    fn what_a_device_would_do_is_done() {
        let mut seen = Seen {
            bytes: vec![0xab; 65],
            offload: Offload {
                flags: Offload::NEEDS_CHECKSUM,
                checksum_start: 14,
                checksum_offset: 4,
                ..Offload::default()
            },
            kind: 0,
            vlan: None,
        };
        any(&mut seen);
        assert_eq!(seen.offload, Offload::default());
        // The old content of the field is part of the sum: 0xabab here.
        let expected = internet_checksum(&[0xab; 51]);
        assert_eq!(seen.bytes[18..20], expected);
    }

    #[test]
    fn long_sums_do_not_overflow() {
        assert_eq!(internet_checksum(&vec![0xff; 65_535]), [0, 0xff]);
    }
}
