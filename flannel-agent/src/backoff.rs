//! Delays between attempts: doubling from a first delay to a limit, with jitter. Pure.
//!
//! Jitter keeps the nodes of a cluster, which all lose the store at the same instant, from coming
//! back at the same instant too.

use std::time::Duration;

use rand::Rng;

/// The state of one retry loop.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays that start at `first` and double up to `limit`.
    #[must_use]
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            next: first,
        }
    }

    /// The next delay: between three quarters of the current step and the whole of it.
    pub fn next_delay(&mut self, rng: &mut impl Rng) -> Duration {
        let step = self.next.min(self.limit);
        self.next = step.saturating_mul(2).min(self.limit);
        step.mul_f64(rng.random_range(0.75..=1.0))
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_start_over() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for step in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0] {
            let delay = backoff.next_delay(&mut rng).as_secs_f64();
            assert!((step * 0.75..=step).contains(&delay), "{delay} for {step}");
        }
        backoff.reset();
        assert!(backoff.next_delay(&mut rng) <= Duration::from_secs(1));
    }
}
