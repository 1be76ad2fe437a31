//! What was found.

use serde::{Deserialize, Serialize};

/// The whole bench.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Release of the kernel.
    pub kernel_release: String,
    /// Number of cores.
    pub cores: usize,
    /// Starts of each agent.
    pub rounds: usize,
    /// Lease changes per second that were to be followed.
    pub rate: u32,
    /// One entry per number of leases.
    pub scales: Vec<Scale>,
}

/// Everything with one number of leases.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scale {
    /// Number of leases, without the agent's own.
    pub leases: u32,
    /// What `ip -batch` takes, per round.
    pub floor: Vec<Floor>,
    /// One entry per agent.
    pub agents: Vec<AgentRow>,
}

/// What `ip -batch` and `bridge -batch` take for the entries of all peers, with the start of the
/// program, seconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Floor {
    /// FDB entries.
    pub fdb_secs: f64,
    /// Neighbours.
    pub neighbours_secs: f64,
    /// Routes.
    pub routes_secs: f64,
    /// Next-hop objects, a shorter way to the same routes.
    #[serde(default)]
    pub objects_secs: f64,
    /// Routes through these.
    #[serde(default)]
    pub object_routes_secs: f64,
}

/// One agent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AgentRow {
    /// Its name.
    pub name: String,
    /// Starts with nothing there, in order.
    pub cold: Vec<Start>,
    /// Starts with everything in place.
    pub warm: Vec<Start>,
    /// Following leases that change their MAC.
    pub change: Followed,
    /// Following leases that come and go.
    pub come_and_go: Followed,
    /// From lease to wire, one time after the other.
    #[serde(default)]
    pub first_packets: Vec<FirstPacket>,
}

/// One start.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Start {
    /// From start to `subnet.env`, seconds.
    pub subnet_file_secs: f64,
    /// From start to the later of `READY=1` and the last entry of a peer, seconds. Our agent says
    /// that it is ready when maps and entries are complete.
    pub peers_secs: f64,
    /// User and system time until a second after, seconds.
    pub cpu_secs: f64,
    /// Most memory held, MiB.
    pub peak_mib: f64,
    /// Changes that the kernel notified of, whatever they were.
    pub changes: usize,
}

/// How changes were followed.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Followed {
    /// Changes per second that etcd took.
    pub rate: f64,
    /// From etcd's answer to the kernel's notification, median, milliseconds.
    pub lag_p50_ms: f64,
    /// The same, 99th percentile.
    pub lag_p99_ms: f64,
    /// From etcd's last answer to the last notification, milliseconds.
    pub caught_up_ms: f64,
    /// Changes that were not followed yet at etcd's last answer.
    pub backlog: usize,
    /// Share of one core that the agent took meanwhile.
    pub cpu_share: f64,
}

/// Times from a lease to the first packet on the wire, milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct FirstPacket {
    /// Number of leases.
    pub samples: usize,
    /// From etcd's answer to the writer, median.
    pub p50_ms: f64,
    /// The same, 99th percentile.
    pub p99_ms: f64,
    /// From the writer's request, median.
    pub since_put_p50_ms: f64,
    /// The same, 99th percentile.
    pub since_put_p99_ms: f64,
}

impl Scale {
    /// Without figures yet.
    pub(super) fn new<'a>(leases: u32, names: impl Iterator<Item = &'a str>) -> Self {
        let agents = names.map(|name| AgentRow {
            name: name.to_owned(),
            ..AgentRow::default()
        });
        Self {
            leases,
            floor: Vec::new(),
            agents: agents.collect(),
        }
    }
}

impl Floor {
    /// All entries, seconds.
    #[must_use]
    pub fn total_secs(&self) -> f64 {
        self.fdb_secs + self.neighbours_secs + self.routes_secs
    }

    /// Routes through objects, with these, seconds.
    #[must_use]
    pub fn through_objects_secs(&self) -> f64 {
        self.objects_secs + self.object_routes_secs
    }

    /// All entries, with routes through objects, seconds.
    #[must_use]
    pub fn total_through_objects_secs(&self) -> f64 {
        self.fdb_secs + self.neighbours_secs + self.through_objects_secs()
    }
}

/// The least sample that `share` of all do not exceed; 0 without samples.
#[must_use]
pub(super) fn percentile(mut samples: Vec<f64>, share: f64) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    let rank = (samples.len() as f64 * share).ceil() as usize;
    samples.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(samples.clone(), 0.5), 100.0);
        assert_eq!(percentile(samples.clone(), 0.99), 198.0);
        assert_eq!(percentile(samples, 1.0), 200.0);
        assert_eq!(percentile(Vec::new(), 0.5), 0.0);
    }
}
