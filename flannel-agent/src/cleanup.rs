//! `flannel-agent cleanup`: takes from the host what an agent has left on it, and says what.
//!
//! An agent leaves everything in place when it ends, so that packets move on while it is restarted
//! or upgraded. This is for the end of its service on the node.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::backend::vxlan::device::remove_device;
use crate::cli::CleanupMode;
use crate::dataplane;
use crate::netlink::Netlink;
use crate::rules;
use crate::state::State;

/// What was, or would be, removed.
#[derive(Debug, Default, Serialize)]
pub struct Removed {
    /// Whether it has been removed, or only would be.
    pub is_done: bool,
    /// A line each, for example `device flannel.1`.
    pub removed: Vec<String>,
    /// What stays, and why.
    pub kept: Vec<String>,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            is_done,
            removed,
            kept,
        } = self;
        let verb = if *is_done { "removed" } else { "would remove" };
        for line in removed {
            writeln!(f, "{verb} {line}")?;
        }
        if removed.is_empty() {
            writeln!(f, "nothing to remove")?;
        }
        for line in kept {
            writeln!(f, "kept {line}")?;
        }
        Ok(())
    }
}

/// Removes pins and filters, the tunnel device with its routes, neighbours and FDB entries, our
/// traffic rules (not those of stock flannel), the environment file and the run directory's files; or only says so.
///
/// The lease stays in the store until it runs out: another node must not get this subnet while
/// containers with its addresses may be left.
///
/// # Errors
/// What could not be removed, with the name.
pub async fn run(run_dir: &Path, pin_path: &Path, mode: CleanupMode) -> Result<Removed> {
    let state =
        State::load(run_dir).with_context(|| format!("read {}", State::path(run_dir).display()))?;
    let mut result = Removed::default();
    let pin_path = state.as_ref().map_or(pin_path, |state| &state.bpf_pin_path);
    match mode {
        CleanupMode::DryRun => list(run_dir, pin_path, state.as_ref(), &mut result).await?,
        CleanupMode::Remove => {
            result.is_done = true;
            remove(run_dir, pin_path, state.as_ref(), &mut result).await?;
        }
    }
    match &state {
        Some(state) => result.kept.push(format!(
            "the lease of {} in the store, until it runs out",
            state.public_ip
        )),
        None => result.kept.push(format!(
            "devices and files, if any: no agent has run with --run-dir={}",
            run_dir.display()
        )),
    }
    Ok(result)
}

async fn remove(
    run_dir: &Path,
    pin_path: &Path,
    state: Option<&State>,
    result: &mut Removed,
) -> Result<()> {
    // Programs first: they would send to devices that are gone.
    let interfaces = state.map(|state| [state.external.as_str(), state.device.as_str()]);
    let interfaces = interfaces.as_ref().map_or(&[][..], |both| &both[..]);
    let pins = dataplane::remove(pin_path, interfaces)
        .with_context(|| format!("remove the pins below {}", pin_path.display()))?;
    result.removed.extend(pins);
    let Some(state) = state else { return Ok(()) };
    let netlink = Netlink::open()?;
    if is_our_device(&netlink, state).await? {
        remove_device(&netlink, &state.device).await?;
        result.removed.push(device_line(state));
    }
    // After the device: without it nothing needs them any more.
    let rules = rules::remove_ours(&netlink).await;
    result
        .removed
        .extend(rules.context("remove the traffic rules")?);
    for file in files(run_dir, state) {
        match std::fs::remove_file(&file) {
            Ok(()) => result.removed.push(format!("file {}", file.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("remove {}", file.display()));
            }
        }
    }
    Ok(())
}

async fn list(
    run_dir: &Path,
    pin_path: &Path,
    state: Option<&State>,
    result: &mut Removed,
) -> Result<()> {
    let pins = dataplane::pin::Pins::new(pin_path).list();
    result
        .removed
        .extend(pins.into_iter().map(|pin| format!("pin {}", pin.display())));
    let Some(state) = state else { return Ok(()) };
    let netlink = Netlink::open()?;
    if is_our_device(&netlink, state).await? {
        result.removed.push(device_line(state));
    }
    let rules = rules::list_ours(&netlink).await;
    result
        .removed
        .extend(rules.context("list the traffic rules")?);
    let files = files(run_dir, state)
        .into_iter()
        .filter(|file| file.exists());
    result
        .removed
        .extend(files.map(|file| format!("file {}", file.display())));
    Ok(())
}

/// A device of the same name that somebody else has made is not ours: the MAC tells.
async fn is_our_device(netlink: &Netlink, state: &State) -> Result<bool> {
    let link = netlink.link_by_name(&state.device).await?;
    Ok(link.is_some_and(|link| link.vxlan.is_some() && link.mac == Some(state.vtep_mac)))
}

fn device_line(state: &State) -> String {
    format!(
        "device {} with its routes, neighbours and FDB entries",
        state.device
    )
}

fn files(run_dir: &Path, state: &State) -> [PathBuf; 2] {
    [state.subnet_file.clone(), State::path(run_dir)]
}
