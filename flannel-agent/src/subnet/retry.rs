//! Trying until it works, and saying so without filling the log.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// First pause between two sayings of the same complaint, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Complaints that are remembered as said; errors that alternate are then not said each time.
const REMEMBERED: usize = 8;

/// Decides when a repeated complaint is said again: at once, then at widening intervals.
#[derive(Debug)]
pub(super) struct Reminder {
    said: Vec<String>,
    next: Instant,
    pause: Duration,
}

impl Reminder {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            said: Vec::new(),
            next: now,
            pause: PAUSES.0,
        }
    }

    /// Whether to say `text` at this moment.
    pub(super) fn is_due(&mut self, text: &str, now: Instant) -> bool {
        if !self.said.iter().any(|said| said == text) {
            if self.said.len() == REMEMBERED {
                self.said.remove(0);
            }
            self.said.push(text.to_owned());
        } else if now < self.next {
            return false;
        }
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSES.1);
        true
    }

    /// Forgets everything after a success; tells whether there had been a complaint.
    pub(super) fn clear(&mut self, now: Instant) -> bool {
        let complained = !self.said.is_empty();
        *self = Self::new(now);
        complained
    }
}

/// A loop that tries again after a pause, while the agent cannot go on.
#[derive(Debug)]
pub(super) struct Patience {
    pause: Duration,
    reminder: Reminder,
}

impl Patience {
    pub(super) fn new(pause: Duration) -> Self {
        let reminder = Reminder::new(Instant::now());
        Self { pause, reminder }
    }

    /// Says what went wrong, if it is due, and pauses; false after cancellation.
    pub(super) async fn wait(&mut self, error: &impl Display, cancel: &CancellationToken) -> bool {
        let text = error.to_string();
        if self.reminder.is_due(&text, Instant::now()) {
            // Displayed, not quoted: it may hold a command to be copied.
            warn!(error = %text, "waiting");
        }
        tokio::select! {
            () = cancel.cancelled() => false,
            () = tokio::time::sleep(self.pause) => true,
        }
    }

    /// Says that it works, if it did not before.
    pub(super) fn end(mut self) {
        if self.reminder.clear(Instant::now()) {
            info!("the trouble is over, going on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_said_at_once_and_then_at_widening_intervals() {
        let start = Instant::now();
        let mut reminder = Reminder::new(start);
        let at = |secs| start + Duration::from_secs(secs);
        let said: Vec<u64> = (0..100)
            .filter(|secs| reminder.is_due("refused", at(*secs)))
            .collect();
        assert_eq!(said, [0, 1, 3, 7, 15, 31, 61, 91]);
        assert!(reminder.is_due("something else", at(92)));
        assert!(!reminder.is_due("refused", at(93)));
        assert!(reminder.clear(at(94)));
        assert!(!reminder.clear(at(95)));
        assert!(reminder.is_due("refused", at(96)));
    }

    #[tokio::test]
    async fn cancellation_ends_the_pause() {
        let cancel = CancellationToken::new();
        let mut patience = Patience::new(Duration::from_millis(1));
        assert!(patience.wait(&"refused", &cancel).await);
        cancel.cancel();
        patience.pause = Duration::from_secs(3600);
        assert!(!patience.wait(&"refused", &cancel).await);
    }
}
