//! Writing leases to etcd: many at once, or at a steady rate.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use etcd_client::{Client, PutOptions, Txn, TxnOp};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use super::lease::FakeLease;
use crate::etcd;
use crate::netns::NetNs;

/// Operations of one transaction; etcd takes no more by default (`--max-txn-ops`).
const TRANSACTION: usize = 128;
/// Life of the etcd lease behind all keys, seconds: flannel's.
const TTL: i64 = 24 * 3600;

/// A connection to etcd, to be used inside of [`connected`].
pub(super) struct Connection {
    client: Client,
    /// What the keys expire with, as keys of real nodes do.
    lease: i64,
    runtime: Runtime,
}

/// One write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    Put(FakeLease),
    Delete(FakeLease),
}

/// A write that etcd has answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) write: Write,
    /// Orders all writes, which those that are under way at once may overtake.
    pub(super) revision: i64,
    /// When the answer was here.
    pub(super) answered: Instant,
}

/// Calls `work` with a connection from `ns`.
pub(super) fn connected<T: Send>(
    ns: &NetNs,
    work: impl FnOnce(&mut Connection) -> Result<T> + Send,
) -> Result<T> {
    // All sockets are made by this thread: it is the one that is in the namespace.
    ns.enter(|| {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (client, lease) = runtime.block_on(async {
            let mut client = Client::connect([etcd::ENDPOINT], None).await?;
            let lease = client.lease_grant(TTL, None).await?.id();
            Ok::<_, etcd_client::Error>((client, lease))
        })?;
        work(&mut Connection {
            client,
            lease,
            runtime,
        })
    })?
}

impl Connection {
    /// Makes all writes, as fast as etcd takes them.
    pub(super) fn write_all(&mut self, writes: impl IntoIterator<Item = Write>) -> Result<()> {
        let (lease, client) = (self.lease, &mut self.client);
        let operations: Vec<TxnOp> = writes
            .into_iter()
            .map(|write| operation(write, lease))
            .collect();
        self.runtime.block_on(async {
            for chunk in operations.chunks(TRANSACTION) {
                let transaction = Txn::new().and_then(chunk);
                client.txn(transaction).await.context("write leases")?;
            }
            Ok(())
        })
    }

    /// Makes one write.
    pub(super) fn write(&mut self, write: Write) -> Result<()> {
        self.write_all([write])
    }

    /// Makes `writes` one by one, `rate` per second, whether or not earlier ones are answered.
    /// Gives them in the order in which they took effect.
    pub(super) fn write_steadily(&mut self, writes: &[Write], rate: u32) -> Result<Vec<Written>> {
        let (lease, client) = (self.lease, self.client.clone());
        let work = async {
            let start = tokio::time::Instant::now();
            let mut calls = Vec::with_capacity(writes.len());
            for (number, write) in (0u32..).zip(writes.iter().copied()) {
                tokio::time::sleep_until(start + Duration::from_secs(1) * number / rate).await;
                let mut client = client.clone();
                calls.push(tokio::task::spawn_local(async move {
                    let transaction = Txn::new().and_then([operation(write, lease)]);
                    let answer = client.txn(transaction).await?;
                    let answered = Instant::now();
                    let revision = answer.header().map_or(0, |header| header.revision());
                    Ok::<_, etcd_client::Error>(Written {
                        write,
                        revision,
                        answered,
                    })
                }));
            }
            let mut written = Vec::with_capacity(calls.len());
            for call in calls {
                let done = call.await.map_err(|_| anyhow!("a write panicked"))?;
                written.push(done.context("write a lease")?);
            }
            written.sort_by_key(|written| written.revision);
            Ok(written)
        };
        LocalSet::new().block_on(&self.runtime, work)
    }
}

fn operation(write: Write, lease: i64) -> TxnOp {
    match write {
        Write::Put(it) => {
            let options = PutOptions::new().with_lease(lease);
            TxnOp::put(it.key(), it.value(), Some(options))
        }
        Write::Delete(it) => TxnOp::delete(it.key(), None),
    }
}
