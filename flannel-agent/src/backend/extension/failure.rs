//! Why a command has failed, for people.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use thiserror::Error;

use super::output::WHOLE;

/// Characters of a command that a message has.
const SHOWN: usize = 120;

/// A command that has failed.
#[derive(Debug, Error)]
#[error("{key} ({text}) {reason}")]
pub struct Failure {
    key: &'static str,
    text: String,
    reason: Reason,
}

impl Failure {
    pub(super) fn new(key: &'static str, text: &str, reason: Reason) -> Self {
        let mut shown: String = text.chars().take(SHOWN).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Self {
            key,
            text: shown,
            reason,
        }
    }

    /// Whether it was ended because the agent ends.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        matches!(self.reason, Reason::Stopped)
    }
}

/// What has become of it.
#[derive(Debug, Error)]
pub(super) enum Reason {
    #[error("cannot be run: {}: {error}{}", .program.display(), ShellHint(*.may_need_shell))]
    Start {
        program: OsString,
        may_need_shell: bool,
        error: io::Error,
    },
    #[error("cannot be followed: {0}")]
    Follow(io::Error),
    #[error("ended with {status}{}", Words(.said))]
    Status { status: ExitStatus, said: String },
    #[error(
        "did not end within {} s and was killed; CommandTimeout in Backend can give it more{}",
        .limit.as_secs(),
        Words(.said)
    )]
    Limit { limit: Duration, said: String },
    #[error("was ended, since the agent ends")]
    Stopped,
    #[error("prints more than {} KiB, which is too much for a lease", WHOLE / 1_024)]
    TooMuch,
    #[error("prints what cannot be JSON: {0}")]
    Json(serde_json::Error),
}

/// The last words of a command, if it had any.
struct Words<'a>(&'a str);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => f.write_str(", without a word"),
            words => write!(f, ": {words}"),
        }
    }
}

struct ShellHint(bool);

impl fmt::Display for ShellHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 {
            f.write_str("; if it is meant for a shell, add \"Shell\": true to Backend")
        } else {
            Ok(())
        }
    }
}
