//! Whole rule sets, as values.

use super::*;
use crate::fast_path::ip_tables::{self, Target};
use crate::fast_path::ruleset::{self, Extension};
use crate::fast_path::ruleset::{Base, Chain, Expression, Family, Set, TableId};

fn id() -> TableId {
    TableId {
        family: Family::IPV4,
        name: "t".into(),
    }
}

fn other(name: &str) -> Expression {
    Expression::Other { name: name.into() }
}

fn accept() -> Expression {
    Expression::Verdict(ruleset::Verdict::Plain)
}

fn jump(chain: &str) -> Expression {
    Expression::Verdict(ruleset::Verdict::Chain(chain.into()))
}

fn chain(base: Option<&str>, rules: Option<Vec<ruleset::Rule>>) -> Chain {
    Chain {
        base: base.map(|kind| Base {
            hook: 2,
            kind: kind.into(),
            devices: Vec::new(),
        }),
        rules: rules.map(|rules| (1..).zip(rules).collect()),
    }
}

/// A table whose base chain has the rule, and `loud`, which has a limit.
fn evidence(rule: Vec<Expression>) -> Evidence {
    let mut evidence = Evidence::default();
    let table = evidence.nftables.tables.entry(id()).or_default();
    let loud = chain(None, Some(vec![vec![other("limit"), accept()]]));
    table.chains.insert("loud".into(), loud);
    let base = chain(Some("filter"), Some(vec![rule]));
    table.chains.insert("base".into(), base);
    table.sets.insert("m".into(), Set::default());
    evidence
}

