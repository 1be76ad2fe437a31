//! The network config from `<prefix>/config`: waits until it is there and right, and tells when it
//! changes afterwards. A change is applied by a restart, never while the agent runs: half of it
//! would be worse than none, and the whole of it would move every pod.

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Timing;
use super::follow::{KeyChange, Range, follow};
use super::retry::Patience;
use super::store::{Record, Store, StoreError};
use crate::network::{NetworkConfig, NetworkError};
use crate::status;

/// Why the network config cannot be had.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such key.
    #[error(
        "key {key} is missing at {endpoints}. Write it: ETCDCTL_API=3 etcdctl \
         --endpoints={endpoints} put {key} \
         '{{\"Network\": \"10.5.0.0/16\", \"Backend\": {{\"Type\": \"vxlan\"}}}}'. \
         A config that was written for flannel v0.17 or older is in etcd's v2 store: the v2 and v3 \
         stores of one etcd are apart and do not see each other's keys, and only v3 is read here. \
         Copy it: ETCDCTL_API=2 etcdctl --endpoints={endpoints} get {key} | ETCDCTL_API=3 etcdctl \
         --endpoints={endpoints} put {key}"
    )]
    Missing {
        /// The key.
        key: String,
        /// Where it was looked for.
        endpoints: String,
    },
    /// The document is not UTF-8.
    #[error("key {key}: the value is not UTF-8")]
    NotText {
        /// The key.
        key: String,
    },
    /// The document asks for IPv6.
    #[error(
        "key {key}: EnableIPv6 is true, which this version cannot do yet; supported: \
         \"EnableIPv6\": false"
    )]
    NoIpv6 {
        /// The key.
        key: String,
    },
    /// The document cannot be used.
    #[error("key {key}: {source}")]
    Network {
        /// The key.
        key: String,
        /// What is wrong with it.
        source: NetworkError,
    },
}

/// Follows the network config until cancellation, and says in `notice` what a restart would change
/// or what would keep it from starting; `None` while all is as at start.
pub async fn watch_network(
    store: &Store,
    running: &NetworkConfig,
    timing: &Timing,
    notice: &watch::Sender<Option<String>>,
    cancel: &CancellationToken,
) {
    let key = store.config_key();
    let (raw, mut changes) = mpsc::channel(4);
    // The health of the store is told by the watch of all leases.
    let (health, _) = watch::channel(status::Store::default());
    let range = Range::Key(key.clone());
    let look = async {
        while let Some(change) = changes.recv().await {
            let record = match change {
                KeyChange::Snapshot(records, _) => records.into_iter().next(),
                KeyChange::Put(record) => Some(record),
                KeyChange::Deleted(..) => None,
            };
            let now = compare(store, &key, running, record);
            notice.send_if_modified(|before| {
                if *before == now {
                    return false;
                }
                match &now {
                    Some(text) => warn!("{text}"),
                    None => info!(key, "the network config is again as it was at start"),
                }
                *before = now;
                true
            });
        }
    };
    tokio::join!(
        follow(store, &range, timing, None, raw, &health, cancel),
        look
    );
}

/// What there is to say of the document as it is in the store.
fn compare(
    store: &Store,
    key: &str,
    running: &NetworkConfig,
    record: Option<Record>,
) -> Option<String> {
    match parse(store, key.to_owned(), record) {
        Ok((network, _)) => {
            let differences = running.differences(&network);
            (!differences.is_empty()).then(|| {
                let differences = differences.join(", ");
                format!(
                    "the network config has changed ({differences}): this agent goes on with the \
                     one before until it is restarted"
                )
            })
        }
        Err(error) => Some(format!(
            "the network config has become unusable, and this agent would not start again: {error}"
        )),
    }
}

/// Reads the network config once.
///
/// # Errors
/// It is not there, or not right, or the store failed.
pub async fn read_network(store: &Store) -> Result<NetworkConfig, SettingsError> {
    let key = store.config_key();
    let (record, _) = store.get("read the network config", &key).await?;
    let (network, warnings) = parse(store, key.clone(), record)?;
    for warning in warnings {
        warn!(key, %warning, "the network config is unusual");
    }
    Ok(network)
}

/// The document, and warnings about it.
fn parse(
    store: &Store,
    key: String,
    record: Option<Record>,
) -> Result<(NetworkConfig, Vec<String>), SettingsError> {
    let Some(record) = record else {
        let endpoints = store.endpoints().join(",");
        return Err(SettingsError::Missing { key, endpoints });
    };
    let Ok(text) = std::str::from_utf8(&record.value) else {
        return Err(SettingsError::NotText { key });
    };
    let (network, warnings) = match NetworkConfig::parse(text) {
        Ok(parsed) => parsed,
        Err(source) => return Err(SettingsError::Network { key, source }),
    };
    // Half of it would be a lease with an IPv6 subnet that nothing leads to.
    if network.ipv6.is_some() {
        return Err(SettingsError::NoIpv6 { key });
    }
    Ok((network, warnings))
}

/// Waits for a network config that can be used; `None` after cancellation.
///
/// Whatever is wrong is said at once and again at widening intervals, and is tried again every
/// [`Timing::retry`], so that an operator's correction takes effect by itself.
pub async fn wait_for_network(
    store: &Store,
    timing: &Timing,
    cancel: &CancellationToken,
) -> Option<NetworkConfig> {
    let mut patience = Patience::new(timing.retry);
    loop {
        let read = tokio::select! {
            () = cancel.cancelled() => return None,
            read = read_network(store) => read,
        };
        match read {
            Ok(network) => {
                patience.end();
                return Some(network);
            }
            Err(error) => {
                if !patience.wait(&error, cancel).await {
                    return None;
                }
            }
        }
    }
}
