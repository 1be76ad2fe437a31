//! The udp backend over a virtual wire, which hands on checksums that nobody has filled in: kin is
//! sent to by eBPF, stock flannel by the proxy, and everything arrives.

use std::net::UdpSocket;
use std::time::Duration;

use aya::programs::TcAttachType::Egress;
use flannel_agent::backend::udp::DEVICE_NAME;
use flannel_ebpf::abi::Remote;
use flannel_tests::host::{Host, Pod};
use flannel_tests::programs::Programs;
use flannel_tests::traffic::ping::{Fragmentation, Options, ping};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::traffic::stream;
use flannel_tests::udp::programs::{External, attach, load, sender};
use flannel_tests::udp::reference::Reference;
use flannel_tests::udp::{MTU, Node, Pair};
use flannel_tests::wait;
use flannel_tests::wire::Wire;
use nix::sys::socket::{setsockopt, sockopt};

/// Octets of a stream that is checked.
const STREAM: usize = 6 << 20;

/// A host with the programs and the proxy behind them.
struct Ours {
    programs: Programs,
    node: Node,
}

impl Ours {
    fn start(pair: &Pair, number: u8) -> Self {
        // Processes that other tests start have copies of descriptors for a moment.
        let start = || Ok(Some(pair.start_one(number)?));
        let node = wait::until("the port", Duration::from_secs(5), start).unwrap();
        node.proxy.set_kin(true);
        let programs = attach(hosts(pair), number, External::Virtual).unwrap();
        Self { programs, node }
    }

    /// Packets of one outcome.
    fn count(&self, outcome: &str) -> u64 {
        self.programs.counters().unwrap()[outcome].0
    }

    /// What is known of the other host.
    fn knows(&self, other: &Host) -> Remote {
        self.programs.remote(other.address.octets()).unwrap()
    }
}

fn hosts(pair: &Pair) -> [&Host; 2] {
    pair.hosts.each_ref()
}

fn pods(pair: &Pair) -> [&Pod; 2] {
    pair.hosts.each_ref().map(|host| &host.pods[0])
}

fn kin(number: u8) -> Remote {
    Remote {
        is_kin: 1,
        ..sender(number)
    }
}

/// Whether one pod hears from the other, at last.
fn assert_answers(from: &Pod, to: &Pod, size: u32, fragmentation: Fragmentation) {
    wait::until("echo replies", Duration::from_secs(10), || {
        let options = Options {
            size,
            fragmentation,
            ..Options::default()
        };
        let answer = ping(&from.ns, to.address, options)?;
        anyhow::ensure!(answer.is_complete(), "{size}: {}", answer.text);
        Ok(Some(()))
    })
    .unwrap();
}

/// Datagrams of 1 000 octets and a rest, which the sender's socket leaves to a device to cut.
fn assert_datagrams_arrive(from: &Pod, to: &Pod) {
    let bind = |pod: &Pod| {
        let bind = || UdpSocket::bind((pod.address, 0));
        pod.ns.enter(bind).unwrap().unwrap()
    };
    let (from, to) = (bind(from), bind(to));
    to.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    setsockopt(&from, sockopt::UdpGsoSegment, &1_000).unwrap();
    let sent: Vec<u8> = (0..30_500).map(|place| (place % 251) as u8).collect();
    from.send_to(&sent, to.local_addr().unwrap()).unwrap();
    let (mut received, mut buffer) = (Vec::new(), [0; 2_000]);
    while received.len() < sent.len() {
        let len = to.recv(&mut buffer).unwrap();
        assert_eq!(len, (sent.len() - received.len()).min(1_000));
        received.extend_from_slice(&buffer[..len]);
    }
    assert!(received == sent);
}

/// Streams, datagrams and echoes in both directions; a stream comes first.
fn exercise(pair: &Pair) {
    let [a, b] = pods(pair);
    stream::check(a, b, 2, STREAM).unwrap();
    stream::check(b, a, 2, STREAM).unwrap();
    assert_datagrams_arrive(a, b);
    assert_datagrams_arrive(b, a);
    for size in [0, 1, 56, MTU - 28] {
        assert_answers(a, b, size, Fragmentation::Forbidden);
    }
    assert_answers(b, a, 4_000, Fragmentation::Allowed);
    let flow = Flow::start(a, b, 100, 500).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let tally = flow.finish().unwrap();
    assert!(tally.is_lossless(), "{tally:?}");
}

