//! The facts as rows: whether each thing is there, and what that means for the user. Pure.

use serde::Serialize;

use super::facts::{Fact, Facts, Interface, There};

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facility {
    /// What was tried.
    pub facility: &'static str,
    /// Whether it is there.
    pub there: There,
    /// What was seen.
    pub detail: String,
    /// What follows for the user; absent where nothing does.
    pub follows: Option<String>,
}

/// What the packets do where eBPF cannot be had.
const KERNEL_PATH: &str = "--datapath=auto takes the kernel path; --datapath=ebpf refuses to start";
/// What to do about what could not be tried.
const AS_ROOT: &str = "run the probe as root to know";

/// All rows, in the order in which an agent meets them.
pub(super) fn rows(facts: &Facts) -> Vec<Facility> {
    let Facts {
        kernel: _,
        privileges: _,
        bpf,
        btf,
        bpffs,
        pins,
        attach,
        interface,
        devices,
        masquerade,
    } = facts;
    let programs = summary(bpf.programs.iter().map(|(name, fact)| (&**name, fact)));
    let programs = programs.unwrap_or_else(|| like(&bpf.maps, "no program could be loaded"));
    let helpers = summary(bpf.helpers.iter().map(|(name, fact)| (*name, fact)));
    let helpers = helpers.unwrap_or_else(|| Fact::yes("none to try"));
    vec![
        row("bpf(2)", &bpf.call, KERNEL_PATH),
        row(
            "BTF",
            btf,
            "nothing for this agent; bpftool and tracing tools tell less",
        ),
        row(
            "bpffs",
            bpffs,
            "without a BPF file system nothing can be pinned: see pin path",
        ),
        row(
            "pin path",
            pins,
            "mount a BPF file system (`mount -t bpf bpf /sys/fs/bpf`), or name a path on one with \
             --bpf-pin-path; as it is, --datapath=auto takes the kernel path",
        ),
        row("maps", &bpf.maps, KERNEL_PATH),
        row(
            "programs",
            &programs,
            "backends of the programs named go by the kernel path",
        ),
        row(
            "helpers",
            &helpers,
            "backends of the programs named go by the kernel path",
        ),
        row(
            "JIT",
            &bpf.jit,
            "turn it on (`sysctl -w net.core.bpf_jit_enable=1`), or take --datapath=kernel: \
             interpreted programs are slow",
        ),
        tcx(&attach.tcx, &attach.clsact),
        clsact(&attach.tcx, &attach.clsact),
        xdp(interface),
        row(
            "vxlan",
            &devices.vxlan,
            "backend vxlan cannot be used: load the module (`modprobe vxlan`)",
        ),
        row(
            "routes",
            &devices.routes,
            "no backend but alloc can be used",
        ),
        row(
            "tun",
            &devices.tun,
            "backend udp cannot be used: load the module (`modprobe tun`), and give a container \
             the device /dev/net/tun",
        ),
        row(
            "UDP segments",
            &devices.segments,
            "backend udp cannot be used",
        ),
        row(
            "nftables",
            masquerade,
            "--ip-masq refuses to start, and forwarding beside Docker is left to you: install the \
             package nftables",
        ),
    ]
}

/// A row that means something only where the thing is not there.
fn row(facility: &'static str, fact: &Fact, if_missing: &str) -> Facility {
    let follows = match fact.there {
        There::Yes => None,
        There::No => Some(if_missing.to_owned()),
        There::Unknown => Some(AS_ROOT.to_owned()),
    };
    with(facility, fact, follows)
}

fn with(facility: &'static str, fact: &Fact, follows: Option<String>) -> Facility {
    Facility {
        facility,
        there: fact.there,
        detail: fact.detail.clone(),
        follows,
    }
}

fn tcx(tcx: &Fact, clsact: &Fact) -> Facility {
    let follows = match (tcx.there, clsact.there) {
        (There::Yes, _) => "taken: an upgraded agent replaces its programs in place",
        (There::No, There::Yes) => "clsact is taken; --tc-attach=tcx falls back to the kernel path",
        (There::No, _) => KERNEL_PATH,
        (There::Unknown, _) => AS_ROOT,
    };
    with("tcx", tcx, Some(follows.into()))
}

