//! Cut and put together: what comes out is what went in, and what must not be merged is not.

use super::super::checksum::tests::oracle;
use super::super::packet::write_ip_checksum;
use super::super::segment::{Headers, MAX_HEADERS, Segments};
use super::*;

/// What a test packet is made of.
#[derive(Clone)]
struct Tcp {
    ports: [u8; 4],
    sequence: u32,
    ack: u32,
    flags: u8,
    window: u16,
    options: Vec<u8>,
    id: u16,
    fragment: [u8; 2],
    tos: u8,
    ttl: u8,
    payload: Vec<u8>,
}

/// Makes a packet another one.
type Change = fn(&mut Tcp);

impl Default for Tcp {
    fn default() -> Self {
        Self {
            ports: [0x9c, 0x40, 0x14, 0x51],
            sequence: 1000,
            ack: 77,
            flags: ACK,
            window: 502,
            // No-op, no-op, timestamps.
            options: vec![1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6],
            id: 9,
            fragment: [0x40, 0],
            tos: 0,
            ttl: 62,
            payload: vec![0; 100],
        }
    }
}

impl Tcp {
    fn packet(&self) -> Vec<u8> {
        let mut transport = Vec::from(self.ports);
        transport.extend(self.sequence.to_be_bytes());
        transport.extend(self.ack.to_be_bytes());
        transport.extend([((20 + self.options.len()) as u8 / 4) << 4, self.flags]);
        transport.extend(self.window.to_be_bytes());
        transport.extend([0; 4]);
        transport.extend(&self.options);
        transport.extend(&self.payload);
        finish(self.tos, self.id, self.fragment, self.ttl, 6, transport, 16)
    }
}

fn finish(
    tos: u8,
    id: u16,
    fragment: [u8; 2],
    ttl: u8,
    protocol: u8,
    mut transport: Vec<u8>,
    field: usize,
) -> Vec<u8> {
    let mut pseudo = vec![10, 5, 1, 2, 10, 5, 2, 3, 0, protocol];
    pseudo.extend((transport.len() as u16).to_be_bytes());
    pseudo.extend(&transport);
    transport[field..field + 2].copy_from_slice(&oracle(&pseudo).to_be_bytes());
    let mut packet = vec![0x45, tos];
    packet.extend((transport.len() as u16 + 20).to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend(fragment);
    packet.extend([ttl, protocol, 0, 0, 10, 5, 1, 2, 10, 5, 2, 3]);
    write_ip_checksum(&mut packet);
    packet.extend(transport);
    packet
}

fn udp(ports: [u8; 4], id: u16, payload: &[u8]) -> Vec<u8> {
    let mut transport = Vec::from(ports);
    transport.extend((payload.len() as u16 + 8).to_be_bytes());
    transport.extend([0; 2]);
    transport.extend(payload);
    finish(0, id, [0; 2], 62, 17, transport, 6)
}

/// Octets that no shift maps onto themselves.
fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place * 7 % 251) as u8).collect()
}

/// Both checksums by the book, over what is on the wire.
fn assert_intact(packet: &[u8]) {
    let ip_len = usize::from(packet[0] & 0xf) * 4;
    assert_eq!(oracle(&packet[..ip_len]), 0, "IP checksum");
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    assert_eq!(total, packet.len(), "total length");
    let mut pseudo = packet[12..20].to_vec();
    pseudo.extend([0, packet[9]]);
    pseudo.extend(((packet.len() - ip_len) as u16).to_be_bytes());
    pseudo.extend(&packet[ip_len..]);
    assert_eq!(oracle(&pseudo), 0, "transport checksum");
}

/// Cuts a packet as the proxy does for the wire.
fn cut(packet: &[u8], kind: Kind) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(packet, kind).unwrap();
    let mut cut = Vec::new();
    while segments.remaining() > 0 {
        let mut space: Headers = [0xee; MAX_HEADERS];
        let number = segments.number();
        segments.write_headers(&mut space);
        let mut segment = space[..segments.headers_len()].to_vec();
        segment.extend(segments.payload(number));
        assert_intact(&segment);
        cut.push(segment);
    }
    assert!(
        cut.iter()
            .rev()
            .skip(1)
            .all(|s| s.len() == segments.segment_len()),
        "all but the last are of one length"
    );
    cut
}

/// What was written, each with its kind, and single packets out of each write.
struct Written {
    kinds: Vec<(Kind, usize)>,
    packets: Vec<Vec<u8>>,
}

