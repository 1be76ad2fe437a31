//! Traffic rules: masquerade, accepted forwarding and the blackhole route, as flannel means them.
//!
//! ```text
//! Spec ─▶ plan (pure) ◀─ listings of the host
//!            │
//!            ▼
//!   one nft transaction, one iptables-legacy-restore per table; nothing when all is right
//! ```
//!
//! *Masquerade* lives in a table of flannel's own name, `ip flannel-ipv4`, chain `postrtg`. A node
//! then switches back and forth without doubled or forgotten rules: stock flannel empties that
//! chain when it uses nftables and deletes the table when it uses iptables, and we replace the
//! table that it left in the transaction that brings ours. What is ours is told by the comments of
//! the rules, which carry a hash of the whole set.
//!
//! *Forwarding* has no table of its own: a packet that one base chain accepts still meets the next
//! one, so an accept decides nothing except in the chain that would drop. That is the `FORWARD`
//! chain of iptables, once Docker has set its policy; see `forward.rs`.
//!
//! Nothing here needs an iptables binary unless the host has legacy iptables rules, which nftables
//! can neither show nor change; see `legacy.rs`.

mod blackhole;
mod forward;
mod keep;
mod leftover;
mod legacy;
mod listing;
mod masquerade;
mod nft;
mod plan;
mod remove;
mod tool;

use ipnetwork::Ipv4Network;

pub use self::keep::Rules;
pub use self::plan::desired_table;
pub use self::remove::{list_ours, remove_ours};
pub use self::tool::Error;

/// Names of the tables of legacy iptables, IPv4, that the kernel has in the network namespace of the
/// calling thread.
pub(crate) fn legacy_tables() -> std::collections::BTreeSet<String> {
    legacy::tables_in_use(plan::Family::V4)
}

/// What the rules are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// The whole network.
    pub network: Ipv4Network,
    /// The own subnet.
    pub subnet: Ipv4Network,
    /// Whether, and how, traffic that leaves the overlay is masqueraded.
    pub masquerade: Option<SourcePorts>,
    /// Whether forwarding from and to the network is accepted.
    pub forward: Forward,
    /// Whether packets to pods that do not exist end here.
    pub blackhole: Blackhole,
}

/// How masquerading chooses source ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourcePorts {
    /// At random, always, which spares concurrent connections a race for one port.
    FullyRandom,
    /// The original one while it is free.
    Kept,
}

/// What to do about forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// Accept it in the chains that might drop it.
    Accept,
    /// Leave it to the host's rules.
    Leave,
}

/// What to do about packets to addresses of the own subnet that nobody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blackhole {
    /// A route drops them.
    Route,
    /// They follow the other routes.
    None,
}
