//! Rules that stock flannel has left in the tables of iptables. Pure.
//!
//! From v0.20 on they have chains of their own, which go whatever they hold. Before, they stood
//! among everybody's: such a rule goes only if it is, for our network, exactly one of those that
//! flannel wrote, and if ours does the same, so that nothing changes if it was somebody else's.

use ipnetwork::Ipv4Network;

use super::listing::{Chain, Range, Rule, Target, find};
use super::plan::{Edits, Family, IptablesTable, Kind};
use super::{Forward, Spec};

/// Chain of flannel v0.5, in `nat`.
const OLD_CHAIN: &str = "FLANNEL";

/// What has to go from a table.
pub(super) fn edits(spec: &Spec, table: IptablesTable, chains: &[Chain]) -> Edits {
    let (own_chain, builtin, is_replaced) = match table.kind {
        Kind::Nat => ("FLANNEL-POSTRTG", "POSTROUTING", spec.masquerade.is_some()),
        Kind::Filter => ("FLANNEL-FWD", "FORWARD", spec.forward == Forward::Accept),
    };
    let mut doomed: Vec<&str> = Vec::new();
    doomed.extend(find(chains, own_chain).map(|_| own_chain));
    // We have no rules for IPv6 that could replace any.
    let is_replaced = is_replaced && table.family == Family::V4;
    if is_replaced && table.kind == Kind::Nat {
        let old = find(chains, OLD_CHAIN);
        let is_flannels = |chain: &&Chain| {
            let mut rules = chain.rules.iter();
            rules.all(|rule| is_in_old_chain(rule, spec.network))
        };
        doomed.extend(old.filter(is_flannels).map(|_| OLD_CHAIN));
    }
    let goes = |chain: &Chain, rule: &Rule| match &rule.target {
        Target::Jump(to) => doomed.contains(&to.as_str()),
        _ => is_replaced && chain.name == builtin && is_flannels(rule, table.kind, spec.network),
    };
    let mut edits = Edits::default();
    for chain in chains {
        let rules = chain.rules.iter().filter(|rule| goes(chain, rule));
        let rules = rules.map(|rule| (chain.name.clone(), rule.key.clone()));
        edits.rules.extend(rules);
    }
    edits.chains = doomed.into_iter().map(str::to_owned).collect();
    edits
}

/// A rule that flannel v0.6 to v0.19 wrote into a chain of everybody's.
fn is_flannels(rule: &Rule, kind: Kind, network: Ipv4Network) -> bool {
    let inside = Range::In(network);
    let outside = Range::NotIn(network);
    // Ours in `FORWARD` have the same shape.
    let is_stock = !rule.has_comment("flannel-agent");
    let known = match (kind, rule.from, rule.to, &rule.target) {
        (Kind::Nat, Some(from), Some(to), Target::Return) if from == inside => to == inside,
        (Kind::Nat, Some(from), Some(Range::In(subnet)), Target::Return) => {
            from == outside && subnet.is_subnet_of(network) && subnet != network
        }
        (Kind::Nat, Some(from), Some(to), Target::Masquerade) => {
            (from == inside && to == not_multicast()) || (from == outside && to == inside)
        }
        (Kind::Filter, Some(one), None, Target::Accept)
        | (Kind::Filter, None, Some(one), Target::Accept) => one == inside,
        _ => false,
    };
    rule.is_bare && is_stock && known
}

fn is_in_old_chain(rule: &Rule, network: Ipv4Network) -> bool {
    let to = match rule.target {
        Target::Accept => Range::In(network),
        Target::Masquerade => not_multicast(),
        _ => return false,
    };
    rule.is_bare && rule.from.is_none() && rule.to == Some(to)
}

fn not_multicast() -> Range {
    let multicast = Ipv4Network::new([224, 0, 0, 0].into(), 4);
    Range::NotIn(multicast.expect("invariant: 4 is a prefix length"))
}
