//! The netlink layer and the kernel path of the vxlan backend, against a real kernel.
//!
//! Each test has a network namespace of its own, on a thread of its own: nothing is left behind,
//! and any number of them run at once. Needs root, vxlan and veth.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod netlink {
    mod bed;
    mod device;
    mod entries;
    mod many;
    mod monitor;
    mod next_hops;
    mod traffic;
    mod underlay;
}
