//! Packets by lot: a grammar of right ones, and what can be wrong with each part.
//!
//! A batch is made from the seed of the run, the name of its lane and its number alone, so it can
//! be made again without those before it. Most packets are what pods send, since a path that is
//! only tried with rubbish is not tried at all.

mod dice;
mod inner;
pub(crate) mod stream;
mod tunnel;

pub(crate) use self::dice::Dice;
pub(crate) use self::inner::{Ip, checksum_offset, packet, pseudo};
pub(crate) use self::tunnel::{Encap, Tunnel};

use crate::socket::{Frame, Offload};
use crate::world::{
    BRIDGE, BRIDGE_MAC, CARRIED, FAR_MAC, NODE_MAC, OTHER_POD, PEERS, POD, POD_MAC, Peer, SUBNET,
    VTEP_MAC,
};

/// Largest payload that leaves room for all headers in a packet of the overlay.
const FULL: usize = 1450 - 20 - 20;

/// What a pod sends to its bridge.
pub(crate) fn from_pod(dice: &mut Dice) -> Frame {
    let mut frame = pod_frame(dice);
    damage(dice, &mut frame.bytes, 0);
    frame
}

/// The same for a proxy. An aggregate whose sum is wrong from the start gets right ones from it,
/// so there is no damage to those.
pub(crate) fn from_pod_to_proxy(dice: &mut Dice) -> Frame {
    let mut frame = pod_frame(dice);
    if frame.offload == Offload::default() {
        damage(dice, &mut frame.bytes, 0);
    }
    frame
}

fn pod_frame(dice: &mut Dice) -> Frame {
    let destination = remote(dice);
    let source = if dice.in_thousand(20) {
        any_address(dice)
    } else {
        POD
    };
    let ip = Ip::between(source, destination);
    with_offload(dice, POD_MAC, BRIDGE_MAC, &ip)
}

/// What reaches the tunnel device by itself: link-layer header in place, as for a peer.
pub(crate) fn to_device(dice: &mut Dice) -> Frame {
    let peer = peer(dice);
    let destination = host_of(dice, peer);
    let ip = Ip::between(
        if dice.in_thousand(100) {
            any_address(dice)
        } else {
            POD
        },
        destination,
    );
    let vtep = if dice.in_thousand(30) {
        PEERS[dice.below(PEERS.len())].vtep
    } else {
        peer.vtep
    };
    let source = if dice.in_thousand(30) {
        any_mac(dice)
    } else {
        VTEP_MAC
    };
    let vtep = if dice.in_thousand(20) {
        any_mac(dice)
    } else {
        vtep
    };
    let mut frame = with_offload(dice, source, vtep, &ip);
    if dice.in_thousand(20) {
        let ethertype = *dice.pick(&[0x86dd_u16, 0x0806, 0x8100, 0x88cc, 0x0801, 60]);
        frame.bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
    }
    if dice.in_thousand(10) {
        insert_tag(dice, &mut frame.bytes);
    }
    damage(dice, &mut frame.bytes, 0);
    frame
}

/// What reaches a tunnel device without a link layer by itself.
pub(crate) fn to_bare_device(dice: &mut Dice) -> Frame {
    let peer = peer(dice);
    let source = if dice.in_thousand(100) {
        any_address(dice)
    } else {
        POD
    };
    let ip = Ip::between(source, host_of(dice, peer));
    let mut frame = with_offload(dice, VTEP_MAC, peer.vtep, &ip);
    frame.bytes.drain(..14);
    let Offload {
        header_len,
        checksum_start,
        ..
    } = &mut frame.offload;
    *header_len = header_len.saturating_sub(14);
    *checksum_start = checksum_start.saturating_sub(14);
    // As in `from_pod_to_proxy`.
    if frame.offload == Offload::default() {
        damage(dice, &mut frame.bytes, 0);
    }
    frame
}

/// What comes in on the wire for vxlan.
pub(crate) fn vxlan_from_wire(dice: &mut Dice) -> Frame {
    from_wire(dice, Encap::Vxlan)
}

