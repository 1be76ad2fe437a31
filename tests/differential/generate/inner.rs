//! IPv4 packets as pods send them, and as they should not.

use super::Dice;
use crate::mask::internet_checksum;
use crate::socket::Offload;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where TCP's flags stand in its header.
const TCP_FLAGS: usize = 13;
/// Flags within a conversation: acknowledgment, alone and with push, urgent or congestion flags.
const CONVERSING: &[u8] = &[0x10, 0x10, 0x10, 0x18, 0x30, 0x50, 0x90];

/// Octets of a frame in front of its packet.
const ETHERNET: usize = 14;

/// An IPv4 header, all of it as it should be unless said otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Ip {
    pub version: u8,
    /// Header length in words, if not the right one.
    pub header_words: Option<u8>,
    pub tos: u8,
    /// Added to the right total length.
    pub len_error: i16,
    pub id: [u8; 2],
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    /// Added to the right checksum.
    pub checksum_error: u16,
    pub source: [u8; 4],
    pub destination: [u8; 4],
    /// A multiple of four octets.
    pub options: Vec<u8>,
}

impl Ip {
    /// A plain header; the protocol is UDP.
    pub(crate) fn between(source: [u8; 4], destination: [u8; 4]) -> Self {
        Self {
            version: 4,
            header_words: None,
            tos: 0,
            len_error: 0,
            id: [0; 2],
            fragment: 0,
            ttl: 64,
            protocol: UDP,
            checksum_error: 0,
            source,
            destination,
            options: Vec::new(),
        }
    }

    /// The header with its payload.
    pub(crate) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let len = 20 + self.options.len();
        let words = self.header_words.unwrap_or((len / 4) as u8) & 0xf;
        let total = ((len + payload.len()) as u16).wrapping_add_signed(self.len_error);
        let mut packet = Vec::with_capacity(len + payload.len());
        packet.extend([self.version << 4 | words, self.tos]);
        packet.extend(total.to_be_bytes());
        packet.extend(self.id);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend(self.source);
        packet.extend(self.destination);
        packet.extend(&self.options);
        let checksum = u16::from_be_bytes(internet_checksum(&packet));
        let checksum = checksum.wrapping_add(self.checksum_error);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    /// Now and then, chooses an identification by which the header's checksum is next to one of the
    /// two zeros of one's complement arithmetic: there every way to change one shows its own.
    fn move_checksum(&mut self, dice: &mut Dice, payload: &[u8]) {
        if !dice.in_thousand(100) {
            return;
        }
        let wanted = *dice.pick(&[
            0, 1, 2, 3, 0xfc, 0xff, 0x100, 0xfefe, 0xfeff, 0xff00, 0xfffe,
        ]);
        self.id = [0; 2];
        let without = self.packet(payload);
        // What the sum of the rest lacks of the sum that is wanted.
        let words = [&u16::to_be_bytes(!wanted), &without[10..12]].concat();
        self.id = internet_checksum(&words).map(|octet| !octet);
    }

    /// What is rare, and what is wrong.
    pub(crate) fn make_odd(&mut self, dice: &mut Dice) {
        match dice.below(14) {
            0 => self.ttl = *dice.pick(&[0, 1, 2, 255]),
            1..3 => self.tos = dice.octet(),
            3..5 => {
                self.fragment =
                    *dice.pick(&[0x2000, 0x2001, 0x00b9, 0x1fff, 0x4000, 0x8000, 0xe000]);
            }
            5..7 => self.options = options(dice),
            7 => self.checksum_error = *dice.pick(&[1, 0x100, 0xffff]),
            8 => self.len_error = *dice.pick(&[-1, 1, -8, 8, -20, 1000, i16::MIN]),
            9 => self.version = *dice.pick(&[0, 5, 6, 15]),
            10 => self.header_words = Some(*dice.pick(&[0, 4, 6, 15])),
            11 => self.protocol = dice.octet(),
            12 => self.source = super::any_address(dice),
            _ => self.destination = super::any_address(dice),
        }
    }
}

