//! What is lost between two pods while the agents of their hosts are killed and started again.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::leases::Subject;
use super::paths::kind::Backend;
use super::paths::peer::Peers;
use super::paths::side::{Path, start};
use super::progress::Progress;
use crate::host::Pod;
use crate::traffic::sequence::{Flow, Tally};

/// Datagrams per second of each direction, and octets of each.
const RATE: u32 = 5_000;
const OCTETS: usize = 200;
/// Between the start of an agent that does not say when it is ready, and the next step.
const SETTLE: Duration = Duration::from_secs(2);
/// About how long a restart takes, and the setting up.
const RESTART: Duration = Duration::from_millis(1_500);
const SET_UP: Duration = Duration::from_secs(3);

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Further programs, beside our agent.
    pub peers: Vec<Subject>,
    /// How often an agent is killed and started again.
    pub restarts: usize,
}

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// One entry per data path.
    pub rows: Vec<Row>,
}

/// One data path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Which.
    pub name: String,
    /// How often an agent was killed and started again.
    pub restarts: usize,
    /// Datagrams sent, both directions together.
    pub sent: u64,
    /// Never received.
    pub lost: u64,
    /// Received more than once.
    pub duplicated: u64,
    /// Received after a later one.
    pub reordered: u64,
}

impl Options {
    /// About how long all of it takes.
    #[must_use]
    pub fn time(&self) -> Duration {
        let times = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let own = (SET_UP + RESTART * times(self.restarts)) * 3;
        own + (SET_UP + (RESTART + SETTLE) * times(self.restarts)) * times(self.peers.len())
    }
}

/// Measures.
///
/// # Errors
/// An agent does not come up again.
pub fn run(options: &Options, progress: &mut Progress) -> Result<Report> {
    let Options { peers, restarts } = options;
    let mut rows = Vec::new();
    for path in [Path::Kernel, Path::Standard, Path::Fast] {
        let name = format!("vxlan, {path}");
        progress.step(&format!("set up {name}"), SET_UP);
        let mut cluster = start("vxlan", path)?;
        let flows = Flows::start(&[cluster.pod(0).clone(), cluster.pod(1).clone()])?;
        for round in 0..*restarts {
            progress.step(&format!("{name}: restart {}", round + 1), RESTART);
            let agent = &mut cluster.agents[round % 2];
            agent.kill()?;
            agent.start()?;
            agent.wait_for_peers(1)?;
        }
        rows.push(flows.finish(name, *restarts)?);
    }
    for peer in peers {
        let name = format!("vxlan, {}", peer.name());
        progress.step(&format!("set up {name}"), SET_UP);
        let mut hosts = Peers::new(peer, Backend::Vxlan)?;
        let flows = Flows::start(&[0, 1].map(|host| hosts.bed.hosts[host].pods[0].clone()))?;
        for round in 0..*restarts {
            progress.step(&format!("{name}: restart {}", round + 1), RESTART + SETTLE);
            hosts.restart(round % 2)?;
            thread::sleep(SETTLE);
        }
        rows.push(flows.finish(name, *restarts)?);
    }
    Ok(Report { rows })
}

/// Datagrams in both directions.
struct Flows([Flow; 2]);

impl Flows {
    fn start(pods: &[Pod; 2]) -> Result<Self> {
        let [a, b] = pods;
        let flow = |from, to| Flow::start(from, to, OCTETS, RATE).context("start a flow");
        let flows = Self([flow(a, b)?, flow(b, a)?]);
        // On the fast path before the first restart.
        thread::sleep(Duration::from_millis(500));
        Ok(flows)
    }

    fn finish(self, name: String, restarts: usize) -> Result<Row> {
        let mut row = Row {
            name,
            restarts,
            sent: 0,
            lost: 0,
            duplicated: 0,
            reordered: 0,
        };
        for flow in self.0 {
            let Tally {
                sent,
                lost,
                duplicated,
                reordered,
                damaged,
            } = flow.finish()?;
            row.sent += sent;
            row.lost += lost + damaged;
            row.duplicated += duplicated;
            row.reordered += reordered;
        }
        Ok(row)
    }
}

/// The table.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = format!("loss over restarts (kill -9, start), {RATE} datagrams/s each way\n");
    // Writing into a String cannot fail.
    let _ = writeln!(
        text,
        "{:<34}{:>10}{:>10}{:>10}{:>12}{:>11}",
        "", "restarts", "sent", "lost", "duplicated", "reordered"
    );
    for row in &report.rows {
        let Row {
            name,
            restarts,
            sent,
            lost,
            duplicated,
            reordered,
        } = row;
        let name = format!("  {name}");
        let _ = writeln!(
            text,
            "{name:<34}{restarts:>10}{sent:>10}{lost:>10}{duplicated:>12}{reordered:>11}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_what_was_lost() {
        let row = Row {
            name: "vxlan, fast path".to_owned(),
            restarts: 4,
            sent: 60_000,
            lost: 17,
            duplicated: 0,
            reordered: 0,
        };
        let text = table(&Report { rows: vec![row] });
        let line = text.lines().last().unwrap_or_default();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            cells,
            ["vxlan,", "fast", "path", "4", "60000", "17", "0", "0"]
        );
    }
}
