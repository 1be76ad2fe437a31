//! What stock flannel's proxy makes of a packet, ours makes of it, with programs beside it and
//! without: octet for octet on the wire and in the pod.
//!
//! But for two things, where packets of stock's get lost: "do not fragment" on the wire, and answers
//! to those who send to nobody.

use std::net::UdpSocket;
use std::time::Duration;

use flannel_agent::backend::udp::DEVICE_NAME;
use flannel_tests::frame::{self, Ip, Tunnel, ethernet, filled, udp};
use flannel_tests::host::{self, BRIDGE};
use flannel_tests::programs::Programs;
use flannel_tests::raw::{Offload, Raw};
use flannel_tests::udp::programs::{External, attach};
use flannel_tests::udp::reference::Reference;
use flannel_tests::udp::{MTU, Node, PORT, Pair};
use flannel_tests::wait;
use flannel_tests::wire::Wire;

const LIMIT: Duration = Duration::from_secs(5);
const POD: [u8; 4] = [10, 5, 0, 2];
const REMOTE_POD: [u8; 4] = [10, 5, 1, 2];
/// A pod of a node that has no lease.
const NOBODY: [u8; 4] = [10, 5, 77, 2];
/// A sender without a lease.
const STRANGER: [u8; 4] = [192, 168, 7, 99];
/// Octets of a link-layer header.
const ETHERNET: usize = 14;
/// What the packet behind every other says.
const END: &[u8] = b"and that was all";

/// What carries the packets of the host under test.
enum Carrier {
    Stock { _proxy: Reference },
    Proxy { _node: Node },
    Programs { programs: Programs, _node: Node },
}

/// A way to set one up.
type Start = fn(&Pair) -> Carrier;

const STOCK: Start = |pair| {
    let [host, other] = &pair.hosts;
    let _proxy = Reference::start(host, 0, other).unwrap();
    Carrier::Stock { _proxy }
};

const OURS: [(&str, Start); 2] = [
    ("proxy", |pair| Carrier::Proxy {
        _node: pair.start_one(0).unwrap(),
    }),
    ("programs", |pair| {
        let _node = pair.start_one(0).unwrap();
        let programs = attach(pair.hosts.each_ref(), 0, External::Nic).unwrap();
        Carrier::Programs { programs, _node }
    }),
];

/// A host with a carrier, and what is seen around it.
struct Place {
    carrier: Carrier,
    /// The other host's end of the wire.
    wire: Raw,
    pod: Raw,
    macs: Macs,
    pair: Pair,
    /// Takes what arrives on the other host: nobody complains about a closed port.
    _sink: UdpSocket,
}

/// Link-layer addresses of the host under test.
struct Macs {
    bridge: [u8; 6],
    external: [u8; 6],
}

/// What came out for one packet: on the wire, and in the pod.
type Came = [Vec<Vec<u8>>; 2];

impl Place {
    fn new(start: Start) -> Self {
        let pair = Pair::new(Wire::Mtu1500).unwrap();
        let [host, other] = &pair.hosts;
        let sink = other.ns.enter(|| UdpSocket::bind((other.address, PORT)));
        let macs = Macs {
            bridge: host::mac(&host.ns, BRIDGE).unwrap(),
            external: host::mac(&host.ns, &host.external).unwrap(),
        };
        Self {
            carrier: start(&pair),
            wire: Raw::open(&other.ns, &other.external).unwrap(),
            pod: Raw::open(&host.pods[0].ns, "eth0").unwrap(),
            macs,
            _sink: sink.unwrap().unwrap(),
            pair,
        }
    }

    /// Takes what has come.
    fn take(&self, came: &mut Came) {
        while let Some((frame, _)) = self.wire.receive().unwrap() {
            came[0].extend(tunnelled(&frame));
        }
        while let Some((frame, _)) = self.pod.receive().unwrap() {
            came[1].extend(delivered(&frame));
        }
        came.iter_mut().for_each(|frames| frames.sort());
    }

    /// Puts a packet in and one behind it, and gives what comes out: of stock's proxy what comes
    /// before the end; else until it is what is `expected`.
    fn run(&self, row: &Row, end: &Row, expected: Option<&Came>) -> Came {
        for Row { packet, .. } in [row, end] {
            match packet {
                Packet::OfPod(packet) => {
                    let frame = ethernet(self.macs.bridge, [2; 6], 0x0800, packet);
                    self.pod.send(&frame, Offload::default()).unwrap();
                }
                Packet::OfPeer(tunnel) => {
                    let tunnel = Tunnel {
                        ethernet_destination: self.macs.external,
                        ..tunnel.clone()
                    };
                    self.wire.send(&tunnel.frame(), Offload::default()).unwrap();
                }
            }
        }
        let mut came = Came::default();
        let done = wait::until("what comes out", LIMIT, || {
            self.take(&mut came);
            let has_ended = came.iter().flatten().any(|frame| frame.ends_with(END));
            let is_done = expected.map_or(has_ended, |expected| came == *expected);
            Ok(is_done.then_some(()))
        });
        assert!(
            done.is_ok(),
            "{}: {came:02x?}, expected {expected:02x?}",
            row.name
        );
        came
    }
}

