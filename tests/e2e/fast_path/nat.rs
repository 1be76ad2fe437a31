//! Flows that are rewritten are never admitted, and a rule that comes later holds for connections
//! that come later.

use std::net::SocketAddr;
use std::thread;

use flannel_tests::cluster::Cluster;
use flannel_tests::netns::NetNs;
use flannel_tests::traffic::pulse::{Protocol, Pulse};

use super::row::{BOUND, Flows};
use super::{cluster, made_of};

/// Port of the receiver behind the rewritten address.
const PORT: u16 = 7_000;

/// A way to rewrite on one of the hosts: commands, with the words that differ between clusters filled
/// in.
struct Rewrite {
    name: &'static str,
    tool: &'static str,
    apply: fn(&Cluster, usize) -> Vec<String>,
    undo: fn(&Cluster, usize) -> Vec<String>,
}

/// An address of the second host's subnet that no pod has.
fn service(cluster: &Cluster) -> SocketAddr {
    let [a, b, c, _] = cluster.pod(1).address.octets();
    SocketAddr::from(([a, b, c, 200], PORT))
}

fn nft(chain: &str, hook: &str, rule: &str) -> Vec<String> {
    vec![format!(
        "add table ip rewrite; \
         add chain ip rewrite {chain} {{ type nat hook {hook} }}; \
         add rule ip rewrite {chain} {rule}"
    )]
}

fn dnat(cluster: &Cluster, insert: &str) -> Vec<String> {
    let (service, pod) = (service(cluster).ip(), cluster.pod(1).address);
    vec![format!(
        "-t nat {insert} PREROUTING -d {service} -j DNAT --to-destination {pod}"
    )]
}

/// Where packets of the first host's pod leave a host.
const DEVICES: [&str; 2] = ["flannel.1", "cni0"];

fn snat(cluster: &Cluster, host: usize, insert: &str) -> Vec<String> {
    let (pod, device) = (cluster.pod(0).address, DEVICES[host]);
    vec![format!(
        "-t nat {insert} POSTROUTING -s {pod} -o {device} -j MASQUERADE"
    )]
}

const REWRITES: [Rewrite; 6] = [
    Rewrite {
        name: "DNAT",
        tool: "nft",
        apply: |cluster, _| {
            let (service, pod) = (service(cluster).ip(), cluster.pod(1).address);
            let rule = format!("ip daddr {service} dnat to {pod}");
            nft("pre", "prerouting priority -100;", &rule)
        },
        undo: |_, _| vec!["delete table ip rewrite".into()],
    },
    Rewrite {
        name: "SNAT",
        tool: "nft",
        apply: |cluster, host| {
            let (pod, device) = (cluster.pod(0).address, DEVICES[host]);
            let rule = format!("ip saddr {pod} oifname {device} masquerade");
            nft("post", "postrouting priority 100;", &rule)
        },
        undo: |_, _| vec!["delete table ip rewrite".into()],
    },
    Rewrite {
        name: "DNAT",
        tool: "iptables-nft",
        apply: |cluster, _| dnat(cluster, "-I"),
        undo: |cluster, _| dnat(cluster, "-D"),
    },
    Rewrite {
        name: "SNAT",
        tool: "iptables-nft",
        apply: |cluster, host| snat(cluster, host, "-I"),
        undo: |cluster, host| snat(cluster, host, "-D"),
    },
    Rewrite {
        name: "DNAT",
        tool: "iptables-legacy",
        apply: |cluster, _| dnat(cluster, "-I"),
        undo: |cluster, _| dnat(cluster, "-D"),
    },
    Rewrite {
        name: "SNAT",
        tool: "iptables-legacy",
        apply: |cluster, host| snat(cluster, host, "-I"),
        undo: |cluster, host| snat(cluster, host, "-D"),
    },
];

impl Rewrite {
    fn run(&self, ns: &NetNs, lines: &[String]) {
        for line in lines {
            let done = match self.tool {
                "nft" => ns.run("nft", &[line]),
                tool => ns.run(tool, &line.split(' ').collect::<Vec<_>>()),
            };
            done.expect("change the rules");
        }
    }
}

/// Packets that a host has let go around the stack.
fn around(cluster: &Cluster, host: usize) -> u64 {
    let outcomes = ["sent", "queued", "delivered"];
    let counts = outcomes.map(|outcome| made_of(&cluster.agents[host], outcome));
    counts.iter().sum()
}

#[test]
fn what_the_sender_rewrites_is_never_admitted_there() {
    rewritten_flows_are_never_admitted(0);
}

#[test]
fn what_the_receiver_rewrites_is_never_admitted_there() {
    rewritten_flows_are_never_admitted(1);
}

fn rewritten_flows_are_never_admitted(host: usize) {
    let cluster = cluster();
    let ns = &cluster.host(host).ns;
    // Has connections tracked from the start. Where nothing has tracked them before the first rule
    // for NAT, the kernel takes those that it meets for new ones, and rewrites them.
    let track = "add table ip track; \
         add chain ip track forward { type filter hook forward priority 0; }; \
         add rule ip track forward ct state established accept";
    ns.run("nft", &[track]).expect("rules");
    for rewrite in &REWRITES {
        let flows = Flows::start(&cluster);
        rewrite.run(ns, &(rewrite.apply)(&cluster, host));
        // Connections from before go on as they are, as without a fast path.
        flows.wait_admitted();
        drop(flows);
        let target = match rewrite.name {
            "DNAT" => service(&cluster),
            _ => (cluster.pod(1).address, PORT).into(),
        };
        let before = around(&cluster, host);
        let pulses = Protocol::ALL.map(|protocol| {
            let (from, to) = (cluster.pod(0), cluster.pod(1));
            Pulse::to(from, to, target, protocol).expect("pulse")
        });
        thread::sleep(BOUND + BOUND / 2);
        for pulse in &pulses {
            let (sent, received) = (pulse.sent(), pulse.received());
            let Rewrite { name, tool, .. } = rewrite;
            println!("{tool} {name} {:?}: {received} of {sent}", pulse.protocol);
            assert!(received * 10 >= sent * 9, "{received} of {sent}");
        }
        assert_eq!(
            around(&cluster, host),
            before,
            "rewritten packets went around"
        );
        drop(pulses);
        rewrite.run(ns, &(rewrite.undo)(&cluster, host));
    }
}
