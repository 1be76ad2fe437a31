//! The table of flows, read from its pins: no agent is needed, and none is disturbed.

use std::path::PathBuf;

use aya::maps::{Array, Map, MapData, MapError};
use flannel_ebpf::abi::{FastPath, Flow, map_name};

use super::pin::Pins;

/// `BPF_F_LOCK` (uapi/linux/bpf.h): under the slot's own lock, so that no half of another admission is
/// in it.
const LOCKED: u64 = 4;

/// The table, and what its flows are held against.
#[derive(Debug)]
pub struct Table {
    /// Settings of the fast path.
    pub settings: FastPath,
    /// Slots in use; a flow stays in its slot for a while after the end of its admission.
    pub flows: Vec<Flow>,
}

/// Why the table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not pinned.
    #[error(
        "there is no table of flows at {}: no agent has run with the fast path on this host, or it \
         runs with another --bpf-pin-path", path.display()
    )]
    Absent {
        /// The pin.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("read {}", path.display())]
    Read {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
}

/// Reads the pinned table; a third of a second for the default size.
///
/// # Errors
/// There is none, or the kernel refuses (not root, say).
pub fn read(pins: &Pins) -> Result<Table, Error> {
    let settings: Pinned<FastPath> = Pinned::open(pins, map_name::FAST_PATH)?;
    let settings = settings.get(0, 0)?;
    let slots: Pinned<Flow> = Pinned::open(pins, map_name::FLOWS)?;
    let mut flows = Vec::new();
    for index in 0..slots.array.len().min(settings.mask.saturating_add(1)) {
        let flow = slots.get(index, LOCKED)?;
        if flow.key.protocol != 0 {
            flows.push(flow);
        }
    }
    Ok(Table { settings, flows })
}

/// A pinned array.
struct Pinned<T: aya::Pod> {
    path: PathBuf,
    array: Array<MapData, T>,
}

impl<T: aya::Pod> Pinned<T> {
    fn open(pins: &Pins, name: &str) -> Result<Self, Error> {
        let path = pins.map(name);
        if !path.exists() {
            return Err(Error::Absent { path });
        }
        let data = MapData::from_pin(&path);
        match data.and_then(|data| Map::Array(data).try_into()) {
            Ok(array) => Ok(Self { path, array }),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    fn get(&self, index: u32, flags: u64) -> Result<T, Error> {
        self.array.get(&index, flags).map_err(|source| Error::Read {
            path: self.path.clone(),
            source,
        })
    }
}