/// A tunnel packet of the pod's on the wire, without what differs: identification; the checksum,
/// which tells kin; and "do not fragment", by which stock loses packets on narrower ways.
fn tunnelled(frame: &[u8]) -> Option<Vec<u8>> {
    let is_udp = frame.len() >= 62 && frame[12..14] == [8, 0] && frame[23] == 17;
    if !is_udp || frame[36..38] != PORT.to_be_bytes() {
        return None;
    }
    let mut packet = frame[14..].to_vec();
    packet[4..6].fill(0);
    packet[6] &= !0x40;
    packet[10..12].fill(0);
    packet[26..28].fill(0);
    let inner = &packet[28..];
    // The pod's kernel complains of what nobody there has asked for.
    let is_complaint = inner[9] == 1 && inner[20..].first() == Some(&3);
    (inner[12..16] == POD && !is_complaint).then_some(packet)
}

/// A packet that came into the pod from the overlay.
fn delivered(frame: &[u8]) -> Option<Vec<u8>> {
    let is_it = frame[12..14] == [8, 0] && frame[26..30] == REMOTE_POD;
    is_it.then(|| frame[14..].to_vec())
}

struct Row {
    name: &'static str,
    packet: Packet,
}

enum Packet {
    OfPod(Vec<u8>),
    OfPeer(Tunnel),
}

fn of_pod(name: &'static str, packet: Vec<u8>) -> Row {
    let packet = Packet::OfPod(packet);
    Row { name, packet }
}

/// A datagram from the other host, to this one, around `inner`.
fn of_peer(name: &'static str, inner: Vec<u8>, change: impl Fn(&mut Tunnel)) -> Row {
    let mut tunnel = frame::udp_tunnel(&inner);
    (tunnel.ip.source, tunnel.ip.destination) = ([192, 168, 7, 11], [192, 168, 7, 10]);
    change(&mut tunnel);
    let packet = Packet::OfPeer(tunnel);
    Row { name, packet }
}

/// Packets of any kind between two pods.
fn kinds(from: [u8; 4], to: [u8; 4]) -> Vec<(&'static str, Vec<u8>)> {
    let ip = |protocol| Ip::new(from, to, protocol);
    let tcp = [&[9, 1, 9, 2][..], &[7; 8], &[0x50], &[1; 7], b"segment"].concat();
    let datagram = udp(1, 2, b"datagram");
    let fragment = |fragment| {
        let id = [7, 7];
        Ip {
            fragment,
            id,
            ..ip(17)
        }
        .packet(&[3; 64])
    };
    let tos = |tos| Ip { tos, ..ip(17) }.packet(&datagram);
    let ttl = |ttl| Ip { ttl, ..ip(17) }.packet(&datagram);
    let options = Ip {
        options: vec![1; 12],
        ..ip(17)
    };
    let largest = vec![5; MTU as usize - 20];
    vec![
        ("udp", filled(&ip(17).packet(&datagram), true)),
        ("udp without checksum", ip(17).packet(&datagram)),
        ("tcp", filled(&ip(6).packet(&tcp), true)),
        ("a wrong checksum", ip(6).packet(&tcp)),
        ("icmp", ip(1).packet(&[0, 0, 0xff, 0xff, 0, 0, 0, 0])),
        ("sctp", ip(132).packet(&[9; 32])),
        ("no payload", ip(59).packet(&[])),
        ("as large as it gets", ip(99).packet(&largest)),
        ("first fragment", fragment([0x20, 0])),
        ("later fragment", fragment([0x20, 8])),
        ("last fragment", fragment([0, 0x40])),
        ("do not fragment", fragment([0x40, 0])),
        ("options", options.packet(&datagram)),
        ("DSCP", tos(0xb8)),
        ("ECT", tos(2)),
        ("congestion", tos(3)),
        ("three hops left", ttl(3)),
        ("two hops left", ttl(2)),
    ]
}

/// Sends all rows through every carrier, each before the row `end`.
fn same_as_stock(rows: &[Row], end: &Row) -> Vec<(&'static str, Came)> {
    let stock = Place::new(STOCK);
    let expected: Vec<Came> = rows.iter().map(|row| stock.run(row, end, None)).collect();
    drop(stock);
    for (name, start) in OURS {
        let place = Place::new(start);
        println!("{name}");
        for (row, expected) in rows.iter().zip(&expected) {
            place.run(row, end, Some(expected));
        }
        if let Carrier::Programs { programs, .. } = &place.carrier {
            let counters = programs.counters().unwrap();
            let counted = |outcome| counters.get(outcome).map_or(0, |(packets, _)| *packets);
            let carried = counted("egress encapsulated") + counted("ingress decapsulated");
            assert!(carried > 2 * rows.len() as u64 - 8, "{counters:?}");
        }
    }
    let names = rows.iter().map(|row| row.name);
    names.zip(expected).collect()
}

