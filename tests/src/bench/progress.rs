//! How far a bench is, on standard error: a bar on a terminal, a line per step elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Columns of the bar.
const WIDTH: usize = 24;

/// Time done and to do.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    /// What the steps so far were expected to take, without the one that runs.
    done: Duration,
    /// What the one that runs is expected to take.
    current: Duration,
    total: Duration,
    is_terminal: bool,
}

impl Progress {
    /// A bar of steps that are expected to take `total` together.
    #[must_use]
    pub fn new(total: Duration) -> Self {
        Self {
            start: Instant::now(),
            done: Duration::ZERO,
            current: Duration::ZERO,
            total,
            is_terminal: io::stderr().is_terminal(),
        }
    }

    /// Shows what begins now, which is expected to take `time`; what was shown before is done.
    pub fn step(&mut self, text: &str, time: Duration) {
        self.done += self.current;
        self.current = time;
        let share = self.done.as_secs_f64() / self.total.as_secs_f64().max(f64::MIN_POSITIVE);
        let elapsed = self.start.elapsed();
        let bar = bar(share);
        let left = left(share, elapsed, self.total);
        if self.is_terminal {
            // Back to the first column, and erase what the line had.
            eprint!("\r\x1b[K{bar} {left}  {text}");
            // A terminal that is gone does not end the bench.
            let _ = io::stderr().flush();
        } else {
            eprintln!("{bar} {left}  {text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal {
            eprintln!();
        }
    }
}

fn bar(share: f64) -> String {
    let filled = (WIDTH as f64 * share.clamp(0.0, 1.0)) as usize;
    format!("[{}{}]", "#".repeat(filled), ".".repeat(WIDTH - filled))
}

/// Time passed, and time left by what the expected share of the whole has taken so far.
fn left(share: f64, elapsed: Duration, total: Duration) -> String {
    // At the start the expectation itself is all there is to go by.
    let rate = if share > 0.05 {
        elapsed.as_secs_f64() / share
    } else {
        total.as_secs_f64()
    };
    let left = (rate - elapsed.as_secs_f64()).max(0.0);
    let clock = |seconds: f64| format!("{}:{:02}", seconds as u64 / 60, seconds as u64 % 60);
    format!("{:>5}, {} left", clock(elapsed.as_secs_f64()), clock(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_keeps_its_width() {
        for share in [0.0, 0.3, 1.0, 7.0] {
            assert_eq!(bar(share).len(), WIDTH + 2, "{share}");
        }
        assert!(bar(1.0).ends_with("##]"));
    }

    #[test]
    fn time_left_follows_what_has_passed() {
        let secs = Duration::from_secs;
        assert_eq!(left(0.0, secs(1), secs(61)), " 0:01, 1:00 left");
        // Half of it took twice as long as expected, and so will the rest.
        assert_eq!(left(0.5, secs(120), secs(120)), " 2:00, 2:00 left");
        assert_eq!(left(1.2, secs(90), secs(60)), " 1:30, 0:00 left");
    }
}
