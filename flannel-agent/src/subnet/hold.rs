//! Holding a lease for as long as the agent runs: kept while it can be, acquired again when it is
//! lost and the operator wants that.
//!
//! A lease that is gone is usually free: etcd was away for longer than a day, or somebody deleted
//! the key. The same subnet is then asked for first, and pods notice nothing. A node whose public
//! IP another node uses as well acquires nothing again: both would take the lease from each other
//! for ever.

use rand::Rng;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Timing;
use super::acquire::{AcquireError, HeldLease, Term, Wish, acquire};
use super::keep::{Loss, keep};
use super::store::Store;
use crate::lease::Subnet;
use crate::network::NetworkConfig;

/// What to do when the lease is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLoss {
    /// Give up, so that a supervisor starts everything anew.
    Exit,
    /// Acquire a lease again, the same subnet if it is free.
    Reacquire,
}

/// What happens to the lease.
#[derive(Debug)]
pub enum LeaseEvent<'a> {
    /// It is lost; another one is being acquired.
    Lost(&'a Loss),
    /// Another one is held, perhaps of the same subnet.
    Held(&'a HeldLease),
}

/// Why no lease is held any more.
#[derive(Debug, Error)]
pub enum HoldError {
    /// It was lost, and that is to be the end.
    #[error("the lease is lost")]
    Lost(#[source] Loss),
    /// It was lost, and there is no other.
    #[error("the lease is lost ({loss}), and no other one can be had")]
    NoOther {
        /// How it was lost.
        loss: Loss,
        /// Why there is no other.
        #[source]
        source: AcquireError,
    },
}

/// Where leases come from, and what is asked for.
pub struct Holder<'a> {
    /// The store.
    pub store: &'a Store,
    /// Which subnets there are.
    pub network: &'a NetworkConfig,
    /// What peers are told. `previous` does not matter.
    pub wish: &'a Wish,
    /// Durations.
    pub timing: &'a Timing,
    /// What to do about a loss.
    pub on_loss: OnLoss,
    /// Told how long the lease lasts.
    pub term: &'a watch::Sender<Term>,
}

impl Holder<'_> {
    /// Holds a lease until cancellation, telling `events` what happens to it.
    ///
    /// # Errors
    /// No lease is held any more.
    pub async fn hold(
        &self,
        mut lease: HeldLease,
        rng: &mut (impl Rng + Send),
        mut events: impl FnMut(LeaseEvent<'_>),
        cancel: &CancellationToken,
    ) -> Result<(), HoldError> {
        let Self {
            store,
            network,
            wish,
            timing,
            on_loss,
            term,
        } = self;
        loop {
            let subnet = lease.subnet;
            let Some(loss) = keep(store, lease, timing, term, cancel).await else {
                return Ok(());
            };
            if *on_loss == OnLoss::Exit || matches!(loss, Loss::SharedPublicIp { .. }) {
                return Err(HoldError::Lost(loss));
            }
            warn!(%loss, "acquiring a lease again");
            events(LeaseEvent::Lost(&loss));
            let wish = Wish {
                previous: Some(subnet),
                ..(*wish).clone()
            };
            let Some(acquired) = acquire(store, network, &wish, timing, rng, None, cancel).await
            else {
                return Ok(());
            };
            lease = acquired.map_err(|source| HoldError::NoOther { loss, source })?;
            tell(subnet, lease.subnet);
            term.send_replace(lease.term);
            events(LeaseEvent::Held(&lease));
        }
    }
}

fn tell(before: Subnet, now: Subnet) {
    if before == now {
        info!(subnet = %now, "the same subnet is leased again, nothing changes for pods");
    } else {
        warn!(
            %before, %now,
            "this node has another subnet: pods with addresses of the one before cannot be \
             reached; restart Docker with new options, or the pods"
        );
    }
}
