//! The chains of legacy iptables that forwarded packets come through.

use crate::fast_path::ip_tables::{Rule, Table, Target};

use super::chains::has_quota;
use super::field::{TCP, UDP};
use super::reason::{Place, Reason, Why};
use super::tally::{Finding, Tally};
use super::{Evidence, Needs, xt};

/// Chains of the kernel, by hook (`NF_INET_*`), that only the host's own packets come through.
const INPUT: usize = 1;
const OUTPUT: usize = 3;

/// Adds what is found in legacy iptables. Its table `nat` is asked once per connection, and nobody
/// reads it.
pub(super) fn judge(evidence: &Evidence, reasons: &mut Vec<Reason>, needs: &mut Needs) {
    for table in &evidence.ip_tables {
        walk(evidence, table, reasons, needs);
    }
}

/// Judges every rule of the table that packets may come to, each once.
fn walk(evidence: &Evidence, table: &Table, reasons: &mut Vec<Reason>, needs: &mut Needs) {
    let is_entered = |hook: Option<usize>| hook.is_some_and(|hook| !matches!(hook, INPUT | OUTPUT));
    let mut seen: Vec<_> = table.chains.iter().map(|it| is_entered(it.hook)).collect();
    let mut waiting: Vec<_> = (0..seen.len()).filter(|index| seen[*index]).rev().collect();
    while let Some(chain) = waiting.pop().and_then(|index| table.chains.get(index)) {
        for (index, rule) in chain.rules.iter().enumerate() {
            let (findings, next) = judge_rule(evidence, rule, needs);
            reasons.extend(findings.into_iter().map(|finding| Reason {
                place: Place::IpTables {
                    table: table.name.clone(),
                    chain: chain.name.clone(),
                    number: index + 1,
                },
                what: finding.what,
                why: finding.why,
            }));
            if let Some(next) = next
                && let Some(is_seen) = seen.get_mut(next)
                && !std::mem::replace(is_seen, true)
            {
                waiting.push(next);
            }
        }
    }
}

/// What depends on the packet, and the chain that the rule leads to.
fn judge_rule(
    evidence: &Evidence,
    rule: &Rule,
    needs: &mut Needs,
) -> (Vec<Finding>, Option<usize>) {
    let mut tally = Tally::default();
    if !rule.may_match(&[TCP, UDP]) {
        return (Vec::new(), None);
    }
    for it in &rule.matches {
        let quota = |name: &str| has_quota(evidence, needs, name);
        match xt::test(it, quota) {
            xt::Test::Constant => {}
            xt::Test::Never => return (Vec::new(), None),
            xt::Test::Varies(finding) => tally.test(finding),
        }
    }
    let mut next = None;
    match &rule.target {
        Target::None => {}
        Target::Plain => tally.decides(),
        Target::Queue => tally.effect(Finding::new("target QUEUE", Why::EachPacket)),
        Target::Chain(index) => {
            tally.decides();
            next = Some(*index);
        }
        Target::Extension(it) => xt::target(it, &mut tally),
    }
    (tally.findings().collect(), next)
}