#[test]
fn kin_find_each_other_by_the_first_packets() {
    for wire in [Wire::Mtu1500, Wire::SuperPacket] {
        let pair = Pair::new(wire).unwrap();
        let ours = [0, 1].map(|number| Ours::start(&pair, number));
        exercise(&pair);
        for (ours, other) in ours.iter().zip([1, 0]) {
            assert_eq!(ours.knows(&pair.hosts[usize::from(other)]), kin(other));
            // The first packets of the first streams; the other side knows before it answers.
            let counters = ours.programs.counters().unwrap();
            let unproven = ours.count("egress unproven");
            assert!(unproven < 10, "{wire}: {counters:?}");
            assert!(ours.count("egress encapsulated") > 500, "{counters:?}");
            let proxy = ours.node.proxy.counters();
            // Only what `udp_decap` leaves: the aggregate of datagrams, where it crosses whole.
            let whole = u64::from(wire == Wire::SuperPacket);
            assert_eq!(proxy.unfilled, whole, "{wire}: {proxy:?}");
        }
        assert!(ours[0].count("egress unproven") > 0);
    }
}

#[test]
fn stock_flannel_is_sent_to_by_the_proxy() {
    for wire in [Wire::Mtu1500, Wire::SuperPacket] {
        let pair = Pair::new(wire).unwrap();
        let ours = Ours::start(&pair, 0);
        let _stock = Reference::start(&pair.hosts[1], 1, &pair.hosts[0]).unwrap();
        exercise(&pair);
        let counters = ours.programs.counters().unwrap();
        assert_eq!(ours.count("egress encapsulated"), 0, "{wire}: {counters:?}");
        assert!(ours.count("egress unproven") > 500, "{counters:?}");
        assert_eq!(ours.knows(&pair.hosts[1]), sender(1));
    }
}

#[test]
fn the_proxy_completes_what_kin_has_left() {
    // As after `flannel-agent datapath kernel`, until the other node has noticed.
    for wire in [Wire::Mtu1500, Wire::SuperPacket] {
        let pair = Pair::new(wire).unwrap();
        let [_first, second] = pair.start().unwrap();
        // Without `udp_decap` it does not notice.
        let mut programs = load(hosts(&pair), 0, External::Virtual).unwrap();
        let other = pair.hosts[1].address.octets();
        programs.set_remote(other, kin(1)).unwrap();
        let host = &pair.hosts[0];
        programs
            .attach("udp_encap", &host.ns, DEVICE_NAME, Egress)
            .unwrap();
        exercise(&pair);
        let counters = programs.counters().unwrap();
        assert!(counters["egress encapsulated"].0 > 500, "{counters:?}");
        let received = second.proxy.counters();
        assert!(received.unfilled > 50, "{wire}: {received:?}");
        assert_eq!(received.write_failed, 0, "{received:?}");
    }
}

#[test]
fn a_peer_may_change_to_stock_flannel_and_back() {
    let pair = Pair::new(Wire::SuperPacket).unwrap();
    let mut ours = Ours::start(&pair, 0);
    let theirs = Ours::start(&pair, 1);
    let [a, b] = pods(&pair);
    let other = &pair.hosts[1];
    assert_answers(a, b, 56, Fragmentation::Forbidden);
    assert_eq!(ours.knows(other), kin(1));

    let flow = Flow::start(a, b, 100, 200).unwrap();
    drop(theirs);
    other.ns.ip("link del flannel0").unwrap();
    let stock = Reference::start(other, 1, &pair.hosts[0]).unwrap();
    // What it sends shows what it is.
    assert_answers(b, a, 56, Fragmentation::Forbidden);
    assert_eq!(ours.knows(other), sender(1));
    let carried = ours.count("egress encapsulated");
    exercise(&pair);
    assert_eq!(ours.count("egress encapsulated"), carried);
    drop(stock);

    let theirs = Ours::start(&pair, 1);
    assert_answers(b, a, 56, Fragmentation::Forbidden);
    assert_eq!(ours.knows(other), kin(1));
    exercise(&pair);
    assert!(ours.count("egress encapsulated") > carried + 500);
    let tally = flow.finish().unwrap();
    assert_eq!((tally.damaged, tally.duplicated), (0, 0), "{tally:?}");

    // A peer that says nothing is known by its lease: whoever starts writes it.
    drop(theirs);
    other.ns.ip("link del flannel0").unwrap();
    ours.programs
        .set_remote(other.address.octets(), sender(1))
        .unwrap();
    let _stock = Reference::start(other, 1, &pair.hosts[0]).unwrap();
    stream::check(a, b, 1, STREAM).unwrap();
    assert_eq!(ours.knows(other), sender(1));
}
