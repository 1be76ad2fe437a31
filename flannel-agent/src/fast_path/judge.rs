//! May a flow be judged by a sample of its packets? Pure.
//!
//! The fast path asks the rules in force by sending one packet of a flow past them, and lets the
//! flow's others go around for as long as its admission lasts. That is sound where the rules decide
//! by the flow and by time, and unsound where they decide by the single packet: a rate limit that
//! sees one packet a second limits nothing. So every rule on the way of forwarded packets is read,
//! and one whose outcome may differ between packets of one admitted flow keeps the fast path off.
//!
//! *What a packet on the fast path is.* IPv4, whole, without options; UDP, or TCP with ACK and
//! without SYN, FIN and RST (`flannel_ebpf::fast::flow_of`). A test that such packets all pass or all
//! fail decides nothing between them, so `tcp flags & (syn | rst) == syn` is fine, and what stands
//! behind it in its rule never happens.
//!
//! *What matters.* Chains that a base chain on the way of forwarded packets leads to. Not chains of
//! type `nat`, or legacy tables of that name: they are asked once per connection, by its first
//! packet (`nf_nat_inet_fn`), whatever they test. Not rules that neither decide nor change
//! anything: a rate-limited log is a sample by its author's own wish.
//!
//! *In doubt, unsound.* What is not in the tables of [`field`], [`step`] and [`xt`] is not known to
//! depend on the flow alone.

mod chains;
mod field;
mod legacy;
mod reason;
mod registers;
mod rule;
mod step;
mod tally;
mod xt;

use std::collections::{BTreeMap, BTreeSet};

pub use self::reason::{Place, Reason, Why};
use super::ip_tables::Table;
use super::ruleset::{Elements, MemberId, Ruleset};

/// Most reasons that a verdict lists.
const MAX_REASONS: usize = 16;

/// Whether the rules in force can be asked by samples.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether they can.
    pub sound: bool,
    /// Why not; the first few if there are many.
    pub reasons: Vec<Reason>,
    /// Reasons beyond those.
    pub unlisted: usize,
}

impl Verdict {
    /// The verdict for these reasons.
    #[must_use]
    pub fn new(mut reasons: Vec<Reason>) -> Self {
        let unlisted = reasons.len().saturating_sub(MAX_REASONS);
        reasons.truncate(MAX_REASONS);
        Self {
            sound: reasons.is_empty(),
            reasons,
            unlisted,
        }
    }
}

/// Everything that is known of the rules in force.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// nftables, with iptables-nft; rules as far as they have been asked for.
    pub nftables: Ruleset,
    /// What elements of its sets have, as far as it has been asked for.
    pub elements: BTreeMap<MemberId, Elements>,
    /// Legacy iptables, IPv4, without its table `nat`.
    pub ip_tables: Vec<Table>,
    /// Legacy ebtables: names of tables with the number of their rules, which are not read.
    pub ebtables: Vec<(String, u32)>,
    /// Accounting objects (`nfacct`) that end with a quota, as far as they have been asked for.
    pub quotas: Option<BTreeSet<String>>,
    /// Whether connection tracking chooses helpers by port by itself (up to Linux 5.19).
    pub has_automatic_helpers: bool,
    /// BPF programs on netfilter hooks, in whichever namespace (Linux 6.4).
    pub bpf_hooks: usize,
}

/// What has to be known of the rules before they can be judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Chains whose rules matter.
    pub rules: BTreeSet<MemberId>,
    /// Sets whose elements matter.
    pub elements: BTreeSet<MemberId>,
    /// Whether [`Evidence::quotas`] matters.
    pub quotas: bool,
}

/// The verdict, or what is missing for one.
///
/// # Errors
/// What to add to the evidence. Each time it is more than before, so this comes to an end.
pub fn judge(evidence: &Evidence) -> Result<Verdict, Needs> {
    let mut reasons = Vec::new();
    let mut needs = Needs::default();
    if evidence.has_automatic_helpers {
        reasons.push(Reason {
            place: Place::Sysctl("net.netfilter.nf_conntrack_helper"),
            what: "1".into(),
            why: Why::Payload,
        });
    }
    if evidence.bpf_hooks > 0 {
        reasons.push(Reason {
            place: Place::BpfHooks,
            what: evidence.bpf_hooks.to_string(),
            why: Why::Unknown,
        });
    }
    for (table, rules) in &evidence.ebtables {
        if *rules > 0 {
            reasons.push(Reason {
                place: Place::Ebtables(table.clone()),
                what: format!("{rules} rules"),
                why: Why::Unknown,
            });
        }
    }
    legacy::judge(evidence, &mut reasons, &mut needs);
    chains::judge(evidence, &mut reasons, &mut needs);
    if needs == Needs::default() {
        Ok(Verdict::new(reasons))
    } else {
        Err(needs)
    }
}

#[cfg(test)]
mod tests;