/// Reasons as an operator reads them.
fn reasons(evidence: &Evidence) -> Vec<String> {
    let verdict = judge(evidence).unwrap();
    assert_eq!(verdict.sound, verdict.reasons.is_empty());
    verdict.reasons.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_sound() {
    assert_eq!(reasons(&Evidence::default()), [""; 0]);
}

#[test]
fn a_reason_names_the_rule_and_what_is_wrong_with_it() {
    let evidence = evidence(vec![other("limit"), accept()]);
    let expected = "nft chain ip t base, handle 1: limit counts packets";
    assert_eq!(reasons(&evidence), [expected]);
}

#[test]
fn chains_count_if_they_are_reached_and_once() {
    assert_eq!(reasons(&evidence(vec![accept()])), [""; 0]);
    let loud = "nft chain ip t loud, handle 1: limit counts packets";
    let mut evidence = evidence(vec![jump("loud")]);
    assert_eq!(reasons(&evidence), [loud]);
    // Loops, which the kernel refuses, and chains that are not there do no harm.
    let table = evidence.nftables.tables.get_mut(&id()).unwrap();
    let rules = vec![vec![jump("base")], vec![jump("loud")], vec![jump("none")]];
    table
        .chains
        .insert("more".into(), chain(Some("filter"), Some(rules)));
    assert_eq!(reasons(&evidence), [loud]);
}

#[test]
fn what_is_missing_is_asked_for_until_all_is_known() {
    let mut evidence = evidence(vec![Expression::Lookup { set: "m".into() }]);
    let table = evidence.nftables.tables.get_mut(&id()).unwrap();
    table.chains.insert("loud".into(), chain(None, None));
    let set = (id(), String::from("m"));
    let needs = judge(&evidence).unwrap_err();
    assert_eq!(needs.elements, [set.clone()].into());
    let mut elements = Elements::default();
    elements
        .verdicts
        .insert(ruleset::Verdict::Chain("loud".into()));
    evidence.elements.insert(set, elements);
    let needs = judge(&evidence).unwrap_err();
    assert_eq!(needs.rules, [(id(), "loud".into())].into());
    let accounting = Extension {
        name: "nfacct".into(),
        revision: 0,
        info: b"much\0".to_vec(),
    };
    let rules = vec![vec![Expression::Match(accounting), accept()]];
    let table = evidence.nftables.tables.get_mut(&id()).unwrap();
    table.chains.insert("loud".into(), chain(None, Some(rules)));
    let needs = judge(&evidence).unwrap_err();
    assert!(needs.quotas);
    evidence.quotas = Some(["much".into()].into());
    let expected = "nft chain ip t loud, handle 1: match nfacct counts packets";
    assert_eq!(reasons(&evidence), [expected]);
}

#[test]
fn rules_of_chains_that_do_not_matter_are_not_asked_for() {
    let mut evidence = evidence(vec![accept()]);
    let table = evidence.nftables.tables.get_mut(&id()).unwrap();
    table.chains.insert("nat".into(), chain(Some("nat"), None));
    table.chains.insert("idle".into(), chain(None, None));
    let mut input = chain(Some("filter"), None);
    input.base.as_mut().unwrap().hook = 1;
    table.chains.insert("input".into(), input);
    assert_eq!(reasons(&evidence), [""; 0]);
}

#[test]
fn expressions_without_a_kernel_to_test_them_on_are_decided() {
    let queue = Expression::Verdict(ruleset::Verdict::Queue);
    for (rule, what) in [
        (vec![queue], "queue is to have every packet"),
        (vec![other("queue")], "queue is to have every packet"),
        (
            vec![other("inner"), accept()],
            "inner depends on the payload",
        ),
        // Unknown ones may decide by themselves.
        (
            vec![other("novelty")],
            "novelty may depend on the single packet",
        ),
        (
            vec![Expression::Object { kind: 10 }],
            "synproxy object changes each packet",
        ),
        (
            vec![Expression::Object { kind: 99 }],
            "object type 99 may depend on the single packet",
        ),
    ] {
        let expected = format!("nft chain ip t base, handle 1: {what}");
        assert_eq!(reasons(&evidence(rule)), [expected]);
    }
    for name in ["flow_offload", "last", "xfrm", "tunnel"] {
        assert_eq!(
            reasons(&evidence(vec![other(name), accept()])),
            [""; 0],
            "{name}"
        );
    }
}

#[test]
fn an_object_out_of_a_map_is_of_the_kind_of_the_map() {
    let mut evidence = evidence(vec![Expression::ObjectMap { set: "m".into() }, accept()]);
    for (kind, is_sound) in [(1, true), (2, false), (4, false), (5, false), (7, true)] {
        let table = evidence.nftables.tables.get_mut(&id()).unwrap();
        table.sets.get_mut("m").unwrap().object = kind;
        assert_eq!(judge(&evidence).unwrap().sound, is_sound, "{kind}");
    }
}

#[test]
fn what_is_beside_the_rules_counts() {
    let mut evidence = Evidence {
        ebtables: vec![("filter".into(), 0)],
        ..Evidence::default()
    };
    assert_eq!(reasons(&evidence), [""; 0]);
    evidence.ebtables[0].1 = 3;
    evidence.has_automatic_helpers = true;
    evidence.bpf_hooks = 1;
    assert_eq!(
        reasons(&evidence),
        [
            "net.netfilter.nf_conntrack_helper: 1 depends on the payload",
            "BPF programs on netfilter hooks: 1 may depend on the single packet",
            "ebtables-legacy -t filter: 3 rules may depend on the single packet",
        ]
    );
}

#[test]
fn many_reasons_are_cut_short() {
    let rules = vec![vec![other("limit"), accept()]; MAX_REASONS + 5];
    let mut evidence = evidence(vec![accept()]);
    let table = evidence.nftables.tables.get_mut(&id()).unwrap();
    table
        .chains
        .insert("base".into(), chain(Some("filter"), Some(rules)));
    let verdict = judge(&evidence).unwrap();
    assert_eq!((verdict.reasons.len(), verdict.unlisted), (MAX_REASONS, 5));
}

#[test]
fn legacy_chains_count_if_they_are_reached() {
    let rule = |target| ip_tables::Rule {
        protocol: 0,
        flags: 0,
        inversions: 0,
        matches: Vec::new(),
        target,
    };
    let chain = |name: &str, hook, rules| ip_tables::Chain {
        name: name.into(),
        hook,
        rules,
    };
    let mut table = Table {
        name: "filter".into(),
        chains: vec![
            chain("INPUT", Some(1), vec![rule(Target::Queue)]),
            chain("FORWARD", Some(2), vec![rule(Target::None)]),
            chain("idle", None, vec![rule(Target::Queue)]),
            // A loop, which the kernel refuses.
            chain(
                "deep",
                None,
                vec![rule(Target::Chain(3)), rule(Target::Queue)],
            ),
        ],
    };
    let judged = |table: &Table| {
        let ip_tables = vec![table.clone()];
        reasons(&Evidence {
            ip_tables,
            ..Evidence::default()
        })
    };
    assert_eq!(judged(&table), [""; 0]);
    table.chains[1].rules.push(rule(Target::Chain(3)));
    let expected = "iptables-legacy -t filter, chain deep, rule 2: target QUEUE is to have every \
        packet";
    assert_eq!(judged(&table), [expected]);
}
