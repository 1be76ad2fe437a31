//! How figures are sampled.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::figure::{Figure, Group, Samples};
use crate::cpu::{self, Times};
use crate::host::{self, BRIDGE, Host, Pod};
use crate::report::QUIET;
use crate::source::{self, Frames, Ports, Rate, Source};
use crate::traffic::iperf::{Placement, Server};
use crate::traffic::latency::{self, Transport};
use crate::traffic::{connections, ping, stream};

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
    /// A request-response run, and one of connections.
    pub response: Duration,
}

/// Takes a sample of one figure, or of several that come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Ten echo requests.
    Ping,
    /// iperf3.
    Iperf,
    /// TCP streams of ours.
    Tcp(Streams),
    /// The same on one core.
    TcpOneCore(Streams),
    /// A flow of 64-octet frames.
    Small,
    /// A flow of 512-octet frames.
    Medium,
    /// A flow of frames as large as the pods' MTU.
    Large,
    /// Requests and responses.
    Response(Transport),
    /// Connections, one after the other.
    Connections,
}

/// How many TCP streams at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// 1.
    One,
    /// 4.
    Four,
    /// 16.
    Sixteen,
}

impl Streams {
    fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Four => 4,
            Self::Sixteen => 16,
        }
    }
}

impl Ends {
    /// The first pods of the first two hosts.
    ///
    /// # Errors
    /// There are not as many, or no packets can be injected.
    pub fn of_pods(hosts: &[Host]) -> Result<Self> {
        let [host, ..] = hosts else {
            bail!("two hosts are needed")
        };
        Self::of_pods_via(hosts, host::mac(&host.ns, BRIDGE)?)
    }

    /// As [`of_pods`](Self::of_pods), where what a pod sends is addressed to this device.
    ///
    /// # Errors
    /// As there.
    pub fn of_pods_via(hosts: &[Host], next_hop: [u8; 6]) -> Result<Self> {
        let [host, remote, ..] = hosts else {
            bail!("two hosts are needed")
        };
        let from = host.pods.first().context("no pod on the first host")?;
        let to = remote.pods.first().context("no pod on the second host")?;
        let source = |octets| {
            let frames = Frames {
                octets,
                next_hop,
                ports: Ports::Fixed,
            };
            Source::new(host, from, to, frames)
        };
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

    /// Sends 64-octet frames for about `time`.
    ///
    /// # Errors
    /// No packets are injected here, or they cannot be.
    pub fn small_packets(&self, time: Duration) -> Result<Rate> {
        self.sources()?.small.measure(self.core, time)
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
            Self::Iperf | Self::Tcp(Streams::One) => "TCP",
            Self::Tcp(Streams::Four) => "4 TCP streams",
            Self::Tcp(Streams::Sixteen) => "16 TCP streams",
            Self::TcpOneCore(Streams::One) => "TCP on one core",
            Self::TcpOneCore(Streams::Four) => "4 TCP streams on one core",
            Self::TcpOneCore(Streams::Sixteen) => "16 TCP streams on one core",
            Self::Small => "64-byte packets",
            Self::Medium => "512-byte packets",
            Self::Large => "packets of MTU size",
            Self::Response(Transport::Tcp) => "TCP request-response",
            Self::Response(Transport::Udp) => "UDP request-response",
            Self::Connections => "connections",
        }
    }

    /// The figures that it is among.
    #[must_use]
    pub fn group(self) -> Group {
        match self {
            Self::Small | Self::Medium | Self::Large => Group::Packets,
            Self::Iperf | Self::Tcp(_) | Self::TcpOneCore(_) => Group::Tcp,
            Self::Ping | Self::Response(_) | Self::Connections => Group::Response,
        }
    }

