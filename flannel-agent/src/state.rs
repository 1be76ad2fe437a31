//! What the agent remembers about the host: `<run-dir>/state.json`.
//!
//! It keeps the VTEP MAC over a lost device, and tells `flannel-agent cleanup` what an agent that
//! no longer runs has left behind. Losing the file loses nothing that works.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::netlink::MacAddr;

/// Name of the file in the run directory.
const FILE: &str = "state.json";

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The tunnel device, for backends with one.
    pub device: Option<DeviceState>,
    /// Devices of earlier runs with other settings that have not been removed yet.
    #[serde(default)]
    pub former: Vec<DeviceState>,
    /// The external interface.
    pub external: String,
    /// Address advertised to peers.
    pub public_ip: Ipv4Addr,
    /// Root of the pins.
    pub bpf_pin_path: PathBuf,
    /// Roots of pins of earlier runs that have not been removed yet.
    #[serde(default)]
    pub former_pins: Vec<PathBuf>,
    /// The environment file.
    pub subnet_file: PathBuf,
}

/// A device that an agent made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// Name.
    pub name: String,
    /// Link-layer address, by which it is told from one that somebody else has made; a device of
    /// the network layer has none.
    pub mac: Option<MacAddr>,
}

impl State {
    /// All devices of this and earlier runs, but `device`.
    #[must_use]
    pub fn devices_but(&self, device: Option<&DeviceState>) -> Vec<DeviceState> {
        let name = device.map(|device| &device.name);
        let all = self.device.iter().chain(&self.former);
        all.filter(|other| Some(&other.name) != name)
            .cloned()
            .collect()
    }

    /// All roots of pins of this and earlier runs, but `path`.
    #[must_use]
    pub fn pins_but(&self, path: &Path) -> Vec<PathBuf> {
        let all = std::iter::once(&self.bpf_pin_path).chain(&self.former_pins);
        all.filter(|other| *other != path).cloned().collect()
    }

    /// Where the file is.
    #[must_use]
    pub fn path(run_dir: &Path) -> PathBuf {
        run_dir.join(FILE)
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is not what we wrote.
    pub fn load(run_dir: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(Self::path(run_dir)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the file, making the directory where it is missing; a reader sees all of it or what
    /// was there before.
    ///
    /// # Errors
    /// As the file system does.
    pub fn store(&self, run_dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(run_dir)?;
        let path = Self::path(run_dir);
        let new = path.with_extension("json.new");
        std::fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(new, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            device: Some(DeviceState {
                name: "flannel.1".into(),
                mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            }),
            former: Vec::new(),
            external: "eth0".into(),
            public_ip: [192, 168, 7, 11].into(),
            bpf_pin_path: "/sys/fs/bpf/flannel".into(),
            former_pins: Vec::new(),
            subnet_file: "/run/flannel/subnet.env".into(),
        }
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        assert_eq!(State::load(&run_dir).unwrap(), None);
        state().store(&run_dir).unwrap();
        assert_eq!(State::load(&run_dir).unwrap(), Some(state()));
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(State::path(dir.path()), "{").unwrap();
        assert!(State::load(dir.path()).is_err());
    }
}
