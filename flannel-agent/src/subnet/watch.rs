//! The leases of all nodes: raw keys made into [`LeaseChange`]s.
//!
//! A key or value that cannot be read is logged once, listed in the status and skipped. If the key
//! held a good lease before, that lease stays: no peer is lost to an error.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Timing;
use super::follow::{KeyChange, Range, follow};
use super::key::parse_key;
use super::store::{Listing, Record, Store};
use super::value::parse_value;
use crate::lease::{Lease, LeaseChange, Subnet};
use crate::status;

/// Changes that wait for the translation.
const QUEUE: usize = 256;

/// Follows all leases until cancellation, or until nobody listens.
///
/// The first change is a snapshot, of `known` if leases have been listed already; another one
/// follows each interruption. `health` tells whether
/// the watch is alive, and is kept up to date for the status document.
pub async fn watch_leases(
    store: &Store,
    timing: &Timing,
    known: Option<Listing>,
    changes: mpsc::Sender<LeaseChange>,
    health: watch::Sender<status::Store>,
    cancel: &CancellationToken,
) {
    let (raw, mut received) = mpsc::channel(QUEUE);
    let range = Range::Prefix(store.lease_prefix());
    let shown = &health;
    let translate = async move {
        let mut reader = Reader::default();
        while let Some(change) = received.recv().await {
            let change = reader.translate(change);
            // There may be thousands: not for each of those that come at once.
            if received.is_empty() && std::mem::take(&mut reader.has_news) {
                let unreadable = reader.unreadable();
                shown.send_modify(|health| health.unreadable = unreadable);
            }
            let Some(change) = change else { continue };
            tokio::select! {
                () = cancel.cancelled() => break,
                sent = changes.send(change) => if sent.is_err() { break },
            }
        }
        // Tells the follower that nobody listens.
        drop(received);
    };
    tokio::join!(
        follow(store, &range, timing, known, raw, &health, cancel),
        translate
    );
}

/// What is known about the keys.
#[derive(Debug, Default)]
struct Reader {
    /// Leases by the name of their key; names of one IPv4 subnet are neighbours in this order.
    leases: BTreeMap<String, Lease>,
    /// Names of keys that cannot be read, with the reason.
    bad: BTreeMap<String, String>,
    /// Whether those are others than have been shown.
    has_news: bool,
}

impl Reader {
    fn translate(&mut self, change: KeyChange) -> Option<LeaseChange> {
        match change {
            KeyChange::Snapshot(records, _) => {
                self.take_snapshot(records);
                Some(LeaseChange::Snapshot(
                    self.leases.values().cloned().collect(),
                ))
            }
            KeyChange::Put(record) => {
                let lease = self.read(&record)?;
                self.leases.insert(record.name, lease.clone());
                Some(LeaseChange::Put(lease))
            }
            KeyChange::Deleted(name, _) => {
                self.has_news |= self.bad.remove(&name).is_some();
                let subnet = self.leases.remove(&name)?.subnet;
                // A dual-stack key and an IPv4 key may name the same IPv4 subnet.
                Some(match self.lease_of(subnet) {
                    Some(other) => LeaseChange::Put(other.clone()),
                    None => LeaseChange::Removed(subnet),
                })
            }
        }
    }

    fn take_snapshot(&mut self, records: Vec<Record>) {
        let mut before = std::mem::take(&mut self.leases);
        let mut bad = std::mem::take(&mut self.bad);
        let there: BTreeSet<&str> = records.iter().map(|record| &*record.name).collect();
        bad.retain(|name, _| there.contains(&**name));
        self.bad = bad;
        self.has_news = true;
        for record in records {
            if let Some(lease) = self.read(&record).or_else(|| before.remove(&record.name)) {
                self.leases.insert(record.name, lease);
            }
        }
    }

    fn lease_of(&self, subnet: Subnet) -> Option<&Lease> {
        let first = super::key::format_key(&Subnet { v6: None, ..subnet });
        let same = self.leases.range(first..).map(|(_, lease)| lease);
        same.take(2).find(|lease| lease.subnet.v4 == subnet.v4)
    }

    /// Reads a record; what cannot be read is said once.
    fn read(&mut self, record: &Record) -> Option<Lease> {
        match read_lease(record) {
            Ok(lease) => {
                self.has_news |= self.bad.remove(&record.name).is_some();
                Some(lease)
            }
            Err(reason) => {
                let known = self.bad.insert(record.name.clone(), reason.clone());
                if known.as_ref() != Some(&reason) {
                    self.has_news = true;
                    warn!(key = record.name, %reason, "this key is skipped");
                }
                None
            }
        }
    }

