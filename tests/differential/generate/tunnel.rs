//! Tunnel frames as they come over the wire, and all that can be wrong with them.

use super::inner::{checksum_offset, pseudo};
use super::{Dice, Ip, any_address, any_mac};
use crate::mask::internet_checksum;
use crate::socket::{Frame, Offload};
use crate::world::{
    FAR_MAC, NODE, NODE_MAC, PEERS, Peer, STRANGER, UNDERLAY_MTU, VTEP_MAC, station,
};

/// What is put around packets, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encap {
    /// A frame in VXLAN.
    Vxlan,
    /// The packet alone, in flannel's udp.
    Udp,
}

impl Encap {
    /// Octets in front of the inner packet.
    pub(crate) const fn headers(self) -> usize {
        match self {
            Self::Vxlan => 64,
            Self::Udp => 42,
        }
    }

    /// UDP port of the tunnel.
    pub(crate) const fn port(self) -> u16 {
        match self {
            Self::Vxlan => 8_472,
            Self::Udp => 8_285,
        }
    }
}

/// Where the outer UDP header stands.
const UDP: usize = 34;

/// A UDP header.
#[derive(Debug, Clone)]
pub(crate) struct Udp {
    pub source: u16,
    pub destination: u16,
    /// Added to the right length.
    pub len_error: i16,
    /// Whether there is a checksum; a right one.
    pub with_checksum: bool,
    /// Added to the checksum, whatever that is.
    pub checksum_error: u16,
    /// Whether a device has still to make the checksum.
    pub is_unfinished: bool,
}

/// A tunnel packet in all its parts.
#[derive(Debug, Clone)]
pub(crate) struct Tunnel {
    pub encap: Encap,
    pub outer_destination: [u8; 6],
    pub outer_source: [u8; 6],
    pub outer_ethertype: u16,
    pub ip: Ip,
    pub udp: Udp,
    pub vxlan: [u8; 8],
    pub inner_destination: [u8; 6],
    pub inner_source: [u8; 6],
    pub inner_ethertype: u16,
    pub packet: Vec<u8>,
    /// Whether the inner checksum is left to a device, as virtual links do.
    pub is_inner_unfinished: bool,
}

impl Tunnel {
    /// What a peer sends; nothing is wrong with it.
    pub(crate) fn from_peer(encap: Encap, peer: &Peer, packet: Vec<u8>) -> Self {
        Self {
            encap,
            outer_destination: NODE_MAC,
            outer_source: FAR_MAC,
            outer_ethertype: 0x0800,
            ip: Ip::between(peer.public, NODE),
            udp: Udp {
                source: 49_152,
                destination: encap.port(),
                len_error: 0,
                with_checksum: false,
                checksum_error: 0,
                is_unfinished: false,
            },
            vxlan: [8, 0, 0, 0, 0, 0, 1, 0],
            inner_destination: VTEP_MAC,
            inner_source: peer.vtep,
            inner_ethertype: 0x0800,
            packet,
            is_inner_unfinished: false,
        }
    }

    /// Free choices of a right sender, and, for some, what is rare or wrong.
    pub(crate) fn make_odd(&mut self, dice: &mut Dice) {
        self.udp.source = u16::from_be_bytes(dice.pair());
        // Stock peers send a checksum, ours do not.
        self.udp.with_checksum = dice.in_thousand(400);
        self.ip.id = dice.pair();
        if dice.in_thousand(300) {
            self.ip.tos = *dice.pick(&[0, 1, 2, 3, 3, 0xb8, 0xbb]);
        }
        if dice.in_thousand(100) {
            self.ip.ttl = *dice.pick(&[0, 1, 63, 255]);
        }
        if dice.in_thousand(200) {
            self.ip.fragment = 0x4000;
        }
        self.is_inner_unfinished = dice.in_thousand(80);
        for _ in 0..2 {
            if dice.in_thousand(150) {
                self.spoil(dice);
            }
        }
    }

    fn spoil(&mut self, dice: &mut Dice) {
        match dice.below(22) {
            0 => {
                let multicast = [1, 0, 0x5e, 0, 0, 1];
                let stations = [station(99), [0xff; 6], multicast, [0; 6]];
                self.outer_destination = *dice.pick(&stations);
            }
            1 => self.outer_source = any_mac(dice),
            2 => self.outer_ethertype = *dice.pick(&[0x86dd, 0x0806, 0x0801, 100]),
            3..6 => self.ip.make_odd(dice),
            6 => {
                self.ip.source = if dice.in_thousand(700) {
                    STRANGER
                } else {
                    any_address(dice)
                }
            }
            7 => self.ip.destination = any_address(dice),
            8 => self.udp.destination = *dice.pick(&[8_473, 8_286, 4_789, 0]),
            9 => self.udp.len_error = *dice.pick(&[-1, 1, -8, 8, -58, 3000]),
            10 => self.udp.checksum_error = *dice.pick(&[1, 0x100, 0xffff, 0x8000]),
            11 => self.udp.is_unfinished = true,
            12 => self.vxlan[0] = *dice.pick(&[0, 0x88, 0x0c, 0xff]),
            13 => self.vxlan[dice.below(8)] ^= 1 << dice.below(8),
            14 => self.vxlan[6] = *dice.pick(&[0, 2, 255]),
            15 => self.inner_destination = any_mac(dice),
            16 => self.inner_source = any_mac(dice),
            17 => self.inner_source = PEERS[dice.below(PEERS.len())].vtep,
            18 => {
                self.inner_ethertype = *dice.pick(&[0x86dd, 0x0806, 0x8100, 0x88a8, 0x6558, 50]);
            }
            19 => self.packet.truncate(dice.below(self.packet.len().max(1))),
            20 => {
                let rest = (UNDERLAY_MTU - 50).saturating_sub(self.packet.len());
                let count = dice.below(rest.max(1));
                self.packet.extend(dice.octets(count));
            }
            _ => self.packet = Vec::new(),
        }
    }

