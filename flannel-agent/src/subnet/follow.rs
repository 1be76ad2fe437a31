//! Following keys: a list, then a watch from the revision of the list, for ever.
//!
//! Whatever ends the watch (an error, compaction, a member that went silent) leads to a pause, a
//! new list and a new watch. What is known stays known meanwhile.

use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchStream};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Timing;
use super::retry::Reminder;
use super::store::{Listing, Record, Store, reason};
use crate::backoff::Backoff;
use crate::status;

/// How long etcd may take to confirm a watch.
const CONFIRMATION: Duration = Duration::from_secs(5);

/// What is followed.
#[derive(Debug, Clone)]
pub(super) enum Range {
    /// One key.
    Key(String),
    /// All keys that start so.
    Prefix(String),
}

/// What happened to the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyChange {
    /// All keys at one revision.
    Snapshot(Vec<Record>, i64),
    /// A key was written.
    Put(Record),
    /// A key was deleted, or its lease ran out, at a revision.
    Deleted(String, i64),
}

/// Why following stopped.
enum Interruption {
    /// Nobody listens any more.
    Unwanted,
    /// The watch is lost.
    Lost(String),
}

/// Follows keys until cancellation, or until nobody listens; from `known` on, if they have been listed
/// already.
pub(super) async fn follow(
    store: &Store,
    range: &Range,
    timing: &Timing,
    mut known: Option<Listing>,
    changes: mpsc::Sender<KeyChange>,
    health: &watch::Sender<status::Store>,
    cancel: &CancellationToken,
) {
    let mut rng = StdRng::from_os_rng();
    let mut backoff = Backoff::new(timing.backoff_first, timing.backoff_limit);
    let mut reminder = Reminder::new(Instant::now());
    health.send_modify(|health| health.endpoints = store.endpoints());
    loop {
        let alive = || {
            backoff.reset();
            if reminder.clear(Instant::now()) {
                info!(?range, "etcd is being followed again");
            }
        };
        let ended = tokio::select! {
            () = cancel.cancelled() => return,
            ended = follow_once(store, range, timing, known.take(), &changes, health, alive) => ended,
        };
        let Interruption::Lost(error) = ended else {
            return;
        };
        if reminder.is_due(&error, Instant::now()) {
            warn!(?range, %error, "etcd is not being followed, trying again");
        }
        health.send_modify(|health| {
            health.connected = false;
            health.error = Some(error);
        });
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay(&mut rng)) => {}
        }
    }
}

async fn follow_once(
    store: &Store,
    range: &Range,
    timing: &Timing,
    known: Option<Listing>,
    changes: &mpsc::Sender<KeyChange>,
    health: &watch::Sender<status::Store>,
    alive: impl FnOnce(),
) -> Interruption {
    match try_follow(store, range, timing, known, changes, health, alive).await {
        Err(ended) => ended,
        Ok(never) => match never {},
    }
}

async fn try_follow(
    store: &Store,
    range: &Range,
    timing: &Timing,
    known: Option<Listing>,
    changes: &mpsc::Sender<KeyChange>,
    health: &watch::Sender<status::Store>,
    alive: impl FnOnce(),
) -> Result<std::convert::Infallible, Interruption> {
    let unwanted = |_| Interruption::Unwanted;
    // A watch tells what has changed since, however long that was.
    let (records, mut revision) = match known {
        Some(Listing { records, revision }) => (records, revision),
        None => list(store, range).await?,
    };
    let snapshot = KeyChange::Snapshot(records, revision);
    changes.send(snapshot).await.map_err(unwanted)?;
    let mut stream = open(store, range, revision + 1).await?;
    alive();
    health.send_modify(|health| {
        health.connected = true;
        health.error = None;
    });

    let prefix = range.prefix();
    let mut patience = timing.idle;
    loop {
        health.send_if_modified(|health| {
            let changed = health.revision != revision;
            health.revision = revision;
            changed
        });
        let Ok(message) = timeout(patience, stream.message()).await else {
            if patience == timing.sign_of_life {
                return Err(Interruption::Lost("the watch gives no sign of life".into()));
            }
            stream.request_progress().await.map_err(lost)?;
            patience = timing.sign_of_life;
            continue;
        };
        patience = timing.idle;
        let Some(message) = message.map_err(lost)? else {
            return Err(Interruption::Lost("etcd closed the watch".into()));
        };
        if message.canceled() {
            // After this etcd keeps the stream open and silent.
            return Err(Interruption::Lost(match message.compact_revision() {
                0 => format!("etcd ended the watch: {}", message.cancel_reason()),
                at => format!("etcd ended the watch: history was compacted up to revision {at}"),
            }));
        }
        if let Some(header) = message.header() {
            revision = revision.max(header.revision());
        }
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            let record = Record::new(kv, prefix);
            let change = match event.event_type() {
                EventType::Put => KeyChange::Put(record),
                EventType::Delete => KeyChange::Deleted(record.name, record.mod_revision),
            };
            changes.send(change).await.map_err(unwanted)?;
        }
    }
}

async fn list(store: &Store, range: &Range) -> Result<(Vec<Record>, i64), Interruption> {
    let listed = match range {
        Range::Prefix(prefix) => store.list("list leases", prefix).await,
        Range::Key(key) => {
            let found = store.get("read the key", key).await;
            found.map(|(record, revision)| (record.into_iter().collect(), revision))
        }
    };
    listed.map_err(|error| Interruption::Lost(error.to_string()))
}

/// Opens a watch and waits for etcd's confirmation.
async fn open(store: &Store, range: &Range, from: i64) -> Result<WatchStream, Interruption> {
    let options = WatchOptions::new()
        .with_start_revision(from)
        .with_fragment();
    let (key, options) = match range {
        Range::Key(key) => (key, options),
        Range::Prefix(prefix) => (prefix, options.with_prefix()),
    };
    let call = |mut client: Client| {
        let (key, options) = (key.clone(), options.clone());
        async move { client.watch(key, Some(options)).await }
    };
    let stream = store.call("watch leases", call).await;
    let mut stream = stream.map_err(|error| Interruption::Lost(error.to_string()))?;
    match timeout(CONFIRMATION, stream.message()).await {
        Ok(Ok(Some(first))) if first.created() && !first.canceled() => Ok(stream),
        Ok(Ok(Some(first))) => {
            let text = format!("etcd refuses the watch: {}", first.cancel_reason());
            Err(Interruption::Lost(text))
        }
        Ok(Ok(None)) => Err(Interruption::Lost("etcd closed the watch".into())),
        Ok(Err(error)) => Err(lost(error)),
        Err(_) => Err(Interruption::Lost("etcd does not confirm the watch".into())),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it stands where an error is mapped"
)]
fn lost(error: etcd_client::Error) -> Interruption {
    Interruption::Lost(format!("the watch broke: {}", reason(&error)))
}

impl Range {
    /// What the names of records are relative to.
    fn prefix(&self) -> &str {
        match self {
            Self::Key(key) => key,
            Self::Prefix(prefix) => prefix,
        }
    }
}
