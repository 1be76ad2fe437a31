//! The maps of the fast path, for tests that stand in for the agent and for packets before.

use anyhow::{Context as _, Result};
use aya::Pod;
use aya::maps::{Array, HashMap, MapError};
use flannel_ebpf::abi::{Candidate, FastPath, Flow, FlowKey, map_name};

use super::Programs;

impl Programs {
    /// Lets flows leave the standard path, or ends all admissions.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_fast_path(&mut self, fast: &FastPath) -> Result<()> {
        let map = self.ebpf.map_mut(map_name::FAST_PATH).context("no map")?;
        let mut map: Array<_, FastPath> = map.try_into()?;
        map.set(0, fast, 0).context("write the fast path")
    }

    /// Admits a flow.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<()> {
        self.set_by_flow(map_name::FLOWS, key, flow)
    }

    /// The admission of a flow, over or not; none, if it has never been admitted.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>> {
        self.by_flow(map_name::FLOWS, key)
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
