//! The comparison of two data paths, side by side in one run.
//!
//! Both beds are up all the time and samples alternate between them, each round in the opposite
//! order of the one before, so that a machine that gets faster or slower meanwhile favours neither.
//! Medians are compared, never single samples.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_agent::status::{Counter, Status};

use crate::agent::Agent;
use crate::bed::Bed;
use crate::cpu;
use crate::report::{PathReport, QUIET, Ratios, Reason, Report, Share, Spread, WireReport};
use crate::source::{Rate, Source};
use crate::traffic::iperf::{Placement, Server};
use crate::traffic::{latency, ping};
use crate::wire::Wire;

/// Samples behind each median.
const REPETITIONS: usize = 3;
/// Wire modes.
const WIRES: [Wire; 2] = [Wire::Mtu1500, Wire::SuperPacket];

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

/// Samples of one side over one kind of wire.
#[derive(Default)]
struct Samples {
    path: PathReport,
    ping_us: Vec<f64>,
    tcp: Vec<f64>,
    small: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    injected: u64,
    arrived: u64,
}

/// Lengths of the parts of a sample.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    tcp: Duration,
    small: Duration,
    response: Duration,
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
    let lengths = Lengths::for_total(time);
    let wires = WIRES
        .into_iter()
        .map(|wire| compare_on(wire, [kernel, ebpf], lengths, progress))
        .collect::<Result<_>>()?;
    let kernel_release = nix::sys::utsname::uname()?
        .release()
        .to_string_lossy()
        .into_owned();
    Ok(Report {
        kernel_release,
        cores: cpu::count(),
        repetitions: REPETITIONS,
        wires,
    })
}

impl Lengths {
    /// iperf3 takes whole seconds; the rest of the time is shared between the other two.
    fn for_total(time: Duration) -> Self {
        let samples = u32::try_from(WIRES.len() * 2 * REPETITIONS).unwrap_or(u32::MAX);
        let slot = time / samples;
        let tcp = Duration::from_secs((slot.as_secs_f64() * 0.35).round().max(1.0) as u64);
        let rest = slot.saturating_sub(tcp).max(Duration::from_secs(1));
        Self {
            tcp,
            small: rest.mul_f64(0.6),
            response: rest.mul_f64(0.2),
        }
    }
}

fn compare_on(
    wire: Wire,
    sides: [Side<'_>; 2],
    lengths: Lengths,
    progress: &mut dyn FnMut(&str),
) -> Result<WireReport> {
    let mut samples = [Samples::default(), Samples::default()];
    let before = sides.map(counters);
    for side in sides {
        side.bed.set_wire(wire)?;
    }
    for round in 0..REPETITIONS {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for index in order {
            let side = sides[index];
            progress(&format!(
                "{wire}: {} path, {} of {REPETITIONS}",
                side.name,
                round + 1
            ));
            sample(side, lengths, &mut samples[index])
                .with_context(|| format!("measure the {} path over {wire}", side.name))?;
        }
    }
    let [mut kernel, mut ebpf] = samples.map(Samples::finish);
    for ((path, side), before) in [&mut kernel, &mut ebpf].into_iter().zip(sides).zip(before) {
        path.shares = shares(&before?, &counters(side)?);
    }
    let ratios = Ratios::between(&kernel, &ebpf);
    Ok(WireReport {
        wire,
        kernel,
        ebpf,
        ratios,
    })
}

fn sample(side: Side<'_>, lengths: Lengths, samples: &mut Samples) -> Result<()> {
    let (a, b) = (&side.bed.hosts[0], &side.bed.hosts[1]);
    let (from, to) = (
        a.pods.first().context("no pod")?,
        b.pods.first().context("no pod")?,
    );
    // The core that does least else: interrupts and start-up work favour the first.
    let core = cpu::count() - 1;

    let answer = ping::ping(
        &from.ns,
        to.address,
        ping::Options {
            count: 10,
            ..Default::default()
        },
    )?;
    samples.path.pings_sent += answer.sent;
    samples.path.pings_received += answer.received;
    samples.ping_us.extend(answer.mean_us);
    ensure!(answer.received > 0, "no echo reply:\n{}", answer.text);

    let server = Server::start(to, Placement::Free)?;
    samples.tcp.push(server.measure(from, lengths.tcp)?);
    drop(server);

    let rate = undisturbed(&Source::new(a, from, to)?, core, lengths.small)?;
    samples.small.push(rate.kpps);
    samples.injected += rate.injected;
    samples.arrived += rate.arrived;
    let path = &mut samples.path;
    path.core_busy = if path.core_busy == 0.0 {
        rate.busy
    } else {
        path.core_busy.min(rate.busy)
    };
    path.others_busy = path.others_busy.max(rate.others_busy);

    let times = latency::measure(from, to, core, lengths.response)?;
    samples.p50.push(times.p50_us);
    samples.p99.push(times.p99_us);
    Ok(())
}

/// The better of two measurements if other work disturbed the first: what the other core does
/// costs this one up to half, where they are two threads of one.
fn undisturbed(source: &Source<'_>, core: usize, time: Duration) -> Result<Rate> {
    let first = source.measure(core, time)?;
    if first.others_busy <= QUIET {
        return Ok(first);
    }
    let second = source.measure(core, time)?;
    Ok(if second.others_busy < first.others_busy {
        second
    } else {
        first
    })
}

impl Samples {
    fn finish(self) -> PathReport {
        let Self {
            path,
            ping_us,
            tcp,
            small,
            p50,
            p99,
            injected,
            arrived,
        } = self;
        PathReport {
            ping_us: Spread::of(&ping_us),
            tcp_gbps: Spread::of(&tcp),
            small_kpps: Spread::of(&small),
            small_arrived: arrived as f64 / injected.max(1) as f64,
            response_p50_us: Spread::of(&p50),
            response_p99_us: Spread::of(&p99),
            ..path
        }
    }
}

/// Packet counters of all agents of a side.
fn counters(side: Side<'_>) -> Result<Vec<Counter>> {
    let statuses: Vec<Status> = side
        .agents
        .iter()
        .map(Agent::status)
        .collect::<Result<_>>()?;
    Ok(statuses
        .into_iter()
        .flat_map(|status| status.datapath.counters)
        .collect())
}

/// What was counted between two readings, by direction.
fn shares(before: &[Counter], after: &[Counter]) -> Vec<Share> {
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
