//! Leases in etcd: acquiring, keeping and following them, and the files that go with them.
//!
//! `key`, `value` and `alloc` are pure; `file` writes and reads `subnet.env`; `store` is the
//! connection, and the rest are the duties, in the order in which an agent needs them: `settings`
//! waits for the network config and follows it, `acquire` gets a lease, `keep` renews it and notices
//! its loss, `hold` acquires it again, `watch` follows the leases of all nodes.
//!
//! Nothing is ever derived from an error: a key that cannot be read costs that one key, and a
//! lease of a peer ends only when the store says so.

pub mod acquire;
pub mod alloc;
pub mod file;
mod follow;
pub mod hold;
pub mod keep;
pub mod key;
mod retry;
pub mod settings;
pub mod store;
pub mod value;
pub mod watch;

use std::time::Duration;

/// Every duration that the subnet modules go by.
#[derive(Debug, Clone)]
pub struct Timing {
    /// What a lease is granted for.
    pub lease_ttl: Duration,
    /// How long before its end a lease is renewed.
    pub renew_margin: Duration,
    /// Pause between attempts while the agent cannot go on without the store.
    pub retry: Duration,
    /// First pause after the loss of a watch or a failed renewal; doubles from there.
    pub backoff_first: Duration,
    /// Longest pause after the loss of a watch or a failed renewal.
    pub backoff_limit: Duration,
    /// A watch that is silent for so long is asked for a sign of life.
    pub idle: Duration,
    /// How long that sign may take.
    pub sign_of_life: Duration,
}

impl Timing {
    /// What flannel's lease time of 24 hours asks for.
    #[must_use]
    pub fn new(renew_margin: Duration) -> Self {
        Self {
            lease_ttl: Duration::from_secs(24 * 60 * 60),
            renew_margin,
            retry: Duration::from_secs(1),
            backoff_first: Duration::from_millis(250),
            backoff_limit: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            sign_of_life: Duration::from_secs(10),
        }
    }
}
