//! The eBPF dataplane as the agent sees it: open it, say what it should know, attach it, read it.
//!
//! What is opened here outlives the agent: maps and links are pinned, so packets move on while no
//! agent runs, and the next one takes over without a moment in between. Only [`remove`] ends it.

pub mod attach;
pub mod compat;
pub mod flows;
pub mod foreign;
pub mod logs;
pub mod maps;
pub mod object;
mod patience;
pub mod pin;
pub mod probe;
pub mod xdp;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfError};
use flannel_ebpf::abi;

use self::attach::{Hook, Mechanism};
use self::maps::Maps;
use self::pin::Pins;
use self::xdp::Stripper;
use crate::cli::{TcAttach, XdpMode};
use crate::error::chain;
use crate::netlink::link::Link;
use crate::netlink::nic::ClsactSide;
use crate::status;

/// Which interface of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// The one that carries the underlay.
    External,
    /// The tunnel device of the backend.
    Device,
}

/// Which way packets pass a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Received by the interface.
    Ingress,
    /// Sent by it.
    Egress,
}

impl Direction {
    /// Its name in `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// As the kernel's interface has it.
    #[must_use]
    pub const fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    /// As clsact has it.
    #[must_use]
    pub const fn clsact_side(self) -> ClsactSide {
        match self {
            Self::Ingress => ClsactSide::Ingress,
            Self::Egress => ClsactSide::Egress,
        }
    }
}

/// A program of a backend, and where it hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// Name in the BPF object.
    pub program: &'static str,
    /// Interface.
    pub interface: Interface,
    /// Direction.
    pub direction: Direction,
    /// Handle of its filter where it hangs on clsact; no other program at this hook has the same.
    pub handle: u16,
}

/// Names of the interfaces of a node.
#[derive(Debug, Clone, Copy)]
pub struct Interfaces<'a> {
    /// The external interface.
    pub external: &'a str,
    /// The tunnel device, for backends with one.
    pub device: Option<&'a str>,
}

impl Attachment {
    /// The hook on this node; none where the node has no such interface.
    fn hook<'a>(&self, interfaces: Interfaces<'a>) -> Option<Hook<'a>> {
        Some(Hook {
            program: self.program,
            pin: self.program,
            interface: match self.interface {
                Interface::External => interfaces.external,
                Interface::Device => interfaces.device?,
            },
            direction: self.direction.attach_type(),
            handle: self.handle,
        })
    }
}

/// How to open the dataplane.
#[derive(Debug, Clone)]
pub struct Options {
    /// Root of the pins.
    pub pin_path: PathBuf,
    /// How programs attach.
    pub tc_attach: TcAttach,
    /// Whether an XDP program goes before those that receive.
    pub xdp: XdpMode,
    /// Level of the programs' own log: 0 is off, 1 error … 5 trace.
    pub log_level: u8,
    /// Capacity of the table of flows.
    pub flows: u32,
}