/// Puts packets together and cuts them again.
fn round_trip(packets: &[Vec<u8>], datagrams: Datagrams) -> Written {
    let mut written = Written {
        kinds: Vec::new(),
        packets: Vec::new(),
    };
    let mut write = |piece: Piece<'_>| {
        let mut bytes: Vec<u8> = piece.parts.iter().flat_map(|part| part.to_vec()).collect();
        let (vnet, packet) = VnetHeader::split(&mut bytes).unwrap();
        let kind = vnet.kind().unwrap();
        written.kinds.push((kind, piece.packets));
        let before = written.packets.len();
        match kind {
            Kind::Single => written.packets.push(packet.to_vec()),
            kind => {
                assert_eq!(oracle(&packet[..20]), 0, "IP checksum of the aggregate");
                // A card that does not cut completes the checksum instead.
                let mut whole = packet.to_vec();
                vnet.complete_checksum(&mut whole).unwrap();
                assert_intact(&whole);
                written.packets.extend(cut(packet, kind));
            }
        }
        let new = &written.packets[before..];
        assert_eq!(new.len(), piece.packets);
        assert_eq!(new.iter().map(Vec::len).sum::<usize>(), piece.bytes);
    };
    let mut coalescer = Coalescer::new(datagrams);
    for packet in packets {
        coalescer.push(packet, &mut write);
    }
    coalescer.finish(&mut write);
    written
}

/// Segments of a stream with these payload lengths.
fn stream(base: &Tcp, lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut next = base.clone();
    let mut packets = Vec::new();
    for length in lengths {
        next.payload = payload(*length);
        packets.push(next.packet());
        next.sequence = next.sequence.wrapping_add(*length as u32);
        next.id = next.id.wrapping_add(1);
    }
    packets
}

#[test]
fn segments_are_those_of_the_stream() {
    let base = Tcp {
        sequence: u32::MAX - 1500,
        id: u16::MAX - 1,
        ..Tcp::default()
    };
    for (length, size, count) in [
        (1, 1448, 1),
        (1448, 1448, 1),
        (1449, 1448, 2),
        (65_483, 1448, 46),
        (60_001, 536, 112),
    ] {
        let whole = Tcp {
            payload: payload(length),
            ..base.clone()
        };
        let cut = cut(&whole.packet(), Kind::Tcp(size));
        assert_eq!(cut.len(), count);
        let mut place = 0;
        for (number, segment) in cut.iter().enumerate() {
            let expected = Tcp {
                sequence: base.sequence.wrapping_add(place as u32),
                id: base.id.wrapping_add(number as u16),
                payload: whole.payload[place..length.min(place + usize::from(size))].to_vec(),
                ..base.clone()
            };
            assert_eq!(*segment, expected.packet());
            place += expected.payload.len();
        }
        assert_eq!(place, length);
    }
}

#[test]
fn flags_go_where_they_belong() {
    let whole = Tcp {
        flags: ACK | PSH | 0x01 | 0x80 | ECE,
        payload: payload(300),
        ..Tcp::default()
    };
    let flags: Vec<u8> = cut(&whole.packet(), Kind::Tcp(100))
        .iter()
        .map(|s| s[33])
        .collect();
    // CWR with the first, PSH and FIN with the last.
    assert_eq!(flags, [ACK | ECE | 0x80, ACK | ECE, ACK | ECE | PSH | 0x01]);
}

#[test]
fn datagrams_are_cut_with_their_own_length() {
    let whole = udp([0x10, 0, 0, 9], 5, &payload(2500));
    let cut = cut(&whole, Kind::Udp(1000));
    let expected: Vec<Vec<u8>> = payload(2500)
        .chunks(1000)
        .zip(5..)
        .map(|(part, id)| udp([0x10, 0, 0, 9], id, part))
        .collect();
    assert_eq!(cut, expected);
}

#[test]
fn what_is_no_aggregate_is_refused() {
    let packet = Tcp::default().packet();
    let refused = |packet: &[u8], kind| Segments::new(packet, kind).is_err();
    assert!(refused(&packet[..30], Kind::Tcp(100)), "half a TCP header");
    assert!(refused(&packet[..52], Kind::Tcp(100)), "no payload");
    assert!(refused(&packet, Kind::Single));
    let mut offset = packet.clone();
    offset[32] = 0x40;
    assert!(refused(&offset, Kind::Tcp(100)), "a header of 16 bytes");
    offset[32] = 0xf0;
    assert!(
        refused(&offset[..70], Kind::Tcp(100)),
        "more header than packet"
    );
    assert!(
        refused(&udp([0; 4], 0, &[]), Kind::Udp(100)),
        "nothing to cut"
    );
}

