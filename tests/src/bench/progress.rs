//! How far a bench is, on standard error: a bar on a terminal, a line per step elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Instant;

/// Columns of the bar.
const WIDTH: usize = 24;

/// Steps done and to do.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    done: usize,
    total: usize,
    is_terminal: bool,
}

impl Progress {
    /// A bar of `total` steps.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self {
            start: Instant::now(),
            done: 0,
            total,
            is_terminal: io::stderr().is_terminal(),
        }
    }

    /// Shows what begins now; what was shown before is done.
    pub fn step(&mut self, text: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        let bar = bar(self.done, self.total);
        if self.is_terminal {
            // Back to the first column, and erase what the line had.
            eprint!("\r\x1b[K{bar} {seconds:5.0} s  {text}");
            // A terminal that is gone does not end the bench.
            let _ = io::stderr().flush();
        } else {
            eprintln!("{bar} {seconds:5.0} s  {text}");
        }
        self.done += 1;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal {
            eprintln!();
        }
    }
}

fn bar(done: usize, total: usize) -> String {
    let filled = (WIDTH * done.min(total)).checked_div(total).unwrap_or(0);
    format!("[{}{}]", "#".repeat(filled), ".".repeat(WIDTH - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_keeps_its_width() {
        for (done, total) in [(0, 3), (1, 3), (3, 3), (9, 3), (0, 0)] {
            assert_eq!(bar(done, total).len(), WIDTH + 2, "{done} of {total}");
        }
        assert!(bar(3, 3).ends_with("##]"));
    }
}
