//! How many flows are on the fast path. Each of them is admitted once in a bound, so the rate of
//! admissions tells; the table itself is too long to be read for a number.

use std::time::{Duration, Instant};

/// A count that is taken from time to time.
#[derive(Debug, Default)]
pub(super) struct Census {
    last: Option<(Instant, u64)>,
    flows: usize,
}

impl Census {
    /// Takes how often a flow has been admitted so far; nothing, if nobody knows.
    pub(super) fn take(&mut self, admissions: Option<u64>, bound: Duration) {
        let now = admissions.map(|admissions| (Instant::now(), admissions));
        self.flows = match (self.last, now) {
            (Some(last), Some(now)) => flows(last, now, bound),
            _ => 0,
        };
        self.last = now;
    }

    /// What it came to.
    pub(super) fn flows(&self) -> usize {
        self.flows
    }
}

fn flows(last: (Instant, u64), now: (Instant, u64), bound: Duration) -> usize {
    let time = now.0.duration_since(last.0).as_secs_f64();
    let admissions = now.1.saturating_sub(last.1) as f64;
    if time == 0.0 {
        return 0;
    }
    (admissions * bound.as_secs_f64() / time).round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_admitted_once_in_a_bound() {
        let start = Instant::now();
        let rows = [
            // Seconds, admissions, bound in milliseconds, flows.
            (10, 30, 1_000, 3),
            // A little later than the bound, each time.
            (10, 28, 1_000, 3),
            (10, 1_000, 100, 10),
            (10, 0, 1_000, 0),
            (0, 5, 1_000, 0),
        ];
        for (seconds, admissions, bound, expected) in rows {
            let now = (start + Duration::from_secs(seconds), 7 + admissions);
            let bound = Duration::from_millis(bound);
            assert_eq!(flows((start, 7), now, bound), expected);
        }
    }

    #[test]
    fn the_first_count_is_none() {
        let mut census = Census::default();
        census.take(Some(1_000_000), Duration::from_secs(1));
        assert_eq!(census.flows(), 0);
        census.take(None, Duration::from_secs(1));
        assert_eq!((census.flows(), census.last), (0, None));
    }
}