/// Options that hosts and routers act on, padded to words.
fn options(dice: &mut Dice) -> Vec<u8> {
    let kinds: [&[u8]; 9] = [
        // No operation, end.
        &[1],
        &[0],
        // Record route, timestamps without room for a further one (no two hosts write the same
        // time), security.
        &[7, 7, 4, 0, 0, 0, 0],
        &[68, 8, 9, 0, 0, 0, 0, 0],
        &[130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // Loose and strict source route.
        &[131, 7, 4, 10, 5, 2, 2],
        &[137, 7, 4, 10, 5, 1, 2],
        // Router alert, and one that is longer than the header.
        &[148, 4, 0, 0],
        &[7, 39, 4],
    ];
    let mut options = dice.pick(&kinds).to_vec();
    options.resize(options.len().next_multiple_of(4), 1);
    options
}

/// Octets of payload: mostly few, sometimes as many as fit.
fn payload_len(dice: &mut Dice, most: usize) -> usize {
    match dice.below(20) {
        0 => most - dice.below(12),
        1 => dice.below(most),
        2 => 0,
        _ => dice.below(64),
    }
}

/// A packet with the addresses of `ip`: plain, odd or wrong. At most `most` octets follow its
/// transport header.
pub(crate) fn packet(dice: &mut Dice, ip: &Ip, most: usize) -> Vec<u8> {
    let mut ip = ip.clone();
    ip.protocol = *dice.pick(&[TCP, TCP, TCP, UDP, UDP, UDP, ICMP, 132, 47, 4, 253]);
    let len = payload_len(dice, most);
    let payload = dice.octets(len);
    let mut segment = segment(dice, ip.protocol, &payload);
    ip.id = dice.pair();
    if dice.in_thousand(300) {
        ip.tos = *dice.pick(&[0, 1, 2, 3, 0xb8, 0xb9, 0xba, 0xbb]);
    }
    if dice.in_thousand(400) {
        ip.fragment = 0x4000;
    }
    fill_checksum(&ip, &mut segment);
    if dice.in_thousand(30) {
        spoil_checksum(dice, ip.protocol, &mut segment);
    }
    ip.move_checksum(dice, &segment);
    if dice.in_thousand(150) {
        ip.make_odd(dice);
    }
    let mut packet = ip.packet(&segment);
    if dice.in_thousand(20) {
        // Padding, which links with a least length add.
        packet.extend(dice.octets(1).repeat(1 + dice.below(18)));
    }
    packet
}

/// A header and a segment in the middle of a conversation, right in every part.
pub(super) fn steady(dice: &mut Dice, ip: &Ip, most: usize) -> (Ip, Vec<u8>) {
    let mut ip = ip.clone();
    ip.protocol = *dice.pick(&[TCP, UDP]);
    ip.id = dice.pair();
    ip.ttl = *dice.pick(&[64, 64, 64, 64, 5, 6, 7, 255]);
    if dice.in_thousand(100) {
        ip.tos = *dice.pick(&[1, 2, 3, 0xb8, 0xba]);
    }
    if dice.in_thousand(500) {
        ip.fragment = 0x4000;
    }
    let len = payload_len(dice, most);
    let payload = dice.octets(len);
    let mut segment = segment(dice, ip.protocol, &payload);
    if ip.protocol == TCP {
        segment[TCP_FLAGS] = *dice.pick(CONVERSING);
    }
    fill_checksum(&ip, &mut segment);
    ip.move_checksum(dice, &segment);
    (ip, segment)
}

/// Has a TCP packet whose checksum is left to a device neither begin nor end a conversation.
pub(super) fn calm(dice: &mut Dice, packet: &mut [u8]) {
    let at = usize::from(packet[0] & 0xf) * 4 + TCP_FLAGS;
    if packet[9] == TCP {
        packet[at] = *dice.pick(CONVERSING);
    }
}

/// A transport header, checksum zero, with its payload.
fn segment(dice: &mut Dice, protocol: u8, payload: &[u8]) -> Vec<u8> {
    // Few ports, so that flows repeat.
    let ports = [
        [0x9c, dice.below(16) as u8],
        *dice.pick(&[[0, 80], [0x14, 0x18], [0x21, 0x18]]),
    ];
    let mut head = match protocol {
        TCP => {
            let flags = *dice.pick(&[0x10, 0x10, 0x18, 0x02, 0x12, 0x11, 0x04, 0xff, 0]);
            let words = if dice.in_thousand(100) { 8 } else { 5 };
            let mut head = ports.concat();
            head.extend(dice.octets(8));
            head.extend([words << 4, flags, 0x20, 0, 0, 0, 0, 0]);
            head.resize(usize::from(words) * 4, 1);
            head
        }
        UDP => {
            let len = (8 + payload.len() as u16).to_be_bytes();
            [&ports.concat()[..], &len, &[0, 0]].concat()
        }
        ICMP => {
            // Not timestamps, which are answered with the time of day.
            let kind = *dice.pick(&[8, 8, 8, 0, 3, 11, 12, 5]);
            [&[kind, 0, 0, 0], &dice.octets(4)[..]].concat()
        }
        _ => Vec::new(),
    };
    head.extend(payload);
    head
}

/// Where the checksum of a transport header stands.
pub(crate) const fn checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP => Some(2),
        _ => None,
    }
}

