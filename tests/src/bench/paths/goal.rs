//! Ratios between data paths, and what they are to be.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::kind::Kind;
use super::report::SideReport;
use crate::measure::figure::Figure;
use crate::report::Spread;
use crate::wire::Wire;

/// Pairs whose ratios are shown: the first by the second.
const PAIRS: [(Kind, Kind); 22] = [
    (Kind::VxlanEbpf, Kind::VxlanKernel),
    (Kind::VxlanFast, Kind::VxlanKernel),
    (Kind::VxlanFast, Kind::HostGwKernel),
    (Kind::VxlanFast, Kind::HostGwFlowtable),
    (Kind::VxlanFast, Kind::Bare),
    (Kind::VxlanFast, Kind::Host),
    (Kind::VxlanXdp, Kind::VxlanFast),
    (Kind::VxlanKernel, Kind::Host),
    (Kind::HostGwKernel, Kind::VxlanKernel),
    (Kind::HostGwKernel, Kind::Host),
    (Kind::HostGwFlowtable, Kind::HostGwKernel),
    (Kind::HostGwEbpf, Kind::HostGwKernel),
    (Kind::HostGwFast, Kind::HostGwKernel),
    (Kind::HostGwFast, Kind::HostGwFlowtable),
    (Kind::UdpKernel, Kind::UdpLoop),
    (Kind::UdpEbpf, Kind::UdpLoop),
    (Kind::UdpEbpf, Kind::VxlanEbpf),
    (Kind::UdpEbpf, Kind::UdpKernel),
    (Kind::UdpFast, Kind::UdpKernel),
    (Kind::UdpFast, Kind::VxlanFast),
    (Kind::UdpXdp, Kind::UdpFast),
    (Kind::Bare, Kind::VxlanKernel),
];

/// Sides whose ratios are shown: the first by the second. Each data path of a backend is compared
/// with the same backend of every other program.
pub(super) fn pairs(sides: &[SideReport]) -> Vec<(&SideReport, &SideReport)> {
    let find = |id: &str| sides.iter().find(|side| side.id == id);
    let own = PAIRS.iter().filter_map(|(side, base)| {
        let (side, base) = (side.id(), base.id());
        Some((find(&side)?, find(&base)?))
    });
    let others = sides.iter().filter(|side| side.is_other);
    let with_others = others.flat_map(|other| {
        let ours = ["kernel", "ebpf", "fast"].map(|path| {
            let backend = ["vxlan", "host-gw", "udp"]
                .into_iter()
                .find(|backend| other.id.ends_with(&format!("-{backend}")));
            backend.and_then(|backend| find(&format!("{backend}-{path}")))
        });
        ours.into_iter().flatten().map(move |our| (our, other))
    });
    own.chain(with_others).collect()
}

/// What a ratio is to be.
struct Goal {
    wire: Wire,
    side: Kind,
    base: Kind,
    figure: Figure,
    bound: Bound,
}

/// Where a ratio is to end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// Of rates.
    AtLeast(f64),
    /// Of times.
    AtMost(f64),
}

const fn at_least(least: f64, figure: Figure, side: Kind, base: Kind) -> Goal {
    Goal {
        wire: Wire::Mtu1500,
        side,
        base,
        figure,
        bound: Bound::AtLeast(least),
    }
}

