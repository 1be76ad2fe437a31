//! The BPF object that the agent carries, and loading it over pinned maps.

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

/// Loads the object: maps that are pinned are taken over, others are made and pinned.
///
/// The layouts of pinned maps must have been checked before (`compat`): aya takes over whatever
/// stands at the path.
///
/// # Errors
/// What the kernel or the ELF reader says.
pub fn load(object: &[u8], pins: &Pins, options: &Options) -> Result<Ebpf, EbpfError> {
    let mut loader = loader(&options.log_level);
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
    loader(&0).load(object)
}

fn loader(log_level: &u8) -> EbpfLoader<'_> {
    let mut loader = EbpfLoader::new();
    // Level 0 makes the log statements constant-false, and the verifier removes them.
    loader.override_global("AYA_LOG_LEVEL", log_level, false);
    loader
}
