//! A rule that limits judges single packets: it keeps the fast path off, and limits as without one.

use std::thread;
use std::time::{Duration, Instant};

use flannel_tests::netns::NetNs;
use flannel_tests::traffic::pulse::Protocol;
use flannel_tests::wait;

use super::cluster;
use super::row::{BOUND, Flows, MARGIN, Table};

/// Packets per second that the rule lets through.
const LIMIT: u32 = 20;
/// What it lets through at once, before it limits.
const BURST: u32 = 5;

/// Commands that limit datagrams, and commands that end that.
struct Tool {
    name: &'static str,
    apply: [&'static str; 2],
    undo: [&'static str; 2],
    /// What status says.
    reason: &'static str,
}

const TOOLS: [Tool; 3] = [
    Tool {
        name: "iptables-legacy",
        apply: [
            "-I FORWARD -p udp -j DROP",
            "-I FORWARD -p udp -m limit --limit 20/s --limit-burst 5 -j ACCEPT",
        ],
        undo: ["-D FORWARD 1", "-D FORWARD 1"],
        reason: "limit",
    },
    Tool {
        name: "iptables-nft",
        apply: [
            "-I FORWARD -p udp -j DROP",
            "-I FORWARD -p udp -m limit --limit 20/s --limit-burst 5 -j ACCEPT",
        ],
        undo: ["-D FORWARD 1", "-D FORWARD 1"],
        reason: "limit",
    },
    Tool {
        name: "nft",
        apply: [
            "add table ip probe; \
             add chain ip probe forward { type filter hook forward priority -10; }",
            "add rule ip probe forward meta l4proto udp limit rate over 20/second burst 5 packets drop",
        ],
        undo: ["delete table ip probe", "list ruleset"],
        reason: "limit",
    },
];

impl Tool {
    fn run(&self, ns: &NetNs, lines: &[&str]) {
        for line in lines {
            let done = match self.name {
                "nft" => ns.run("nft", &[line]),
                name => ns.run(name, &line.split(' ').collect::<Vec<_>>()),
            };
            done.expect("change the rules");
        }
    }
}

#[test]
fn limits_limit_and_keep_the_fast_path_off() {
    let cluster = cluster();
    let mut table = Table::default();
    let flows = Flows::start(&cluster);
    let udp = &flows.pulses[0];
    assert_eq!(udp.protocol, Protocol::Udp);
    for (host, side) in ["sender", "receiver"].into_iter().enumerate() {
        let (ns, agent) = (&cluster.host(host).ns, &cluster.agents[host]);
        for tool in &TOOLS {
            tool.run(ns, &tool.apply);
            let changed = Instant::now();
            let before = udp.received();
            wait::until("the fast path to be off", BOUND + MARGIN, || {
                let status = agent.status()?.fast_path;
                let is_told = status.reasons.iter().any(|why| why.contains(tool.reason));
                anyhow::ensure!(!status.active && is_told, "{status:?}");
                Ok(Some(()))
            })
            .expect("off, with the reason");
            let off = changed.elapsed();
            // What went around until then is not limited; from here on all of it is.
            let around = udp.received() - before;
            let (start, since) = (udp.received(), Instant::now());
            thread::sleep(Duration::from_millis(1500));
            let passed = udp.received() - start;
            let most = f64::from(LIMIT) * since.elapsed().as_secs_f64() + f64::from(BURST + 2);
            println!(
                "{} limit on the {side}: off after {} ms and {around} packets, then {passed} of {most:.0}",
                tool.name,
                off.as_millis()
            );
            assert!((passed as f64) <= most, "{passed} of {most}");
            assert!(passed > 0, "none at all");
            tool.run(ns, &tool.undo);
            let undone = Instant::now();
            wait::until("the fast path to be on", Duration::from_secs(10), || {
                Ok(agent.status()?.fast_path.active.then_some(()))
            })
            .expect("on again");
            println!("  on again after {} ms", undone.elapsed().as_millis());
            flows.wait_admitted();
            table.note(format!("{} limit on the {side}", tool.name), off);
        }
    }
    table.check();
}
