//! Keeping the own lease: renewal before its end, and notice of its loss.
//!
//! A renewal compares with the own last write, so a key that somebody else has written is never
//! overwritten by it. A renewal that fails is repeated for as long as it takes, past the end of
//! the lease too: only the store says that a lease is gone.
//!
//! Two nodes with one public IP share a lease, since a node takes back what carries its address. It
//! shows when the other one writes: another VTEP MAC, or the same value again and again where the
//! other one has taken the MAC over as well.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Timing;
use super::acquire::{HeldLease, Term, Written, replace};
use super::follow::{KeyChange, Range, follow};
use super::store::{Record, Store};
use super::value::{format_value, parse_value};
use crate::backoff::Backoff;
use crate::status;

/// How a lease was lost.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum Loss {
    /// The key is gone: deleted, or expired while the store could not be reached.
    #[error("the lease of {subnet} was deleted or has expired")]
    Gone {
        /// Subnet that was leased.
        subnet: String,
    },
    /// Another node wrote itself into the key.
    #[error("the lease of {subnet} was taken by {by}")]
    Taken {
        /// Subnet that was leased.
        subnet: String,
        /// Public IP of the other node.
        by: Ipv4Addr,
    },
    /// Another node uses the same public IP (flannel issues 805, 1289).
    #[error(
        "another node writes the lease of {subnet} with the public IP of this one, {ip}: give each \
         node its own with --public-ip"
    )]
    SharedPublicIp {
        /// Subnet that was leased.
        subnet: String,
        /// The address of both.
        ip: Ipv4Addr,
    },
}

/// So many times in [`FIGHT_TIME`] somebody else may write exactly what this node has written:
/// once because the answer to an own write was lost, or by an operator who sets the time to live.
const REPEATS: usize = 2;
/// See [`REPEATS`].
const FIGHT_TIME: Duration = Duration::from_secs(60);

/// Keeps a lease until it is lost; `None` after cancellation.
///
/// `term` tells the status document how long the lease lasts.
pub async fn keep(
    store: &Store,
    lease: HeldLease,
    timing: &Timing,
    term: &watch::Sender<Term>,
    cancel: &CancellationToken,
) -> Option<Loss> {
    let range = Range::Key(lease.key.clone());
    let (raw, changes) = mpsc::channel(16);
    // The health of the store is told by the watch of all leases.
    let (health, _) = watch::channel(status::Store::default());
    let keeper = Keeper {
        store,
        timing,
        term,
        lease,
        repeats: VecDeque::new(),
    };
    tokio::select! {
        () = follow(store, &range, timing, None, raw, &health, cancel) => None,
        loss = keeper.run(changes) => Some(loss),
    }
}

struct Keeper<'a> {
    store: &'a Store,
    timing: &'a Timing,
    term: &'a watch::Sender<Term>,
    lease: HeldLease,
    /// When the own value was written by somebody else, oldest first.
    repeats: VecDeque<Instant>,
}

/// What a look at the own key means.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// It is as this node wrote it.
    Own,
    /// Somebody changed it, and it is to be written again.
    Rewrite,
    /// It is lost.
    Lost(Loss),
}

