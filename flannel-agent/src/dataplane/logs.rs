//! The programs' own log (aya-log), handed to the agent's. Off unless asked for: at level 0 the
//! verifier removes every log statement.

use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tracing::warn;

/// How long records wait in the ring buffer. This is for debugging: a timer is simple and enough.
const PERIOD: Duration = Duration::from_millis(100);

/// Starts the task that forwards records, which ends with the runtime.
pub(super) fn start(ebpf: &mut Ebpf) {
    match EbpfLogger::init(ebpf) {
        Ok(mut logger) => {
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(PERIOD);
                loop {
                    ticks.tick().await;
                    logger.flush();
                }
            });
        }
        Err(error) => warn!(%error, "the programs' log cannot be read"),
    }
}