/// How many packets came out on the wire and in the pod, besides the end.
fn counts(came: &[(&'static str, Came)], name: &str) -> [usize; 2] {
    let (_, came) = came.iter().find(|(row, _)| *row == name).unwrap();
    let count = |frames: &Vec<Vec<u8>>| frames.iter().filter(|f| !f.ends_with(END)).count();
    [count(&came[0]), count(&came[1])]
}

#[test]
fn packets_of_a_pod_are_on_the_wire_as_from_stocks_proxy() {
    let mut rows: Vec<Row> = kinds(POD, REMOTE_POD)
        .into_iter()
        .map(|(name, packet)| of_pod(name, packet))
        .collect();
    let echo = Ip::new(POD, NOBODY, 1).packet(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    rows.push(of_pod("icmp to nobody", echo));
    let end = of_pod("end", Ip::new(POD, REMOTE_POD, 253).packet(END));
    let came = same_as_stock(&rows, &end);
    // That the comparison compares something.
    for (name, expected) in [
        ("udp", [1, 0]),
        ("options", [1, 0]),
        ("three hops left", [1, 0]),
        ("two hops left", [0, 0]),
        ("icmp to nobody", [0, 0]),
    ] {
        assert_eq!(counts(&came, name), expected, "{name}");
    }
}

#[test]
fn packets_of_a_peer_are_in_the_pod_as_from_stocks_proxy() {
    let mut rows: Vec<Row> = kinds(REMOTE_POD, POD)
        .into_iter()
        .map(|(name, packet)| of_peer(name, packet, |_| ()))
        .collect();
    let inner = || Ip::new(REMOTE_POD, POD, 99).packet(b"payload");
    let options = |tunnel: &mut Tunnel| tunnel.ip.options = vec![1; 4];
    let checksum = |tunnel: &mut Tunnel| tunnel.udp_checksum = tunnel.full_checksum();
    rows.extend([
        of_peer("a stranger", inner(), |t| t.ip.source = STRANGER),
        of_peer("outer options", inner(), options),
        of_peer("outer congestion", inner(), |t| t.ip.tos = 3),
        of_peer("outer checksum", inner(), checksum),
        of_peer("wrong checksum", inner(), |t| t.udp_checksum = [1, 2]),
        of_peer("no hop left outside", inner(), |t| t.ip.ttl = 1),
        of_peer("shorter than a header", vec![0x45; 19], |_| ()),
        of_peer("nothing", Vec::new(), |_| ()),
    ]);
    let end = of_peer("end", Ip::new(REMOTE_POD, POD, 253).packet(END), |_| ());
    let came = same_as_stock(&rows, &end);
    for (name, expected) in [
        ("udp", 1),
        ("a stranger", 1),
        ("outer congestion", 1),
        ("wrong checksum", 0),
        ("two hops left", 0),
        ("nothing", 0),
    ] {
        assert_eq!(counts(&came, name)[1], expected, "{name}");
    }
}

#[test]
fn who_sends_to_nobody_gets_the_answer_that_stock_gives_to_its_own_host() {
    let question = Ip::new(POD, NOBODY, 17).packet(&udp(1, 2, b"anybody?"));
    let answer = |place: &Place, seen: &Raw, link: usize| {
        let frame = ethernet(place.macs.bridge, [2; 6], 0x0800, &question);
        place.pod.send(&frame, Offload::default()).unwrap();
        wait::until("the answer", LIMIT, || {
            let came = seen.receive()?.map(|(frame, _)| frame[link..].to_vec());
            Ok(came.filter(|packet| packet[0] == 0x45 && packet[9] == 1))
        })
        .unwrap()
    };
    let stock = Place::new(STOCK);
    // Linux drops it there: it claims to come from this host.
    let device = Raw::open(&stock.pair.hosts[0].ns, DEVICE_NAME).unwrap();
    let expected = answer(&stock, &device, 0);
    assert_eq!(expected.len(), 20 + 8 + 28);
    for (name, start) in OURS {
        let place = Place::new(start);
        let mut answer = answer(&place, &place.pod, ETHERNET);
        // Identification and checksum are the kernel's.
        answer[4..6].fill(0);
        answer[10..12].fill(0);
        let sum = frame::checksum(&answer[..20]);
        answer[10..12].copy_from_slice(&sum);
        assert_eq!(answer, expected, "{name}");
    }
}
