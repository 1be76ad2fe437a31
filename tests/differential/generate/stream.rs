//! Packets of few flows between pods: most of each may go around the stack once the flow is admitted,
//! and all the others, in between, may not.

use super::{Dice, Encap, FULL, Ip, Tunnel, damage, inner, insert_tag, packet};
use crate::socket::{Frame, Offload};
use crate::world::{
    BRIDGE_MAC, FAR_BRIDGE_MAC, FAR_MAC, FAR_POD, FAR_POD_MAC, NODE_MAC, OTHER_POD, OTHER_POD_MAC,
    PEERS, POD, POD_MAC, Peer,
};

/// Peers that every backend reaches directly.
const NEAR: usize = 2;

/// What a pod sends to its bridge.
pub(crate) fn from_pod(dice: &mut Dice) -> Frame {
    let (mut frame, _) = pod_frame(dice);
    damage(dice, &mut frame.bytes, 0);
    frame
}

/// The same for udp. What a pod's socket has put together is the proxy's, which is overtaken; and
/// there is no damage to what is left to a device, as in `from_pod_to_proxy`.
pub(crate) fn from_pod_to_proxy(dice: &mut Dice) -> Frame {
    loop {
        let (mut frame, offload) = pod_frame(dice);
        if offload.gso_type != Offload::GSO_UDP_L4 {
            if offload == Offload::default() {
                damage(dice, &mut frame.bytes, 0);
            }
            return frame;
        }
    }
}

/// What a pod sends to that of a real peer.
pub(crate) fn to_far_pod(dice: &mut Dice) -> Frame {
    between_pods(dice, BRIDGE_MAC, POD_MAC, &Ip::between(POD, FAR_POD))
}

/// What the pod of a real peer sends.
pub(crate) fn from_far_pod(dice: &mut Dice) -> Frame {
    let ip = Ip::between(FAR_POD, POD);
    between_pods(dice, FAR_BRIDGE_MAC, FAR_POD_MAC, &ip)
}

fn between_pods(dice: &mut Dice, station: [u8; 6], source: [u8; 6], ip: &Ip) -> Frame {
    let (packet, offload) = with_offload(dice, ip);
    let mut frame = framed(dice, station, source, &packet, off_a_wire(offload));
    damage(dice, &mut frame.bytes, 0);
    frame
}

/// Without segments that are larger than the MTU: none come off a wire, and to a receiver's fast path
/// they are packets like all others (`docs/architecture.md`, known limits). So is a lone one, which the
/// kernel takes for no aggregate, and a wire for as many octets too large as a VLAN tag has.
fn off_a_wire(offload: Offload) -> Offload {
    Offload {
        gso_size: offload.gso_size.min(1200),
        ..offload
    }
}

fn pod_frame(dice: &mut Dice) -> (Frame, Offload) {
    let peer = near(dice);
    let ip = Ip::between(POD, pod_of(peer));
    let (packet, offload) = with_offload(dice, &ip);
    // To another station on the bridge, a known one or none.
    let station = if dice.in_thousand(10) {
        *dice.pick(&[OTHER_POD_MAC, [0xff; 6], [2, 0, 0, 0, 5, 77]])
    } else {
        BRIDGE_MAC
    };
    let frame = framed(dice, station, POD_MAC, &packet, offload);
    (frame, offload)
}

/// What comes in on the wire for vxlan.
pub(crate) fn vxlan_from_wire(dice: &mut Dice) -> Frame {
    let peer = near(dice);
    let ip = inbound(dice, peer);
    let packet = packet_of(dice, &ip);
    let mut tunnel = Tunnel::from_peer(Encap::Vxlan, peer, packet);
    if dice.in_thousand(200) {
        tunnel.make_odd(dice);
    }
    let mut frame = tunnel.frame();
    if dice.in_thousand(5) {
        insert_tag(dice, &mut frame.bytes);
    }
    damage(dice, &mut frame.bytes, 14);
    frame
}

/// What comes in on the wire for udp. The proxy, which is overtaken, takes off what is behind a
/// packet, which then looks like any other: there is nothing behind these.
pub(crate) fn udp_from_wire(dice: &mut Dice) -> Frame {
    let peer = near(dice);
    loop {
        let ip = inbound(dice, peer);
        let packet = packet_of(dice, &ip);
        let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        if len >= packet.len() {
            let mut tunnel = Tunnel::from_peer(Encap::Udp, peer, packet);
            tunnel.ip.id = dice.pair();
            tunnel.ip.tos = *dice.pick(&[0, 0, 0, 1, 3, 0xb8]);
            tunnel.udp.source = u16::from_be_bytes(dice.pair());
            return tunnel.frame();
        }
    }
}

/// What comes in on the wire where there is no tunnel.
pub(crate) fn direct_from_wire(dice: &mut Dice) -> Frame {
    let peer = near(dice);
    let ip = inbound(dice, peer);
    let (packet, offload) = with_offload(dice, &ip);
    let mut frame = framed(dice, NODE_MAC, FAR_MAC, &packet, off_a_wire(offload));
    damage(dice, &mut frame.bytes, 0);
    frame
}

fn near(dice: &mut Dice) -> &'static Peer {
    &PEERS[dice.below(NEAR)]
}

fn inbound(dice: &mut Dice, peer: &Peer) -> Ip {
    let to = if dice.in_thousand(100) {
        OTHER_POD
    } else {
        POD
    };
    Ip::between(pod_of(peer), to)
}

/// The one pod of a peer: more of them would be more flows, and fewer packets of each.
fn pod_of(peer: &Peer) -> [u8; 4] {
    let [a, b, c, _] = peer.subnet;
    [a, b, c, 2]
}

fn framed(
    dice: &mut Dice,
    station: [u8; 6],
    source: [u8; 6],
    packet: &[u8],
    offload: Offload,
) -> Frame {
    let mut bytes = [&station[..], &source, &[0x08, 0x00], packet].concat();
    if offload == Offload::default() && dice.in_thousand(10) {
        insert_tag(dice, &mut bytes);
    }
    Frame { bytes, offload }
}

/// A packet of a flow: as it is, with its checksum left to the device, or an aggregate.
fn with_offload(dice: &mut Dice, ip: &Ip) -> (Vec<u8>, Offload) {
    let (mut packet, offload) = match dice.below(100) {
        0..80 => return (packet_of(dice, ip), Offload::default()),
        80..92 => inner::unfinished(dice, ip, FULL),
        _ => inner::aggregate(dice, ip),
    };
    if dice.in_thousand(900) {
        inner::calm(dice, &mut packet);
    }
    (packet, offload)
}

/// A packet of a flow: three in four in the middle of a conversation, the others odd, wrong, too
/// large, or anything.
fn packet_of(dice: &mut Dice, ip: &Ip) -> Vec<u8> {
    let kind = dice.below(100);
    let most = match kind {
        // Larger than what the overlay takes, but not than what the pod may send.
        0..3 => FULL + 50,
        _ => FULL,
    };
    let (mut ip, segment) = match kind {
        3..10 => return packet(dice, ip, FULL),
        _ => inner::steady(dice, ip, most),
    };
    if (10..25).contains(&kind) {
        ip.make_odd(dice);
    }
    ip.packet(&segment)
}
