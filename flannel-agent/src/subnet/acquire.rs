//! Getting a lease: the one that carries this node's public IP, else the subnet of an earlier
//! start, else a free one at random (flannel `pkg/subnet/etcd/local_manager.go`).
//!
//! Every write compares: nodes that start at the same instant may choose the same subnet, and
//! whoever loses reads the list again and goes on until the pool is exhausted. A key without an
//! etcd lease is a reservation by the operator and stays one.

use std::net::Ipv4Addr;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use rand::Rng;
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::retry::Patience;
use super::store::{Listing, Record, Store, StoreError};
use super::value::format_value;
use super::watch::read_lease;
use super::{Timing, alloc, key};
use crate::lease::{Lease, LeaseAttrs, Subnet};
use crate::network::NetworkConfig;

/// What this node wants to hold.
#[derive(Debug, Clone)]
pub struct Wish {
    /// What peers need to know about this node.
    pub attrs: LeaseAttrs,
    /// Subnet of an earlier start, from `subnet.env`.
    pub previous: Option<Subnet>,
    /// Public IP of an earlier start, where it was another one.
    pub former_ip: Option<Ipv4Addr>,
}

/// The lease of this node.
#[derive(Debug, Clone)]
pub struct HeldLease {
    /// What is leased.
    pub subnet: Subnet,
    /// What the store says about this node.
    pub attrs: LeaseAttrs,
    /// For how long.
    pub term: Term,
    /// The whole key.
    pub(super) key: String,
    /// Revision of the own last write.
    pub(super) revision: i64,
}

/// How long a lease lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// For ever: the key has no etcd lease.
    Reserved,
    /// Until then, unless it is renewed.
    Until(Instant),
}

/// Why there is no lease.
#[derive(Debug, Error)]
pub enum AcquireError {
    /// The store failed; trying again makes sense.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// All subnets are taken.
    #[error(
        "no free subnet is left from {first} to {last}: widen SubnetMin, SubnetMax or Network, or \
         delete leases of nodes that are gone"
    )]
    Exhausted {
        /// First subnet of the range.
        first: String,
        /// Last subnet of the range.
        last: String,
    },
    /// Leases in etcd are keyed by their IPv4 subnet.
    #[error("EnableIPv4 is false: leases in etcd need an IPv4 subnet")]
    NoIpv4,
    /// The value cannot be written as JSON.
    #[error("write the lease as JSON: {0}")]
    Value(#[from] serde_json::Error),
}

/// Outcome of a comparing write.
pub(super) enum Written {
    /// Done, at this revision.
    Done { revision: i64, term: Term },
    /// Somebody else was faster; the key as it is.
    Lost(Option<Record>),
}

/// Acquires a lease, trying again while the store fails; `None` after cancellation. Begins with the
/// leases of `known`, if they have been listed already: what is written compares.
pub async fn acquire(
    store: &Store,
    network: &NetworkConfig,
    wish: &Wish,
    timing: &Timing,
    rng: &mut (impl Rng + Send),
    mut known: Option<&Listing>,
    cancel: &CancellationToken,
) -> Option<Result<HeldLease, AcquireError>> {
    let mut patience = Patience::new(timing.retry);
    loop {
        let acquired = tokio::select! {
            () = cancel.cancelled() => return None,
            acquired = acquire_once(store, network, wish, timing, rng, known.take()) => acquired,
        };
        match acquired {
            Err(error @ AcquireError::Store(_)) => {
                if !patience.wait(&error, cancel).await {
                    return None;
                }
            }
            done => {
                patience.end();
                return Some(done);
            }
        }
    }
}

async fn acquire_once(
    store: &Store,
    network: &NetworkConfig,
    wish: &Wish,
    timing: &Timing,
    rng: &mut (impl Rng + Send),
    mut known: Option<&Listing>,
) -> Result<HeldLease, AcquireError> {
    let value = format_value(&wish.attrs)?;
    let prefix = store.lease_prefix();
    // Each round that loses a race has seen somebody else win, so the rounds end.
    loop {
        let listed;
        let records = match known.take() {
            Some(known) => &known.records,
            None => {
                (listed, _) = store.list("list leases", &prefix).await?;
                &listed
            }
        };
        let mut taken: Vec<Subnet> = records
            .iter()
            .filter_map(|record| key::parse_key(&record.name).ok())
            .collect();

        if let Some((record, lease)) = find_own(records, wish, network) {
            if fits(&lease.subnet, network) {
                // A node that remembers the address has other data since it was set up anew.
                if wish.former_ip != Some(lease.attrs.public_ip) {
                    warn_of_another(&lease, &wish.attrs);
                }
                let key = format!("{prefix}{}", record.name);
                let ttl = (record.lease != 0).then_some(timing.lease_ttl);
                let write = replace(store, &key, &value, record.mod_revision, ttl).await?;
                let Written::Done { revision, term } = write else {
                    continue;
                };
                let is_reserved = term == Term::Reserved;
                let former_ip = lease.attrs.public_ip;
                if former_ip != wish.attrs.public_ip {
                    let public_ip = wish.attrs.public_ip;
                    info!(subnet = %lease.subnet, %former_ip, %public_ip, "the lease gets the new public IP");
                }
                info!(subnet = %lease.subnet, is_reserved, "the lease of this node is taken back");
                return Ok(held(wish, lease.subnet, term, key, revision));
            }
            warn!(
                subnet = %lease.subnet,
                "the lease of this node does not fit the network config, it is given up"
            );
            if !delete(
                store,
                &format!("{prefix}{}", record.name),
                record.mod_revision,
            )
            .await?
            {
                continue;
            }
            taken.retain(|subnet| *subnet != lease.subnet);
        }

        let previous = wish.previous.filter(|previous| {
            fits(previous, network) && !taken.iter().any(|other| overlap(previous, other))
        });
        let subnet = match previous {
            Some(previous) => previous,
            None => choose(network, &taken, rng)?,
        };
        let key = format!("{prefix}{}", key::format_key(&subnet));
        let write = replace(store, &key, &value, 0, Some(timing.lease_ttl)).await?;
        if let Written::Done { revision, term } = write {
            info!(%subnet, "a lease is acquired");
            return Ok(held(wish, subnet, term, key, revision));
        }
        info!(%subnet, "another node was faster, choosing again");
    }
}

