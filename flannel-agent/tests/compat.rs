//! Compatibility as tables, made from what flannel v0.28.9 and its older versions accept, refuse
//! and write: a row is as flannel has it, or names the row of `docs/compatibility.md` that tells
//! why it is not.
//!
//! Pure: everything goes through the public functions, and nothing is touched but scratch files.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod compat {
    mod backends;
    mod document;
    mod environment;
    mod etcd;
    mod files;
    mod flags;
    mod iface;
    mod keys;
    mod line;
    mod network;
    mod subnets;
    mod vxlan;
}
