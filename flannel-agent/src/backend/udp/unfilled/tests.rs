//! What a kernel leaves, and what the kernel makes of it then.

use super::super::checksum::{checksum, sum};
use super::super::packet::{ipv4, is_intact, write_ip_checksum};
use super::*;

const MTU: usize = 1472;
const SOURCE: [u8; 4] = [10, 5, 1, 2];
const DESTINATION: [u8; 4] = [10, 5, 2, 3];

/// A packet with the sum of its pseudo-header in its checksum's place.
fn packet(protocol: u8, header: &[u8], field: usize, payload: &[u8]) -> Vec<u8> {
    let transport_len = (header.len() + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 63, protocol, 0, 0];
    packet.extend(SOURCE);
    packet.extend(DESTINATION);
    packet[2..4].copy_from_slice(&(transport_len + 20).to_be_bytes());
    write_ip_checksum(&mut packet);
    packet.extend(header);
    packet.extend(payload);
    let pseudo = pseudo_header(SOURCE, DESTINATION, protocol, transport_len);
    packet[20 + field..22 + field].copy_from_slice(&fold(pseudo).to_ne_bytes());
    packet
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let [high, low] = (payload.len() as u16 + 8).to_be_bytes();
    let header = [0x10, 0, 0, 9, high, low, 0, 0];
    packet(PROTOCOL_UDP, &header, UDP_CHECKSUM, payload)
}

/// With 12 octets of options.
fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x10, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x10, 1, 0];
    header.extend([0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6]);
    packet(PROTOCOL_TCP, &header, TCP_CHECKSUM, payload)
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|place| (place * 7 % 251) as u8).collect()
}

/// What is written for a packet, each piece as the kernel then has it: with its checksum.
fn written(packet: &[u8], segment: Option<usize>) -> Option<Vec<Vec<u8>>> {
    let mut pieces = Vec::new();
    Unfilled::of(packet, segment, MTU)?.write(packet, &mut |piece: Piece<'_>| {
        let mut bytes: Vec<u8> = piece.parts.iter().flat_map(|part| part.to_vec()).collect();
        let (vnet, packet) = VnetHeader::split(&mut bytes).unwrap();
        assert_eq!(vnet.kind(), Ok(Kind::Single));
        assert_eq!((piece.packets, piece.bytes), (1, packet.len()));
        vnet.complete_checksum(packet).unwrap();
        let (ip, ip_len) = ipv4(packet).unwrap();
        assert!(is_intact(ip, &packet[ip_len..]), "{packet:x?}");
        pieces.push(packet.to_vec());
    });
    Some(pieces)
}

/// The packet with its checksum done.
fn filled(mut packet: Vec<u8>, field: usize) -> Vec<u8> {
    let value = checksum(sum(&packet[20..]));
    packet[20 + field..22 + field].copy_from_slice(&value);
    packet
}

#[test]
fn the_kernel_fills_in_what_it_is_told_of() {
    for len in [0, 1, 2, 999, MTU - 52] {
        let packet = tcp(&payload(len));
        let expected = filled(packet.clone(), TCP_CHECKSUM);
        assert_eq!(written(&packet, None).unwrap(), [expected], "{len}");
        let packet = udp(&payload(len));
        let expected = filled(packet.clone(), UDP_CHECKSUM);
        assert_eq!(written(&packet, None).unwrap(), [expected], "{len}");
    }
}

#[test]
fn what_is_not_unfilled_is_left_alone() {
    let mut fragment = udp(b"fragment");
    fragment[6] = 0x20;
    let mut no_checksum = udp(b"none");
    no_checksum[26..28].fill(0);
    let mut longer = udp(b"longer");
    longer.push(0);
    let mut damaged = tcp(b"damaged");
    damaged[36] ^= 1;
    let rows = [
        ("filled TCP", filled(tcp(b"x"), TCP_CHECKSUM)),
        ("filled UDP", filled(udp(b"x"), UDP_CHECKSUM)),
        ("a fragment", fragment),
        ("UDP without checksum", no_checksum),
        ("more than its length", longer),
        ("a damaged checksum", damaged),
        ("ICMP", packet(1, &[8, 0, 0, 0], 2, b"")),
        ("cut in the header", udp(b"")[..24].to_vec()),
        ("nothing", Vec::new()),
    ];
    for (name, packet) in rows {
        assert_eq!(Unfilled::of(&packet, None, MTU), None, "{name}");
    }
}

#[test]
fn a_finished_checksum_that_looks_unfinished_stays_what_it_is() {
    let mut packet = udp(&[0; 2]);
    let pseudo = [packet[26], packet[27]];
    // What the sum of the datagram lacks to that checksum goes into the payload.
    let rest = sum(&packet[20..]) + u64::from(u16::from_ne_bytes(pseudo));
    packet[28..30].copy_from_slice(&checksum(rest));
    let (ip, ip_len) = ipv4(&packet).unwrap();
    assert!(is_intact(ip, &packet[ip_len..]));
    assert_eq!(written(&packet, None).unwrap(), [packet]);
}

#[test]
fn a_stream_is_cut_to_the_mtu() {
    let stream = payload(4_000);
    let pieces = written(&tcp(&stream), None).unwrap();
    let lens: Vec<_> = pieces.iter().map(Vec::len).collect();
    assert_eq!(lens, [MTU, MTU, 4_000 - 2 * (MTU - 52) + 52]);
    let joined: Vec<u8> = pieces.iter().flat_map(|it| it[52..].to_vec()).collect();
    assert_eq!(joined, stream);
    let sequence = |piece: &Vec<u8>| u32::from_be_bytes(piece[24..28].try_into().unwrap());
    let sequences: Vec<_> = pieces.iter().map(sequence).collect();
    assert_eq!(sequences, [1, 1_421, 2_841]);
}

#[test]
fn datagrams_are_cut_as_they_were_sent() {
    let datagrams = payload(2_500);
    let pieces = written(&udp(&datagrams), Some(1_000)).unwrap();
    let payloads: Vec<_> = pieces.iter().map(|piece| &piece[28..]).collect();
    let expected: Vec<_> = datagrams.chunks(1_000).collect();
    assert_eq!(payloads, expected);
}
