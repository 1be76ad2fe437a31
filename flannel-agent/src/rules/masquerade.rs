//! The table of masquerade rules: its text, and whether a listing is it. Pure.
//!
//! The rules are those of flannel's iptables mode, in that order. Its nftables mode negates the
//! wrong prefix in the fourth, so that the sixth never matches, and compares the whole mark in the
//! first (flannel v0.28.9, `pkg/trafficmngr/nftables`); both are right here.

use std::fmt::Write as _;

use super::listing::Chain;
use super::{SourcePorts, Spec};

/// Name of the table, in family `ip`: flannel's.
pub(super) const TABLE: &str = "flannel-ipv4";
/// Its only chain, flannel's as well.
const CHAIN: &str = "postrtg";
/// How the comments of our rules begin.
pub(super) const COMMENT: &str = "flannel-agent masq";

/// Rules in order: match and verdict, and what they are for.
fn rules(spec: &Spec, ports: SourcePorts) -> [(String, &'static str); 6] {
    let Spec {
        network, subnet, ..
    } = spec;
    let masquerade = match ports {
        SourcePorts::FullyRandom => "masquerade fully-random",
        SourcePorts::Kept => "masquerade",
    };
    [
        // kube-proxy masquerades these itself (its default masquerade bit, 14).
        (
            "meta mark & 0x4000 == 0x4000 return".into(),
            "marked by kube-proxy",
        ),
        (
            format!("ip saddr {subnet} ip daddr {network} return"),
            "own pods to the overlay",
        ),
        (
            format!("ip saddr {network} ip daddr {subnet} return"),
            "the overlay to own pods",
        ),
        (
            format!("ip saddr != {network} ip daddr {subnet} return"),
            "outside to own pods",
        ),
        (
            format!("ip saddr {network} ip daddr != 224.0.0.0/4 {masquerade}"),
            "pods to outside",
        ),
        (
            format!("ip saddr != {network} ip daddr {network} {masquerade}"),
            "outside to remote pods",
        ),
    ]
}

/// Comments as the rules carry them; the hash stands for the whole set.
fn comments(rules: &[(String, &'static str)]) -> Vec<String> {
    let texts = rules
        .iter()
        .flat_map(|(text, purpose)| [text.as_str(), purpose]);
    let hash = fnv1a(texts);
    let comment = |(_, purpose): &(_, &str)| format!("{COMMENT} {hash:016x}: {purpose}");
    rules.iter().map(comment).collect()
}

/// The script that puts the table in place of whatever has its name.
pub(super) fn table_text(spec: &Spec, ports: SourcePorts) -> String {
    let rules = rules(spec, ports);
    let mut text = format!(
        "add table ip {TABLE}\n\
         delete table ip {TABLE}\n\
         table ip {TABLE} {{\n\
         \tchain {CHAIN} {{\n\
         \t\ttype nat hook postrouting priority 100; policy accept;\n"
    );
    for ((rule, _), comment) in rules.iter().zip(comments(&rules)) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\t\t{rule} comment \"{comment}\"");
    }
    text.push_str("\t}\n}\n");
    text
}

/// Whether the table is exactly the desired one.
pub(super) fn is_right(actual: &[Chain], spec: &Spec, ports: SourcePorts) -> bool {
    let [chain] = actual else { return false };
    let found = chain.rules.iter().map(|rule| rule.comment.as_deref());
    let rules = rules(spec, ports);
    let expected = comments(&rules);
    chain.name == CHAIN && found.eq(expected.iter().map(|comment| Some(comment.as_str())))
}

/// Whether the table was made by this program, not by stock flannel.
pub(super) fn is_ours(actual: &[Chain]) -> bool {
    let mut rules = actual.iter().flat_map(|chain| &chain.rules);
    rules.any(|rule| rule.has_comment(COMMENT))
}

/// FNV-1a, 64 bits: the same for all versions of the program, unlike the standard library's.
fn fnv1a<'a>(texts: impl Iterator<Item = &'a str>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for text in texts {
        for byte in text.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}
