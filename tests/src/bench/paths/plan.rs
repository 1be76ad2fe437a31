//! What is sampled, how often and for how long.

use std::time::Duration;

use super::kind::{Choice, Kind};
use crate::measure::WIRES;
use crate::measure::figure::Group;
use crate::measure::probe::{Lengths, Probe, Streams};
use crate::report::ENOUGH;
use crate::traffic::latency::Transport;
use crate::wire::Wire;

/// About how long the setting up of a side takes.
pub(super) const SET_UP: Duration = Duration::from_millis(1_500);
/// How long it is looked at what agents do without traffic.
pub(super) const IDLE: Duration = Duration::from_secs(2);

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// One figure of each kind.
    Quick,
    /// All.
    Full,
}

/// What is measured if nothing is chosen: what is only for NICs takes too long for a quick run.
#[must_use]
pub fn in_a_run(all: Vec<Choice>, depth: Depth) -> Vec<Choice> {
    let is_wanted = |choice: &Choice| match choice {
        Choice::Own(Kind::VxlanXdp | Kind::UdpXdp) => depth == Depth::Full,
        Choice::Own(_) | Choice::Peer(..) => true,
    };
    all.into_iter().filter(is_wanted).collect()
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Data paths, in the order of the rows.
    pub sides: Vec<Choice>,
    /// Figures.
    pub groups: Vec<Group>,
    /// How many of them.
    pub depth: Depth,
    /// Samples behind each median.
    pub rounds: usize,
    /// How long each takes.
    pub lengths: Lengths,
}

impl Options {
    /// The measurement of these sides.
    #[must_use]
    pub fn new(sides: Vec<Choice>, groups: Vec<Group>, depth: Depth) -> Self {
        let ms = Duration::from_millis;
        let (rounds, lengths) = match depth {
            Depth::Full => {
                let lengths = Lengths {
                    tcp: ms(400),
                    tcp_one_core: ms(250),
                    packets: ms(400),
                    response: ms(200),
                };
                // With nine samples the second and the second to last bound the median (96 %).
                (9, lengths)
            }
            Depth::Quick => {
                let lengths = Lengths {
                    tcp: ms(130),
                    tcp_one_core: ms(100),
                    packets: ms(100),
                    response: ms(80),
                };
                (ENOUGH, lengths)
            }
        };
        Self {
            sides,
            groups,
            depth,
            rounds,
            lengths,
        }
    }

    /// What is sampled over a kind of wire.
    #[must_use]
    pub fn probes(&self, wire: Wire) -> Vec<Probe> {
        let all = probes(wire, self.depth).iter().copied();
        all.filter(|probe| self.groups.contains(&probe.group()))
            .collect()
    }

    /// About how long all of it takes.
    #[must_use]
    pub fn time(&self) -> Duration {
        let probes = WIRES.into_iter().flat_map(|wire| self.probes(wire));
        let round: Duration = probes.map(|probe| probe.time(&self.lengths)).sum();
        let side = SET_UP + round * u32::try_from(self.rounds).unwrap_or(u32::MAX);
        side * u32::try_from(self.sides.len()).unwrap_or(u32::MAX) + IDLE
    }
}

/// What a wire does to super-packets changes no rate of single packets, but for those that a proxy
/// gathers; one size shows that.
fn probes(wire: Wire, depth: Depth) -> &'static [Probe] {
    use Probe::{Connections, Large, Medium, Response, Small, Tcp, TcpOneCore};
    use Streams::{Four, One, Sixteen};
    match (wire, depth) {
        (Wire::Mtu1500, Depth::Full) => &[
            Small,
            Medium,
            Large,
            Tcp(One),
            Tcp(Four),
            Tcp(Sixteen),
            TcpOneCore(One),
            TcpOneCore(Four),
            TcpOneCore(Sixteen),
            Response(Transport::Tcp),
            Response(Transport::Udp),
            Connections,
        ],
        (Wire::SuperPacket, Depth::Full) => &[
            Small,
            Tcp(One),
            Tcp(Four),
            Tcp(Sixteen),
            TcpOneCore(One),
            TcpOneCore(Sixteen),
            Response(Transport::Tcp),
        ],
        (Wire::Mtu1500, Depth::Quick) => &[
            Small,
            Tcp(One),
            TcpOneCore(One),
            Response(Transport::Tcp),
            Connections,
        ],
        (Wire::SuperPacket, Depth::Quick) => &[Tcp(One), TcpOneCore(One)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_fits_its_time() {
        let options = |depth| {
            let sides = in_a_run(Choice::all(&[]), depth);
            Options::new(sides, Group::ALL.to_vec(), depth)
        };
        assert!(options(Depth::Quick).time() < Duration::from_secs(110));
        // The rest of 25 minutes is for what is not a data path.
        assert!(options(Depth::Full).time() < Duration::from_secs(20 * 60));
    }

    #[test]
    fn groups_select_probes() {
        let options = Options::new(Vec::new(), vec![Group::Packets], Depth::Quick);
        assert_eq!(options.probes(Wire::Mtu1500), [Probe::Small]);
        assert_eq!(options.probes(Wire::SuperPacket), []);
    }
}