/// Why the dataplane could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host lacks something.
    #[error(transparent)]
    Missing(#[from] probe::Missing),
    /// A pin is not ours.
    #[error(transparent)]
    Compat(#[from] compat::Error),
    /// The object could not be loaded.
    #[error("load the BPF object")]
    Load(#[from] EbpfError),
    /// A program was refused.
    #[error("load program {program}")]
    Program {
        /// Which one.
        program: &'static str,
        /// The verifier's last words.
        #[source]
        source: ProgramError,
    },
    /// The object has no such program.
    #[error("the BPF object has no program {0}")]
    Absent(&'static str),
    /// A map failed.
    #[error(transparent)]
    Map(#[from] maps::Error),
    /// A pin could not be removed.
    #[error("remove a pin")]
    Pin(#[from] io::Error),
    /// A program could not be attached.
    #[error("attach {program} to {interface}")]
    Attach {
        /// Which one.
        program: &'static str,
        /// Where to.
        interface: String,
        /// What the kernel said.
        #[source]
        source: attach::Error,
    },
}

/// Asks whether a dataplane can be had here, touching no interface.
///
/// # Errors
/// The first thing that is missing.
pub fn check(options: &Options) -> Result<(), Error> {
    probe::check(&Pins::new(&options.pin_path))?;
    Ok(())
}

/// Does what takes longest of opening a dataplane and asks for nothing: see [`object::prepare`].
pub fn prepare() {
    object::prepare();
}

/// The loaded dataplane.
pub struct Dataplane {
    ebpf: Ebpf,
    maps: Maps,
    pins: Pins,
    tc_attach: TcAttach,
    attachments: &'static [Attachment],
    attached: Vec<Attached>,
    /// Hooks where somebody else has filters on clsact, see [`yield_to`](Self::yield_to).
    filtered: Vec<(Interface, Direction)>,
    stripper: Stripper,
}

/// A program where it was attached.
struct Attached {
    attachment: Attachment,
    interface: String,
    /// Index that the interface had: one that is made anew gets another.
    index: u32,
    program_id: u32,
    mechanism: Mechanism,
}

impl Dataplane {
    /// Checks the host, loads these programs over the pinned maps; nothing is attached yet, but what
    /// an earlier agent attached goes on with the same maps.
    ///
    /// # Errors
    /// What is missing or refused.
    pub fn open(options: &Options, attachments: &'static [Attachment]) -> Result<Self, Error> {
        let pins = Pins::new(&options.pin_path);
        let object = probe::check(&pins)?;
        compat::check(object, &pins, options.flows)?;
        let mut ebpf = object::load(object, &pins, options)?;
        // First: a kernel that is too old is then named by what it lacks, not by what the verifier
        // makes of it.
        probe::check_helpers(&mut ebpf, attachments.iter().map(|a| a.program))?;
        for Attachment { program, .. } in attachments.iter().copied() {
            classifier(&mut ebpf, program)?
                .load()
                .map_err(|source| Error::Program { program, source })?;
        }
        let maps = Maps::take(&mut ebpf)?;
        Ok(Self {
            ebpf,
            maps,
            pins,
            tc_attach: options.tc_attach,
            attachments,
            attached: Vec::new(),
            filtered: Vec::new(),
            stripper: Stripper::new(options.xdp),
        })
    }

    /// The maps.
    pub fn maps(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// Takes notice of the hooks where somebody else has filters on clsact. Programs that are
    /// attached from then on go there, behind those filters, which from tcx would see nothing of
    /// what ours take; if the way to attach is not prescribed.
    pub fn yield_to(&mut self, filtered: &[(Interface, Direction)]) {
        self.filtered = filtered.to_vec();
    }

    /// Attaches all programs, or replaces those of an earlier agent. The maps should have been
    /// filled before.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn attach(&mut self, interfaces: Interfaces<'_>) -> Result<(), Error> {
        self.attached.clear();
        for attachment in self.attachments {
            let program = attachment.program;
            let Some(hook) = attachment.hook(interfaces) else {
                continue;
            };
            let classifier = classifier(&mut self.ebpf, program)?;
            let fail = |source| Error::Attach {
                program,
                interface: hook.interface.to_owned(),
                source,
            };
            // Read first: an interface that is made anew meanwhile is then found to be another one.
            let index = attach::index(hook.interface);
            let place = (attachment.interface, attachment.direction);
            let how = match self.tc_attach {
                TcAttach::Auto if self.filtered.contains(&place) => TcAttach::Clsact,
                how => how,
            };
            let mechanism = attach::attach(classifier, hook, how, &self.pins).map_err(fail)?;
            let info = classifier.info().map_err(|error| fail(error.into()))?;
            self.attached.push(Attached {
                attachment: *attachment,
                interface: hook.interface.to_owned(),
                index,
                program_id: info.id(),
                mechanism,
            });
        }
        // Nothing refers to maps of another version from here on.
        if let Err(error) = self.pins.remove_other_versions() {
            tracing::warn!(%error, "maps of an earlier version stay pinned");
        }
        Ok(())
    }

    /// Has tunnel headers taken off in the driver of the external interface, where that is wished
    /// and can be; `links` are all of the host, `is_watched` says whether programs of others look at what
    /// arrives. For after [`attach`](Self::attach).
    pub fn keep_xdp(&mut self, external: &Link, links: &[Link], is_watched: bool) {
        let Self {
            ebpf,
            pins,
            attachments,
            stripper,
            ..
        } = self;
        stripper.keep(ebpf, pins, attachments, external, links, is_watched);
    }

    /// What XDP does, for `status`.
    #[must_use]
    pub fn xdp(&self) -> status::Xdp {
        self.stripper.status()
    }

    /// Whether every program hangs where it was attached: a deleted device takes its programs with
    /// it. A filter on clsact is asked for by its device only: that somebody removed the qdisc
    /// shows on tcx alone.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        !self.attached.is_empty()
            && self.attached.iter().all(|attached| {
                let hook = Hook {
                    program: attached.attachment.program,
                    pin: attached.attachment.program,
                    interface: &attached.interface,
                    direction: attached.attachment.direction.attach_type(),
                    handle: attached.attachment.handle,
                };
                attach::index(&attached.interface) == attached.index
                    && (attached.mechanism != Mechanism::Tcx
                        || attach::attached_tcx(hook, attached.program_id))
            })
    }

    /// Whether programs have been attached in this run, wherever they are now.
    #[must_use]
    pub fn was_attached(&self) -> bool {
        !self.attached.is_empty()
    }

    /// The attached programs, for `status`.
    #[must_use]
    pub fn programs(&self) -> Vec<status::Program> {
        let programs = self.attached.iter().map(|attached| status::Program {
            name: attached.attachment.program.to_owned(),
            id: attached.program_id,
            interface: attached.interface.clone(),
            direction: attached.attachment.direction.name().to_owned(),
            attach: attached.mechanism.name().to_owned(),
        });
        programs.collect()
    }

    /// Packets by outcome.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn counters(&self) -> Result<Vec<status::Counter>, Error> {
        Ok(self.maps.counters()?)
    }

    /// What went to direct peers and came from them, by the address of their subnet.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn traffic(&self) -> Result<BTreeMap<maps::Key, abi::Traffic>, Error> {
        Ok(self.maps.traffic()?)
    }

    /// Detaches the programs from these interfaces and removes the pins; see [`remove`].
    pub fn remove(self, interfaces: Interfaces<'_>) {
        if let Err(error) = remove(self.pins.root(), &[self.attachments], interfaces) {
            tracing::warn!(error = chain(&error), "the dataplane could not be removed");
        }
    }

    /// Starts handing the programs' log records to the agent's log, if they log at all.
    pub fn start_logging(&mut self) {
        logs::start(&mut self.ebpf);
    }
}

fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    program: &'static str,
) -> Result<&'a mut SchedClassifier, Error> {
    let found = ebpf.program_mut(program).ok_or(Error::Absent(program))?;
    found
        .try_into()
        .map_err(|source| Error::Program { program, source })
}