fn held(wish: &Wish, subnet: Subnet, term: Term, key: String, revision: i64) -> HeldLease {
    HeldLease {
        subnet,
        attrs: wish.attrs.clone(),
        term,
        key,
        revision,
    }
}

/// Leases that carry a public IP.
fn leases_of(records: &[Record], ip: Ipv4Addr) -> impl Iterator<Item = (&Record, Lease)> {
    let text = ip.to_string();
    // Of ten thousand, all but a few need not be read.
    let may_carry = move |value: &[u8]| {
        let mut windows = value.windows(text.len());
        windows.any(|it| it == text.as_bytes()) || value.contains(&b'\\')
    };
    let leases = records
        .iter()
        .filter(move |record| may_carry(&record.value))
        .filter_map(|record| Some((record, read_lease(record).ok()?)));
    leases.filter(move |(_, lease)| lease.attrs.public_ip == ip)
}

/// The lease that carries this node's public IP. Of several (somebody else wrote one by hand, or
/// uses the same address) the subnet of the earlier start goes first, then one that fits; flannel
/// takes the first in the order of the keys, and so can be made to change its subnet.
fn find_own<'a>(
    records: &'a [Record],
    wish: &Wish,
    network: &NetworkConfig,
) -> Option<(&'a Record, Lease)> {
    let own = leases_of(records, wish.attrs.public_ip).min_by_key(|(_, lease)| {
        let is_kept = wish.previous == Some(lease.subnet);
        let is_fit = fits(&lease.subnet, network);
        (!(is_fit && is_kept), !is_fit)
    });
    own.or_else(|| find_former(records, wish))
}

/// The lease that this node wrote before its public IP changed: same subnet, same device. Without
/// that a node whose address changes would leave its subnet, and the addresses of its pods.
fn find_former<'a>(records: &'a [Record], wish: &Wish) -> Option<(&'a Record, Lease)> {
    let data = |attrs: &LeaseAttrs| {
        attrs
            .backend_data
            .as_ref()
            .map(|data| data.get().to_owned())
    };
    leases_of(records, wish.former_ip?).find(|(_, lease)| {
        wish.previous == Some(lease.subnet)
            && lease.attrs.backend_type == wish.attrs.backend_type
            && data(&lease.attrs) == data(&wish.attrs)
    })
}

/// Lists all leases, trying again while the store fails; `None` after cancellation.
pub async fn list_leases(
    store: &Store,
    timing: &Timing,
    cancel: &CancellationToken,
) -> Option<Listing> {
    let mut patience = Patience::new(timing.retry);
    let prefix = store.lease_prefix();
    loop {
        let listed = tokio::select! {
            () = cancel.cancelled() => return None,
            listed = store.list("list leases", &prefix) => listed,
        };
        match listed {
            Ok((records, revision)) => {
                patience.end();
                return Some(Listing { records, revision });
            }
            Err(error) => {
                if !patience.wait(&error, cancel).await {
                    return None;
                }
            }
        }
    }
}

/// The lease that carries a public IP.
#[must_use]
pub fn find_lease(listing: &Listing, public_ip: Ipv4Addr) -> Option<Lease> {
    let (_, lease) = leases_of(&listing.records, public_ip).next()?;
    Some(lease)
}

/// A lease with this node's public IP may be another node's (flannel issues 805, 1289): a clone, or
/// a node behind the same NAT. That cannot be told from a node that has lost its state, so it is
/// said, and [`super::keep`] finds out when the other one writes.
fn warn_of_another(found: &Lease, own: &LeaseAttrs) {
    let text = |attrs: &LeaseAttrs| match &attrs.backend_data {
        Some(data) => data.get().to_owned(),
        None => "none".into(),
    };
    let (written, own_data) = (text(&found.attrs), text(own));
    if written != own_data {
        warn!(
            subnet = %found.subnet,
            public_ip = %own.public_ip,
            written,
            own = own_data,
            "the lease with the public IP of this node was written with other backend data: by \
             this node before it lost its state, or by another node that has the same public IP \
             and must be given its own with --public-ip"
        );
    }
}

