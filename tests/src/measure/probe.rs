//! How figures are sampled.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::figure::{Figure, Samples};
use crate::cpu::{self, Times};
use crate::host::{Host, Pod};
use crate::report::QUIET;
use crate::source::{self, Rate, Source};
use crate::traffic::iperf::{Placement, Server};
use crate::traffic::{latency, ping, stream};

/// Octets of a frame of medium size.
const MEDIUM: usize = 512;
/// Octets of the Ethernet header.
const ETHERNET: usize = 14;

/// Where the traffic of a data path goes from and to.
#[derive(Debug)]
pub struct Ends {
    from: Pod,
    to: Pod,
    sources: Option<Sources>,
    core: usize,
}

/// What makes flows of each size.
#[derive(Debug)]
struct Sources {
    small: Source,
    medium: Source,
    large: Source,
}

/// How long samples take.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    /// A TCP stream on free cores; iperf3 takes whole seconds.
    pub tcp: Duration,
    /// A TCP stream on one core.
    pub tcp_one_core: Duration,
    /// A flow of packets.
    pub packets: Duration,
    /// A request-response run.
    pub response: Duration,
}

/// Takes a sample of one figure, or of several that come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Ten echo requests.
    Ping,
    /// iperf3.
    Iperf,
    /// One TCP stream of ours.
    Tcp,
    /// The same on one core.
    TcpOneCore,
    /// A flow of 64-octet frames.
    Small,
    /// A flow of 512-octet frames.
    Medium,
    /// A flow of frames as large as the pods' MTU.
    Large,
    /// Requests and responses.
    Response,
}

impl Ends {
    /// The first pods of the first two hosts.
    ///
    /// # Errors
    /// There are not as many, or no packets can be injected.
    pub fn of_pods(hosts: &[Host]) -> Result<Self> {
        let [host, remote, ..] = hosts else {
            bail!("two hosts are needed")
        };
        let from = host.pods.first().context("no pod on the first host")?;
        let to = remote.pods.first().context("no pod on the second host")?;
        let source = |octets| Source::with_size(host, from, to, octets);
        let sources = Sources {
            small: source(source::SMALL)?,
            medium: source(MEDIUM)?,
            large: source(from.mtu()? + ETHERNET)?,
        };
        Ok(Self::new(from.clone(), to.clone(), Some(sources)))
    }

    /// The hosts themselves. No packets are injected there: what a pod sends comes in on a device,
    /// what a host sends comes from a socket.
    ///
    /// # Errors
    /// There are not two.
    pub fn of_hosts(hosts: &[Host]) -> Result<Self> {
        let [from, to, ..] = hosts else {
            bail!("two hosts are needed")
        };
        let end = |host: &Host| Pod {
            ns: host.ns.clone(),
            address: host.address,
            veth: host.external.clone(),
        };
        Ok(Self::new(end(from), end(to), None))
    }

    fn new(from: Pod, to: Pod, sources: Option<Sources>) -> Self {
        Self {
            from,
            to,
            sources,
            // The last core: interrupts and start-up work favour the first.
            core: cpu::count() - 1,
        }
    }

    /// Whether a probe has something to measure here.
    #[must_use]
    pub fn can(&self, probe: Probe) -> bool {
        match probe {
            Probe::Small | Probe::Medium | Probe::Large => self.sources.is_some(),
            _ => true,
        }
    }

    /// Sends echo requests.
    ///
    /// # Errors
    /// `ping` fails.
    pub fn ping(&self, options: ping::Options) -> Result<ping::Answer> {
        ping::ping(&self.from.ns, self.to.address, options)
    }

    fn sources(&self) -> Result<&Sources> {
        self.sources
            .as_ref()
            .context("no packets are injected here")
    }
}

