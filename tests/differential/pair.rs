//! The two nodes side by side: the same packets go into both, and what comes out is compared.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::backend::Backend;
use crate::generate::{Encap, Ip, Tunnel};
use crate::lane::Lane;
use crate::mask;
use crate::socket::{Frame, Offload, Seen, Slots};
use crate::twin::{Entrance, Exit, Path, Twin};
use crate::world::{
    BRIDGE_MAC, FAR_BRIDGE_MAC, FAR_POD, FAR_POD_MAC, OTHER_POD, OTHER_POD_MAC, PEERS, Peer,
};

/// What every sentinel ends with, in front of its number.
const MAGIC: [u8; 8] = *b"sentinel";
/// How long a sentinel may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// Time after which another one is sent: the first may have met a full queue.
const PATIENCE: Duration = Duration::from_secs(1);
/// Protocol of sentinels: "use for experimentation" (RFC 3692).
const PROTOCOL: u8 = 253;

/// Two nodes, each on its path.
pub(crate) struct Pair {
    /// The one whose path is under test.
    pub tested: Twin,
    /// The one that it has to be like.
    pub model: Twin,
    backend: Backend,
    slots: Slots,
    /// Number of the last sentinel.
    serial: u64,
    /// Source port of the tunnel by flow, as eBPF has chosen it.
    ports: HashMap<[u8; 13], u16>,
}

/// Octets in front of the packet, on a pod's interface and in a tunnel of the udp backend.
const LINK: usize = 14;
const PROXIED: usize = Encap::Udp.headers();

/// What came out of one node, by exit.
type Outputs = [Vec<Seen>; Exit::ALL.len()];

/// How the two nodes differ.
#[derive(Debug, Clone)]
pub(crate) enum Difference {
    /// One of the sockets refused a frame.
    Refused {
        tested: Vec<usize>,
        model: Vec<usize>,
    },
    /// The frames at one place of one exit; `None`: nothing (more) came out.
    Frames {
        exit: Exit,
        tested: Option<Seen>,
        model: Option<Seen>,
    },
    /// What one of them sent is wrong by itself.
    Wrong {
        exit: Exit,
        path: Path,
        seen: Seen,
        why: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { tested, model } => {
                write!(
                    f,
                    "refused by the device: {tested:?}, but as it should be {model:?}"
                )
            }
            Self::Frames {
                exit,
                tested,
                model,
            } => {
                write!(
                    f,
                    "at {exit:?}:\n  came      {}\n  should be {}",
                    Show(tested),
                    Show(model)
                )
            }
            Self::Wrong {
                exit,
                path,
                seen,
                why,
            } => {
                write!(
                    f,
                    "{why}, at {exit:?} of {path}:\n  {}",
                    Show(&Some(seen.clone()))
                )
            }
        }
    }
}

/// A frame in one line.
struct Show<'a>(&'a Option<Seen>);

