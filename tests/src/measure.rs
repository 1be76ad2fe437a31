//! The comparison of two data paths, side by side in one run.
//!
//! Both beds are up all the time. Each figure is sampled on one and right after on the other, in
//! turn first on this and first on that, so that a machine that gets faster or slower meanwhile
//! favours neither. Ratios are of such pairs; see [`Ratios`].

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flannel_agent::status::{Counter, Status};

use crate::agent::Agent;
use crate::bed::Bed;
use crate::cpu;
use crate::host::{Host, Pod};
use crate::report::{PathReport, QUIET, Ratios, Reason, Report, Share, Spread, WireReport};
use crate::source::{Rate, Source};
use crate::traffic::iperf::{Placement, Server};
use crate::traffic::{latency, ping, stream};
use crate::wire::Wire;

/// Wire modes.
const WIRES: [Wire; 2] = [Wire::Mtu1500, Wire::SuperPacket];
/// Least number of samples behind a median.
const MIN_REPETITIONS: u64 = 3;
/// About how long one repetition takes: all figures, both paths, both wire modes.
const REPETITION_SECS: u64 = 11;
/// Length of a TCP stream on free cores; iperf3 takes whole seconds.
const TCP: Duration = Duration::from_secs(1);
/// Length of a TCP stream on one core.
const TCP_ONE_CORE: Duration = Duration::from_millis(300);
/// Length of a flow of small packets.
const SMALL: Duration = Duration::from_millis(700);
/// Length of a request-response run.
const RESPONSE: Duration = Duration::from_millis(250);

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
    tcp_one_core: Vec<f64>,
    small: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    injected: u64,
    arrived: u64,
}

/// Takes a sample of one figure.
type Take = fn(&Ends<'_>, &mut Samples) -> Result<()>;

/// What is measured, by the name that progress and errors use.
const FIGURES: [(&str, Take); 5] = [
    ("ping", take_ping),
    ("TCP", take_tcp),
    ("TCP on one core", take_tcp_one_core),
    ("64-byte packets", take_small),
    ("request-response", take_response),
];

/// Where traffic goes from and to.
struct Ends<'a> {
    host: &'a Host,
    from: &'a Pod,
    to: &'a Pod,
    core: usize,
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
    let wires = WIRES
        .into_iter()
        .map(|wire| compare_on(wire, [kernel, ebpf], repetitions, progress))
        .collect::<Result<_>>()?;
    let kernel_release = nix::sys::utsname::uname()?
        .release()
        .to_string_lossy()
        .into_owned();
    Ok(Report {
        kernel_release,
        cores: cpu::count(),
        repetitions,
        wires,
    })
}

fn compare_on(
    wire: Wire,
    sides: [Side<'_>; 2],
    repetitions: usize,
    progress: &mut dyn FnMut(&str),
) -> Result<WireReport> {
    let mut samples = [Samples::default(), Samples::default()];
    let before = sides.map(counters);
    for side in sides {
        side.bed.set_wire(wire)?;
    }
    for round in 0..repetitions {
        progress(&format!("{wire}: round {} of {repetitions}", round + 1));
        for (figure, take) in FIGURES {
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for index in order {
                let side = sides[index];
                take(&Ends::of(side)?, &mut samples[index])
                    .with_context(|| format!("{figure} on the {} path over {wire}", side.name))?;
            }
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

impl<'a> Ends<'a> {
    fn of(side: Side<'a>) -> Result<Self> {
        let [host, remote, ..] = side.bed.hosts.as_slice() else {
            bail!("two hosts are needed")
        };
        let from = host.pods.first().context("no pod on the first host")?;
        let to = remote.pods.first().context("no pod on the second host")?;
        // The last core: interrupts and start-up work favour the first.
        Ok(Self {
            host,
            from,
            to,
            core: cpu::count() - 1,
        })
    }
}

fn take_ping(ends: &Ends<'_>, samples: &mut Samples) -> Result<()> {
    let options = ping::Options {
        count: 10,
        ..ping::Options::default()
    };
    let answer = ping::ping(&ends.from.ns, ends.to.address, options)?;
    samples.path.pings_sent += answer.sent;
    samples.path.pings_received += answer.received;
    samples.ping_us.extend(answer.mean_us);
    ensure!(answer.received > 0, "no echo reply:\n{}", answer.text);
    Ok(())
}

fn take_tcp(ends: &Ends<'_>, samples: &mut Samples) -> Result<()> {
    let server = Server::start(ends.to, Placement::Free)?;
    samples.tcp.push(server.measure(ends.from, TCP)?);
    Ok(())
}

fn take_tcp_one_core(ends: &Ends<'_>, samples: &mut Samples) -> Result<()> {
    let gbps = stream::throughput(ends.from, ends.to, ends.core, TCP_ONE_CORE)?;
    samples.tcp_one_core.push(gbps);
    Ok(())
}

fn take_small(ends: &Ends<'_>, samples: &mut Samples) -> Result<()> {
    let source = Source::new(ends.host, ends.from, ends.to)?;
    let rate = undisturbed(&source, ends.core, SMALL)?;
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
    Ok(())
}

fn take_response(ends: &Ends<'_>, samples: &mut Samples) -> Result<()> {
    let times = latency::measure(ends.from, ends.to, ends.core, RESPONSE)?;
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
            tcp_one_core,
            small,
            p50,
            p99,
            injected,
            arrived,
        } = self;
        PathReport {
            ping_us: Spread::of(ping_us),
            tcp_gbps: Spread::of(tcp),
            tcp_one_core_gbps: Spread::of(tcp_one_core),
            small_kpps: Spread::of(small),
            small_arrived: arrived as f64 / injected.max(1) as f64,
            response_p50_us: Spread::of(p50),
            response_p99_us: Spread::of(p99),
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
