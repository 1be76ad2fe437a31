//! Ring "netns": kernel objects, each test in namespaces and on a bpffs of its own.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod attach;
mod live;
mod pins;
mod place;
mod probe;
mod udp;
mod udp_kin;
mod udp_proxy;
mod udp_stock;
