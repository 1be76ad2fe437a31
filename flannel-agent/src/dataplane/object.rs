//! The BPF object that the agent carries, and loading it over pinned maps.

use std::sync::{LazyLock, Mutex, PoisonError};

use aya::{Ebpf, EbpfError, EbpfLoader};

use super::Options;
use super::pin::Pins;
use flannel_ebpf::abi::map_name;

/// The maps that outlive the agent.
pub const PINNED_MAPS: [&str; 10] = [
    map_name::CONFIG,
    map_name::PEERS,
    map_name::REMOTES,
    map_name::EGRESS,
    map_name::INGRESS,
    map_name::TRAFFIC,
    map_name::FAST,
    map_name::FAST_PATH,
    map_name::FLOWS,
    map_name::CANDIDATES,
];

#[cfg(not(no_ebpf_object))]
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("FLANNEL_EBPF_OBJECT"));
#[cfg(no_ebpf_object)]
static OBJECT: &[u8] = &[];

/// The compiled BPF object, if this agent was built with one.
#[must_use]
pub fn embedded() -> Option<&'static [u8]> {
    (!OBJECT.is_empty()).then_some(OBJECT)
}

/// aya reads the types of the kernel for every loader that is made, 25 ms and 18 MiB of memory, and
/// nothing in the object asks for them: one loader serves all loads of a process. Each load sets what
/// sets it apart.
static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| Mutex::new(loader()));

/// Log levels, to be pointed to by the loader.
static LEVELS: [u8; 6] = [0, 1, 2, 3, 4, 5];

/// Makes what [`load`] needs, if it is not there. Early, it costs nobody any time, and no memory
/// beside the leases.
pub fn prepare() {
    LazyLock::force(&LOADER);
}

/// Loads the object: maps that are pinned are taken over, others are made and pinned.
///
/// The layouts of pinned maps must have been checked before (`compat`): aya takes over whatever
/// stands at the path.
///
/// # Errors
/// What the kernel or the ELF reader says.
pub fn load(object: &[u8], pins: &Pins, options: &Options) -> Result<Ebpf, EbpfError> {
    let mut loader = LOADER.lock().unwrap_or_else(PoisonError::into_inner);
    let level = LEVELS.get(usize::from(options.log_level));
    set_log_level(&mut loader, level.unwrap_or(&5));
    loader.map_max_entries(map_name::FLOWS, options.flows);
    for name in PINNED_MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.load(object)
}

/// Loads the object over maps of its own, which end with it.
///
/// # Errors
/// As [`load`].
pub fn load_unpinned(object: &[u8]) -> Result<Ebpf, EbpfError> {
    let mut loader = loader();
    set_log_level(&mut loader, &LEVELS[0]);
    loader.load(object)
}

fn loader() -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader
}

/// At level 0 the log statements are constant-false, and the verifier removes them.
fn set_log_level(loader: &mut EbpfLoader<'static>, level: &'static u8) {
    loader.override_global("AYA_LOG_LEVEL", level, false);
}