#[test]
fn a_stream_survives_the_round_trip_in_few_pieces() {
    for (lengths, kinds) in [
        (vec![1448; 44], vec![(Kind::Tcp(1448), 44)]),
        // 65535 bytes hold 45 segments of 1448 with these headers.
        (
            vec![1448; 50],
            vec![(Kind::Tcp(1448), 45), (Kind::Tcp(1448), 5)],
        ),
        (
            vec![100; 70],
            vec![(Kind::Tcp(100), 64), (Kind::Tcp(100), 6)],
        ),
        // A short one ends a run, a longer one starts another.
        (
            vec![100, 100, 40, 100, 100],
            vec![(Kind::Tcp(100), 3), (Kind::Tcp(100), 2)],
        ),
        (
            vec![40, 100, 100],
            vec![(Kind::Single, 1), (Kind::Tcp(100), 2)],
        ),
        (vec![1448], vec![(Kind::Single, 1)]),
        (vec![99, 99, 99], vec![(Kind::Tcp(99), 3)]),
    ] {
        let base = Tcp {
            sequence: u32::MAX - 3000,
            id: u16::MAX - 2,
            fragment: [0; 2],
            ..Tcp::default()
        };
        let packets = stream(&base, &lengths);
        let written = round_trip(&packets, Datagrams::Pass);
        assert_eq!(written.packets, packets, "{lengths:?}");
        assert_eq!(written.kinds, kinds, "{lengths:?}");
    }
}

#[test]
fn push_ends_a_run_and_is_kept() {
    let mut packets = stream(&Tcp::default(), &[100, 100]);
    let pushed = Tcp {
        sequence: 1200,
        id: 11,
        flags: ACK | PSH,
        payload: payload(100),
        ..Tcp::default()
    };
    packets.push(pushed.packet());
    let after = Tcp {
        sequence: 1300,
        id: 12,
        payload: payload(100),
        ..Tcp::default()
    };
    packets.extend(stream(&after, &[100, 100]));
    let written = round_trip(&packets, Datagrams::Pass);
    assert_eq!(written.packets, packets);
    assert_eq!(written.kinds, [(Kind::Tcp(100), 3), (Kind::Tcp(100), 2)]);
}

#[test]
fn what_differs_is_not_merged() {
    let base = Tcp::default();
    let next = Tcp {
        sequence: 1100,
        id: 10,
        ..base.clone()
    };
    let changes: [(&str, Change); 14] = [
        ("a gap", |t| t.sequence += 1),
        ("an overlap", |t| t.sequence -= 1),
        ("another acknowledgement", |t| t.ack += 1),
        ("another window", |t| t.window += 1),
        ("other options", |t| t.options[11] = 7),
        ("options of another length", |t| t.options.truncate(4)),
        ("another TOS", |t| t.tos = 3),
        ("another TTL", |t| t.ttl -= 1),
        ("fragments allowed", |t| t.fragment = [0; 2]),
        ("a fragment", |t| t.fragment = [0x20, 0]),
        ("ECN echo", |t| t.flags |= ECE),
        ("FIN", |t| t.flags |= 0x01),
        ("CWR", |t| t.flags |= 0x80),
        ("no payload", |t| t.payload.clear()),
    ];
    let merged = round_trip(&[base.packet(), next.packet()], Datagrams::Pass);
    assert_eq!(
        merged.kinds,
        [(Kind::Tcp(100), 2)],
        "without a change they are merged"
    );
    for (case, change) in changes {
        let mut changed = next.clone();
        change(&mut changed);
        let packets = [base.packet(), changed.packet()];
        let written = round_trip(&packets, Datagrams::Pass);
        assert_eq!(written.kinds, [(Kind::Single, 1); 2], "{case}");
        assert_eq!(written.packets, packets, "{case}");
    }
}

#[test]
fn identifications_count_only_where_packets_may_be_fragmented() {
    for (fragment, is_merged) in [([0x40, 0], true), ([0, 0], false)] {
        let base = Tcp {
            fragment,
            ..Tcp::default()
        };
        let next = Tcp {
            sequence: 1100,
            id: 9,
            ..base.clone()
        };
        let written = round_trip(&[base.packet(), next.packet()], Datagrams::Pass);
        assert_eq!(written.kinds.len() == 1, is_merged, "{fragment:?}");
    }
}

