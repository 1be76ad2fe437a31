//! Whether the rules in force allow a fast path: followed while one is wanted.

use tokio::time::{Duration, Instant, sleep_until};
use tracing::{info, warn};

use super::judge::Verdict;
use super::rules::{Change, Watch};
use crate::error::chain;

/// Time until the rules are tried again where they could not be followed.
const RETRY: Duration = Duration::from_secs(10);

/// The rules, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Rules {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// Nobody wants to know.
    #[default]
    Idle,
    /// They are followed.
    Followed { watch: Box<Watch>, verdict: Verdict },
    /// They cannot be, for this reason, until they are tried again.
    Unknown { why: String, retry: Instant },
}

impl Rules {
    /// Follows the rules from here on, or stops doing so. What changes after this leads to
    /// [`changed`](Self::changed).
    pub(super) fn follow(&mut self, is_wanted: bool) {
        match (&self.state, is_wanted) {
            (State::Idle, true) => self.open(),
            (State::Idle, false) | (_, true) => {}
            (_, false) => self.state = State::Idle,
        }
    }

    fn open(&mut self) {
        self.state = match Watch::open() {
            Ok((watch, verdict)) => {
                tell(&verdict);
                State::Followed {
                    watch: Box::new(watch),
                    verdict,
                }
            }
            Err(error) => {
                let why = chain(&error);
                warn!(why, "the rules in force cannot be followed: no fast path");
                State::Unknown {
                    why: format!("the rules in force cannot be followed: {why}"),
                    retry: Instant::now() + RETRY,
                }
            }
        };
    }

    /// Waits for a change; whether the verdict may be another one, too. Dropping the future loses
    /// nothing.
    pub(super) async fn changed(&mut self) -> bool {
        match &mut self.state {
            State::Idle => std::future::pending().await,
            State::Followed { watch, verdict } => match watch.next().await {
                Change::Rules => false,
                Change::Verdict(other) => {
                    tell(&other);
                    *verdict = other;
                    true
                }
            },
            State::Unknown { retry, .. } => {
                sleep_until(*retry).await;
                self.open();
                true
            }
        }
    }

    /// What of the rules keeps the fast path off: nothing where a flow may be judged by a sample.
    pub(super) fn obstacles(&self) -> Vec<String> {
        match &self.state {
            State::Idle => Vec::new(),
            State::Unknown { why, .. } => vec![why.clone()],
            State::Followed { verdict, .. } => {
                let mut obstacles: Vec<_> =
                    verdict.reasons.iter().map(ToString::to_string).collect();
                if verdict.unlisted > 0 {
                    obstacles.push(format!("and {} more", verdict.unlisted));
                }
                obstacles
            }
        }
    }
}

fn tell(verdict: &Verdict) {
    if let Some(first) = verdict.reasons.first() {
        let (reason, reasons) = (first.to_string(), verdict.reasons.len() + verdict.unlisted);
        info!(reason, reasons, "rules in force keep the fast path off");
    }
}
