//! Leases in etcd: acquiring, renewing and following them, and the files that go with them.
//!
//! `key`, `value` and `alloc` are pure; `file` writes and reads `subnet.env`; the rest talks to
//! the store. Nothing is ever derived from an error: a key that cannot be read costs that one
//! key, and a lease of a peer ends only when the store says so.

pub mod alloc;
pub mod file;
pub mod key;
pub mod value;