/// What comes in on the wire for udp.
pub(crate) fn udp_from_wire(dice: &mut Dice) -> Frame {
    from_wire(dice, Encap::Udp)
}

/// What comes in on the wire where there is no tunnel.
pub(crate) fn direct_from_wire(dice: &mut Dice) -> Frame {
    let peer = peer(dice);
    let destination = local(dice);
    let ip = Ip::between(host_of(dice, peer), destination);
    let station = if dice.in_thousand(20) {
        any_mac(dice)
    } else {
        NODE_MAC
    };
    let mut frame = with_offload(dice, FAR_MAC, station, &ip);
    if dice.in_thousand(10) {
        insert_tag(dice, &mut frame.bytes);
    }
    damage(dice, &mut frame.bytes, 0);
    frame
}

fn from_wire(dice: &mut Dice, encap: Encap) -> Frame {
    let mut tunnel = tunnel_from(dice, encap);
    tunnel.make_odd(dice);
    if encap == Encap::Udp {
        // A process cannot be told that a checksum in what it receives has still to be made.
        tunnel.is_inner_unfinished = false;
    }
    let mut frame = tunnel.frame();
    if dice.in_thousand(8) {
        insert_tag(dice, &mut frame.bytes);
    }
    damage(dice, &mut frame.bytes, 14);
    frame
}

/// Aggregates of several tunnel packets on the wire, of the one kind that a sender can ask for:
/// datagrams of one size under one header. Others come from the device of a peer.
pub(crate) fn aggregate_from_wire(dice: &mut Dice) -> Frame {
    if dice.in_thousand(500) {
        return from_wire(dice, Encap::Vxlan);
    }
    let tunnel = tunnel_from(dice, Encap::Vxlan);
    let count = 2 + dice.below(6);
    tunnel.aggregate(count, dice)
}

/// What a peer hands to its own tunnel device.
pub(crate) fn from_peer(dice: &mut Dice) -> Frame {
    let destination = local(dice);
    let ip = Ip::between(host_of(dice, &PEERS[0]), destination);
    let mut frame = with_offload(dice, PEERS[0].vtep, VTEP_MAC, &ip);
    if dice.in_thousand(30) {
        damage(dice, &mut frame.bytes, 14);
    }
    frame
}

/// What is sent through a tunnel of a pod's own. What is inside concerns nobody on the way.
pub(crate) fn nested(dice: &mut Dice) -> Frame {
    let ip = Ip::between([10, 77, 0, 1], [10, 77, 0, 2]);
    let mut frame = with_offload(dice, [2, 0, 0, 0, 7, 7], [2, 0, 0, 0, 7, 8], &ip);
    // Nothing that would be fragmented on the way: fragments have identifications that count.
    frame.offload.gso_size = frame.offload.gso_size.min(1200);
    frame
}

/// A right tunnel packet, most often from a peer to a pod.
fn tunnel_from(dice: &mut Dice, encap: Encap) -> Tunnel {
    let peer = peer(dice);
    let destination = local(dice);
    let source = if dice.in_thousand(50) {
        any_address(dice)
    } else {
        host_of(dice, peer)
    };
    let ip = Ip::between(source, destination);
    Tunnel::from_peer(encap, peer, packet(dice, &ip, FULL))
}

/// A peer, mostly one that eBPF carries.
fn peer(dice: &mut Dice) -> &'static Peer {
    let among = if dice.in_thousand(900) {
        CARRIED
    } else {
        PEERS.len()
    };
    &PEERS[dice.below(among)]
}

/// An address in a peer's subnet; of few, so that flows repeat.
fn host_of(dice: &mut Dice, peer: &Peer) -> [u8; 4] {
    let [a, b, c, _] = peer.subnet;
    let c = if peer.prefix_len < 24 {
        c + dice.below(16) as u8
    } else {
        c
    };
    [a, b, c, *dice.pick(&[2, 3, 9, 200, 0, 255])]
}

/// Where a pod's packet goes.
fn remote(dice: &mut Dice) -> [u8; 4] {
    if dice.in_thousand(40) {
        return any_address(dice);
    }
    let peer = peer(dice);
    host_of(dice, peer)
}