const GOALS: [Goal; 17] = [
    at_least(1.18, Figure::Small, Kind::VxlanEbpf, Kind::VxlanKernel),
    at_least(3.0, Figure::Small, Kind::VxlanFast, Kind::VxlanKernel),
    at_least(2.1, Figure::Small, Kind::VxlanFast, Kind::HostGwKernel),
    at_least(0.85, Figure::Small, Kind::VxlanFast, Kind::Bare),
    at_least(1.0, Figure::Tcp, Kind::VxlanFast, Kind::VxlanKernel),
    at_least(1.15, Figure::TcpOneCore, Kind::VxlanFast, Kind::VxlanKernel),
    at_least(1.0, Figure::TcpOneCore, Kind::VxlanFast, Kind::HostGwKernel),
    Goal {
        bound: Bound::AtMost(1.2),
        ..at_least(0.0, Figure::ResponseP50, Kind::VxlanFast, Kind::Host)
    },
    at_least(1.0, Figure::Small, Kind::HostGwFast, Kind::HostGwFlowtable),
    at_least(0.95, Figure::Small, Kind::UdpEbpf, Kind::VxlanEbpf),
    at_least(5.0, Figure::Tcp, Kind::UdpEbpf, Kind::UdpLoop),
    at_least(2.0, Figure::Tcp, Kind::UdpKernel, Kind::UdpLoop),
    at_least(1.0, Figure::Small, Kind::HostGwEbpf, Kind::HostGwKernel),
    at_least(1.0, Figure::Tcp, Kind::HostGwEbpf, Kind::HostGwKernel),
    at_least(
        1.0,
        Figure::TcpOneCore,
        Kind::HostGwEbpf,
        Kind::HostGwKernel,
    ),
    Goal {
        wire: Wire::SuperPacket,
        ..at_least(1.0, Figure::Tcp, Kind::VxlanFast, Kind::VxlanKernel)
    },
    Goal {
        wire: Wire::SuperPacket,
        ..at_least(1.0, Figure::Tcp, Kind::VxlanEbpf, Kind::VxlanKernel)
    },
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
    /// The whole interval is within the bound.
    Met,
    /// The whole interval is beyond it.
    NotMet,
    /// The bound lies within the interval: more rounds, or a quieter machine.
    WithinSpread,
}

/// A goal, and what was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Judged {
    /// The data path, its id.
    pub side: String,
    /// What it is divided by.
    pub base: String,
    /// Of which figure.
    pub figure: Figure,
    /// What the ratio is to be.
    pub bound: Bound,
    /// What it is.
    pub ratio: Ratio,
    /// What follows.
    pub verdict: Verdict,
}

impl Ratio {
    /// Of `side` to `base`; none if either has too few samples.
    pub(in crate::bench) fn between(
        side: &SideReport,
        base: &SideReport,
        figure: Figure,
    ) -> Option<Self> {
        Self::of(side.figures.get(&figure)?, base.figures.get(&figure)?)
    }

    /// Of samples that were taken in the same rounds; none if there are too few.
    pub(in crate::bench) fn of(side: &Spread, base: &Spread) -> Option<Self> {
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

    /// Holds it against a bound.
    #[must_use]
    pub fn judge(&self, bound: Bound) -> Verdict {
        let (all, none) = match bound {
            Bound::AtLeast(least) => (self.low >= least, self.high < least),
            Bound::AtMost(most) => (self.high <= most, self.low > most),
        };
        match (all, none) {
            (true, _) => Verdict::Met,
            (false, true) => Verdict::NotMet,
            (false, false) => Verdict::WithinSpread,
        }
    }
}

/// The ratio, or that there is none to be told.
impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high } = self;
        if self.is_clear() {
            write!(f, "{median:.2} ({low:.2}–{high:.2})")
        } else {
            write!(f, "~ ({low:.2}–{high:.2})")
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Met => "met",
            Self::NotMet => "not met",
            Self::WithinSpread => "not decidable",
        })
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least:.2}"),
            Self::AtMost(most) => write!(f, "≤ {most:.2}"),
        }
    }
}

/// Every goal whose two sides were measured often enough.
pub(super) fn judge(wire: Wire, sides: &[SideReport]) -> Vec<Judged> {
    let find = |kind: Kind| sides.iter().find(|side| side.id == kind.id());
    let goals = GOALS.iter().filter(|goal| goal.wire == wire);
    let judged = goals.filter_map(|goal| {
        let Goal {
            wire: _,
            side,
            base,
            figure,
            bound,
        } = *goal;
        let ratio = Ratio::between(find(side)?, find(base)?, figure)?;
        Some(Judged {
            side: side.id(),
            base: base.id(),
            figure,
            bound,
            ratio,
            verdict: ratio.judge(bound),
        })
    });
    judged.collect()
}

#[cfg(test)]
mod tests {
    use super::super::kind::Choice;
    use super::*;
    use crate::measure::figure::Samples;

    fn side(kind: Kind, kpps: &[f64]) -> SideReport {
        let mut samples = Samples::default();
        for value in kpps {
            samples.push(Figure::Small, *value);
        }
        SideReport::new(&Choice::Own(kind), samples, Vec::new(), Vec::new())
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
        assert_eq!(ratio(1.0, 1.2).judge(Bound::AtMost(1.2)), Verdict::Met);
        assert_eq!(ratio(1.3, 1.4).judge(Bound::AtMost(1.2)), Verdict::NotMet);
    }
}
