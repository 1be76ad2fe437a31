//! "Network unreachable" for packets to nobody, as flannel says it.

use std::net::Ipv4Addr;

use flannel_ebpf::wire::{Ipv4, PROTOCOL_ICMP};

use super::checksum::{checksum, sum};
use super::packet::{self, MAX_IP_HEADER};

/// Octets of the offender's payload that are quoted (RFC 792).
const QUOTED: usize = 8;
/// ICMP header, bytes.
const HEADER: usize = 8;
/// Hops that the answer may take; it goes to a pod of this host.
const TTL: u8 = 8;
/// Type "destination unreachable", code "net unreachable".
const TYPE_AND_CODE: [u8; 2] = [3, 0];

/// Longest answer, bytes.
pub(super) const MAX_LEN: usize = Ipv4::LEN + HEADER + MAX_IP_HEADER + QUOTED;

/// Writes the answer to `offender` into `buffer` and gives its length.
///
/// None for what must not be answered: ICMP, and fragments other than the first; and, for flannel's
/// reason that a longer header must be malformed, one of 60 bytes.
pub(super) fn net_unreachable(
    offender: &[u8],
    source: Ipv4Addr,
    buffer: &mut [u8; MAX_LEN],
) -> Option<usize> {
    let (ip, header_len) = packet::ipv4(offender).ok()?;
    if ip.protocol == PROTOCOL_ICMP || !ip.is_first() || header_len >= MAX_IP_HEADER {
        return None;
    }
    let quote = &offender[..offender.len().min(header_len + QUOTED)];
    let length = Ipv4::LEN + HEADER + quote.len();
    let answer = &mut buffer[..length];
    answer.fill(0);
    let (outer, icmp) = answer.split_at_mut(Ipv4::LEN);
    let header = Ipv4 {
        version_ihl: Ipv4::VERSION_IHL,
        tos: 0,
        // At most 96.
        total_len: (length as u16).to_be_bytes(),
        id: [0; 2],
        fragment: [0; 2],
        ttl: TTL,
        protocol: PROTOCOL_ICMP,
        checksum: [0; 2],
        source: source.octets(),
        destination: ip.source,
    };
    outer.copy_from_slice(bytemuck::bytes_of(&header));
    packet::write_ip_checksum(outer);
    icmp[..2].copy_from_slice(&TYPE_AND_CODE);
    icmp[HEADER..].copy_from_slice(quote);
    let value = checksum(sum(icmp));
    icmp[2..4].copy_from_slice(&value);
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::super::checksum::tests::oracle;
    use super::*;

    const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 0);

    fn offender(words: u8, protocol: u8, fragment: [u8; 2], payload: usize) -> Vec<u8> {
        let mut packet = vec![0; usize::from(words) * 4 + payload];
        packet[0] = 0x40 | words;
        packet[3] = packet.len() as u8;
        packet[6..8].copy_from_slice(&fragment);
        packet[8] = 1;
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&[10, 5, 1, 2]);
        packet[16..20].copy_from_slice(&[10, 5, 77, 3]);
        for (number, octet) in (1..).zip(&mut packet[usize::from(words) * 4..]) {
            *octet = number;
        }
        packet
    }

    #[test]
    fn the_answer_is_that_of_flannel_to_the_octet() {
        let offender = offender(5, 17, [0x40, 0], 12);
        let mut buffer = [0xff; MAX_LEN];
        let length = net_unreachable(&offender, SOURCE, &mut buffer).unwrap();
        let answer = &buffer[..length];
        let mut expected = vec![
            0x45, 0, 0, 56, 0, 0, 0, 0, 8, 1, 0, 0, 10, 5, 1, 0, 10, 5, 1, 2, //
            3, 0, 0, 0, 0, 0, 0, 0,
        ];
        expected.extend(&offender[..28]);
        let ip = oracle(&expected[..20]).to_be_bytes();
        expected[10..12].copy_from_slice(&ip);
        let icmp = oracle(&expected[20..]).to_be_bytes();
        expected[22..24].copy_from_slice(&icmp);
        assert_eq!(answer, expected);
    }

    #[test]
    fn options_are_quoted_and_a_short_payload_is_not_made_longer() {
        for (words, payload, length) in [(14, 20, 28 + 56 + 8), (5, 4, 28 + 24), (5, 0, 28 + 20)] {
            let offender = offender(words, 6, [0; 2], payload);
            let mut buffer = [0xff; MAX_LEN];
            let found = net_unreachable(&offender, SOURCE, &mut buffer);
            assert_eq!(found, Some(length));
            let answer = &buffer[..length];
            assert_eq!(answer[28..], offender[..length - 28]);
            assert_eq!(oracle(&answer[..20]), 0);
            assert_eq!(oracle(&answer[20..]), 0);
            assert_eq!(usize::from(answer[3]), length);
        }
    }

    #[test]
    fn what_must_not_be_answered_is_not() {
        let cases = [
            ("ICMP", offender(5, 1, [0; 2], 12), None),
            ("a later fragment", offender(5, 17, [0x20, 1], 12), None),
            (
                "the first fragment",
                offender(5, 17, [0x20, 0], 12),
                Some(56),
            ),
            ("a header of 60 bytes", offender(15, 17, [0; 2], 12), None),
        ];
        for (case, packet, expected) in cases {
            let found = net_unreachable(&packet, SOURCE, &mut [0; MAX_LEN]);
            assert_eq!(found, expected, "{case}");
        }
    }
}
