//! The clock of an agent under the test's control.
//!
//! The agent is the one that is shipped: a library before libc's moves the monotonic clock that it
//! is told (`tests/clock/lib.rs`).

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::agent::build_directory;
use crate::mounts::{FILES, Mounts};

/// A clock that runs as ever until it is moved.
#[derive(Debug, Clone)]
pub struct Clock {
    library: PathBuf,
    inside: PathBuf,
    file: Arc<File>,
}

impl Clock {
    /// A clock that was not moved yet; `name` tells it from others of the bed.
    ///
    /// # Errors
    /// The library was not built, or its file cannot be written.
    pub fn new(mounts: &Mounts, name: &str) -> Result<Self> {
        let library = build_directory()?.join("examples/libmoved_clock.so");
        let library = fs::canonicalize(&library)
            .with_context(|| format!("{}: cargo build --examples", library.display()))?;
        let inside = Path::new(FILES).join(format!("{name}.clock"));
        let file = File::create(mounts.outside(&inside)?)?;
        file.write_all_at(&[0; 8], 0)?;
        Ok(Self {
            library,
            inside,
            file: Arc::new(file),
        })
    }

    /// Moves the clock to this long after what it would be otherwise.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn move_to(&self, ahead: Duration) -> Result<()> {
        let secs = i64::try_from(ahead.as_secs())?;
        Ok(self.file.write_all_at(&secs.to_ne_bytes(), 0)?)
    }

    /// Makes a command go by this clock.
    pub(crate) fn apply(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("MOVED_CLOCK", &self.inside);
    }
}
