//! Removes flows whose admission has long ended, a few at a time: the table may hold hundreds of
//! thousands, and each costs a system call.

use std::pin::Pin;

use aya::maps::{HashMap, MapData, MapError};
use flannel_ebpf::abi::{Flow, FlowKey};
use nix::time::{ClockId, clock_gettime};
use tokio::task::yield_now;
use tracing::warn;

use crate::error::chain;

/// How long an entry stays after its admission has ended: the next packet of a flow that only
/// paused then finds room without making it.
const LINGER_NS: u64 = 10_000_000_000;

/// Entries between two chances for others: well below a millisecond.
const STEP: usize = 256;

/// The table of flows.
pub(super) type Flows = HashMap<MapData, FlowKey, Flow>;

/// A way through the table.
type Sweep = Pin<Box<dyn Future<Output = Result<usize, MapError>> + Send>>;

/// What goes through the table beside all else, if anything does.
#[derive(Default)]
pub(super) struct Sweeping(Option<Sweep>);

impl Sweeping {
    /// Begins, unless the last one is not done yet.
    pub(super) fn start(&mut self, flows: Option<Flows>) {
        if let (None, Some(flows)) = (&self.0, flows) {
            self.0 = Some(Box::pin(sweep(flows)));
        }
    }

    /// Waits for the number of flows that are left. Dropping the future loses nothing.
    pub(super) async fn done(&mut self) -> usize {
        loop {
            let Some(sweep) = &mut self.0 else {
                return std::future::pending().await;
            };
            let result = sweep.await;
            self.0 = None;
            match result {
                Ok(flows) => return flows,
                Err(error) => warn!(error = chain(&error), "expired flows stay"),
            }
        }
    }
}

/// Goes through the table once; returns how many flows are left.
///
/// # Errors
/// What the kernel said.
async fn sweep(mut flows: Flows) -> Result<usize, MapError> {
    let now = coarse_now();
    let mut count = 0;
    let mut stale = Vec::new();
    for entry in flows.iter() {
        let (key, flow) = entry?;
        count += 1;
        if flow.expires + LINGER_NS < now {
            stale.push(key);
        }
        if count % STEP == 0 {
            yield_now().await;
        }
    }
    for keys in stale.chunks(STEP) {
        for key in keys {
            // It may have been removed with its interface.
            let _ = flows.remove(key);
        }
        yield_now().await;
    }
    Ok(count - stale.len())
}

/// The clock that the programs go by, nanoseconds.
fn coarse_now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE);
    // The clock is there since Linux 2.6.32.
    now.map_or(0, |now| {
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    })
}
