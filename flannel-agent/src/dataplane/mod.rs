//! The eBPF dataplane as the agent sees it: open it, say what it should know, attach it, read it.
//!
//! What is opened here outlives the agent: maps and links are pinned, so packets move on while no
//! agent runs, and the next one takes over without a moment in between. Only [`remove`] ends it.

pub mod attach;
pub mod compat;
pub mod logs;
pub mod maps;
pub mod object;
pub mod pin;
pub mod probe;

use std::io;
use std::path::{Path, PathBuf};

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfError};

use self::attach::{Hook, Mechanism};
use self::maps::Maps;
use self::pin::Pins;
use crate::cli::TcAttach;
use crate::status;

/// The program on the tunnel device's egress.
const ENCAP: &str = "vxlan_encap";
/// The program on the external interface's ingress.
const DECAP: &str = "vxlan_decap";

/// How to open the dataplane.
#[derive(Debug, Clone)]
pub struct Options {
    /// Root of the pins.
    pub pin_path: PathBuf,
    /// How programs attach.
    pub tc_attach: TcAttach,
    /// Level of the programs' own log: 0 is off, 1 error … 5 trace.
    pub log_level: u8,
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

/// The loaded dataplane.
pub struct Dataplane {
    ebpf: Ebpf,
    maps: Maps,
    pins: Pins,
    tc_attach: TcAttach,
    programs: Vec<status::Program>,
    /// Indexes of the programs' interfaces when they were attached, in the same order.
    interfaces: Vec<u32>,
}

impl Dataplane {
    /// Checks the host, loads the object over the pinned maps; nothing is attached yet, but what an
    /// earlier agent attached goes on with the same maps.
    ///
    /// # Errors
    /// What is missing or refused.
    pub fn open(options: &Options) -> Result<Self, Error> {
        let pins = Pins::new(&options.pin_path);
        let object = probe::check(&pins)?;
        compat::check(object, &pins)?;
        let mut ebpf = object::load(object, &pins, options.log_level)?;
        for program in [ENCAP, DECAP] {
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
            programs: Vec::new(),
            interfaces: Vec::new(),
        })
    }

    /// The maps.
    pub fn maps(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// Attaches both programs, or replaces those of an earlier agent. The maps should have been
    /// filled before.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn attach(&mut self, device: &str, external: &str) -> Result<(), Error> {
        self.programs.clear();
        self.interfaces.clear();
        // Receiving first: a node that sends by eBPF should be able to take the answer.
        for (program, interface, direction) in [
            (DECAP, external, TcAttachType::Ingress),
            (ENCAP, device, TcAttachType::Egress),
        ] {
            let hook = Hook {
                program,
                interface,
                direction,
            };
            let classifier = classifier(&mut self.ebpf, program)?;
            let fail = |source| Error::Attach {
                program,
                interface: interface.to_owned(),
                source,
            };
            // Read first: an interface that is made anew meanwhile is then found to be another one.
            let index = attach::index(interface);
            let mechanism =
                attach::attach(classifier, hook, self.tc_attach, &self.pins).map_err(fail)?;
            let id = classifier.info().map_err(|error| fail(error.into()))?.id();
            self.programs.push(status::Program {
                name: program.to_owned(),
                id,
                interface: interface.to_owned(),
                direction: direction_name(direction).to_owned(),
                attach: mechanism.name().to_owned(),
            });
            self.interfaces.push(index);
        }
        // Nothing refers to maps of another version from here on.
        if let Err(error) = self.pins.remove_other_versions() {
            tracing::warn!(%error, "maps of an earlier version stay pinned");
        }
        Ok(())
    }

    /// Whether every program still hangs where it was attached: a deleted device takes its
    /// programs with it. A filter on clsact is asked for by its device only: that somebody removed
    /// the qdisc shows on tcx alone.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        let mut programs = self.programs.iter().zip(&self.interfaces);
        programs.all(|(program, index)| {
            if attach::index(&program.interface) != *index {
                return false;
            }
            let direction = match program.direction.as_str() {
                "ingress" => TcAttachType::Ingress,
                _ => TcAttachType::Egress,
            };
            let hook = Hook {
                program: &program.name,
                interface: &program.interface,
                direction,
            };
            program.attach != Mechanism::Tcx.name() || attach::attached_tcx(hook, program.id)
        })
    }

    /// The attached programs.
    #[must_use]
    pub fn programs(&self) -> &[status::Program] {
        &self.programs
    }

    /// Packets by outcome.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn counters(&self) -> Result<Vec<status::Counter>, Error> {
        Ok(self.maps.counters()?)
    }

    /// Detaches the programs from these interfaces and removes the pins; see [`remove`].
    pub fn remove(self, interfaces: &[&str]) {
        if let Err(error) = remove(self.pins.root(), interfaces) {
            tracing::warn!(%error, "the dataplane could not be removed");
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

const fn direction_name(direction: TcAttachType) -> &'static str {
    match direction {
        TcAttachType::Ingress => "ingress",
        _ => "egress",
    }
}

/// Removes our filter from the clsact qdisc of an interface that is not the external one any more;
/// says whether there was one.
///
/// # Errors
/// What the kernel said.
pub fn leave(interface: &str) -> Result<bool, Error> {
    let (program, direction) = (DECAP, TcAttachType::Ingress);
    let hook = Hook {
        program,
        interface,
        direction,
    };
    attach::detach_clsact(hook).map_err(|source| Error::Attach {
        program,
        interface: interface.to_owned(),
        source,
    })
}

/// Ends the dataplane on this host: detaches the programs from the interfaces (where they hang on
/// clsact; tcx links end with their pins) and removes all pins. Returns what was removed.
///
/// # Errors
/// What bpffs or the kernel said.
pub fn remove(pin_path: &Path, interfaces: &[&str]) -> io::Result<Vec<String>> {
    let mut removed: Vec<String> = Pins::new(pin_path)
        .remove_all()?
        .into_iter()
        .map(|path| format!("pin {}", path.display()))
        .collect();
    for interface in interfaces {
        for (program, direction) in [
            (DECAP, TcAttachType::Ingress),
            (ENCAP, TcAttachType::Egress),
        ] {
            let hook = Hook {
                program,
                interface,
                direction,
            };
            if attach::detach_clsact(hook).map_err(io::Error::other)? {
                removed.push(format!("filter {program} on {interface}"));
            }
        }
    }
    Ok(removed)
}