    fn unreadable(&self) -> Vec<status::UnreadableKey> {
        let entry = |(key, reason): (&String, &String)| status::UnreadableKey {
            key: key.clone(),
            reason: reason.clone(),
        };
        self.bad.iter().map(entry).collect()
    }
}

/// A record as a lease, or why it is none.
pub(super) fn read_lease(record: &Record) -> Result<Lease, String> {
    let subnet = parse_key(&record.name).map_err(|error| format!("the key is {error}"))?;
    let attrs = parse_value(&record.value).map_err(|error| error.to_string())?;
    Ok(Lease { subnet, attrs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, value: &str) -> Record {
        Record {
            name: name.into(),
            value: value.into(),
            mod_revision: 1,
            lease: 0,
        }
    }

    fn ip(last: u8) -> String {
        format!(r#"{{"PublicIP":"192.168.7.{last}"}}"#)
    }

    fn subnets(change: Option<LeaseChange>) -> Vec<String> {
        match change {
            Some(LeaseChange::Snapshot(leases)) => leases
                .iter()
                .map(|lease| lease.subnet.to_string())
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn d3_a_bad_key_or_value_costs_only_itself() {
        let mut reader = Reader::default();
        let records = vec![
            record("10.5.1.0-24", &ip(1)),
            record("junk", &ip(2)),
            record("10.5.3.0-24", "no JSON"),
            record("10.5.4.0-24", &ip(4)),
        ];
        let change = reader.translate(KeyChange::Snapshot(records, 7));
        assert_eq!(subnets(change), ["10.5.1.0/24", "10.5.4.0/24"]);
        let bad: Vec<_> = reader.unreadable().into_iter().map(|bad| bad.key).collect();
        assert_eq!(bad, ["10.5.3.0-24", "junk"]);
        assert_eq!(
            reader.translate(KeyChange::Put(record("more junk", ""))),
            None
        );
        assert_eq!(reader.translate(KeyChange::Deleted("junk".into(), 9)), None);
        let healed = reader.translate(KeyChange::Put(record("10.5.3.0-24", &ip(3))));
        assert!(matches!(healed, Some(LeaseChange::Put(_))), "{healed:?}");
        assert_eq!(reader.unreadable().len(), 1);
    }

    #[test]
    fn a_good_lease_outlives_a_bad_value_until_its_key_goes() {
        let mut reader = Reader::default();
        reader.translate(KeyChange::Put(record("10.5.1.0-24", &ip(1))));
        assert_eq!(
            reader.translate(KeyChange::Put(record("10.5.1.0-24", "?"))),
            None
        );
        let records = vec![record("10.5.1.0-24", "?")];
        let change = reader.translate(KeyChange::Snapshot(records, 7));
        assert_eq!(subnets(change), ["10.5.1.0/24"]);
        let gone = reader.translate(KeyChange::Deleted("10.5.1.0-24".into(), 8));
        assert!(matches!(gone, Some(LeaseChange::Removed(_))), "{gone:?}");
        assert!(reader.unreadable().is_empty());
    }

    #[test]
    fn a_key_that_is_not_in_a_snapshot_is_gone() {
        let mut reader = Reader::default();
        reader.translate(KeyChange::Put(record("10.5.1.0-24", &ip(1))));
        let records = vec![record("10.5.2.0-24", &ip(2))];
        assert_eq!(
            subnets(reader.translate(KeyChange::Snapshot(records, 7))),
            ["10.5.2.0/24"]
        );
    }

    #[test]
    fn of_two_keys_of_one_ipv4_subnet_the_end_of_one_leaves_the_other() {
        let mut reader = Reader::default();
        reader.translate(KeyChange::Put(record("10.5.1.0-24", &ip(1))));
        reader.translate(KeyChange::Put(record("10.5.1.0-24&fd00:5::-64", &ip(2))));
        let change = reader.translate(KeyChange::Deleted("10.5.1.0-24".into(), 8));
        let Some(LeaseChange::Put(left)) = change else {
            panic!("{change:?}");
        };
        assert_eq!(left.attrs.public_ip.octets(), [192, 168, 7, 2]);
    }
}
