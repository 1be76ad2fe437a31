//! The udp backend's programs under real traffic: pods of two hosts, over both kinds of wire, with
//! eBPF at both ends and with stock's proxy at one.

use std::time::Duration;

use flannel_tests::host::Pod;
use flannel_tests::programs::{Counted, Programs};
use flannel_tests::traffic::ping::{self, Fragmentation, ping};
use flannel_tests::traffic::{iperf, stream};
use flannel_tests::udp::programs::{External, attach};
use flannel_tests::udp::reference::Reference;
use flannel_tests::udp::{MTU, Pair};
use flannel_tests::wire::Wire;

/// What carries a host's packets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Datapath {
    /// The programs, with stock's proxy behind them.
    Ebpf,
    /// Stock's proxy alone.
    Stock,
}

/// Two hosts with a pod each.
struct Overlay {
    programs: Vec<Programs>,
    proxies: [Reference; 2],
    pair: Pair,
}

impl Overlay {
    fn new(wire: Wire, datapaths: [Datapath; 2]) -> Self {
        let pair = Pair::new(wire).unwrap();
        let [a, b] = &pair.hosts;
        let proxies = [
            Reference::start(a, 0, b).unwrap(),
            Reference::start(b, 1, a).unwrap(),
        ];
        let programs: Result<Vec<_>, _> = (0..)
            .zip(datapaths)
            .filter(|(_, datapath)| *datapath == Datapath::Ebpf)
            .map(|(number, _)| attach([a, b], number, External::Nic))
            .collect();
        let programs = programs.unwrap();
        Self {
            programs,
            proxies,
            pair,
        }
    }

    fn pods(&self) -> [&Pod; 2] {
        self.pair.hosts.each_ref().map(|host| &host.pods[0])
    }

    fn counters(&self, host: usize) -> Counted {
        let mut counters = self.programs[host].counters().unwrap();
        counters.retain(|_, (packets, _)| *packets > 0);
        counters
    }

    /// Echoes of all sizes and streams in both directions.
    fn exercise(&self) {
        let [a, b] = self.pods();
        for size in [0, 1, 56, MTU - 28] {
            let options = ping::Options {
                size,
                fragmentation: Fragmentation::Forbidden,
                ..ping::Options::default()
            };
            let answer = ping(&a.ns, b.address, options).unwrap();
            assert!(answer.is_complete(), "{size}: {}", answer.text);
        }
        let fragments = ping::Options {
            size: 4_000,
            ..ping::Options::default()
        };
        let answer = ping(&b.ns, a.address, fragments).unwrap();
        assert!(answer.is_complete(), "fragments: {}", answer.text);
        stream::check(a, b, 2, 8 << 20).unwrap();
        stream::check(b, a, 2, 8 << 20).unwrap();
    }
}

#[test]
fn real_traffic_never_sees_the_proxy() {
    for wire in [Wire::Mtu1500, Wire::SuperPacket] {
        let overlay = Overlay::new(wire, [Datapath::Ebpf; 2]);
        overlay.exercise();
        for host in 0..2 {
            let outcomes: Vec<_> = overlay.counters(host).into_keys().collect();
            let carried = ["egress encapsulated", "ingress decapsulated"];
            assert_eq!(outcomes, carried, "{wire} host {host}");
            assert_eq!(overlay.proxies[host].packets(), 0, "{wire} host {host}");
        }
        let [a, b] = overlay.pods();
        let server = iperf::Server::start(b, iperf::Placement::Free).unwrap();
        let rate = server.measure(a, Duration::from_secs(1)).unwrap();
        println!("{wire}: {rate:.1} Gbit/s");
    }
}

#[test]
fn a_host_with_stock_flannel_takes_and_sends_the_same_packets() {
    let overlay = Overlay::new(Wire::Mtu1500, [Datapath::Ebpf, Datapath::Stock]);
    // As from a physical NIC, packets arrive with their checksums filled in.
    for host in &overlay.pair.hosts {
        let off = ["-K", host.external.as_str(), "tx", "off"];
        host.ns.run("ethtool", &off).unwrap();
    }
    overlay.exercise();
    let counters = overlay.counters(0);
    let outcomes: Vec<_> = counters.keys().copied().collect();
    let carried = ["egress encapsulated", "ingress decapsulated"];
    assert_eq!(outcomes, carried, "{counters:?}");
    assert_eq!(overlay.proxies[0].packets(), 0);
}