/// Writes the checksum of a transport segment whose field is zero.
fn fill_checksum(ip: &Ip, segment: &mut [u8]) {
    let Some(at) = checksum_offset(ip.protocol) else {
        return;
    };
    let sum = if ip.protocol == ICMP {
        internet_checksum(segment)
    } else {
        internet_checksum(&[&pseudo(ip, segment.len())[..], segment].concat())
    };
    let sum = if ip.protocol == UDP && sum == [0, 0] {
        [0xff; 2]
    } else {
        sum
    };
    segment[at..at + 2].copy_from_slice(&sum);
}

fn spoil_checksum(dice: &mut Dice, protocol: u8, segment: &mut [u8]) {
    if let Some(at) = checksum_offset(protocol) {
        let wrong = if dice.in_thousand(500) {
            [0, 0]
        } else {
            dice.pair()
        };
        segment[at..at + 2].copy_from_slice(&wrong);
    }
}

/// The pseudo header of TCP and UDP (RFC 768).
pub(crate) fn pseudo(ip: &Ip, len: usize) -> [u8; 12] {
    let mut pseudo = [0; 12];
    pseudo[..4].copy_from_slice(&ip.source);
    pseudo[4..8].copy_from_slice(&ip.destination);
    pseudo[9] = ip.protocol;
    pseudo[10..].copy_from_slice(&(len as u16).to_be_bytes());
    pseudo
}

/// A packet whose checksum a device is to fill in, as sockets send on devices that can.
pub(super) fn unfinished(dice: &mut Dice, ip: &Ip, most: usize) -> (Vec<u8>, Offload) {
    let len = payload_len(dice, most);
    left_to_device(dice, ip, len)
}

/// An aggregate: one packet that a device is to cut into segments.
pub(super) fn aggregate(dice: &mut Dice, ip: &Ip) -> (Vec<u8>, Offload) {
    let most = if dice.in_thousand(20) { 64_000 } else { 9_000 };
    let len = 100 + dice.below(most);
    let (packet, mut offload) = left_to_device(dice, ip, len);
    let usual = *dice.pick(&[536_u16, 1000, 1398, 1400]);
    offload.gso_size = match dice.below(20) {
        // Larger than the tunnel takes, tiny, none.
        0 => *dice.pick(&[1440, 1480, 4000, 0xffff]),
        1 => *dice.pick(&[0, 1, 8]),
        _ => usual,
    };
    // More segments than a virtual link could hold are another test.
    if len > 200 * usize::from(offload.gso_size).max(1) {
        offload.gso_size = usual;
    }
    offload.gso_type = if packet[9] == TCP {
        Offload::GSO_TCPV4
    } else {
        Offload::GSO_UDP_L4
    };
    (packet, offload)
}

/// TCP or UDP with the sum of the pseudo header in place of the checksum.
fn left_to_device(dice: &mut Dice, ip: &Ip, len: usize) -> (Vec<u8>, Offload) {
    let mut ip = ip.clone();
    ip.protocol = *dice.pick(&[TCP, UDP]);
    ip.id = dice.pair();
    ip.fragment = *dice.pick(&[0, 0x4000]);
    if dice.in_thousand(100) {
        ip.tos = dice.octet();
    }
    let payload = dice.octets(len);
    let mut segment = segment(dice, ip.protocol, &payload);
    let at = checksum_offset(ip.protocol).unwrap_or(0);
    let sum = internet_checksum(&pseudo(&ip, segment.len())).map(|octet| !octet);
    segment[at..at + 2].copy_from_slice(&sum);
    if dice.in_thousand(20) {
        ip.options = vec![1; 4];
    }
    let start = ETHERNET + 20 + ip.options.len();
    let offload = Offload {
        flags: Offload::NEEDS_CHECKSUM,
        header_len: (start + if ip.protocol == TCP { 20 } else { 8 }) as u16,
        checksum_start: start as u16,
        checksum_offset: at as u16,
        ..Offload::default()
    };
    (ip.packet(&segment), offload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_next_to_zero_are_not_left_to_chance() {
        let mut dice = Dice::new(1, "checksums", 0);
        let ip = Ip::between([10, 5, 1, 2], [10, 5, 2, 2]);
        let packets = (0..2_000).map(|_| steady(&mut dice, &ip, 1400));
        let checksums = packets.map(|(ip, segment)| ip.packet(&segment)[10..12].to_vec());
        let small = checksums.filter(|it| matches!(it[..], [0, 0..=3])).count();
        assert!((40..200).contains(&small), "{small}");
    }
}
