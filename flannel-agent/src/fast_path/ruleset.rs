//! The rules of nftables, as far as a judge needs to know them. Pure.
//!
//! Rules of iptables-nft are among them; what they have of iptables' own is a
//! [`Expression::Match`] or [`Expression::Target`] with the structure that iptables would use.

mod netlink;

use std::collections::{BTreeMap, BTreeSet};

pub use self::netlink::{Unreadable, parse_elements, parse_handle, parse_member, parse_rule};

/// Address family of a table (`NFPROTO_*`, `include/uapi/linux/netfilter.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family(pub u8);

impl Family {
    /// IPv4 and IPv6.
    pub const INET: Self = Self(1);
    /// IPv4.
    pub const IPV4: Self = Self(2);
    /// Hooks of single devices.
    pub const NETDEV: Self = Self(5);
    /// Bridges.
    pub const BRIDGE: Self = Self(7);

    /// As nft calls it; none of those whose hooks an IPv4 packet never passes.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::INET => Some("inet"),
            Self::IPV4 => Some("ip"),
            Self::NETDEV => Some("netdev"),
            Self::BRIDGE => Some("bridge"),
            _ => None,
        }
    }
}

/// Family and name of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableId {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
}

/// A chain or set of a table, by name.
pub type MemberId = (TableId, String);

/// All tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Those of the families that [`Family::name`] knows.
    pub tables: BTreeMap<TableId, Table>,
}

/// A table: chains and sets know only those of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Whether its chains are out of force.
    pub is_dormant: bool,
    /// By name.
    pub chains: BTreeMap<String, Chain>,
    /// By name.
    pub sets: BTreeMap<String, Set>,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets come in, if not from other chains alone.
    pub base: Option<Base>,
    /// By handle, since their order decides nothing here; `None` while nobody has asked for them.
    pub rules: Option<BTreeMap<u64, Rule>>,
}

/// Where a base chain is attached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    /// Number of the hook in the family.
    pub hook: u32,
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// Devices, where the hook is of devices.
    pub devices: Vec<String>,
}

/// The expressions of a rule, in order.
pub type Rule = Vec<Expression>;

/// A set or map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// What becomes of elements without a word of their own about it, milliseconds; 0 for ever.
    pub timeout_ms: u64,
    /// Kind of the objects in a map of objects.
    pub object: u32,
    /// What every element has.
    pub expressions: Vec<Expression>,
}

/// What the elements of a set have, all taken together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elements {
    /// Verdicts of a verdict map.
    pub verdicts: BTreeSet<Verdict>,
    /// Expressions of single elements.
    pub expressions: BTreeSet<Expression>,
}

impl Elements {
    /// Takes in what further elements have.
    pub fn extend(&mut self, other: Self) {
        let Self {
            verdicts,
            expressions,
        } = other;
        self.verdicts.extend(verdicts);
        self.expressions.extend(expressions);
    }

    /// Whether the elements are nothing but keys and values.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.verdicts.is_empty() && self.expressions.is_empty()
    }
}

/// What a rule says about the packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Accept, drop, return or go on.
    Plain,
    /// To a program that has asked for packets.
    Queue,
    /// On with another chain, for good or until it returns.
    Chain(String),
}

/// A register, by its number in netlink messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Register(pub u32);

/// Whether a field of the packet or its metadata is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read into a register.
    Load(Register),
    /// Written.
    Store,
}

/// A step of a rule. Numbers are those of `include/uapi/linux/netfilter/nf_tables.h`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expression {
    /// What the kernel knows beside the packet.
    Meta {
        /// `NFT_META_*`.
        key: u32,
        /// Read or written.
        access: Access,
    },
    /// Octets of the packet.
    Payload {
        /// `NFT_PAYLOAD_*`: which header.
        base: u32,
        /// Octets from its start.
        offset: u32,
        /// Octets.
        len: u32,
        /// Read or written.
        access: Access,
    },
    /// What connection tracking knows.
    Conntrack {
        /// `NFT_CT_*`.
        key: u32,
        /// Read or written.
        access: Access,
    },
    /// An option or extension header.
    Option {
        /// `NFT_EXTHDR_OP_*`.
        kind: u32,
        /// Read or written.
        access: Access,
    },
    /// `to = (from & mask) ^ xor`; with empty masks, anything else that goes from bits to bits.
    Bitwise {
        /// Register read.
        from: Register,
        /// Register written.
        to: Register,
        /// Octets.
        mask: Vec<u8>,
        /// Octets.
        xor: Vec<u8>,
    },
    /// Goes on if the register compares so.
    Compare {
        /// Register read.
        register: Register,
        /// `NFT_CMP_*`.
        operator: u32,
        /// Octets to compare with.
        value: Vec<u8>,
    },
    /// Goes on if the register is in the range, or is not.
    Range {
        /// Register read.
        register: Register,
    },
    /// Goes on if the set has the registers, or has not; of a map, takes the value.
    Lookup {
        /// Name of the set.
        set: String,
    },
    /// Adds the registers to a set, or takes them out.
    Update {
        /// Name of the set.
        set: String,
        /// Of the element, milliseconds; 0 for the set's.
        timeout_ms: u64,
        /// What the element gets.
        expressions: Vec<Expression>,
    },
    /// A constant into a register.
    Constant {
        /// Register written.
        to: Register,
    },
    /// The end of the rule.
    Verdict(Verdict),
    /// To the kernel's log, or to the listeners of a group.
    Log {
        /// Number of the group.
        group: Option<u16>,
    },
    /// A named object.
    Object {
        /// `NFT_OBJECT_*`.
        kind: u32,
    },
    /// An object that a map names.
    ObjectMap {
        /// Name of the map.
        set: String,
    },
    /// A match of iptables.
    Match(Extension),
    /// A target of iptables.
    Target(Extension),
    /// Any other.
    Other {
        /// Its name in netlink messages.
        name: String,
    },
}

/// A match or target of iptables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extension {
    /// Its name there.
    pub name: String,
    /// Revision of its structure.
    pub revision: u32,
    /// Its structure.
    pub info: Vec<u8>,
}
