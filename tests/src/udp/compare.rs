//! The proxy against [`super::reference`]: both up all the time, sampled in turn.

use std::fmt;
use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::reference::Reference;
use super::{Node, Pair};
use crate::cpu::{self, Times};
use crate::host::Pod;
use crate::report::Spread;
use crate::traffic::iperf::{Placement, Server};
use crate::traffic::{ping, stream};
use crate::wire::Wire;

/// Length of a TCP stream on free cores; iperf3 takes whole seconds.
const TCP: Duration = Duration::from_secs(1);
/// Length of a TCP stream whose ends share a core.
const TCP_ONE_CORE: Duration = Duration::from_millis(500);
/// Length of a flow of small packets.
const SMALL: Duration = Duration::from_millis(500);
/// Its payload: frames of 64 octets, with the checksum of the link.
const SMALL_PAYLOAD: usize = 18;
/// Echo requests behind a sample of the round-trip time.
const PINGS: u32 = 100;

/// What is measured: names with units, and what takes a sample of each.
const FIGURES: [(&[&str], Take); 4] = [
    (
        &["TCP, all cores, Gbit/s", "TCP per busy core, Gbit/s"],
        take_tcp,
    ),
    (&["TCP, ends on one core, Gbit/s"], take_tcp_one_core),
    (&["64-byte packets, kpps"], take_small),
    (&["ping, mean, µs"], take_ping),
];

/// Takes a sample of one figure, or of several, on a pair of hosts.
type Take = fn(&Pair) -> Result<Vec<f64>>;

/// One figure of both proxies.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What it is, with the unit.
    pub name: &'static str,
    /// One packet per system call.
    pub reference: Spread,
    /// The agent's proxy.
    pub proxy: Spread,
    /// The proxy's divided by the reference's: median of the ratios of samples that were taken one
    /// right after the other.
    pub ratio: f64,
}

/// The comparison over one kind of wire.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The wire.
    pub wire: Wire,
    /// Samples behind each median.
    pub rounds: usize,
    /// What was measured.
    pub figures: Vec<Figure>,
}

impl Comparison {
    /// Ratio of TCP throughput on all cores.
    #[must_use]
    pub fn tcp_ratio(&self) -> f64 {
        self.figures.first().map_or(0.0, |figure| figure.ratio)
    }
}

/// Measures both proxies over `wire`, `rounds` times.
///
/// # Errors
/// Not root, a tool is missing, or packets do not come through.
pub fn compare(wire: Wire, rounds: usize, progress: &mut dyn FnMut(&str)) -> Result<Comparison> {
    let pairs = [Pair::new(wire)?, Pair::new(wire)?];
    let [a, b] = &pairs[0].hosts;
    let _references = [Reference::start(a, 0, b)?, Reference::start(b, 1, a)?];
    let _nodes: [Node; 2] = pairs[1].start()?;
    for pair in &pairs {
        check(pair)?;
    }
    let names: Vec<&'static str> = FIGURES
        .iter()
        .flat_map(|(names, _)| *names)
        .copied()
        .collect();
    let mut samples = [0, 1].map(|_| vec![Vec::new(); names.len()]);
    for round in 0..rounds {
        progress(&format!("{wire}: round {} of {rounds}", round + 1));
        let mut place = 0;
        for (names, take) in FIGURES {
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for side in order {
                let taken = take(&pairs[side]).with_context(|| names.join(" and "))?;
                for (samples, value) in samples[side][place..].iter_mut().zip(taken) {
                    samples.push(value);
                }
            }
            place += names.len();
        }
    }
    let [reference, proxy] = samples;
    let figures = names
        .into_iter()
        .zip(reference.into_iter().zip(proxy))
        .map(|(name, (reference, proxy))| {
            let (reference, proxy) = (Spread::of(reference), Spread::of(proxy));
            Figure {
                name,
                ratio: proxy.ratio_to(&reference),
                reference,
                proxy,
            }
        })
        .collect();
    Ok(Comparison {
        wire,
        rounds,
        figures,
    })
}

