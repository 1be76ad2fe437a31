//! From what is desired and what the host lists to what has to be written. Pure.

use std::fmt::Write as _;

use ipnetwork::Ipv4Network;

use super::listing::Chain;
use super::{Forward, Spec, forward, leftover, masquerade};

/// Stock flannel's table for IPv6, which it makes even for IPv4 alone.
pub(super) const STOCK_IPV6: (&str, &str) = ("ip6", "flannel-ipv6");

/// A table of iptables, as nft or as iptables-legacy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IptablesTable {
    pub(super) family: Family,
    pub(super) kind: Kind,
}

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// What flannel writes into the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Masquerade.
    Nat,
    /// Accepted forwarding.
    Filter,
}

impl IptablesTable {
    /// All that flannel ever writes into.
    pub(super) const ALL: [Self; 4] = [
        Self::new(Family::V4, Kind::Nat),
        Self::new(Family::V4, Kind::Filter),
        Self::new(Family::V6, Kind::Nat),
        Self::new(Family::V6, Kind::Filter),
    ];

    const fn new(family: Family, kind: Kind) -> Self {
        Self { family, kind }
    }

    /// Where our accept rules belong.
    pub(super) const FORWARD: Self = Self::new(Family::V4, Kind::Filter);

    /// Family as nft calls it.
    pub(super) fn family_name(self) -> &'static str {
        match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    /// Name of the table.
    pub(super) fn name(self) -> &'static str {
        match self.kind {
            Kind::Nat => "nat",
            Kind::Filter => "filter",
        }
    }

    /// Whether our own accept rules belong there.
    pub(super) fn has_forward(self) -> bool {
        self == Self::FORWARD
    }
}

/// Whether stock flannel's rules are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leftovers {
    Remove,
    Leave,
}

/// What nftables has.
#[derive(Debug, Default)]
pub(super) struct Actual {
    /// The table that has our name.
    pub(super) own: Option<Vec<Chain>>,
    /// Whether [`STOCK_IPV6`] is there.
    pub(super) has_stock_ipv6: bool,
    /// Tables of iptables-nft.
    pub(super) iptables: Vec<(IptablesTable, Vec<Chain>)>,
}

/// Changes of one table of iptables, in this order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Edits {
    /// Rules that go: chain and key.
    pub(super) rules: Vec<(String, String)>,
    /// Chains that go, with all their rules.
    pub(super) chains: Vec<String>,
    /// Where the accept rules come in.
    pub(super) accept: Vec<Place>,
}

/// A place in a chain for the accept rules of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) network: Ipv4Network,
    pub(super) chain: String,
    /// Key of the rule that comes next; none at the end.
    pub(super) before: Option<String>,
    /// Number of rules that stay before it.
    pub(super) index: usize,
}

impl Edits {
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            rules,
            chains,
            accept,
        } = self;
        rules.is_empty() && chains.is_empty() && accept.is_empty()
    }
}

/// What has to change in a table of iptables.
pub(super) fn edits(
    spec: &Spec,
    table: IptablesTable,
    chains: &[Chain],
    leftovers: Leftovers,
) -> Edits {
    let mut edits = match leftovers {
        Leftovers::Remove => leftover::edits(spec, table, chains),
        Leftovers::Leave => Edits::default(),
    };
    if table.has_forward() {
        let network = (spec.forward == Forward::Accept).then_some(spec.network);
        forward::add_edits(&mut edits, chains, network);
    }
    edits
}

/// The script for nft; empty when all is right.
pub(super) fn script(spec: &Spec, actual: &Actual, leftovers: Leftovers) -> String {
    let Actual {
        own,
        has_stock_ipv6,
        iptables,
    } = actual;
    let mut script = match (spec.masquerade, own) {
        (Some(ports), Some(own)) if masquerade::is_right(own, spec, ports) => String::new(),
        (Some(ports), _) => masquerade::table_text(spec, ports),
        (None, Some(_)) => format!("delete table ip {}\n", masquerade::TABLE),
        (None, None) => String::new(),
    };
    if *has_stock_ipv6 && leftovers == Leftovers::Remove {
        let (family, name) = STOCK_IPV6;
        let _ = writeln!(script, "delete table {family} {name}");
    }
    for (table, chains) in iptables {
        let edits = edits(spec, *table, chains, leftovers);
        script.push_str(&edits_text(*table, &edits));
    }
    script
}

