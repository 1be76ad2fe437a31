//! Ratios between data paths, and what they are to be.

use serde::{Deserialize, Serialize};

use super::report::SideReport;
use super::side::Kind;
use crate::measure::figure::Figure;
use crate::report::Spread;
use crate::wire::Wire;

/// Pairs whose ratios are shown: the first by the second.
pub(super) const PAIRS: [(Kind, Kind); 8] = [
    (Kind::VxlanEbpf, Kind::VxlanKernel),
    (Kind::HostGwEbpf, Kind::HostGwKernel),
    (Kind::HostGwKernel, Kind::VxlanKernel),
    (Kind::UdpEbpf, Kind::VxlanEbpf),
    (Kind::UdpEbpf, Kind::UdpKernel),
    (Kind::UdpEbpf, Kind::UdpLoop),
    (Kind::UdpKernel, Kind::UdpLoop),
    (Kind::VxlanKernel, Kind::Host),
];

/// What a ratio is to be at least, over wire-1500.
struct Goal {
    side: Kind,
    base: Kind,
    figure: Figure,
    least: f64,
}

const fn goal(side: Kind, base: Kind, figure: Figure, least: f64) -> Goal {
    Goal {
        side,
        base,
        figure,
        least,
    }
}

const GOALS: [Goal; 7] = [
    goal(Kind::VxlanEbpf, Kind::VxlanKernel, Figure::Small, 1.18),
    goal(Kind::UdpEbpf, Kind::VxlanEbpf, Figure::Small, 0.95),
    goal(Kind::UdpEbpf, Kind::UdpLoop, Figure::Tcp, 5.0),
    goal(Kind::UdpKernel, Kind::UdpLoop, Figure::Tcp, 2.0),
    goal(Kind::HostGwEbpf, Kind::HostGwKernel, Figure::Small, 1.0),
    goal(Kind::HostGwEbpf, Kind::HostGwKernel, Figure::Tcp, 1.0),
    goal(
        Kind::HostGwEbpf,
        Kind::HostGwKernel,
        Figure::TcpOneCore,
        1.0,
    ),
];

/// A ratio of two figures of the same rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Median of the rounds.
    pub median: f64,
    /// Lower end of its confidence interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// What became of a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The whole interval is at or above it.
    Met,
    /// The whole interval is below it.
    NotMet,
    /// It lies within the interval: more rounds, or a quieter machine.
    WithinSpread,
}

/// A goal, and what was measured.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Judged {
    /// The data path.
    pub side: Kind,
    /// What it is divided by.
    pub base: Kind,
    /// Of which figure.
    pub figure: Figure,
    /// What the ratio is to be at least.
    pub least: f64,
    /// What it is.
    pub ratio: Ratio,
    /// What follows.
    pub verdict: Verdict,
}

impl Ratio {
    /// Of `side` to `base`; none if either has too few samples.
    pub(super) fn between(side: &SideReport, base: &SideReport, figure: Figure) -> Option<Self> {
        let (side, base) = (side.figures.get(&figure)?, base.figures.get(&figure)?);
        let pairs = side.samples.iter().zip(&base.samples);
        let ratios = Spread::of(pairs.map(|(side, base)| side / base).collect());
        let (low, high) = ratios.interval()?;
        Some(Self {
            median: ratios.median,
            low,
            high,
        })
    }

    /// Whether the two differ by more than the spread.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.low > 1.0 || self.high < 1.0
    }

    fn judge(&self, least: f64) -> Verdict {
        if self.low >= least {
            Verdict::Met
        } else if self.high < least {
            Verdict::NotMet
        } else {
            Verdict::WithinSpread
        }
    }
}

/// Every goal whose two sides were measured often enough.
pub(super) fn judge(wire: Wire, sides: &[SideReport]) -> Vec<Judged> {
    if wire != Wire::Mtu1500 {
        return Vec::new();
    }
    let find = |kind| sides.iter().find(|side| side.side == kind);
    let judged = GOALS.iter().filter_map(|goal| {
        let Goal {
            side,
            base,
            figure,
            least,
        } = *goal;
        let ratio = Ratio::between(find(side)?, find(base)?, figure)?;
        Some(Judged {
            side,
            base,
            figure,
            least,
            ratio,
            verdict: ratio.judge(least),
        })
    });
    judged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::figure::Samples;

    fn side(kind: Kind, kpps: &[f64]) -> SideReport {
        let mut samples = Samples::default();
        for value in kpps {
            samples.push(Figure::Small, *value);
        }
        SideReport::new(kind, samples, Vec::new())
    }

    #[test]
    fn a_goal_within_the_spread_is_neither_met_nor_missed() {
        let base = [100.0, 110.0, 90.0, 105.0, 95.0];
        let times = |factors: [f64; 5]| -> Vec<f64> {
            base.iter().zip(factors).map(|(b, f)| b * f).collect()
        };
        for (factors, verdict) in [
            ([1.3, 1.2, 1.25, 1.3, 1.19], Verdict::Met),
            ([1.1, 1.0, 1.17, 1.1, 1.1], Verdict::NotMet),
            ([1.3, 1.2, 1.25, 1.3, 1.1], Verdict::WithinSpread),
        ] {
            let sides = [
                side(Kind::VxlanKernel, &base),
                side(Kind::VxlanEbpf, &times(factors)),
            ];
            let judged = judge(Wire::Mtu1500, &sides);
            assert_eq!(judged.len(), 1, "the others have no sides");
            assert_eq!(judged[0].verdict, verdict, "{factors:?}");
        }
    }

    #[test]
    fn a_ratio_is_clear_if_its_interval_excludes_one() {
        let ratio = |low, high| Ratio {
            median: f64::midpoint(low, high),
            low,
            high,
        };
        assert!(ratio(1.01, 1.2).is_clear() && ratio(0.8, 0.99).is_clear());
        assert!(!ratio(0.99, 1.3).is_clear());
    }
}
