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
    /// Four streams on free cores, together.
    Tcp4,
    /// Sixteen.
    Tcp16,
    /// One stream by the cores that were busy meanwhile, all that they did.
    TcpPerCore,
    /// One TCP stream whose two ends share one core, with all of the way that is not a process's.
    TcpOneCore,
    /// Four streams on one core.
    Tcp4OneCore,
    /// Sixteen.
    Tcp16OneCore,
    /// TCP request-response on one core: median round trip, microseconds.
    ResponseP50,
    /// The same, 99th percentile.
    ResponseP99,
    /// The same, 99.9th percentile.
    ResponseP999,
    /// UDP request-response on one core: median round trip, microseconds.
    UdpResponseP50,
    /// The same, 99th percentile.
    UdpResponseP99,
    /// The same, 99.9th percentile.
    UdpResponseP999,
    /// TCP connections with one octet each way, one after the other on one core, thousands per
    /// second.
    Connections,
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

/// Figures that are shown, and asked for, together.
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
pub enum Group {
    /// Packets per second.
    Packets,
    /// TCP throughput.
    Tcp,
    /// Request-response, and connections.
    Response,
}

impl Group {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 3] = [Self::Packets, Self::Tcp, Self::Response];

    /// What its table is about.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Packets => "packets, the whole way on one core, kpps",
            Self::Tcp => "TCP, Gbit/s: streams on free cores; per busy core; on one core",
            Self::Response => {
                "one core: round trips of TCP and UDP, µs; connections, thousands per second"
            }
        }
    }
}

impl Figure {
    /// The figures that are shown with it.
    #[must_use]
    pub fn group(self) -> Group {
        match self {
            Self::Small | Self::Medium | Self::Large => Group::Packets,
            Self::Tcp
            | Self::Tcp4
            | Self::Tcp16
            | Self::TcpPerCore
            | Self::TcpOneCore
            | Self::Tcp4OneCore
            | Self::Tcp16OneCore => Group::Tcp,
            Self::ResponseP50
            | Self::ResponseP99
            | Self::ResponseP999
            | Self::UdpResponseP50
            | Self::UdpResponseP99
            | Self::UdpResponseP999
            | Self::Connections
            | Self::Ping => Group::Response,
        }
    }

    /// Its name in a narrow column of its group.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Small => "64 B kpps",
            Self::Medium => "512 B kpps",
            Self::Large => "MTU kpps",
            Self::Tcp => "TCP 1 free",
            Self::Tcp4 => "4 free",
            Self::Tcp16 => "16 free",
            Self::TcpPerCore => "1 per core",
            Self::TcpOneCore => "1 on a core",
            Self::Tcp4OneCore => "4 on a core",
            Self::Tcp16OneCore => "16 on core",
            Self::ResponseP50 => "TCP p50",
            Self::ResponseP99 => "TCP p99",
            Self::ResponseP999 => "TCP p99.9",
            Self::UdpResponseP50 => "UDP p50",
            Self::UdpResponseP99 => "UDP p99",
            Self::UdpResponseP999 => "UDP p99.9",
            Self::Connections => "conn k/s",
            Self::Ping => "ping µs",
        }
    }

    /// Digits after the point that mean something.
    #[must_use]
    pub fn digits(self) -> usize {
        match self.group() {
            Group::Packets => 0,
            Group::Tcp => 2,
            Group::Response => 1,
        }
    }

    /// Which values are better.
    #[must_use]
    pub fn better(self) -> Better {
        match self {
            Self::Connections => Better::More,
            _ if self.group() == Group::Response => Better::Less,
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

    /// Adds those of a later round.
    pub fn append(&mut self, later: Self) {
        let Self {
            values,
            load,
            pings_sent,
            pings_received,
        } = later;
        for (figure, mut values) in values {
            self.values.entry(figure).or_default().append(&mut values);
        }
        self.load.append(&load);
        self.pings_sent += pings_sent;
        self.pings_received += pings_received;
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
        self.append(&Self {
            injected: rate.injected,
            arrived: rate.arrived,
            core_busy: rate.busy,
            others_busy: rate.others_busy,
            flows: 1,
            disturbed: u32::from(rate.others_busy > QUIET),
        });
    }

    /// Counts other measurements in.
    fn append(&mut self, other: &Self) {
        let Self {
            injected,
            arrived,
            core_busy,
            others_busy,
            flows,
            disturbed,
        } = *other;
        if flows == 0 {
            return;
        }
        self.core_busy = if self.flows == 0 {
            core_busy
        } else {
            self.core_busy.min(core_busy)
        };
        self.others_busy = self.others_busy.max(others_busy);
        self.injected += injected;
        self.arrived += arrived;
        self.flows += flows;
        self.disturbed += disturbed;
    }

    /// Share of injected frames that arrived.
    #[must_use]
    pub fn arrived_share(&self) -> f64 {
        self.arrived as f64 / self.injected.max(1) as f64
    }
}
