//! The chains of nftables that forwarded packets come through.

use std::collections::BTreeSet;

use crate::fast_path::ruleset::{Base, Elements, Family, Table, TableId};

use super::reason::{Place, Reason};
use super::rule::{self, Surroundings};
use super::{Evidence, Needs};

/// Adds what is found in nftables.
pub(super) fn judge(evidence: &Evidence, reasons: &mut Vec<Reason>, needs: &mut Needs) {
    for (id, table) in &evidence.nftables.tables {
        let Some(family) = id.family.name() else {
            continue;
        };
        let mut around = Known {
            evidence,
            id,
            needs,
        };
        walk(family, id, table, &mut around, reasons);
    }
}

/// Whether packets of pods to and from other hosts come through the chain and are judged by it.
fn is_on_the_way(family: Family, base: &Base) -> bool {
    // Hooks by number: `NF_INET_*` and `NF_BR_*`.
    const INPUT: u32 = 1;
    const FORWARD: u32 = 2;
    const OUTPUT: u32 = 3;
    let is_on_lo = !base.devices.is_empty() && base.devices.iter().all(|device| device == "lo");
    match family {
        // Once per connection, see the parent module.
        Family::INET | Family::IPV4 if base.kind == "nat" => false,
        Family::INET | Family::IPV4 => !matches!(base.hook, INPUT | OUTPUT) && !is_on_lo,
        // From one port to another: of one host's pods among themselves. To and from the host
        // itself is what pods say to other hosts.
        Family::BRIDGE => base.hook != FORWARD,
        _ => !is_on_lo,
    }
}

/// Judges every rule of the table that packets may come to, each once.
fn walk(
    family: &'static str,
    id: &TableId,
    table: &Table,
    around: &mut Known<'_>,
    reasons: &mut Vec<Reason>,
) {
    if table.is_dormant {
        return;
    }
    let is_entered = |base: &Base| is_on_the_way(id.family, base);
    let chains = table.chains.iter();
    let entered = chains.filter(|(_, chain)| chain.base.as_ref().is_some_and(is_entered));
    let mut waiting: Vec<_> = entered.map(|(name, _)| name.as_str()).rev().collect();
    let mut seen: BTreeSet<_> = waiting.iter().copied().collect();
    while let Some(name) = waiting.pop() {
        let Some((name, chain)) = table.chains.get_key_value(name) else {
            continue;
        };
        let Some(rules) = &chain.rules else {
            around.needs.rules.insert((id.clone(), name.clone()));
            continue;
        };
        for (handle, rule) in rules {
            let outcome = rule::judge(rule, table, around);
            reasons.extend(outcome.findings.into_iter().map(|finding| Reason {
                place: Place::Nftables {
                    family,
                    table: id.name.clone(),
                    chain: name.clone(),
                    handle: *handle,
                },
                what: finding.what,
                why: finding.why,
            }));
            for target in outcome.chains {
                if let Some((target, _)) = table.chains.get_key_value(&target)
                    && seen.insert(target)
                {
                    waiting.push(target);
                }
            }
        }
    }
}

/// What is known of a table's surroundings, and what turns out to be missing.
struct Known<'a> {
    evidence: &'a Evidence,
    id: &'a TableId,
    needs: &'a mut Needs,
}

impl Surroundings for Known<'_> {
    fn elements(&mut self, set: &str) -> Option<&Elements> {
        let id = (self.id.clone(), set.to_owned());
        let known = self.evidence.elements.get(&id);
        if known.is_none() {
            self.needs.elements.insert(id);
        }
        known
    }

    fn has_quota(&mut self, name: &str) -> Option<bool> {
        has_quota(self.evidence, self.needs, name)
    }
}

/// Whether an accounting object has a quota; `None` if that is still to be found out.
pub(super) fn has_quota(evidence: &Evidence, needs: &mut Needs, name: &str) -> Option<bool> {
    let quotas = evidence.quotas.as_ref();
    needs.quotas |= quotas.is_none();
    Some(quotas?.contains(name))
}