#[test]
fn damage_is_neither_merged_nor_mended() {
    // In the header's checksum, and in the payload.
    for (damaged, at) in (0..3).flat_map(|packet| [(packet, 10), (packet, 60)]) {
        let mut packets = stream(&Tcp::default(), &[100; 3]);
        packets[damaged][at] ^= 1;
        let mut coalescer = Coalescer::new(Datagrams::Pass);
        let mut found = Vec::new();
        let mut write = |piece: Piece<'_>| {
            let bytes: Vec<u8> = piece.parts.iter().flat_map(|part| part.to_vec()).collect();
            found.push((piece.packets, bytes));
        };
        for packet in &packets {
            coalescer.push(packet, &mut write);
        }
        coalescer.finish(&mut write);
        let alone = found
            .iter()
            .find(|(_, bytes)| bytes[10..] == packets[damaged]);
        let (count, bytes) = alone.expect("the damaged one is passed on as it is");
        assert_eq!((*count, &bytes[..10]), (1, &[0; 10][..]));
        assert_eq!(found.iter().map(|(count, _)| count).sum::<usize>(), 3);
    }
}

#[test]
fn flows_are_told_apart_and_keep_their_order() {
    // More flows than places, interleaved, with a pure acknowledgement and a fragment among them.
    let flows: Vec<Vec<Vec<u8>>> = (0..11)
        .map(|port| {
            let base = Tcp {
                ports: [0x9c, port, 0x14, 0x51],
                ..Tcp::default()
            };
            let mut packets = stream(&base, &[100; 6]);
            let ack = Tcp {
                sequence: 1600,
                ack: 78,
                id: 15,
                payload: Vec::new(),
                ..base.clone()
            };
            packets.push(ack.packet());
            let after = Tcp {
                sequence: 1600,
                ack: 78,
                id: 16,
                ..base
            };
            packets.extend(stream(&after, &[100; 2]));
            packets
        })
        .collect();
    for used in [1, 4, 8, 11] {
        let mut packets: Vec<Vec<u8>> = Vec::new();
        for number in 0..9 {
            packets.extend(flows[..used].iter().map(|flow| flow[number].clone()));
        }
        let fragment = Tcp {
            fragment: [0x20, 0],
            ports: [9; 4],
            ..Tcp::default()
        }
        .packet();
        packets.insert(used * 3, fragment.clone());
        let written = round_trip(&packets, Datagrams::Pass);
        for flow in &flows[..used] {
            let ports = &flow[0][20..24];
            let of_flow: Vec<_> = written
                .packets
                .iter()
                .filter(|p| p[20..24] == *ports)
                .collect();
            assert_eq!(of_flow, flow.iter().collect::<Vec<_>>(), "{used} flows");
        }
        // Nothing of before the fragment comes behind it.
        let place = written
            .packets
            .iter()
            .position(|packet| *packet == fragment);
        assert_eq!(place, Some(used * 3));
        if used <= FLOWS {
            assert_eq!(written.kinds.len(), used * 4 + 1, "{:?}", written.kinds);
        }
    }
}

#[test]
fn datagrams_are_merged_only_if_the_kernel_can_cut_them() {
    let ports = [0x10, 0, 0, 9];
    let packets: Vec<Vec<u8>> = [1000, 1000, 1000, 400, 1000]
        .iter()
        .zip(5..)
        .map(|(length, id)| udp(ports, id, &payload(*length)))
        .collect();
    let written = round_trip(&packets, Datagrams::Coalesce);
    assert_eq!(written.packets, packets);
    assert_eq!(written.kinds, [(Kind::Udp(1000), 4), (Kind::Single, 1)]);
    let written = round_trip(&packets, Datagrams::Pass);
    assert_eq!(written.kinds, [(Kind::Single, 1); 5]);

    let mut without_checksum = packets.clone();
    for packet in &mut without_checksum {
        packet[26..28].fill(0);
    }
    let written = round_trip(&without_checksum, Datagrams::Coalesce);
    assert_eq!(written.packets, without_checksum);
    assert_eq!(written.kinds, [(Kind::Single, 1); 5]);
}

#[test]
fn other_protocols_and_odd_lengths_pass_unchanged() {
    let mut padded = Tcp::default().packet();
    padded.extend([0; 6]);
    let icmp = finish(0, 1, [0; 2], 62, 1, vec![8, 0, 0, 0, 1, 2, 3, 4], 2);
    let mut options = Tcp::default().packet();
    options[0] = 0x46;
    let short = Tcp::default().packet()[..22].to_vec();
    for packet in [padded, icmp, options, short] {
        let packets = [packet.clone(), packet];
        let written = round_trip(&packets, Datagrams::Coalesce);
        assert_eq!(written.packets, packets);
        assert_eq!(written.kinds, [(Kind::Single, 1); 2]);
    }
}
