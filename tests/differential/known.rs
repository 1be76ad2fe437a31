//! Where the two paths differ on purpose. Packets of these kinds are kept out of the comparison
//! and have a test of their own, which demands exactly the difference that is described here.

use flannel_tests::cpu;

use crate::generate::{Dice, Encap, Ip, Tunnel, checksum_offset, packet, pseudo};
use crate::lane::{Lane, say, seed};
use crate::lanes;
use crate::mask::internet_checksum;
use crate::pair::Pair;
use crate::socket::{Frame, Offload};
use crate::twin::{Entrance, Exit};
use crate::world::{PEERS, POD};

/// Where the outer UDP header stands.
const UDP: usize = 34;

/// Whether a frame on the wire is a tunnel packet whose outer checksum is wrong by exactly as much
/// as its inner one: a payload that was damaged on the way. The kernel reads the payload and drops
/// the packet on this host; eBPF verifies the headers alone, and the pod drops it by the inner
/// checksum (`docs/architecture.md`, choices in the programs).
pub(crate) fn is_damaged_payload(frame: &Frame, encap: Encap) -> bool {
    let Frame { bytes, offload } = frame;
    let at = encap.headers();
    if offload.flags & Offload::NEEDS_CHECKSUM != 0 || bytes.len() < at + 20 {
        return false;
    }
    let (outer, inner) = (&bytes[14..34], &bytes[at..at + 20]);
    if outer[0] != 0x45 || inner[0] != 0x45 || bytes[UDP + 6..UDP + 8] == [0, 0] {
        return false;
    }
    let Some(field) = checksum_offset(inner[9]) else {
        return false;
    };
    // An inner datagram without a checksum has nothing else to go by: the kernel verifies it.
    let is_guarded = bytes
        .get(at + 20 + field..at + 20 + field + 2)
        .is_some_and(|sum| inner[9] != 17 || sum != [0, 0]);
    let len = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let segment = bytes.get(at + 20..at + len(at + 2));
    let datagram = bytes.get(UDP..UDP + len(UDP + 4));
    let (Some(segment), Some(datagram), true) = (segment, datagram, is_guarded) else {
        return false;
    };
    // Padding is outside of the inner sum, and so again the kernel's to verify.
    let is_exact = datagram.len() == at - UDP + 20 + segment.len();
    let outer_rest = rest(outer, datagram);
    is_exact && outer_rest != 0 && outer_rest == rest(inner, segment)
}

/// What a datagram's sum lacks to be right.
fn rest(ip: &[u8], datagram: &[u8]) -> u16 {
    let protocol = ip[9];
    let mut header = Ip::between(
        [ip[12], ip[13], ip[14], ip[15]],
        [ip[16], ip[17], ip[18], ip[19]],
    );
    header.protocol = protocol;
    let pseudo = pseudo(&header, datagram.len());
    let covered = if protocol == 1 {
        datagram.to_vec()
    } else {
        [&pseudo[..], datagram].concat()
    };
    u16::from_be_bytes(internet_checksum(&covered))
}

/// A tunnel packet with an octet of its payload changed on the way.
fn damaged(dice: &mut Dice, encap: Encap) -> Frame {
    let at = encap.headers();
    loop {
        let ip = Ip::between([10, 5, 1, 2], POD);
        let mut tunnel = Tunnel::from_peer(encap, &PEERS[0], packet(dice, &ip, 1000));
        tunnel.udp.with_checksum = true;
        let mut frame = tunnel.frame();
        // Not in a transport header: there a flag or a port may matter to the kernel by itself.
        let payload = at + 40;
        if frame.bytes.len() > payload {
            let flipped = payload + dice.below(frame.bytes.len() - payload);
            frame.bytes[flipped] ^= 1 << dice.below(8);
        }
        let inner = &frame.bytes[at..];
        let has_plain_header = inner[0] == 0x45 && internet_checksum(&inner[..20]) == [0, 0];
        let is_fragment = inner[6] & 0x3f | inner[7] != 0;
        // What routing would drop on both is no example.
        let is_routed = inner[12..20] == [10, 5, 1, 2, POD[0], POD[1], POD[2], POD[3]];
        // The proxy is a hop, and so is the host.
        let is_alive = inner[8] > 2;
        if is_damaged_payload(&frame, encap)
            && has_plain_header
            && !is_fragment
            && is_routed
            && is_alive
        {
            return frame;
        }
    }
}

fn expect_delivery_on_ebpf_alone(lane: &Lane, encap: Encap) {
    let seed = seed().expect("seed");
    say(&format!("{}: damaged payloads, seed {seed}", lane.name));
    let mut dice = Dice::new(seed, "damaged payloads", 0);
    let frames: Vec<Frame> = (0..50).map(|_| damaged(&mut dice, encap)).collect();
    cpu::pin(lane.core()).expect("pin");
    let mut pair = Pair::new(lane).expect("pair");
    for _ in 0..10 {
        let (ebpf, kernel) = pair.run(Entrance::Wire, &frames).expect("run");
        for exit in Exit::ALL {
            let came = &kernel.outputs[exit as usize];
            assert!(came.is_empty(), "kernel path, {exit:?}: {came:?}");
        }
        let came = &ebpf.outputs[Exit::Pod as usize];
        assert_eq!(came.len(), frames.len());
        for (came, sent) in came.iter().zip(&frames) {
            // Nothing vouches for the checksum, so the pod does not believe it.
            assert_eq!(came.offload, Offload::default());
            let payload = encap.headers() + 20;
            assert_eq!(came.bytes[34..], sent.bytes[payload..]);
        }
    }
}

#[test]
fn a_damaged_payload_in_vxlan_is_dropped_by_the_pod_on_ebpf_and_by_the_host_on_the_kernel_path() {
    expect_delivery_on_ebpf_alone(&lanes::FROM_WIRE, Encap::Vxlan);
}

#[test]
fn a_damaged_payload_in_udp_is_dropped_by_the_pod_on_ebpf_and_by_the_host_on_the_kernel_path() {
    expect_delivery_on_ebpf_alone(&lanes::UDP_FROM_WIRE, Encap::Udp);
}