/// Warms up, and sees that there is something to measure.
fn check(pair: &Pair) -> Result<()> {
    let [a, b] = &pair.hosts;
    let answer = ping::ping(&a.pods[0].ns, b.pods[0].address, ping::Options::default())?;
    ensure!(answer.received > 0, "no echo reply:\n{}", answer.text);
    Ok(())
}

fn take_tcp(pair: &Pair) -> Result<Vec<f64>> {
    let [a, b] = &pair.hosts;
    let server = Server::start(&b.pods[0], Placement::Free)?;
    let before = Times::now()?;
    let gbps = server.measure(&a.pods[0], TCP)?;
    let after = Times::now()?;
    let busy: f64 = (0..cpu::count())
        .map(|core| after.busy_since(&before, core))
        .sum();
    Ok(vec![gbps, gbps / busy])
}

fn take_tcp_one_core(pair: &Pair) -> Result<Vec<f64>> {
    let [a, b] = &pair.hosts;
    let gbps = stream::throughput(&a.pods[0], &b.pods[0], cpu::count() - 1, TCP_ONE_CORE)?;
    Ok(vec![gbps])
}

/// A sender that never waits, and a receiver that takes nothing: what does not fit is lost in
/// front of it, and what came to the pod is counted.
fn take_small(pair: &Pair) -> Result<Vec<f64>> {
    let [a, b] = pair.hosts.each_ref().map(|host| &host.pods[0]);
    let bind = |pod: &Pod| pod.ns.enter(|| UdpSocket::bind((pod.address, 0)));
    let (from, to) = (bind(a)??, bind(b)??);
    from.connect(to.local_addr()?)?;
    let before = received(b)?;
    let start = Instant::now();
    while start.elapsed() < SMALL {
        for _ in 0..100 {
            // A full queue on the way is part of the measurement.
            let _ = from.send(&[0; SMALL_PAYLOAD]);
        }
    }
    let elapsed = start.elapsed();
    let count = received(b)? - before;
    Ok(vec![count as f64 / elapsed.as_secs_f64() / 1000.0])
}

/// Datagrams that a pod has lost for want of a buffer: as good as all that came, and counted one by
/// one, however many came in one piece.
fn received(pod: &Pod) -> Result<u64> {
    let text = pod
        .ns
        .enter(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next(), lines.next());
    let count = names.zip(values).and_then(|(names, values)| {
        let place = names.split(' ').position(|name| name == "RcvbufErrors")?;
        values.split(' ').nth(place)?.parse().ok()
    });
    count.with_context(|| format!("no count of datagrams in\n{text}"))
}

fn take_ping(pair: &Pair) -> Result<Vec<f64>> {
    let [a, b] = &pair.hosts;
    let options = ping::Options {
        count: PINGS,
        interval_ms: 2,
        ..ping::Options::default()
    };
    let answer = ping::ping(&a.pods[0].ns, b.pods[0].address, options)?;
    let mean = answer.mean_us;
    Ok(vec![
        mean.with_context(|| format!("no reply:\n{}", answer.text))?,
    ])
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            wire,
            rounds,
            figures,
        } = self;
        writeln!(f, "udp backend in user space, {wire}, medians of {rounds}:")?;
        writeln!(
            f,
            "{:32}{:>10}{:>10}{:>8}   min..max of each",
            "", "reference", "proxy", "ratio"
        )?;
        for Figure {
            name,
            reference,
            proxy,
            ratio,
        } in figures
        {
            writeln!(
                f,
                "{name:32}{:>10.2}{:>10.2}{ratio:>8.2}   {:.2}..{:.2}, {:.2}..{:.2}",
                reference.median, proxy.median, reference.min, reference.max, proxy.min, proxy.max
            )?;
        }
        Ok(())
    }
}