impl fmt::Display for Show<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Seen {
            bytes,
            offload,
            kind,
            vlan,
        }) = self.0
        else {
            return f.write_str("nothing");
        };
        write!(f, "{} octets, kind {kind}", bytes.len())?;
        if let Some(vlan) = vlan {
            write!(f, ", VLAN {vlan}")?;
        }
        if *offload != Offload::default() {
            write!(f, ", {offload:?}")?;
        }
        f.write_str(": ")?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Pair {
    /// Two nodes, ready for the packets of a lane.
    pub(crate) fn new(lane: &Lane) -> Result<Self> {
        let start = |path| -> Result<Twin> {
            let mut twin = Twin::new(lane, path)?;
            twin.configure(&lane.backend, lane.wire, lane.rp_filter)?;
            twin.open(lane.entrance)?;
            Ok(twin)
        };
        let mut pair = Self {
            tested: start(lane.path)?,
            model: start(lane.model)?,
            backend: lane.backend,
            slots: Slots::new(),
            serial: 0,
            ports: HashMap::new(),
        };
        // Sentinels pass when all devices do.
        pair.run(lane.entrance, &[])?;
        if lane.is_among_kin {
            pair.greet()?;
            pair.run(lane.entrance, &[])?;
        }
        Ok(pair)
    }

    /// Has every peer send a datagram without UDP checksum.
    fn greet(&self) -> Result<()> {
        let greeting = |peer: &Peer| {
            let [a, b, c, _] = peer.subnet;
            let mut ip = Ip::between([a, b, c, 2], OTHER_POD);
            ip.protocol = PROTOCOL;
            Tunnel::from_peer(Encap::Udp, peer, ip.packet(b"greeting")).frame()
        };
        let greetings: Vec<Frame> = PEERS.iter().map(greeting).collect();
        for twin in [&self.tested, &self.model] {
            let refused = twin.exit(Exit::Wire).send(&greetings)?;
            ensure!(refused.is_empty(), "a greeting was refused");
        }
        Ok(())
    }

    /// Sends `frames` into both nodes and gives the first difference, if there is one.
    pub(crate) fn compare(
        &mut self,
        entrance: Entrance,
        frames: &[Frame],
    ) -> Result<Option<Difference>> {
        let (tested, model) = self.run(entrance, frames)?;
        if tested.refused != model.refused {
            let (tested, model) = (tested.refused, model.refused);
            return Ok(Some(Difference::Refused { tested, model }));
        }
        Ok(self.difference(tested.outputs, model.outputs))
    }

    /// Sends `frames` into both nodes, and gives what came out.
    pub(crate) fn run(&mut self, entrance: Entrance, frames: &[Frame]) -> Result<(Ran, Ran)> {
        self.serial += 1;
        let Self {
            tested,
            model,
            backend,
            slots,
            serial,
            ports: _,
        } = self;
        let send = |twin: &Twin| twin.entrance(entrance)?.send(frames);
        let (refused_by_tested, refused_by_model) = (send(tested)?, send(model)?);
        let mut collect = |twin: &Twin, refused| -> Result<Ran> {
            Ok(Ran {
                refused,
                outputs: collect(twin, backend, *serial, slots)?,
            })
        };
        Ok((
            collect(tested, refused_by_tested)?,
            collect(model, refused_by_model)?,
        ))
    }

    fn difference(&mut self, tested: Outputs, model: Outputs) -> Option<Difference> {
        let Backend {
            exits, is_proxied, ..
        } = self.backend;
        let paths = [self.tested.path, self.model.path];
        for ((exit, mut tested), mut model) in Exit::ALL.into_iter().zip(tested).zip(model) {
            // The fast path goes around the device.
            let is_passed = exit == Exit::Device && paths.contains(&Path::Fast);
            if !exits.contains(&exit) || is_passed {
                continue;
            }
            for (frames, path) in [&mut tested, &mut model].into_iter().zip(paths) {
                for seen in frames.iter_mut() {
                    if let Err(why) = self.mask(exit, path, seen) {
                        return Some(Difference::Wrong {
                            exit,
                            path,
                            seen: seen.clone(),
                            why,
                        });
                    }
                }
                if is_proxied {
                    // The host answers datagrams once that the proxy has merged.
                    frames.retain(|seen| !mask::is_port_unreachable(&seen.bytes));
                    // What eBPF carries overtakes what it leaves.
                    let is_carried_by_both = !paths.contains(&Path::Kernel);
                    let inner = if exit == Exit::Wire { PROXIED } else { LINK };
                    frames.sort_by_cached_key(|seen| {
                        let keeps_order =
                            is_carried_by_both && mask::is_of_a_stream(&seen.bytes, inner);
                        (!keeps_order).then(|| seen.bytes.clone())
                    });
                }
            }
            let (mut tested, mut model) = (tested.into_iter(), model.into_iter());
            loop {
                let (a, b) = (tested.next(), model.next());
                if a.is_none() && b.is_none() {
                    break;
                }
                if a != b && !is_lesser_claim(a.as_ref(), b.as_ref()) {
                    return Some(Difference::Frames {
                        exit,
                        tested: a,
                        model: b,
                    });
                }
            }
        }
        None
    }

    /// Takes out of a frame what may differ.
    fn mask(&mut self, exit: Exit, path: Path, seen: &mut Seen) -> Result<(), String> {
        mask::any(seen);
        if self.backend.is_proxied {
            mask::merged(&mut seen.bytes);
        }
        if exit != Exit::Wire {
            return Ok(());
        }
        let Some(flow) = (self.backend.mask)(seen)? else {
            return Ok(());
        };
        let known = *self.ports.entry(flow.key).or_insert(flow.source_port);
        if path != Path::Kernel && known != flow.source_port {
            return Err(format!(
                "a flow of source port {known} got {}",
                flow.source_port
            ));
        }
        Ok(())
    }
}