/// Where a packet from a peer goes.
fn local(dice: &mut Dice) -> [u8; 4] {
    match dice.below(100) {
        0 => any_address(dice),
        1..4 => [SUBNET, BRIDGE][dice.below(2)],
        4..8 => [10, 5, 5, dice.octet()],
        8..20 => OTHER_POD,
        // Back out to another peer.
        20..22 => remote_of_carried(dice),
        _ => POD,
    }
}

fn remote_of_carried(dice: &mut Dice) -> [u8; 4] {
    let peer = &PEERS[dice.below(CARRIED)];
    host_of(dice, peer)
}

/// An address with a meaning of its own, or none.
fn any_address(dice: &mut Dice) -> [u8; 4] {
    match dice.below(12) {
        0 => [0; 4],
        1 => [255; 4],
        2 => [127, 0, 0, 1],
        3 => [224, 0, 0, dice.octet()],
        4 => [10, 5, dice.octet(), dice.octet()],
        5 => [10, 5, 255, 255],
        6 => [192, 168, 7, dice.octet()],
        7 => [169, 254, 1, 1],
        8 => [240, 0, 0, 1],
        9 => [10, 5, 5, 255],
        10 => SUBNET,
        _ => [198, 51, 100, dice.octet()],
    }
}

/// A link-layer address with a meaning of its own, or none.
fn any_mac(dice: &mut Dice) -> [u8; 6] {
    match dice.below(6) {
        0 => [0; 6],
        1 => [0xff; 6],
        2 => [1, 0, 0x5e, 0, 0, 1],
        3 => VTEP_MAC,
        4 => PEERS[dice.below(PEERS.len())].vtep,
        _ => [0x5e, 9, 9, 9, 9, dice.octet()],
    }
}

/// A frame around a packet: as it is, with its checksum left to the device, or an aggregate.
fn with_offload(dice: &mut Dice, source: [u8; 6], destination: [u8; 6], ip: &Ip) -> Frame {
    let kind = dice.below(100);
    let (packet, offload) = match kind {
        0..80 => (packet(dice, ip, FULL + 8), Offload::default()),
        80..92 => inner::unfinished(dice, ip, FULL),
        _ => inner::aggregate(dice, ip),
    };
    Frame {
        bytes: [&destination[..], &source, &[0x08, 0x00], &packet].concat(),
        offload,
    }
}

/// A VLAN tag, sometimes two, behind the link-layer addresses.
fn insert_tag(dice: &mut Dice, frame: &mut Vec<u8>) {
    for _ in 0..1 + usize::from(dice.in_thousand(200)) {
        let kind = *dice.pick(&[[0x81, 0x00], [0x88, 0xa8]]);
        // Zero is priority alone, which stations take without knowing any VLAN.
        let tag = *dice.pick(&[0_u16, 0xe000, 1, 100, 4095]);
        let [high, low] = tag.to_be_bytes();
        frame.splice(12..12, [kind[0], kind[1], high, low]);
    }
}

/// Damage that has no regard for structure, to few: octets flipped from `from` on, ends cut off,
/// ends added.
fn damage(dice: &mut Dice, frame: &mut Vec<u8>, from: usize) {
    if !dice.in_thousand(60) {
        return;
    }
    match dice.below(6) {
        // Headers are where it matters.
        0..3 => {
            for _ in 0..=dice.below(3) {
                let end = frame.len().min(120);
                let at = from + dice.below(end.saturating_sub(from).max(1));
                if let Some(octet) = frame.get_mut(at) {
                    *octet = dice.octet();
                }
            }
        }
        3 => frame.truncate(dice.below(frame.len())),
        // Where headers end.
        4 => frame.truncate(*dice.pick(&[14, 15, 33, 34, 42, 50, 63, 64, 83, 84, 85])),
        _ => {
            let more = 1 + dice.below(20);
            frame.extend(std::iter::repeat_n(dice.octet(), more));
        }
    }
}
