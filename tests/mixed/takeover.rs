//! A node changes from stock flannel to ours and back, and nothing around it notices.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use flannel_tests::agent::{Agent, Datapath};
use flannel_tests::bed::{Bed, BedOptions};
use flannel_tests::cluster::config;
use flannel_tests::exercise::{self, wait_sent};
use flannel_tests::flanneld::Flanneld;
use flannel_tests::host::Host;
use flannel_tests::traffic::sequence::Flow;

use crate::neighbours::{bed, flanneld, said, wait_for_answer};

/// A backend of stock's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stock {
    /// The kernel carries packets while nothing runs.
    Stays,
    /// Its proxy takes its device along when it ends, and loses what comes fast.
    Goes,
}

/// Who the second host sees when the first pod sends to the host itself, outside of the network.
fn seen_outside(bed: &Bed) -> IpAddr {
    let [from, to] = [&bed.hosts[0].pods[0].ns, &bed.hosts[1].ns];
    let bound = to.enter(|| UdpSocket::bind((bed.hosts[1].address, 0)));
    let receiver = bound.expect("namespace").expect("socket");
    receiver
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("timeout");
    let bound = from.enter(|| UdpSocket::bind("0.0.0.0:0"));
    let sender = bound.expect("namespace").expect("socket");
    let address = receiver.local_addr().expect("address");
    sender.send_to(b"who", address).expect("send");
    receiver.recv_from(&mut [0; 8]).expect("a datagram").1.ip()
}

/// What a host has of stock flannel's rules, but for the table that ours has the name of.
fn stock_rules(host: &Host) -> String {
    let script = "iptables-save; iptables-legacy-save; nft list tables";
    let text = host.ns.run("sh", &["-c", script]).expect("rules");
    let is_stocks = |line: &&str| line.contains("FLANNEL-") || line.contains("flannel-ipv6");
    text.lines()
        .filter(is_stocks)
        .collect::<Vec<_>>()
        .join("\n")
}

fn there_and_back(backend: &str, flags: &[&str], kind: Stock) {
    there_and_back_with(&config(backend), flags, kind);
}

fn there_and_back_with(config: &str, flags: &[&str], kind: Stock) {
    let rate = if kind == Stock::Stays { 1000 } else { 200 };
    let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
    let mut bed = bed(config, BedOptions::default());
    let mut stock: Vec<Flanneld> = bed.hosts.iter().map(flanneld).collect();
    for (stock, host) in stock.iter_mut().zip(&mut bed.hosts) {
        stock.flags.clone_from(&flags);
        stock.start().expect("start of stock flannel");
        let subnet = stock.wait_for_subnet().expect("subnet.env");
        host.add_pod(&subnet).expect("pod");
    }
    let [a, b] = [bed.hosts[0].pods[0].clone(), bed.hosts[1].pods[0].clone()];
    wait_for_answer(&a, &b);
    wait_for_answer(&b, &a);
    let seen = seen_outside(&bed);
    let is_masqueraded = seen == bed.hosts[0].address;
    assert_eq!(
        is_masqueraded,
        flags.iter().any(|it| it == "-ip-masq"),
        "{seen}"
    );
    assert_ne!(stock_rules(&bed.hosts[0]), "", "rules of stock flannel");

    let mut ours: Vec<Agent> = Vec::new();
    for (number, stock) in stock.iter_mut().enumerate() {
        let before = said(&bed, number);
        let flows = [(&a, &b), (&b, &a)].map(|(a, b)| Flow::start(a, b, 200, 1000).expect("flow"));
        wait_sent(&flows[0], 200);
        stock.kill().expect("end of stock flannel");
        let mut agent = Agent::new(&bed.hosts[number], Datapath::Ebpf).expect("agent");
        agent.flags.clone_from(&flags);
        agent.start().expect("start");
        let status = agent.wait_for_peers(1).expect("peers");
        assert!(status.problems.is_empty(), "{:?}", status.problems);
        wait_sent(&flows[0], 1500);
        finish(flows, kind, &format!("to ours on host {number}"));
        assert_eq!(said(&bed, number), before, "what is said by host {number}");
        assert_eq!(seen_outside(&bed), seen, "by host {number}");
        assert_eq!(stock_rules(&bed.hosts[number]), "", "on host {number}");
        exercise::between_at(rate, &a, &b);
        ours.push(agent);
    }
    for (number, (mut ours, stock)) in ours.into_iter().zip(&mut stock).enumerate() {
        let before = said(&bed, number);
        let flows = [(&a, &b), (&b, &a)].map(|(a, b)| Flow::start(a, b, 200, 1000).expect("flow"));
        wait_sent(&flows[0], 200);
        ours.terminate().expect("SIGTERM");
        wait_sent(&flows[0], 300);
        stock.start().expect("start of stock flannel");
        stock.wait_for_subnet().expect("subnet.env");
        wait_sent(&flows[0], 2000);
        finish(flows, kind, &format!("to stock on host {number}"));
        assert_eq!(said(&bed, number), before, "what is said by host {number}");
        wait_for_answer(&a, &b);
        assert_eq!(seen_outside(&bed), seen, "by host {number}");
        exercise::between_at(rate, &a, &b);
    }
}

fn finish(flows: [Flow; 2], kind: Stock, what: &str) {
    let received: Vec<u64> = flows.iter().map(Flow::received).collect();
    wait_sent(&flows[0], 300);
    for (flow, received) in flows.into_iter().zip(received) {
        assert!(flow.received() > received + 200, "{what}: it goes on");
        let tally = flow.finish().expect("count datagrams");
        println!("{what}: {tally:?}");
        let may_lose = kind == Stock::Goes;
        assert!(tally.is_lossless() || may_lose, "{what}: {tally:?}");
    }
}

#[test]
fn vxlan() {
    there_and_back(r#"{"Type":"vxlan"}"#, &[], Stock::Stays);
}

#[test]
fn vxlan_with_masquerade() {
    there_and_back(r#"{"Type":"vxlan"}"#, &["-ip-masq"], Stock::Stays);
}

#[test]
fn vxlan_with_masquerade_by_nftables() {
    let config = r#"{"Network":"10.5.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;
    there_and_back_with(config, &["-ip-masq"], Stock::Stays);
}

#[test]
fn host_gw() {
    there_and_back(r#"{"Type":"host-gw"}"#, &[], Stock::Stays);
}

#[test]
fn udp() {
    there_and_back(r#"{"Type":"udp"}"#, &[], Stock::Goes);
}