/// Removes our filters from the clsact qdisc of an interface that is not the external one any more;
/// returns what was removed.
///
/// # Errors
/// What the kernel said.
pub fn leave(interface: &str, programs: &[&[Attachment]]) -> Result<Vec<String>, Error> {
    let interfaces = Interfaces {
        external: interface,
        device: None,
    };
    detach_all(programs, interfaces)
}

/// Ends the dataplane on this host: detaches `programs` from the interfaces (where they hang on
/// clsact; tcx links end with their pins) and removes all pins but those of programs on pods'
/// interfaces: what is on its way into a pod still needs these ([`crate::fast_path`] takes them off).
/// Returns what was removed.
///
/// # Errors
/// What bpffs or the kernel said.
pub fn remove(
    pin_path: &Path,
    programs: &[&[Attachment]],
    interfaces: Interfaces<'_>,
) -> Result<Vec<String>, Error> {
    let pins = Pins::new(pin_path);
    if let Err(error) = maps::end_admissions(&pins) {
        tracing::warn!(
            error = chain(&error),
            "flows stay on the fast path until its bound"
        );
    }
    // First: what it has stripped, only the TC program can deliver.
    let mut removed = xdp::remove_but(&pins, None);
    let others = pins.remove_all()?.into_iter();
    removed.extend(others.map(|path| format!("pin {}", path.display())));
    removed.extend(detach_all(programs, interfaces)?);
    Ok(removed)
}

/// Takes those of `programs` off the interfaces that are not among `used`: what an earlier run with
/// another backend attached. Returns what was removed.
///
/// # Errors
/// What bpffs or the kernel said.
pub fn remove_others(
    pin_path: &Path,
    programs: &[&[Attachment]],
    used: &[Attachment],
    interfaces: Interfaces<'_>,
) -> Result<Vec<String>, Error> {
    let pins = Pins::new(pin_path);
    let mut removed = xdp::remove_but(&pins, xdp::before(used));
    let others = programs.iter().copied().flatten();
    for attachment in others.filter(|attachment| !used.contains(attachment)) {
        if pins.remove_link(attachment.program)? {
            removed.push(format!("pin {}", attachment.program));
        }
        removed.extend(detach(*attachment, interfaces)?);
    }
    Ok(removed)
}

fn detach_all(
    programs: &[&[Attachment]],
    interfaces: Interfaces<'_>,
) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    for attachment in programs.iter().copied().flatten() {
        removed.extend(detach(*attachment, interfaces)?);
    }
    Ok(removed)
}

/// Takes a filter off clsact; says which, if there was one.
fn detach(attachment: Attachment, interfaces: Interfaces<'_>) -> Result<Option<String>, Error> {
    let Some(hook) = attachment.hook(interfaces) else {
        return Ok(None);
    };
    let program = attachment.program;
    let is_found = attach::detach_clsact(hook).map_err(|source| Error::Attach {
        program,
        interface: hook.interface.to_owned(),
        source,
    })?;
    Ok(is_found.then(|| format!("filter {program} on {}", hook.interface)))
}
