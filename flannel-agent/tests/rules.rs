//! Traffic rules against a real kernel, with real nft, iptables-nft and iptables-legacy.
//!
//! Each test has network namespaces of its own: nothing is left behind, and any number of them run
//! at once. Needs root, veth, nftables and the iptables package.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod rules {
    mod bed;
    mod blackhole;
    mod forward;
    mod masquerade;
    mod takeover;
}
