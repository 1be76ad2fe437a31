//! Reads the rules in force, judges them, and follows their changes.
//!
//! ```text
//! nftables ── news ────▶ what has changed ──┐
//!    └─────── dumps ────────────────────────┼─▶ Evidence ─▶ judge ─▶ verdict
//! legacy iptables ── every 500 ms ──────────┘
//! ```
//!
//! Everything is read over netlink and socket options, without any binary. What is read belongs to
//! the network namespace of the thread that opened the [`Watch`].

mod netlink;
mod news;
mod read;
mod sockopt;
mod sys;
mod watch;

pub use self::read::{Error, Reader};
pub use self::watch::{Change, Watch};
