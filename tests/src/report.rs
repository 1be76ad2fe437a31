//! What a comparison of the two data paths found.

use serde::{Deserialize, Serialize};

use crate::wire::Wire;

/// Least busy share of the measuring core at which a packet rate means what it says.
pub const BUSY: f64 = 0.9;
/// Most busy share of other cores at which nothing else disturbs.
pub const QUIET: f64 = 0.2;
/// Fewest samples whose median has a confidence interval.
pub const ENOUGH: usize = 5;

/// The whole comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Release of the kernel.
    pub kernel_release: String,
    /// Number of cores.
    pub cores: usize,
    /// Samples behind each median.
    pub repetitions: usize,
    /// One entry per wire mode.
    pub wires: Vec<WireReport>,
}

/// Both paths over one kind of wire.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WireReport {
    /// The mode.
    pub wire: Wire,
    /// Agents with `--datapath=kernel`.
    pub kernel: PathReport,
    /// Agents with `--datapath=ebpf`.
    pub ebpf: PathReport,
    /// eBPF path divided by kernel path.
    pub ratios: Ratios,
}

/// One data path over one kind of wire.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PathReport {
    /// Echo requests sent.
    pub pings_sent: u32,
    /// Echo replies received.
    pub pings_received: u32,
    /// Mean round-trip time of echo requests, microseconds; of idle cores that must wake.
    pub ping_us: Spread,
    /// One TCP stream on free cores.
    pub tcp_gbps: Spread,
    /// One TCP stream whose whole path, two hosts and two pods, shares one core.
    pub tcp_one_core_gbps: Spread,
    /// 64-octet frames through both hosts on one core, thousands per second.
    pub small_kpps: Spread,
    /// Share of injected frames that arrived.
    pub small_arrived: f64,
    /// Share of the time in which the measuring core was busy, least of the samples.
    pub core_busy: f64,
    /// Share of the time in which another core was busy meanwhile, greatest of the samples.
    pub others_busy: f64,
    /// TCP request-response on one core, median round trip in microseconds.
    pub response_p50_us: Spread,
    /// The same, 99th percentile.
    pub response_p99_us: Spread,
    /// Packets by who carried them; empty on the kernel path.
    pub shares: Vec<Share>,
}

/// Packets of one direction by who carried them, both hosts together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Share {
    /// `egress` or `ingress`.
    pub direction: String,
    /// All packets.
    pub packets: u64,
    /// Of these, carried by eBPF.
    pub handled: u64,
    /// Those left to the kernel path, by reason, most frequent first.
    pub rest: Vec<Reason>,
}

/// Packets left to the kernel path for one reason.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reason {
    /// Name as in the status document.
    pub reason: String,
    /// Number of packets.
    pub packets: u64,
}

/// Median and range of samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// All of them, in the order in which they were taken.
    pub samples: Vec<f64>,
}

/// eBPF path divided by kernel path. Above 1 is better for rates, below 1 for times.
///
/// Each is the median of the ratios of samples that were taken one right after the other, so that
/// what the machine does meanwhile cancels out. It can differ from the ratio of the medians.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Ratios {
    /// Of TCP throughput on free cores.
    pub tcp: f64,
    /// Of TCP throughput on one core.
    pub tcp_one_core: f64,
    /// Of the rate of small packets.
    pub small: f64,
    /// Of the median request-response time.
    pub response_p50: f64,
    /// Of its 99th percentile.
    pub response_p99: f64,
}

impl Share {
    /// Part carried by eBPF, 0 to 1.
    #[must_use]
    pub fn part(&self) -> f64 {
        self.handled as f64 / self.packets.max(1) as f64
    }
}

impl Spread {
    /// Summary of samples; all zero without any.
    #[must_use]
    pub fn of(samples: Vec<f64>) -> Self {
        let mut sorted = samples.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Self::default();
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Self {
            median,
            min,
            max,
            samples,
        }
    }

    /// Confidence interval of the median: two of the samples, between which it lies with about 95 %
    /// certainty, whatever their distribution. Five samples give 94 % by their least and greatest,
    /// fewer give none.
    #[must_use]
    pub fn interval(&self) -> Option<(f64, f64)> {
        if self.samples.len() < ENOUGH {
            return None;
        }
        let mut sorted = self.samples.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let place = interval_place(sorted.len());
        Some((sorted[place], sorted[sorted.len() - 1 - place]))
    }

    /// Median of the ratios of its samples to those of `other`, pair by pair.
    #[must_use]
    pub fn ratio_to(&self, other: &Self) -> f64 {
        let pairs = self.samples.iter().zip(&other.samples);
        Self::of(pairs.map(|(own, other)| own / other).collect()).median
    }
}

/// How many of `count` sorted samples to leave out at each end, so that the rest spans an interval
/// of 95 % (below six: of what there is).
///
/// The true median is below the sample at `place` with the probability that at most `place` of
/// `count` coin tosses show heads (the sign test).
fn interval_place(count: usize) -> usize {
    let mut place = 0;
    // The probability of exactly `place` heads, and of fewer.
    let mut exactly = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut at_most = exactly;
    loop {
        exactly *= (count - place) as f64 / (place + 1) as f64;
        at_most += exactly;
        if 2.0 * at_most > 0.05 {
            return place;
        }
        place += 1;
    }
}

impl Ratios {
    /// Compares the samples of both paths.
    #[must_use]
    pub fn between(kernel: &PathReport, ebpf: &PathReport) -> Self {
        let ratio = |pick: fn(&PathReport) -> &Spread| pick(ebpf).ratio_to(pick(kernel));
        Self {
            tcp: ratio(|path| &path.tcp_gbps),
            tcp_one_core: ratio(|path| &path.tcp_one_core_gbps),
            small: ratio(|path| &path.small_kpps),
            response_p50: ratio(|path| &path.response_p50_us),
            response_p99: ratio(|path| &path.response_p99_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_even_and_odd_counts() {
        let odd = Spread::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(vec![1.0, 2.0, 4.0, 9.0]).median, 3.0);
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }

    #[test]
    fn interval_leaves_out_what_certainty_allows() {
        // From tables of the sign test.
        for (count, place) in [
            (1, 0),
            (3, 0),
            (5, 0),
            (8, 0),
            (9, 1),
            (12, 2),
            (15, 3),
            (20, 5),
        ] {
            assert_eq!(interval_place(count), place, "of {count}");
        }
        let spread = Spread::of(vec![9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!(spread.interval(), Some((2.0, 8.0)));
        assert_eq!(Spread::of(vec![1.0; 4]).interval(), None);
        assert_eq!(Spread::of(vec![1.0; 5]).interval(), Some((1.0, 1.0)));
    }

    #[test]
    fn ratio_pairs_samples_of_the_same_moment() {
        let slow_then_fast = Spread::of(vec![1.0, 2.0, 4.0]);
        let twice = Spread::of(vec![2.0, 4.0, 8.0]);
        assert_eq!(twice.ratio_to(&slow_then_fast), 2.0);
    }
}
