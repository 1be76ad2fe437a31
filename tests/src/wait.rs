//! Waiting for a condition with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks at the condition.
const STEP: Duration = Duration::from_millis(5);

/// Calls `probe` until it gives a value.
///
/// # Errors
/// `what` was not so within `limit`; the last error of the probe is part of the message.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let found = probe();
        if let Ok(Some(value)) = found {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            match found {
                Err(error) => bail!("waited {limit:?} for {what}: {error:#}"),
                Ok(_) => bail!("waited {limit:?} for {what}"),
            }
        }
        thread::sleep(STEP);
    }
}
