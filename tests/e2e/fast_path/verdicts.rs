//! DROP and REJECT, by each of the three ways to write rules, on the sender and on the receiver.

use std::time::Instant;

use flannel_tests::netns::NetNs;
use flannel_tests::traffic::pulse::Pulse;
use nix::errno::Errno;

use super::cluster;
use super::row::{Flows, Table};

/// A way to write rules.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tool {
    Legacy,
    IptablesNft,
    Nft,
}

/// What a rule says.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    Drop,
    Reject,
}

impl Tool {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "iptables-legacy",
            Self::IptablesNft => "iptables-nft",
            Self::Nft => "nft",
        }
    }

    /// Commands that put rules before all others that forward packets: a reset for TCP, as whoever
    /// rejects writes it, and the ICMP error for the rest.
    fn lines(self, verdict: Verdict) -> Vec<String> {
        match (self, verdict) {
            (Self::Nft, Verdict::Drop) => nft(&["drop"]),
            (Self::Nft, Verdict::Reject) => {
                nft(&["meta l4proto tcp reject with tcp reset", "reject"])
            }
            (Self::Legacy | Self::IptablesNft, Verdict::Drop) => vec!["-I FORWARD -j DROP".into()],
            (Self::Legacy | Self::IptablesNft, Verdict::Reject) => vec![
                "-I FORWARD -j REJECT".into(),
                "-I FORWARD -p tcp -j REJECT --reject-with tcp-reset".into(),
            ],
        }
    }

    fn apply(self, ns: &NetNs, verdict: Verdict) {
        for line in self.lines(verdict) {
            self.run(ns, &line);
        }
    }

    fn undo(self, ns: &NetNs, verdict: Verdict) {
        match self {
            Self::Nft => self.run(ns, "delete table ip probe"),
            Self::Legacy | Self::IptablesNft => {
                for line in self.lines(verdict) {
                    self.run(ns, &line.replace("-I", "-D"));
                }
            }
        }
    }

    pub(super) fn run(self, ns: &NetNs, line: &str) {
        let done = match self {
            Self::Nft => ns.run("nft", &[line]),
            Self::Legacy | Self::IptablesNft => {
                ns.run(self.name(), &line.split(' ').collect::<Vec<_>>())
            }
        };
        done.expect("change the rules");
    }
}

/// One transaction.
fn nft(rules: &[&str]) -> Vec<String> {
    let chain = "add chain ip probe forward { type filter hook forward priority -10; }";
    let mut text = format!("add table ip probe; {chain}");
    for rule in rules {
        text += &format!("; add rule ip probe forward {rule}");
    }
    vec![text]
}

/// All changes of one tool, and what the sender is told by each.
fn rules_hold(tool: Tool) {
    let cluster = cluster();
    let mut table = Table::default();
    // A host sends six errors to a pod at once, and then one a second: too few for two flows.
    for host in &cluster.bed.hosts {
        let unlimited = host.ns.sysctl("net/ipv4/icmp_ratelimit", "0");
        unlimited.expect("sysctl");
    }
    for (host, side) in ["sender", "receiver"].into_iter().enumerate() {
        for verdict in [Verdict::Drop, Verdict::Reject] {
            let flows = Flows::start(&cluster);
            let ns = &cluster.host(host).ns;
            tool.apply(ns, verdict);
            let changed = Instant::now();
            table.push(flows.held(
                format!("{} {verdict:?} on the {side}", tool.name()),
                changed,
            ));
            let told = flows.pulses.iter().map(Pulse::errors);
            let expected = match verdict {
                Verdict::Drop => [None; 3],
                // The connection is reset, and later pieces find it closed.
                Verdict::Reject => {
                    [Errno::ECONNREFUSED, Errno::ECONNRESET, Errno::ECONNREFUSED].map(Some)
                }
            };
            for (told, expected) in told.zip(expected) {
                let is_right = expected.map_or(told.is_empty(), |it| told.contains(&it));
                assert!(is_right, "{told:?} instead of {expected:?}");
            }
            tool.undo(ns, verdict);
            drop(flows);
        }
    }
    table.check();
}

#[test]
fn rules_of_legacy_iptables_hold() {
    rules_hold(Tool::Legacy);
}

#[test]
fn rules_of_iptables_nft_hold() {
    rules_hold(Tool::IptablesNft);
}

#[test]
fn rules_of_nft_hold() {
    rules_hold(Tool::Nft);
}
