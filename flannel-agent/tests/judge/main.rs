//! The judge of the rules in force against a real kernel: rules set by the real nft, iptables-nft
//! and iptables-legacy, read over netlink and socket options.
//!
//! Each test has a network namespace of its own. Needs root, nftables and the iptables package.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod bed;
mod decisions;
mod hosts;
mod iptables;
mod watch;
