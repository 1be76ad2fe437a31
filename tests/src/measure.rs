//! The comparison of two data paths, side by side in one run.
//!
//! Both beds are up all the time. Each figure is sampled on one and right after on the other, in
//! turn first on this and first on that, so that a machine that gets faster or slower meanwhile
//! favours neither. Ratios are of such pairs; see [`Ratios`].
//!
//! - [`figure`], [`probe`]: what is measured and how, of any number of sides; benches use them, too.

pub mod figure;
pub mod probe;

use std::time::Duration;

use anyhow::{Context as _, Result};
use flannel_agent::status::{Counter, Status};

use self::figure::{Figure, Samples};
use self::probe::{Ends, Lengths, Probe, Streams, in_turn};
use crate::agent::Agent;
use crate::bed::Bed;
use crate::cpu;
use crate::report::{PathReport, Ratios, Reason, Report, Share, WireReport};
use crate::traffic::latency::Transport;
use crate::wire::Wire;

/// Wire modes.
pub const WIRES: [Wire; 2] = [Wire::Mtu1500, Wire::SuperPacket];
/// Least number of samples behind a median.
const MIN_REPETITIONS: u64 = 3;
/// About how long one repetition takes: all figures, both paths, both wire modes.
const REPETITION_SECS: u64 = 11;
/// How long samples take.
const LENGTHS: Lengths = Lengths {
    tcp: Duration::from_secs(1),
    tcp_one_core: Duration::from_millis(300),
    packets: Duration::from_millis(700),
    response: Duration::from_millis(250),
};
/// What is sampled.
const PROBES: [Probe; 5] = [
    Probe::Ping,
    Probe::Iperf,
    Probe::TcpOneCore(Streams::One),
    Probe::Small,
    Probe::Response(Transport::Tcp),
];

/// Two hosts with one data path.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// How progress names it.
    pub name: &'a str,
    /// Its hosts; the first two with a pod each take part.
    pub bed: &'a Bed,
    /// Their agents; none where the overlay was set up by hand.
    pub agents: &'a [Agent],
}

/// Measures both sides over both kinds of wire, in about `time`.
///
/// # Errors
/// A tool fails, or the overlay does not carry packets.
pub fn compare(
    kernel: Side<'_>,
    ebpf: Side<'_>,
    time: Duration,
    progress: &mut dyn FnMut(&str),
) -> Result<Report> {
    let repetitions = MIN_REPETITIONS.max(time.as_secs() / REPETITION_SECS) as usize;
    let sides = [kernel, ebpf];
    let ends = [
        Ends::of_pods(&kernel.bed.hosts)?,
        Ends::of_pods(&ebpf.bed.hosts)?,
    ];
    let wires = WIRES
        .into_iter()
        .map(|wire| compare_on(wire, sides, &ends, repetitions, progress))
        .collect::<Result<_>>()?;
    Ok(Report {
        kernel_release: kernel_release()?,
        cores: cpu::count(),
        repetitions,
        wires,
    })
}

/// Release of the running kernel.
///
/// # Errors
/// None, on Linux.
pub fn kernel_release() -> Result<String> {
    let name = nix::sys::utsname::uname()?;
    Ok(name.release().to_string_lossy().into_owned())
}