/// Changes of a table of iptables-nft, as commands of nft.
pub(super) fn edits_text(table: IptablesTable, edits: &Edits) -> String {
    let Edits {
        rules,
        chains,
        accept,
    } = edits;
    let table = format!("{} {}", table.family_name(), table.name());
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (chain, handle) in rules {
        let _ = writeln!(text, "delete rule {table} {chain} handle {handle}");
    }
    for chain in chains {
        let _ = writeln!(text, "flush chain {table} {chain}");
    }
    for chain in chains {
        let _ = writeln!(text, "delete chain {table} {chain}");
    }
    for place in accept {
        let Place {
            network,
            chain,
            before,
            index: _,
        } = place;
        let verb = match before {
            Some(handle) => format!("insert rule {table} {chain} handle {handle}"),
            None => format!("add rule {table} {chain}"),
        };
        for field in ["saddr", "daddr"] {
            // With the counter it is what iptables-nft itself would have made, and can show.
            let rule = format!("ip {field} {network} counter accept");
            let _ = writeln!(text, "{verb} {rule} comment \"{}\"", forward::COMMENT);
        }
    }
    text
}

/// The script that makes our own table, for a look at it; `None` if none is desired.
#[must_use]
pub fn desired_table(spec: &Spec) -> Option<String> {
    let ports = spec.masquerade?;
    Some(masquerade::table_text(spec, ports))
}

#[cfg(test)]
mod tests {
    use super::super::{Blackhole, SourcePorts, listing};
    use super::*;

    fn spec() -> Spec {
        Spec {
            network: "10.5.0.0/16".parse().unwrap(),
            subnet: "10.5.1.0/24".parse().unwrap(),
            masquerade: Some(SourcePorts::FullyRandom),
            forward: Forward::Accept,
            blackhole: Blackhole::None,
        }
    }

    /// Rules numbered from 1 within their chain.
    fn chains(text: &str) -> Vec<Chain> {
        let mut chains = listing::from_iptables(text);
        for chain in &mut chains {
            for (n, rule) in chain.rules.iter_mut().enumerate() {
                rule.key = (n + 1).to_string();
            }
        }
        chains
    }

    #[test]
    fn ours_and_the_end_of_theirs_are_one_script() {
        let nat = "-P POSTROUTING ACCEPT\n-N FLANNEL-POSTRTG\n\
            -A POSTROUTING -o eth0 -j MASQUERADE\n-A POSTROUTING -j FLANNEL-POSTRTG\n\
            -A FLANNEL-POSTRTG -s 10.4.0.0/16 -j RETURN\n";
        let filter = "-P FORWARD DROP\n-N DOCKER-USER\n-N FLANNEL-FWD\n\
            -A FORWARD -j DOCKER-USER\n-A FORWARD -j FLANNEL-FWD\n\
            -A FORWARD -s 10.5.0.0/16 -m comment --comment \"flannel-agent forward\" -j ACCEPT\n\
            -A DOCKER-USER -s 10.9.0.0/16 -j DROP\n-A DOCKER-USER -j RETURN\n";
        let actual = Actual {
            own: None,
            has_stock_ipv6: true,
            iptables: vec![
                (IptablesTable::ALL[0], chains(nat)),
                (IptablesTable::FORWARD, chains(filter)),
            ],
        };
        let expected = desired_table(&spec()).unwrap()
            + "delete table ip6 flannel-ipv6\n\
            delete rule ip nat POSTROUTING handle 2\n\
            flush chain ip nat FLANNEL-POSTRTG\n\
            delete chain ip nat FLANNEL-POSTRTG\n\
            delete rule ip filter FORWARD handle 2\n\
            delete rule ip filter FORWARD handle 3\n\
            flush chain ip filter FLANNEL-FWD\n\
            delete chain ip filter FLANNEL-FWD\n\
            add rule ip filter FORWARD ip saddr 10.5.0.0/16 counter accept \
            comment \"flannel-agent forward\"\n\
            add rule ip filter FORWARD ip daddr 10.5.0.0/16 counter accept \
            comment \"flannel-agent forward\"\n\
            insert rule ip filter DOCKER-USER handle 2 ip saddr 10.5.0.0/16 counter accept \
            comment \"flannel-agent forward\"\n\
            insert rule ip filter DOCKER-USER handle 2 ip daddr 10.5.0.0/16 counter accept \
            comment \"flannel-agent forward\"\n";
        assert_eq!(script(&spec(), &actual, Leftovers::Remove), expected);
    }

    #[test]
    fn a_different_wish_has_a_different_hash() {
        let hash = |spec: &Spec| {
            let text = desired_table(spec).unwrap();
            let (_, rest) = text.split_once("flannel-agent masq ").unwrap();
            rest.split(':').next().unwrap().to_owned()
        };
        let kept = Spec {
            masquerade: Some(SourcePorts::Kept),
            ..spec()
        };
        let moved = Spec {
            subnet: "10.5.2.0/24".parse().unwrap(),
            ..spec()
        };
        assert_eq!(hash(&spec()), hash(&spec()));
        assert_ne!(hash(&spec()), hash(&kept));
        assert_ne!(hash(&spec()), hash(&moved));
    }
}