    /// What a sample consists of.
    #[must_use]
    pub fn figures(self) -> &'static [Figure] {
        match self {
            Self::Ping => &[Figure::Ping],
            Self::Iperf => &[Figure::Tcp],
            Self::Tcp(Streams::One) => &[Figure::Tcp, Figure::TcpPerCore],
            Self::Tcp(Streams::Four) => &[Figure::Tcp4],
            Self::Tcp(Streams::Sixteen) => &[Figure::Tcp16],
            Self::TcpOneCore(Streams::One) => &[Figure::TcpOneCore],
            Self::TcpOneCore(Streams::Four) => &[Figure::Tcp4OneCore],
            Self::TcpOneCore(Streams::Sixteen) => &[Figure::Tcp16OneCore],
            Self::Small => &[Figure::Small],
            Self::Medium => &[Figure::Medium],
            Self::Large => &[Figure::Large],
            Self::Response(Transport::Tcp) => &[
                Figure::ResponseP50,
                Figure::ResponseP99,
                Figure::ResponseP999,
            ],
            Self::Response(Transport::Udp) => &[
                Figure::UdpResponseP50,
                Figure::UdpResponseP99,
                Figure::UdpResponseP999,
            ],
            Self::Connections => &[Figure::Connections],
        }
    }

    /// About how long a sample takes.
    #[must_use]
    pub fn time(self, lengths: &Lengths) -> Duration {
        // Connecting, counting.
        const BESIDE: Duration = Duration::from_millis(60);
        // Of the packet source, with what its calls wait.
        const WARM_UP: Duration = Duration::from_millis(200);
        let time = match self {
            Self::Ping => Duration::ZERO,
            Self::Iperf | Self::Tcp(_) => lengths.tcp,
            Self::TcpOneCore(_) => lengths.tcp_one_core,
            Self::Small | Self::Medium | Self::Large => lengths.packets + WARM_UP,
            Self::Response(_) | Self::Connections => lengths.response,
        };
        time + BESIDE
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
        let values = match self {
            Self::Ping => return take_ping(ends, samples),
            Self::Iperf => {
                let server = Server::start(&ends.to, Placement::Free)?;
                vec![server.measure(&ends.from, tcp)?]
            }
            Self::Tcp(streams) => {
                let before = Times::now()?;
                let count = streams.count();
                let gbps = stream::throughput(&ends.from, &ends.to, Placement::Free, count, tcp)?;
                let after = Times::now()?;
                let cores = 0..cpu::count();
                let busy: f64 = cores.map(|core| after.busy_since(&before, core)).sum();
                vec![gbps, gbps / busy]
            }
            Self::TcpOneCore(streams) => {
                let (placement, count) = (Placement::OneCore(ends.core), streams.count());
                let time = tcp_one_core;
                vec![stream::throughput(
                    &ends.from, &ends.to, placement, count, time,
                )?]
            }
            Self::Small => {
                let rate = undisturbed(&ends.sources()?.small, ends.core, packets)?;
                samples.load.add(&rate);
                vec![rate.kpps]
            }
            Self::Medium => {
                vec![undisturbed(&ends.sources()?.medium, ends.core, packets)?.kpps]
            }
            Self::Large => vec![undisturbed(&ends.sources()?.large, ends.core, packets)?.kpps],
            Self::Response(transport) => {
                let times = latency::measure(&ends.from, &ends.to, transport, ends.core, response)?;
                vec![times.p50_us, times.p99_us, times.p999_us]
            }
            Self::Connections => {
                vec![connections::measure(&ends.from, &ends.to, ends.core, response)? / 1e3]
            }
        };
        for (figure, value) in self.figures().iter().zip(values) {
            samples.push(*figure, value);
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
        in_turn(2, &[Probe::Ping, Probe::Small], 3, |round, probe, side| {
            order.push((round, probe == Probe::Ping, side));
            Ok(())
        })
        .unwrap();
        let sides: Vec<usize> = order.iter().map(|(_, _, side)| *side).collect();
        assert_eq!(sides, [0, 1, 2, 0, 1, 2, 1, 2, 0, 1, 2, 0]);
        assert_eq!(order[3], (0, false, 0), "a figure at a time");
    }
}
