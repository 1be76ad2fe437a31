//! What all agents together take while no packets flow: it would be taken from every figure.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

use super::side::Side;
use crate::cpu::{self, Times};

/// How long to look.
const TIME: Duration = Duration::from_secs(2);

/// Shares of one core while nothing is measured.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Idle {
    /// All agents together.
    pub agents: f64,
    /// The busiest agent.
    pub busiest: f64,
    /// The whole machine, other work included; at most the number of cores.
    pub machine: f64,
}

pub(super) fn measure(sides: &[Side]) -> Result<Idle> {
    let agents = sides.iter().flat_map(Side::agents);
    let pids: Vec<u32> = agents.filter_map(|agent| agent.pid()).collect();
    let read = || -> Result<Vec<f64>> { pids.iter().map(|pid| cpu_secs(*pid)).collect() };
    let (start, times, before) = (Instant::now(), Times::now()?, read()?);
    thread::sleep(TIME);
    let (elapsed, after) = (start.elapsed().as_secs_f64(), read()?);
    let now = Times::now()?;
    let shares: Vec<f64> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| (after - before) / elapsed)
        .collect();
    Ok(Idle {
        agents: shares.iter().sum(),
        busiest: shares.iter().copied().fold(0.0, f64::max),
        machine: (0..cpu::count())
            .map(|core| now.busy_since(&times, core))
            .sum(),
    })
}

/// User and system time of a process, seconds.
fn cpu_secs(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("an agent has ended")?;
    let ticks = ticks(&text).with_context(|| format!("times of process {pid}: {text}"))?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(ticks / per_second as f64)
}

/// Fields 14 and 15 of `/proc/PID/stat` (proc(5)); the name, in parentheses, is the second.
fn ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(14 - 3);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_past_a_name_with_parentheses() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0";
        assert_eq!(ticks(stat), Some(200.0));
        assert_eq!(ticks("42 (a) S 1"), None);
    }
}
