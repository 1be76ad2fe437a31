//! What can be measured of a data path.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::{QUIET, Spread};
use crate::source::Rate;

/// A figure of a data path.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    clap::ValueEnum,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Figure {
    /// Frames of 64 octets through both hosts on one core, thousands per second.
    Small,
    /// Frames of 512 octets.
    Medium,
    /// Frames as large as the pods' MTU.
    Large,
    /// One TCP stream on free cores, Gbit/s.
    Tcp,
    /// The same by the cores that were busy meanwhile, all that they did.
    TcpPerCore,
    /// One TCP stream whose two ends share one core, with all of the way that is not a process's.
    TcpOneCore,
    /// TCP request-response on one core: median round trip, microseconds.
    ResponseP50,
    /// The same, 99th percentile.
    ResponseP99,
    /// Mean round trip of echo requests, of idle cores that must wake, microseconds.
    Ping,
}

/// Which values of a figure are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Rates.
    More,
    /// Times.
    Less,
}

impl Figure {
    /// Its name in a narrow column, with the unit.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Small => "64 B kpps",
            Self::Medium => "512 B kpps",
            Self::Large => "MTU kpps",
            Self::Tcp => "TCP Gbit/s",
            Self::TcpPerCore => "per core",
            Self::TcpOneCore => "on a core",
            Self::ResponseP50 => "p50 µs",
            Self::ResponseP99 => "p99 µs",
            Self::Ping => "ping µs",
        }
    }

    /// Digits after the point that mean something.
    #[must_use]
    pub fn digits(self) -> usize {
        match self {
            Self::Small | Self::Medium | Self::Large | Self::Ping => 0,
            Self::Tcp | Self::TcpPerCore | Self::TcpOneCore => 2,
            Self::ResponseP50 | Self::ResponseP99 => 1,
        }
    }

    /// Which values are better.
    #[must_use]
    pub fn better(self) -> Better {
        match self {
            Self::ResponseP50 | Self::ResponseP99 | Self::Ping => Better::Less,
            _ => Better::More,
        }
    }
}

/// Samples of one data path.
#[derive(Debug, Default)]
pub struct Samples {
    /// By figure, in the order in which they were taken.
    pub values: BTreeMap<Figure, Vec<f64>>,
    /// How the packet rates came about.
    pub load: Load,
    /// Echo requests sent.
    pub pings_sent: u32,
    /// Echo replies received.
    pub pings_received: u32,
}

/// What says whether packet rates mean what they say.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Load {
    /// Frames injected.
    pub injected: u64,
    /// Of these, arrived.
    pub arrived: u64,
    /// Share of the time in which the measuring core was busy, least of the samples.
    pub core_busy: f64,
    /// Share of the time in which another core was busy meanwhile, greatest of the samples.
    pub others_busy: f64,
    /// Number of flows.
    pub flows: u32,
    /// Of these, with another core [not quiet](QUIET).
    pub disturbed: u32,
}

impl Samples {
    /// Adds a sample.
    pub fn push(&mut self, figure: Figure, value: f64) {
        self.values.entry(figure).or_default().push(value);
    }

    /// The samples of a figure; nothing but zeros if there are none.
    #[must_use]
    pub fn spread(&self, figure: Figure) -> Spread {
        Spread::of(self.values.get(&figure).cloned().unwrap_or_default())
    }
}

impl Load {
    /// Counts one measurement in.
    pub fn add(&mut self, rate: &Rate) {
        let is_first = self.flows == 0;
        self.flows += 1;
        self.disturbed += u32::from(rate.others_busy > QUIET);
        self.injected += rate.injected;
        self.arrived += rate.arrived;
        self.core_busy = if is_first {
            rate.busy
        } else {
            self.core_busy.min(rate.busy)
        };
        self.others_busy = self.others_busy.max(rate.others_busy);
    }

    /// Share of injected frames that arrived.
    #[must_use]
    pub fn arrived_share(&self) -> f64 {
        self.arrived as f64 / self.injected.max(1) as f64
    }
}
