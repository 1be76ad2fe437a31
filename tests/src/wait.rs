//! Waiting for a condition with a deadline.

use std::error::Error;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks at the condition.
const STEP: Duration = Duration::from_millis(5);

/// An error of a probe after which waiting is pointless.
#[derive(Debug)]
pub struct Hopeless(pub String);

impl fmt::Display for Hopeless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Hopeless {}

/// Calls `probe` until it gives a value. Its errors mean "not yet", except [`Hopeless`].
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
        let hopeless = found.as_ref().is_err_and(|error| error.is::<Hopeless>());
        if hopeless || Instant::now() >= deadline {
            match found {
                Err(error) => bail!("wait for {what}: {error:#}"),
                Ok(_) => bail!("wait for {what}: not within {limit:?}"),
            }
        }
        thread::sleep(STEP);
    }
}