impl Probe {
    /// How progress and errors name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Iperf | Self::Tcp => "TCP",
            Self::TcpOneCore => "TCP on one core",
            Self::Small => "64-byte packets",
            Self::Medium => "512-byte packets",
            Self::Large => "packets of MTU size",
            Self::Response => "request-response",
        }
    }

    /// Takes a sample.
    ///
    /// # Errors
    /// A tool fails, or packets do not come through.
    pub fn take(self, ends: &Ends, lengths: &Lengths, samples: &mut Samples) -> Result<()> {
        let Lengths {
            tcp,
            tcp_one_core,
            packets,
            response,
        } = *lengths;
        match self {
            Self::Ping => take_ping(ends, samples)?,
            Self::Iperf => {
                let server = Server::start(&ends.to, Placement::Free)?;
                samples.push(Figure::Tcp, server.measure(&ends.from, tcp)?);
            }
            Self::Tcp => {
                let before = Times::now()?;
                let gbps = stream::throughput(&ends.from, &ends.to, Placement::Free, tcp)?;
                let after = Times::now()?;
                let busy: f64 = (0..cpu::count())
                    .map(|core| after.busy_since(&before, core))
                    .sum();
                samples.push(Figure::Tcp, gbps);
                samples.push(Figure::TcpPerCore, gbps / busy);
            }
            Self::TcpOneCore => {
                let placement = Placement::OneCore(ends.core);
                let gbps = stream::throughput(&ends.from, &ends.to, placement, tcp_one_core)?;
                samples.push(Figure::TcpOneCore, gbps);
            }
            Self::Small => {
                let rate = undisturbed(&ends.sources()?.small, ends.core, packets)?;
                samples.push(Figure::Small, rate.kpps);
                samples.load.add(&rate);
            }
            Self::Medium => {
                let rate = undisturbed(&ends.sources()?.medium, ends.core, packets)?;
                samples.push(Figure::Medium, rate.kpps);
            }
            Self::Large => {
                let rate = undisturbed(&ends.sources()?.large, ends.core, packets)?;
                samples.push(Figure::Large, rate.kpps);
            }
            Self::Response => {
                let times = latency::measure(&ends.from, &ends.to, ends.core, response)?;
                samples.push(Figure::ResponseP50, times.p50_us);
                samples.push(Figure::ResponseP99, times.p99_us);
            }
        }
        Ok(())
    }
}

fn take_ping(ends: &Ends, samples: &mut Samples) -> Result<()> {
    let options = ping::Options {
        count: 10,
        ..ping::Options::default()
    };
    let answer = ends.ping(options)?;
    samples.pings_sent += answer.sent;
    samples.pings_received += answer.received;
    if let Some(mean) = answer.mean_us {
        samples.push(Figure::Ping, mean);
    }
    ensure!(answer.received > 0, "no echo reply:\n{}", answer.text);
    Ok(())
}

/// The better of two measurements if other work disturbed the first: what the other core does
/// costs this one up to half, where they are two threads of one.
fn undisturbed(source: &Source, core: usize, time: Duration) -> Result<Rate> {
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

/// Lets `probes` sample the sides numbered from 0, `rounds` times: each probe on all sides one
/// right after the other, each round beginning with another side.
///
/// # Errors
/// What `take` says.
pub fn in_turn(
    rounds: usize,
    probes: &[Probe],
    sides: usize,
    mut take: impl FnMut(usize, Probe, usize) -> Result<()>,
) -> Result<()> {
    for round in 0..rounds {
        for probe in probes {
            for place in 0..sides {
                take(round, *probe, (round + place) % sides)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_begins_with_another_side() {
        let mut order = Vec::new();
        in_turn(2, &[Probe::Tcp, Probe::Small], 3, |round, probe, side| {
            order.push((round, probe == Probe::Tcp, side));
            Ok(())
        })
        .unwrap();
        let sides: Vec<usize> = order.iter().map(|(_, _, side)| *side).collect();
        assert_eq!(sides, [0, 1, 2, 0, 1, 2, 1, 2, 0, 1, 2, 0]);
        assert_eq!(order[3], (0, false, 0), "a figure at a time");
    }
}
