//! What follows from the facts for each backend. Pure.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use super::facts::{Fact, Facts, There};
use crate::cli::TcAttach;

/// What the agent needs for a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    /// Name in the network config.
    pub(super) backend: &'static str,
    /// Programs of the eBPF dataplane, by name.
    pub(super) programs: Vec<&'static str>,
    /// What the kernel path is made of.
    pub(super) kernel_path: KernelPath,
}

/// What the kernel path of a backend is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KernelPath {
    /// The vxlan device.
    Vxlan,
    /// The TUN device and the proxy.
    Tun,
    /// Routes.
    Routes,
    /// Nothing of the agent's.
    Nothing,
}

/// What carries the packets with `--datapath=auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// eBPF, over the kernel path. So it is with `--datapath=ebpf`.
    Ebpf,
    /// The kernel path; `--datapath=ebpf` refuses, if there is anything to carry.
    Kernel,
    /// Nothing: the backend cannot be used.
    None,
    /// It depends on what could not be tried.
    Unknown,
}

/// The verdict on a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Name in the network config.
    pub backend: &'static str,
    /// What carries the packets.
    pub datapath: Path,
    /// Why.
    pub reason: String,
}

/// Why eBPF is not asked for.
const NOTHING: &str = "the backend has nothing to carry";

/// Judges one backend.
pub(super) fn judge(facts: &Facts, needs: &Needs, tc_attach: TcAttach) -> Backend {
    let (datapath, reason) = path(facts, needs, tc_attach);
    Backend {
        backend: needs.backend,
        datapath,
        reason,
    }
}

fn path(facts: &Facts, needs: &Needs, tc_attach: TcAttach) -> (Path, String) {
    let devices = &facts.devices;
    let kernel_path = match needs.kernel_path {
        KernelPath::Vxlan => vec![gate("the vxlan device", &devices.vxlan)],
        KernelPath::Tun => vec![
            gate("the TUN device", &devices.tun),
            gate("UDP segments", &devices.segments),
        ],
        KernelPath::Routes => vec![gate("routes", &devices.routes)],
        KernelPath::Nothing => Vec::new(),
    };
    // The programs hang on what the kernel path is made of: without it there is neither.
    match decisive(&kernel_path) {
        Some(gate) if gate.fact.there == There::No => return (Path::None, gate.to_string()),
        Some(gate) => return (Path::Unknown, gate.to_string()),
        None => {}
    }
    if needs.programs.is_empty() {
        return (Path::Kernel, NOTHING.into());
    }
    match decisive(&gates(facts, needs, tc_attach)) {
        Some(gate) if gate.fact.there == There::No => (Path::Kernel, gate.to_string()),
        Some(gate) => (Path::Unknown, gate.to_string()),
        None => (Path::Ebpf, "the kernel can".into()),
    }
}

/// The first gate that is closed; else the first of which it is not known. One thing that is
/// missing decides, whatever else is not known.
fn decisive<'a>(gates: &'a [Gate<'a>]) -> Option<&'a Gate<'a>> {
    let first = |there| gates.iter().find(|gate| gate.fact.there == there);
    first(There::No).or_else(|| first(There::Unknown))
}

/// Something that is needed.
struct Gate<'a> {
    what: &'a str,
    fact: Cow<'a, Fact>,
}

fn gate<'a>(what: &'a str, fact: &'a Fact) -> Gate<'a> {
    Gate {
        what,
        fact: Cow::Borrowed(fact),
    }
}

impl fmt::Display for Gate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, fact } = self;
        write!(f, "{what}: {}", fact.detail)
    }
}

/// All that eBPF needs for a backend, in the order in which the agent meets it.
fn gates<'a>(facts: &'a Facts, needs: &Needs, tc_attach: TcAttach) -> Vec<Gate<'a>> {
    let bpf = &facts.bpf;
    let mut gates = vec![
        gate("bpf(2)", &bpf.call),
        gate("pin path", &facts.pins),
        gate("maps", &bpf.maps),
    ];
    for name in &needs.programs {
        let helper = bpf.helpers.iter().find(|(program, _)| program == name);
        gates.extend(helper.map(|(name, fact)| gate(name, fact)));
        let program = bpf.programs.iter().find(|(program, _)| program == name);
        match program {
            Some((name, fact)) => gates.push(gate(name, fact)),
            // Without maps no program was loaded, and that is said already.
            None if bpf.maps.there != There::Yes => {}
            None => gates.push(Gate {
                what: name,
                fact: Cow::Owned(Fact::no("is not in the BPF object of this agent")),
            }),
        }
    }
    let (what, fact) = attach(facts, tc_attach);
    gates.push(gate(what, fact));
    gates
}

/// The way in which programs would be attached.
fn attach(facts: &Facts, tc_attach: TcAttach) -> (&'static str, &Fact) {
    let (tcx, clsact) = (&facts.attach.tcx, &facts.attach.clsact);
    match tc_attach {
        TcAttach::Tcx => ("tcx", tcx),
        TcAttach::Clsact => ("clsact", clsact),
        TcAttach::Auto => match tcx.there {
            There::Yes | There::Unknown => ("tcx", tcx),
            There::No => ("clsact", clsact),
        },
    }
}

/// Whether the agent could do anything at all, started as this user.
pub(super) fn can_run(facts: &Facts, backends: &[Backend], needs: &[Needs]) -> bool {
    let carries = |needs: &&Needs| needs.kernel_path != KernelPath::Nothing;
    let mut judged = backends
        .iter()
        .zip(needs)
        .filter(|(_, needs)| carries(needs));
    facts.privileges.net_admin && judged.any(|(backend, _)| backend.datapath != Path::None)
}

/// The verdict in a sentence or two.
pub(super) fn sentence(facts: &Facts, backends: &[Backend]) -> String {
    let mut parts = Vec::new();
    for backend in backends {
        let Backend {
            backend: name,
            datapath,
            reason,
        } = backend;
        // Backends of one fate are said together.
        let same = |other: &&Backend| other.datapath == *datapath && other.reason == *reason;
        let group: Vec<&str> = backends.iter().filter(same).map(|b| b.backend).collect();
        if group.first() != Some(name) {
            continue;
        }
        let names = list(&group);
        parts.push(match datapath {
            Path::Ebpf => format!("eBPF carries {names}"),
            Path::Kernel if reason == NOTHING => {
                format!("there is nothing for eBPF to carry with {names}")
            }
            Path::Kernel => format!(
                "the kernel path carries {names}, and --datapath=ebpf refuses to start ({reason})"
            ),
            Path::None => format!("{names} cannot be used ({reason})"),
            Path::Unknown => format!("what carries {names} is not known ({reason})"),
        });
    }
    let mut text = format!("With --datapath=auto {}.", parts.join("; "));
    if !facts.privileges.net_admin {
        text.push_str(
            " As this user the agent does not start at all: it needs CAP_NET_ADMIN; run it as root.",
        );
    }
    text
}

/// `a, b and c`.
fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [names @ .., last] => format!("{} and {last}", names.join(", ")),
    }
}