fn compare_on(
    wire: Wire,
    sides: [Side<'_>; 2],
    ends: &[Ends; 2],
    repetitions: usize,
    progress: &mut dyn FnMut(&str),
) -> Result<WireReport> {
    let mut samples = [Samples::default(), Samples::default()];
    let before = sides.map(|side| counters(side.agents));
    for side in sides {
        side.bed.set_wire(wire)?;
    }
    let mut shown = None;
    in_turn(repetitions, &PROBES, sides.len(), |round, probe, index| {
        if shown.replace(round) != Some(round) {
            progress(&format!("{wire}: round {} of {repetitions}", round + 1));
        }
        probe
            .take(&ends[index], &LENGTHS, &mut samples[index])
            .with_context(|| {
                let (probe, side) = (probe.name(), sides[index].name);
                format!("{probe} on the {side} path over {wire}")
            })
    })?;
    let [mut kernel, mut ebpf] = samples.map(|samples| path_report(&samples));
    for ((path, side), before) in [&mut kernel, &mut ebpf].into_iter().zip(sides).zip(before) {
        path.shares = shares(&before?, &counters(side.agents)?);
    }
    let ratios = Ratios::between(&kernel, &ebpf);
    Ok(WireReport {
        wire,
        kernel,
        ebpf,
        ratios,
    })
}

fn path_report(samples: &Samples) -> PathReport {
    PathReport {
        pings_sent: samples.pings_sent,
        pings_received: samples.pings_received,
        ping_us: samples.spread(Figure::Ping),
        tcp_gbps: samples.spread(Figure::Tcp),
        tcp_one_core_gbps: samples.spread(Figure::TcpOneCore),
        small_kpps: samples.spread(Figure::Small),
        small_arrived: samples.load.arrived_share(),
        core_busy: samples.load.core_busy,
        others_busy: samples.load.others_busy,
        response_p50_us: samples.spread(Figure::ResponseP50),
        response_p99_us: samples.spread(Figure::ResponseP99),
        shares: Vec::new(),
    }
}

/// Packet counters of all agents of a side.
pub(crate) fn counters(agents: &[Agent]) -> Result<Vec<Counter>> {
    let statuses: Vec<Status> = agents.iter().map(Agent::status).collect::<Result<_>>()?;
    Ok(statuses
        .into_iter()
        .flat_map(|status| status.datapath.counters)
        .collect())
}

/// What was counted between two readings, by direction.
pub(crate) fn shares(before: &[Counter], after: &[Counter]) -> Vec<Share> {
    let sum = |counters: &[Counter], direction: &str, outcome: &str| -> u64 {
        let same = counters
            .iter()
            .filter(|c| c.direction == direction && c.outcome == outcome);
        same.map(|counter| counter.packets).sum()
    };
    let mut shares = Vec::new();
    for direction in ["egress", "ingress"] {
        let mut share = Share {
            direction: direction.to_owned(),
            packets: 0,
            handled: 0,
            rest: Vec::new(),
        };
        let mut outcomes: Vec<(&str, bool)> = after
            .iter()
            .filter(|counter| counter.direction == direction)
            .map(|counter| (counter.outcome.as_str(), counter.handled))
            .collect();
        outcomes.sort_unstable();
        outcomes.dedup();
        for (outcome, handled) in outcomes {
            let packets = sum(after, direction, outcome) - sum(before, direction, outcome);
            share.packets += packets;
            if handled {
                share.handled += packets;
            } else if packets > 0 {
                share.rest.push(Reason {
                    reason: outcome.to_owned(),
                    packets,
                });
            }
        }
        share
            .rest
            .sort_by_key(|reason| std::cmp::Reverse(reason.packets));
        if share.packets > 0 {
            shares.push(share);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(outcome: &str, handled: bool, packets: u64) -> Counter {
        let (direction, outcome) = ("egress".to_owned(), outcome.to_owned());
        Counter {
            direction,
            outcome,
            handled,
            packets,
            bytes: 0,
        }
    }

    #[test]
    fn shares_are_differences_summed_over_hosts() {
        let before = [
            counter("encapsulated", true, 10),
            counter("fragment", false, 1),
        ];
        let after = [
            counter("encapsulated", true, 100),
            counter("fragment", false, 3),
            counter("encapsulated", true, 10),
            counter("no peer", false, 0),
        ];
        let shares = shares(&before, &after);
        assert_eq!(shares.len(), 1, "nothing was counted on ingress");
        assert_eq!((shares[0].handled, shares[0].packets), (100, 102));
        assert_eq!(
            shares[0].rest.len(),
            1,
            "reasons that did not occur are not listed"
        );
    }
}
