//! The programs and maps of the fast path: on each pod's interface what it sends is looked at on
//! ingress, and what it gets by the standard path on egress.

use std::collections::BTreeSet;

use aya::Ebpf;
use aya::maps::{Array, IterableMap as _, Map, MapData, MapError, MapInfo, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use flannel_ebpf::abi::{self, FastCounters, FastOutcome, map_name};

use super::endpoints::Endpoint;
use crate::cli::TcAttach;
use crate::dataplane::attach::{self, Hook};
use crate::dataplane::object;
use crate::dataplane::pin::Pins;
use crate::dataplane::{self, compat};

/// What hangs on each pod's interface, in the order in which it comes: `to_pod` admits flows, and
/// from then on packets are queued that nobody but `from_pod` takes out again. They go the other way
/// round.
const PROGRAMS: [(&str, TcAttachType); 2] = [
    ("from_pod", TcAttachType::Ingress),
    ("to_pod", TcAttachType::Egress),
];

/// Their names.
pub const NAMES: [&str; 2] = [PROGRAMS[0].0, PROGRAMS[1].0];

/// Handle of the filters where they hang on clsact.
const HANDLE: u16 = 4;

/// Why the fast path cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object could not be loaded, or a pin is not ours.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    /// A program was refused.
    #[error("load program {program}")]
    Program {
        /// Which one.
        program: &'static str,
        /// The verifier's last words.
        #[source]
        source: ProgramError,
    },
    /// The object lacks something.
    #[error("the BPF object has no {0}")]
    Absent(&'static str),
    /// A map failed.
    #[error("map {map}")]
    Map {
        /// Which one.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
    /// A program could not be attached or detached.
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

/// The loaded programs.
pub struct Programs {
    ebpf: Ebpf,
    pins: Pins,
    tc_attach: TcAttach,
    settings: Array<MapData, abi::FastPath>,
    counters: PerCpuArray<MapData, FastCounters>,
    /// How flows are spread over the table.
    table: abi::FastPath,
    /// The kernel's id of the map of settings.
    map_id: u32,
}

impl Programs {
    /// Loads them over the maps that the dataplane has pinned.
    ///
    /// # Errors
    /// What is missing or refused.
    pub fn load(options: &dataplane::Options) -> Result<Self, Error> {
        let pins = Pins::new(&options.pin_path);
        let bytes = object::embedded().ok_or(Error::Absent("programs at all"))?;
        compat::check(bytes, &pins, options.flows).map_err(dataplane::Error::from)?;
        let mut ebpf = object::load(bytes, &pins, options).map_err(dataplane::Error::from)?;
        for (program, _) in PROGRAMS {
            classifier(&mut ebpf, program)?
                .load()
                .map_err(|source| Error::Program { program, source })?;
        }
        let settings: Array<_, abi::FastPath> = take(&mut ebpf, map_name::FAST_PATH)?;
        let counters = take(&mut ebpf, map_name::FAST)?;
        let earlier = settings.get(&0, 0).map_err(at(map_name::FAST_PATH))?;
        let info = settings.map().info().map_err(at(map_name::FAST_PATH))?;
        Ok(Self {
            ebpf,
            pins,
            tc_attach: options.tc_attach,
            settings,
            counters,
            table: table(options.flows, earlier),
            map_id: info.id(),
        })
    }

    /// Whether these use the maps that are pinned now. A change of the data path and back leaves
    /// other ones.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let pinned = MapInfo::from_pin(self.pins.map(map_name::FAST_PATH));
        pinned.is_ok_and(|pinned| pinned.id() == self.map_id)
    }

    /// Says for how long flows are admitted, nanoseconds, and in which generation. Zero admits none.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set(&mut self, bound: u64, generation: u32) -> Result<(), Error> {
        let settings = abi::FastPath {
            bound,
            generation,
            ..self.table
        };
        let written = self.settings.set(0, settings, 0);
        written.map_err(at(map_name::FAST_PATH))
    }

    /// What an earlier run has set.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn get(&self) -> Result<abi::FastPath, Error> {
        self.settings.get(&0, 0).map_err(at(map_name::FAST_PATH))
    }

    /// Attaches both programs to a pod's interface, or replaces those of an earlier run.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn attach(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        for (program, direction) in PROGRAMS {
            let pin = pin_name(program, endpoint.index);
            let hook = hook(program, &pin, &endpoint.name, direction);
            let classifier = classifier(&mut self.ebpf, program)?;
            attach::attach(classifier, hook, self.tc_attach, &self.pins).map_err(|source| {
                Error::Attach {
                    program,
                    interface: endpoint.name.clone(),
                    source,
                }
            })?;
        }
        Ok(())
    }

    /// Takes both programs off.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn detach(&self, endpoint: &Endpoint) -> Result<(), Error> {
        for program in NAMES.into_iter().rev() {
            let pin = pin_name(program, endpoint.index);
            self.pins
                .remove_link(&pin)
                .map_err(|source| Error::Attach {
                    program,
                    interface: endpoint.name.clone(),
                    source: attach::Error::Pin(source),
                })?;
            detach_filter(program, endpoint)?;
        }
        Ok(())
    }

    /// How often a flow has been admitted since the maps were made.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn admissions(&self) -> Result<u64, Error> {
        let counters = self.counters.get(&0, 0).map_err(at(map_name::FAST))?;
        let admitted = counters.iter().map(|it| it.get(FastOutcome::Admitted));
        Ok(admitted.map(|counter| counter.packets).sum())
    }

    /// Removes pins of interfaces that are not among `indices`: the kernel keeps the link of a
    /// deleted interface as long as its pin.
    pub fn forget_all_but(&self, indices: &BTreeSet<u32>) {
        for pin in self.pins.links_named(&NAMES) {
            let index = pin
                .rsplit_once('-')
                .and_then(|(_, index)| index.parse().ok());
            if index.is_none_or(|index| !indices.contains(&index))
                && let Err(error) = self.pins.remove_link(&pin)
            {
                tracing::warn!(pin, %error, "a pin of a pod that is gone stays");
            }
        }
    }
}