fn clsact(tcx: &Fact, clsact: &Fact) -> Facility {
    let follows = match (clsact.there, tcx.there) {
        (There::Yes, There::Yes) => "not needed; --tc-attach=clsact takes it",
        (There::Yes, There::Unknown) => "taken where tcx is not to be had",
        (There::Yes, There::No) => "taken",
        (There::No, There::Yes) => "not needed",
        (There::No, There::No) => KERNEL_PATH,
        (There::No, There::Unknown) => "eBPF depends on tcx",
        (There::Unknown, _) => AS_ROOT,
    };
    with("clsact", clsact, Some(follows.into()))
}

/// Largest packet that a driver without multi-buffer support takes with XDP: a page, without the
/// headroom and the end that XDP asks for, as veth and virtio count it.
const SINGLE_BUFFER_MTU: u32 = 3500;

fn xdp(interface: &Result<Interface, String>) -> Facility {
    let name = "native XDP";
    let interface = match interface {
        Ok(interface) => interface,
        Err(reason) => {
            let follows = Some("name the external interface with --iface".to_owned());
            return with(name, &Fact::unknown(reason), follows);
        }
    };
    let on = format!(
        "{} (MTU {}, driver {})",
        interface.name,
        interface.mtu,
        interface.driver.as_deref().unwrap_or("unknown"),
    );
    let mut fact = match interface.xdp_features.as_deref() {
        None => Fact::unknown(format!(
            "{on}: the kernel does not tell; Linux 6.3 and later do"
        )),
        Some([]) => Fact::no(format!("{on}: the driver has none")),
        Some(features) => Fact::yes(format!("{on}: {}", features.join(", "))),
    };
    for holder in &interface.programs {
        let whose = if holder.is_ours {
            "this agent's"
        } else {
            "foreign"
        };
        let name = holder.name.as_deref().unwrap_or("unnamed");
        let (hook, id) = (&holder.hook, holder.id);
        fact.detail += &format!("; {hook}: {whose} program {name} (id {id})");
    }
    for unknown in &interface.unknown {
        fact.detail += &format!("; not known: {unknown}");
    }
    let features = interface.xdp_features.as_deref().unwrap_or_default();
    let mut follows = vec![
        if features.is_empty() {
            "tunnel headers come off at TC"
        } else {
            "--xdp=auto takes tunnel headers off here, if this is a NIC's own driver; `flannel-agent status` says whether it does"
        }
        .to_owned(),
    ];
    let foreign = |holder: &&super::facts::Holder| !holder.is_ours;
    if interface.programs.iter().any(|holder| foreign(&holder)) {
        follows.push("foreign programs see packets before this agent's".into());
    }
    let is_large = interface.mtu > SINGLE_BUFFER_MTU;
    if is_large && !features.is_empty() && !features.contains(&"rx-sg") {
        follows.push("with this MTU the driver would need multi-buffer support for it".into());
    }
    with(name, &fact, Some(follows.join("; ")))
}

/// Several facts as one: the first that is not there, else the first that is not known; `None` of
/// none.
fn summary<'a>(facts: impl Iterator<Item = (&'a str, &'a Fact)>) -> Option<Fact> {
    let facts: Vec<_> = facts.collect();
    let of = |there| facts.iter().filter(move |(_, fact)| fact.there == there);
    let failed = of(There::No).next().or_else(|| of(There::Unknown).next());
    let (works, all) = (of(There::Yes).count(), facts.len());
    match failed {
        _ if all == 0 => None,
        None => {
            let names: Vec<_> = facts.iter().map(|(name, _)| *name).collect();
            Some(Fact::yes(format!(
                "{all} of {all} work: {}",
                names.join(", ")
            )))
        }
        Some((name, fact)) => {
            let detail = format!("{works} of {all} work; {name}: {}", fact.detail);
            Some(like(fact, detail))
        }
    }
}

fn like(fact: &Fact, detail: impl Into<String>) -> Fact {
    Fact {
        there: match fact.there {
            // What should have been loaded and was not is missing.
            There::Yes | There::No => There::No,
            There::Unknown => There::Unknown,
        },
        detail: detail.into(),
    }
}
