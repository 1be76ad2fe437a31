//! Why, and where: in words by which an operator finds the rule.

use std::fmt;

/// A rule, or part of one, that keeps the fast path off.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason {
    /// Where it stands.
    pub place: Place,
    /// What of the rule.
    pub what: String,
    /// What is wrong with that.
    pub why: Why,
}

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A rule of nftables or iptables-nft.
    Nftables {
        /// Family as nft calls it.
        family: &'static str,
        /// Table.
        table: String,
        /// Chain.
        chain: String,
        /// Handle of the rule.
        handle: u64,
    },
    /// A rule of legacy iptables.
    IpTables {
        /// Table.
        table: String,
        /// Chain.
        chain: String,
        /// Number of the rule, from 1.
        number: usize,
    },
    /// A table of legacy ebtables.
    Ebtables(String),
    /// A setting of the kernel.
    Sysctl(&'static str),
    /// BPF programs on netfilter hooks.
    BpfHooks,
    /// Rules that could not be read.
    Unread,
}

/// What makes one packet differ from the next of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It counts packets or their octets.
    Counts,
    /// It draws lots.
    Chance,
    /// It reads what packets of a flow differ in.
    Field,
    /// It reads what is behind the headers, or has a conntrack helper read it.
    Payload,
    /// It counts connections.
    Connections,
    /// It is to have every packet.
    EachPacket,
    /// It changes packets in a way that packets which go around would not be.
    Rewrites,
    /// Its memory of a flow is shorter than the time between two samples.
    Forgets,
    /// Nothing is known about it.
    Unknown,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counts => "counts packets",
            Self::Chance => "decides by chance",
            Self::Field => "differs between packets of a flow",
            Self::Payload => "depends on the payload",
            Self::Connections => "counts connections",
            Self::EachPacket => "is to have every packet",
            Self::Rewrites => "changes each packet",
            Self::Forgets => "forgets a flow too soon",
            Self::Unknown => "may depend on the single packet",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nftables {
                family,
                table,
                chain,
                handle,
            } => write!(f, "nft chain {family} {table} {chain}, handle {handle}"),
            Self::IpTables {
                table,
                chain,
                number,
            } => write!(
                f,
                "iptables-legacy -t {table}, chain {chain}, rule {number}"
            ),
            Self::Ebtables(table) => write!(f, "ebtables-legacy -t {table}"),
            Self::Sysctl(name) => f.write_str(name),
            Self::BpfHooks => f.write_str("BPF programs on netfilter hooks"),
            Self::Unread => f.write_str("the rules cannot be read"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, what, why } = self;
        match place {
            Place::Unread => write!(f, "{place}: {what}"),
            _ => write!(f, "{place}: {what} {why}"),
        }
    }
}