/// What one node made of a batch.
pub(crate) struct Ran {
    /// Places of the frames that its socket refused.
    pub refused: Vec<usize>,
    pub outputs: Outputs,
}

/// Whether the frames are the same but that the first does not vouch for a checksum which the
/// second's path has verified: the receiver does so then. The other way round, it would be believed wrongly.
fn is_lesser_claim(tested: Option<&Seen>, model: Option<&Seen>) -> bool {
    let (Some(tested), Some(model)) = (tested, model) else {
        return false;
    };
    let mut model = model.clone();
    model.offload.flags &= !Offload::DATA_VALID;
    *tested == model
}

/// Takes all that has come out of a node. Two sentinels, one after the other and in both
/// directions, tell that nothing more is under way: everything runs in softirqs of the core that
/// sends, in order.
fn collect(twin: &Twin, backend: &Backend, serial: u64, slots: &mut Slots) -> Result<Outputs> {
    let mut outputs = Outputs::default();
    let payload = [MAGIC, serial.to_be_bytes()].concat();
    // A pod of a peer that eBPF does not carry, so that sentinels come after all that it does not.
    let peer = &PEERS[PEERS.len() - 1];
    let remote = [10, 5, 16, 2];
    let mut ip = Ip::between(remote, OTHER_POD);
    ip.protocol = PROTOCOL;
    let inbound = (backend.wrap)(peer, ip.packet(&payload));
    (ip.source, ip.destination) = (OTHER_POD, remote);
    let outbound = [
        &BRIDGE_MAC[..],
        &OTHER_POD_MAC,
        &[0x08, 0x00],
        &ip.packet(&payload),
    ]
    .concat();
    let mut sentinels = vec![
        (Exit::Wire, Exit::OtherPod, inbound),
        (Exit::OtherPod, Exit::Wire, outbound),
    ];
    if twin.exits().contains(&Exit::FarPod) {
        // There and back, through the stacks of both nodes.
        (ip.source, ip.destination) = (OTHER_POD, FAR_POD);
        let there = [BRIDGE_MAC, OTHER_POD_MAC].concat();
        let there = [&there[..], &[0x08, 0x00], &ip.packet(&payload)].concat();
        (ip.source, ip.destination) = (FAR_POD, OTHER_POD);
        let back = [FAR_BRIDGE_MAC, FAR_POD_MAC].concat();
        let back = [&back[..], &[0x08, 0x00], &ip.packet(&payload)].concat();
        sentinels.push((Exit::OtherPod, Exit::FarPod, there.clone()));
        sentinels.push((Exit::FarPod, Exit::OtherPod, back));
        sentinels.push((Exit::OtherPod, Exit::FarPod, there));
    }
    for (from, to, frame) in sentinels {
        let frame = [Frame::from(frame)];
        let deadline = Instant::now() + LIMIT;
        loop {
            let refused = twin.exit(from).send(&frame)?;
            ensure!(refused.is_empty(), "a sentinel was refused");
            if has_come(twin, to, &payload, slots, &mut outputs)? {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "no sentinel came to {to:?} of {}",
                twin.path
            );
        }
    }
    for &exit in twin.exits() {
        let overflowed = twin.exit(exit).overflowed()?;
        ensure!(
            overflowed == 0,
            "{overflowed} frames found no room at {exit:?}"
        );
    }
    Ok(outputs)
}

/// Takes what comes out until the sentinel is among it, or it is time for another one.
fn has_come(
    twin: &Twin,
    to: Exit,
    sentinel: &[u8],
    slots: &mut Slots,
    outputs: &mut Outputs,
) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        let mut has_come = false;
        for &exit in twin.exits() {
            twin.exit(exit).receive(slots, &mut seen)?;
            for seen in seen.drain(..) {
                if is_sentinel(&seen) {
                    has_come |= exit == to && seen.bytes.ends_with(sentinel);
                } else {
                    outputs[exit as usize].push(seen);
                }
            }
        }
        if has_come || Instant::now() > deadline {
            return Ok(has_come);
        }
        std::thread::yield_now();
    }
}

fn is_sentinel(seen: &Seen) -> bool {
    let end = seen.bytes.len().saturating_sub(8);
    seen.bytes[..end].ends_with(&MAGIC)
}
