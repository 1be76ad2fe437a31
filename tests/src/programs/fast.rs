//! The maps of the fast path, for tests that stand in for the agent and for packets before.

use std::borrow::{Borrow, BorrowMut};

use anyhow::{Context as _, Result, ensure};
use aya::Pod;
use aya::maps::{Array, HashMap, MapData, MapError};
use flannel_ebpf::abi::{Candidate, FastPath, Flow, FlowKey, map_name};

use super::Programs;

/// Puts a flow into its own slot, or else a free one; false if there is none.
///
/// # Errors
/// What the kernel says.
pub fn set_flow<T: BorrowMut<MapData>>(
    flows: &mut Array<T, Flow>,
    table: &FastPath,
    flow: &Flow,
) -> Result<bool> {
    let slots = slots(flows, table, &flow.key)?;
    let own = slots.iter().find(|(_, held)| held.key == flow.key);
    let free = slots.iter().find(|(_, held)| held.expires == 0);
    let Some((slot, _)) = own.or(free) else {
        return Ok(false);
    };
    flows.set(*slot, flow, 0).context("write a flow")?;
    Ok(true)
}

/// The flow with this key, if it has a slot.
///
/// # Errors
/// What the kernel says.
pub fn flow<T: Borrow<MapData>>(
    flows: &Array<T, Flow>,
    table: &FastPath,
    key: &FlowKey,
) -> Result<Option<Flow>> {
    let slots = slots(flows, table, key)?;
    let held = slots.into_iter().map(|(_, held)| held);
    Ok(held.into_iter().find(|held| held.key == *key))
}

/// The slots that may hold a flow, and what they hold.
fn slots<T: Borrow<MapData>>(
    flows: &Array<T, Flow>,
    table: &FastPath,
    key: &FlowKey,
) -> Result<Vec<(u32, Flow)>> {
    let slots = key.slots(table).filter(|slot| *slot < flows.len());
    slots
        .map(|slot| Ok((slot, flows.get(&slot, 0).context("read a slot")?)))
        .collect()
}

impl Programs {
    /// Lets flows leave the standard path, or ends all admissions, over a table of all its slots.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_fast_path(&mut self, fast: &FastPath) -> Result<()> {
        let flows = self.ebpf.map(map_name::FLOWS).context("no map")?;
        let flows: Array<_, Flow> = flows.try_into()?;
        let fast = FastPath {
            mask: flows.len() - 1,
            ..*fast
        };
        let map = self.ebpf.map_mut(map_name::FAST_PATH).context("no map")?;
        let mut map: Array<_, FastPath> = map.try_into()?;
        map.set(0, fast, 0).context("write the fast path")
    }

    /// Admits a flow.
    ///
    /// # Errors
    /// There is no room for it, or what the kernel says.
    pub fn set_flow(&mut self, flow: &Flow) -> Result<()> {
        let table = self.fast_path()?;
        let map = self.ebpf.map_mut(map_name::FLOWS).context("no map")?;
        let has_room = set_flow(&mut map.try_into()?, &table, flow)?;
        ensure!(has_room, "no slot is free");
        Ok(())
    }

    fn fast_path(&self) -> Result<FastPath> {
        let map = self.ebpf.map(map_name::FAST_PATH).context("no map")?;
        let map: Array<_, FastPath> = map.try_into()?;
        map.get(&0, 0).context("read the fast path")
    }

    /// The admission of a flow, over or not; none, if it has never been admitted.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>> {
        let map = self.ebpf.map(map_name::FLOWS).context("no map")?;
        flow(&map.try_into()?, &self.fast_path()?, key)
    }

    /// Notes a packet as one that may admit its flow.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_candidate(&mut self, key: &FlowKey, candidate: &Candidate) -> Result<()> {
        self.set_by_flow(map_name::CANDIDATES, key, candidate)
    }

    /// The packet that may admit a flow, if one has been noted.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn candidate(&self, key: &FlowKey) -> Result<Option<Candidate>> {
        self.by_flow(map_name::CANDIDATES, key)
    }

    fn set_by_flow<V: Pod>(&mut self, map: &str, key: &FlowKey, value: &V) -> Result<()> {
        let entries = self.ebpf.map_mut(map).context("no map")?;
        let mut entries: HashMap<_, FlowKey, V> = entries.try_into()?;
        let written = entries.insert(key, value, 0);
        written.with_context(|| format!("write to {map}"))
    }

    fn by_flow<V: Pod>(&self, map: &str, key: &FlowKey) -> Result<Option<V>> {
        let entries = self.ebpf.map(map).context("no map")?;
        let entries: HashMap<_, FlowKey, V> = entries.try_into()?;
        match entries.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {map}")),
        }
    }
}