    /// The frame as it goes on the wire.
    pub(crate) fn frame(&self) -> Frame {
        let inner = match self.encap {
            Encap::Vxlan => [
                &self.vxlan[..],
                &self.inner_destination,
                &self.inner_source,
                &self.inner_ethertype.to_be_bytes(),
                &self.packet,
            ]
            .concat(),
            Encap::Udp => self.packet.clone(),
        };
        let len = ((8 + inner.len()) as u16).wrapping_add_signed(self.udp.len_error);
        let datagram = [
            &self.udp.source.to_be_bytes()[..],
            &self.udp.destination.to_be_bytes(),
            &len.to_be_bytes(),
            &[0, 0],
            &inner,
        ]
        .concat();
        let bytes = [
            &self.outer_destination[..],
            &self.outer_source,
            &self.outer_ethertype.to_be_bytes(),
            &self.ip.packet(&datagram),
        ]
        .concat();
        let mut frame = Frame::from(bytes);
        let udp = UDP + self.ip.options.len();
        self.fill_checksum(&mut frame, udp, usize::from(len));
        if self.is_inner_unfinished && !self.udp.is_unfinished {
            leave_to_device(&mut frame, self.encap.headers() + self.ip.options.len());
        }
        frame
    }

    /// Makes the outer checksum, or leaves it to a device.
    fn fill_checksum(&self, frame: &mut Frame, udp: usize, len: usize) {
        let Frame { bytes, offload } = frame;
        let mut pseudo = pseudo(&self.ip, len);
        // A sender's sum is of its own protocol, whatever became of the header since.
        pseudo[9] = 17;
        if self.udp.is_unfinished {
            let sum = internet_checksum(&pseudo).map(|octet| !octet);
            bytes[udp + 6..udp + 8].copy_from_slice(&sum);
            *offload = Offload {
                flags: Offload::NEEDS_CHECKSUM,
                checksum_start: udp as u16,
                checksum_offset: 6,
                ..Offload::default()
            };
            return;
        }
        if self.udp.with_checksum {
            let end = bytes.len().min(udp + len);
            let covered = bytes.get(udp..end).unwrap_or(&bytes[udp..]);
            let sum = match internet_checksum(&[&pseudo[..], covered].concat()) {
                [0, 0] => [0xff; 2],
                sum => sum,
            };
            bytes[udp + 6..udp + 8].copy_from_slice(&sum);
        }
        let field = u16::from_be_bytes([bytes[udp + 6], bytes[udp + 7]]);
        let field = field.wrapping_add(self.udp.checksum_error);
        bytes[udp + 6..udp + 8].copy_from_slice(&field.to_be_bytes());
    }

    /// `count` datagrams of this size as one aggregate.
    pub(crate) fn aggregate(&self, count: usize, dice: &mut Dice) -> Frame {
        let one = self.frame().bytes;
        let payload = &one[UDP + 8..];
        let most = (60_000 / payload.len()).max(1);
        let repeated = payload.repeat(count.min(most));
        let len = 8 + repeated.len();
        let sum = internet_checksum(&pseudo(&self.ip, len)).map(|octet| !octet);
        let datagram = [
            &self.udp.source.to_be_bytes()[..],
            &self.udp.destination.to_be_bytes(),
            &(len as u16).to_be_bytes(),
            &sum,
            &repeated,
        ]
        .concat();
        let ip = Ip {
            id: dice.pair(),
            ..self.ip.clone()
        };
        Frame {
            bytes: [&one[..14], &ip.packet(&datagram)].concat(),
            offload: Offload {
                flags: Offload::NEEDS_CHECKSUM,
                gso_type: Offload::GSO_UDP_L4,
                header_len: 42,
                gso_size: payload.len() as u16,
                checksum_start: UDP as u16,
                checksum_offset: 6,
            },
        }
    }
}

/// Puts the sum of the pseudo header in place of the inner checksum. The outer one stays that of
/// the finished packet, as senders make it (the kernel's local checksum offload).
fn leave_to_device(frame: &mut Frame, inner: usize) {
    let Frame { bytes, offload } = frame;
    let is_plain = bytes.len() >= inner + 40 && bytes[inner] == 0x45;
    let protocol = bytes.get(inner + 9).copied().unwrap_or(0);
    if !is_plain || !matches!(protocol, 6 | 17) {
        return;
    }
    let Some(offset) = checksum_offset(protocol) else {
        return;
    };
    let mut ip = Ip::between([0; 4], [0; 4]);
    ip.protocol = protocol;
    ip.source.copy_from_slice(&bytes[inner + 12..inner + 16]);
    ip.destination
        .copy_from_slice(&bytes[inner + 16..inner + 20]);
    let total = usize::from(u16::from_be_bytes([bytes[inner + 2], bytes[inner + 3]]));
    let sum = internet_checksum(&pseudo(&ip, total.saturating_sub(20))).map(|octet| !octet);
    let start = inner + 20;
    bytes[start + offset..start + offset + 2].copy_from_slice(&sum);
    *offload = Offload {
        flags: Offload::NEEDS_CHECKSUM,
        checksum_start: start as u16,
        checksum_offset: offset as u16,
        ..Offload::default()
    };
}