impl Keeper<'_> {
    async fn run(mut self, mut changes: mpsc::Receiver<KeyChange>) -> Loss {
        let mut rng = StdRng::from_os_rng();
        let mut backoff = Backoff::new(self.timing.backoff_first, self.timing.backoff_limit);
        let mut renew_at = self.renewal();
        loop {
            let finding = tokio::select! {
                change = changes.recv() => match change {
                    Some(change) => self.look(change),
                    // The follower ends only by cancellation, which ends this too.
                    None => std::future::pending().await,
                },
                () = sleep_until(renew_at) => match self.renew().await {
                    Ok(None) => {
                        backoff.reset();
                        renew_at = self.renewal();
                        info!(subnet = %self.lease.subnet, "the lease is renewed");
                        continue;
                    }
                    Ok(Some(finding)) => {
                        renew_at = self.renewal();
                        finding
                    }
                    Err(error) => {
                        let pause = backoff.next_delay(&mut rng);
                        let left = self.time_left();
                        warn!(%error, ?pause, ?left, "the lease is not renewed, trying again");
                        renew_at = Some(Instant::now() + pause);
                        continue;
                    }
                },
            };
            match finding {
                Finding::Own => {}
                Finding::Rewrite => renew_at = Some(Instant::now()),
                Finding::Lost(loss) => return loss,
            }
        }
    }

    /// When to renew: never for a reservation, else the margin before the end.
    fn renewal(&self) -> Option<Instant> {
        let Term::Until(end) = self.lease.term else {
            return None;
        };
        let soonest = Instant::now() + self.timing.backoff_first;
        let wanted = end.checked_sub(self.timing.renew_margin);
        Some(wanted.map_or(soonest, |wanted| wanted.max(soonest)))
    }

    fn time_left(&self) -> Option<Duration> {
        match self.lease.term {
            Term::Reserved => None,
            Term::Until(end) => Some(end.saturating_duration_since(Instant::now())),
        }
    }

    /// Writes the own value, or says what stands there instead of the own last write.
    async fn renew(&mut self) -> Result<Option<Finding>, String> {
        let HeldLease {
            key,
            attrs,
            revision,
            term,
            ..
        } = &self.lease;
        let value = format_value(attrs).map_err(|error| error.to_string())?;
        let ttl = (*term != Term::Reserved).then_some(self.timing.lease_ttl);
        let written = replace(self.store, key, &value, *revision, ttl).await;
        match written.map_err(|error| error.to_string())? {
            Written::Done { revision, term } => {
                self.lease.revision = revision;
                self.set_term(term);
                Ok(None)
            }
            Written::Lost(record) => Ok(Some(match record {
                Some(record) => self.judge_value(&record),
                None => Finding::Lost(self.gone()),
            })),
        }
    }

    fn look(&mut self, change: KeyChange) -> Finding {
        match change {
            KeyChange::Snapshot(records, revision) => {
                let newest = records.first().map_or(revision, |it| it.mod_revision);
                match records.first() {
                    // A store that was restored from older data, or made anew: a write decides, since
                    // it fails where the own last write is not.
                    _ if newest < self.lease.revision => Finding::Rewrite,
                    Some(record) => self.judge(record),
                    None => Finding::Lost(self.gone()),
                }
            }
            KeyChange::Put(record) => self.judge(&record),
            // It is older than the own last write, or the store is; a write decides.
            KeyChange::Deleted(_, revision) if revision < self.lease.revision => Finding::Rewrite,
            KeyChange::Deleted(..) => Finding::Lost(self.gone()),
        }
    }

    /// Judges the key as the store tells of it.
    fn judge(&mut self, record: &Record) -> Finding {
        match record.mod_revision.cmp(&self.lease.revision) {
            Ordering::Equal => Finding::Own,
            // Late news of an own write; each answered by another would never end.
            Ordering::Less if self.is_own(record) => Finding::Own,
            // Late news of somebody else's, or a restored store: a write decides, as above.
            Ordering::Less => Finding::Rewrite,
            Ordering::Greater => self.judge_value(record),
        }
    }

    fn is_own(&self, record: &Record) -> bool {
        parse_value(&record.value).is_ok_and(|attrs| attrs == self.lease.attrs)
    }

    /// Judges the key as it is in the store, not being the own last write, and adopts what is as good.
    fn judge_value(&mut self, record: &Record) -> Finding {
        let subnet = self.lease.subnet.to_string();
        let ip = self.lease.attrs.public_ip;
        match parse_value(&record.value) {
            Ok(attrs) if attrs.public_ip != ip => {
                let by = attrs.public_ip;
                return Finding::Lost(Loss::Taken { subnet, by });
            }
            Ok(attrs) if attrs != self.lease.attrs => {
                return Finding::Lost(Loss::SharedPublicIp { subnet, ip });
            }
            Ok(_) => {}
            Err(error) => warn!(subnet, %error, "the own lease was overwritten, writing it again"),
        }
        // An own write whose answer was lost, or an operator who set or removed the lease time.
        self.lease.revision = record.mod_revision;
        if record.lease == 0 {
            if self.lease.term != Term::Reserved {
                info!(subnet, "the lease has become a reservation");
                self.set_term(Term::Reserved);
            }
            return match parse_value(&record.value) {
                Ok(_) => Finding::Own,
                Err(_) => Finding::Rewrite,
            };
        }
        if self.is_fight(Instant::now()) {
            return Finding::Lost(Loss::SharedPublicIp { subnet, ip });
        }
        debug!(subnet, "the lease was written again, renewing it");
        if self.lease.term == Term::Reserved {
            self.set_term(Term::Until(Instant::now()));
        }
        Finding::Rewrite
    }

    /// Whether one more write of the own value by somebody else is one too many.
    fn is_fight(&mut self, now: Instant) -> bool {
        let is_old = |at: &Instant| now.duration_since(*at) > FIGHT_TIME;
        while self.repeats.pop_front_if(|at| is_old(at)).is_some() {}
        self.repeats.push_back(now);
        self.repeats.len() > REPEATS
    }

    fn set_term(&mut self, term: Term) {
        self.lease.term = term;
        self.term.send_replace(term);
    }

    fn gone(&self) -> Loss {
        let subnet = self.lease.subnet.to_string();
        Loss::Gone { subnet }
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EtcdConfig, TlsFiles};

    const OURS: &str = r#"{"PublicIP":"192.168.7.11"}"#;
    const OTHERS: &str = r#"{"PublicIP":"192.168.7.12"}"#;

    fn record(value: &str, mod_revision: i64) -> Record {
        Record {
            name: "10.5.7.0-24".into(),
            value: value.into(),
            mod_revision,
            lease: 1,
        }
    }

    /// What a keeper whose last write was at revision 20 makes of a change.
    fn found(change: KeyChange) -> Finding {
        let store = Store::new(&EtcdConfig {
            endpoints: Vec::new(),
            prefix: "/coreos.com/network".into(),
            tls: TlsFiles::default(),
            credentials: None,
        });
        let mut keeper = Keeper {
            store: &store.unwrap(),
            timing: &Timing::new(Duration::from_secs(3_600)),
            term: &watch::channel(Term::Reserved).0,
            lease: HeldLease {
                subnet: crate::subnet::key::parse_key("10.5.7.0-24").unwrap(),
                attrs: parse_value(OURS.as_bytes()).unwrap(),
                term: Term::Reserved,
                key: "/coreos.com/network/subnets/10.5.7.0-24".into(),
                revision: 20,
            },
            repeats: VecDeque::new(),
        };
        keeper.look(change)
    }

    #[test]
    fn late_news_of_an_own_write_is_not_answered_by_another() {
        for revision in [9, 19, 20] {
            let put = KeyChange::Put(record(OURS, revision));
            assert_eq!(found(put), Finding::Own, "{revision}");
        }
    }

    #[test]
    fn in_a_store_that_has_gone_back_a_write_decides() {
        let changes = [
            KeyChange::Snapshot(vec![record(OURS, 9)], 15),
            // It has gone on since.
            KeyChange::Snapshot(vec![record(OURS, 9)], 30),
            KeyChange::Snapshot(Vec::new(), 15),
            KeyChange::Put(record(OTHERS, 9)),
            KeyChange::Deleted("10.5.7.0-24".into(), 15),
        ];
        for change in changes {
            let text = format!("{change:?}");
            assert_eq!(found(change), Finding::Rewrite, "{text}");
        }
    }
}
