//! Where forwarding has to be accepted so that it is, and whether it is there. Pure.
//!
//! Docker sets the policy of iptables' `FORWARD` chain to drop. Only a rule on the way to that
//! policy helps, in the same chain and the same iptables: for iptables-nft that is the table
//! `ip filter` of nftables, which we edit as iptables-nft would; for legacy iptables it is a table
//! of its own in the kernel.
//!
//! In `FORWARD` itself the rules come last, as flannel's do: what an administrator has decided
//! before stands. Docker decides there as well (from version 28 on it drops what comes to a
//! container other than over its own bridge), so where it has its chain for rules that precede its
//! own, `DOCKER-USER`, ours go there too, behind the administrator's. Both, because a dockerd that
//! starts takes the jump to its chain out and puts it back, and in between only `FORWARD` decides:
//! some milliseconds of the overlay's packets were lost so. In either chain they stay before a rule
//! that lets nothing past, such as Docker's closing `RETURN`, as they would be dead behind.

use ipnetwork::Ipv4Network;

use super::listing::{Chain, Range, Rule, Target, find};
use super::plan::{Edits, Place};

/// Comment of our rules.
pub(super) const COMMENT: &str = "flannel-agent forward";
/// Chain of iptables that forwarded packets pass.
const FORWARD: &str = "FORWARD";
/// Docker's chain for the administrator.
const DOCKER_USER: &str = "DOCKER-USER";

/// Adds what is missing or wrong of our rules; with no network none are to be there.
pub(super) fn add_edits(edits: &mut Edits, chains: &[Chain], network: Option<Ipv4Network>) {
    let targets = targets(chains);
    for chain in chains {
        let is_target = targets.contains(&chain.name.as_str());
        let wanted = network.filter(|_| is_target);
        if wanted.is_some_and(|network| is_right(chain, network)) {
            continue;
        }
        let ours = chain.rules.iter().filter(|rule| is_ours(rule));
        let removed = ours.map(|rule| (chain.name.clone(), rule.key.clone()));
        edits.rules.extend(removed);
        if let Some(network) = wanted {
            let place = place(edits, chain, network);
            edits.accept.push(place);
        }
    }
}

pub(super) fn is_ours(rule: &Rule) -> bool {
    rule.has_comment(COMMENT)
}

/// Names of the chains where our rules belong.
fn targets(chains: &[Chain]) -> Vec<&'static str> {
    let Some(forward) = find(chains, FORWARD) else {
        return Vec::new();
    };
    let mut jumps = forward
        .rules
        .iter()
        .filter(|rule| rule.is_jump_to(DOCKER_USER));
    match jumps.next() {
        Some(_) => vec![FORWARD, DOCKER_USER],
        None => vec![FORWARD],
    }
}

fn is_right(target: &Chain, network: Ipv4Network) -> bool {
    if target.rules.iter().filter(|rule| is_ours(rule)).count() != 2 {
        return false;
    }
    let reached = target
        .rules
        .iter()
        .take_while(|rule| !rule.ends_the_chain());
    let ours: Vec<_> = reached.filter(|rule| is_ours(rule)).collect();
    let [from, to] = ours[..] else { return false };
    let inside = Some(Range::In(network));
    let is_accept = |rule: &Rule| rule.is_bare && rule.target == Target::Accept;
    let is_from = is_accept(from) && (from.from, from.to) == (inside, None);
    let is_to = is_accept(to) && (to.from, to.to) == (None, inside);
    is_from && is_to
}

fn place(edits: &Edits, chain: &Chain, network: Ipv4Network) -> Place {
    let stays = |rule: &&Rule| {
        let removed = |(name, key): &(String, String)| *name == chain.name && *key == rule.key;
        !edits.rules.iter().any(removed)
    };
    let staying: Vec<_> = chain.rules.iter().filter(stays).collect();
    let end = staying.iter().position(|rule| rule.ends_the_chain());
    Place {
        network,
        chain: chain.name.clone(),
        before: end.map(|index| staying[index].key.clone()),
        index: end.unwrap_or(staying.len()),
    }
}