/// How flows are spread over a table with so many slots: as in an `earlier` run, if it had the same
/// one, since flows of that run are still in it.
fn table(slots: u32, earlier: abi::FastPath) -> abi::FastPath {
    let mask = slots - 1;
    let seed = if earlier.mask == mask {
        earlier.seed
    } else {
        rand::random()
    };
    abi::FastPath {
        mask,
        seed,
        ..abi::FastPath::default()
    }
}

/// Takes the filter of a program off the clsact qdisc of an interface, if it hangs there.
///
/// # Errors
/// What the kernel said.
pub(super) fn detach_filter(program: &'static str, endpoint: &Endpoint) -> Result<(), Error> {
    let directions = PROGRAMS.iter().filter(|(name, _)| *name == program);
    for (_, direction) in directions {
        let hook = hook(program, program, &endpoint.name, *direction);
        attach::detach_clsact(hook).map_err(|source| Error::Attach {
            program,
            interface: endpoint.name.clone(),
            source,
        })?;
    }
    Ok(())
}

fn hook<'a>(
    program: &'a str,
    pin: &'a str,
    interface: &'a str,
    direction: TcAttachType,
) -> Hook<'a> {
    Hook {
        program,
        pin,
        interface,
        direction,
        handle: HANDLE,
    }
}

fn pin_name(program: &str, index: u32) -> String {
    format!("{program}-{index}")
}

fn at(map: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::Map { map, source }
}

fn take<T>(ebpf: &mut Ebpf, map: &'static str) -> Result<T, Error>
where
    T: TryFrom<Map, Error = MapError>,
{
    let taken = ebpf.take_map(map).ok_or(Error::Absent(map))?;
    taken.try_into().map_err(at(map))
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
