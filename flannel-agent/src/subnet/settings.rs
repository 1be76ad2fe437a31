//! The network config from `<prefix>/config`: waits until it is there and right.

use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Timing;
use super::retry::Patience;
use super::store::{Store, StoreError};
use crate::network::{NetworkConfig, NetworkError};

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
         (A config written for flannel v0.17 or older is in the v2 store, which is not visible \
         here: ETCDCTL_API=2 etcdctl get {key})"
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
    /// The document cannot be used.
    #[error("key {key}: {source}")]
    Network {
        /// The key.
        key: String,
        /// What is wrong with it.
        source: NetworkError,
    },
}

/// Reads the network config once.
///
/// # Errors
/// It is not there, or not right, or the store failed.
pub async fn read_network(store: &Store) -> Result<NetworkConfig, SettingsError> {
    let key = store.config_key();
    let (record, _) = store.get("read the network config", &key).await?;
    let Some(record) = record else {
        let endpoints = store.endpoints().join(",");
        return Err(SettingsError::Missing { key, endpoints });
    };
    let Ok(text) = std::str::from_utf8(&record.value) else {
        return Err(SettingsError::NotText { key });
    };
    let (network, warnings) = NetworkConfig::parse(text).map_err(|source| {
        let key = key.clone();
        SettingsError::Network { key, source }
    })?;
    for warning in warnings {
        warn!(key, %warning, "the network config is unusual");
    }
    Ok(network)
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