/// Whether a subnet is one that the network config allows.
fn fits(subnet: &Subnet, network: &NetworkConfig) -> bool {
    let v4 = network.ipv4.is_some_and(|overlay| {
        let range = overlay.subnets;
        subnet.v4.prefix() == range.len && (range.min..=range.max).contains(&subnet.v4)
    });
    let v6 = match (network.ipv6, subnet.v6) {
        (None, None) => true,
        (Some(overlay), Some(v6)) => {
            let range = overlay.subnets;
            v6.prefix() == range.len && (range.min..=range.max).contains(&v6)
        }
        _ => false,
    };
    v4 && v6
}

fn overlap(one: &Subnet, other: &Subnet) -> bool {
    let v6 = match (one.v6, other.v6) {
        (Some(one), Some(other)) => one.overlaps(other),
        _ => false,
    };
    one.v4.overlaps(other.v4) || v6
}

fn choose(
    network: &NetworkConfig,
    taken: &[Subnet],
    rng: &mut impl Rng,
) -> Result<Subnet, AcquireError> {
    let range = network.ipv4.ok_or(AcquireError::NoIpv4)?.subnets;
    let v4 = alloc::choose_ipv4(&range, taken.iter().map(|subnet| subnet.v4), rng);
    let v4 = v4.ok_or_else(|| AcquireError::Exhausted {
        first: range.min.to_string(),
        last: range.max.to_string(),
    })?;
    let v6 = network.ipv6.map(|overlay| {
        let range = overlay.subnets;
        let taken = taken.iter().filter_map(|subnet| subnet.v6);
        let chosen = alloc::choose_ipv6(&range, taken, rng);
        chosen.ok_or_else(|| AcquireError::Exhausted {
            first: range.min.to_string(),
            last: range.max.to_string(),
        })
    });
    Ok(Subnet {
        v4,
        v6: v6.transpose()?,
    })
}

/// Writes a key if its last write was at `expected` (0: if it does not exist), under a new etcd
/// lease or, with no time given, under none.
pub(super) async fn replace(
    store: &Store,
    key: &str,
    value: &[u8],
    expected: i64,
    ttl: Option<Duration>,
) -> Result<Written, StoreError> {
    // The time counts from before the grant: better early than late.
    let asked = Instant::now();
    let grant = match ttl {
        Some(ttl) => Some(grant(store, ttl).await?),
        None => None,
    };
    let (lease, term) = match grant {
        Some((lease, granted)) => (lease, Term::Until(asked + granted)),
        None => (0, Term::Reserved),
    };
    let call = |mut client: Client| {
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, expected)])
            .and_then([put])
            .or_else([TxnOp::get(key, None)]);
        async move { client.txn(txn).await }
    };
    let answer = store.call("write the lease", call).await;
    match answer {
        Ok(answer) if answer.succeeded() => Ok(Written::Done {
            revision: answer.header().map_or(0, |header| header.revision()),
            term,
        }),
        Ok(answer) => {
            let found = answer
                .op_responses()
                .into_iter()
                .find_map(|answer| match answer {
                    TxnOpResponse::Get(found) => found.kvs().first().cloned(),
                    _ => None,
                });
            let record = found.map(|kv| Record::new(&kv, &store.lease_prefix()));
            match record {
                // The own write, of which only the answer was lost: it was made at one endpoint
                // and then tried again at the next.
                Some(record) if record.lease == lease && record.value == value => {
                    let revision = record.mod_revision;
                    Ok(Written::Done { revision, term })
                }
                record => {
                    revoke(store, lease).await;
                    Ok(Written::Lost(record))
                }
            }
        }
        // Perhaps it was written: then the key keeps this etcd lease, so it is not revoked.
        Err(error) => Err(error),
    }
}

async fn delete(store: &Store, key: &str, expected: i64) -> Result<bool, StoreError> {
    let call = |mut client: Client| {
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, expected)])
            .and_then([TxnOp::delete(key, None)]);
        async move { client.txn(txn).await }
    };
    let answer = store.call("delete the lease", call).await?;
    Ok(answer.succeeded())
}

/// A new etcd lease, and the time that etcd grants.
async fn grant(store: &Store, ttl: Duration) -> Result<(i64, Duration), StoreError> {
    let secs = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    let call = |mut client: Client| async move { client.lease_grant(secs, None).await };
    let answer = store.call("grant a lease", call).await?;
    let granted = Duration::from_secs(answer.ttl().unsigned_abs());
    Ok((answer.id(), granted))
}

/// Gives an unused etcd lease back; if that fails it runs out by itself.
async fn revoke(store: &Store, lease: i64) {
    if lease != 0 {
        let call = |mut client: Client| async move { client.lease_revoke(lease).await };
        let _ = store.call("revoke a lease", call).await;
    }
}
