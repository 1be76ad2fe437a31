//! `flannel-agent cleanup`: takes from the host what an agent has left on it, and says what.
//!
//! An agent leaves everything in place when it ends, so that packets move on while it is restarted
//! or upgraded. This is for the end of its service on the node.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::backend::entries::{remove_routes, remove_unused_objects, route_line};
use crate::backend::{ALL_PROGRAMS, is_own_device, remove_device};
use crate::cli::CleanupMode;
use crate::dataplane::pin::Pins;
use crate::dataplane::{self, Interfaces};
use crate::fast_path::earlier;
use crate::fast_path::liberal::Liberal;
use crate::netlink::Netlink;
use crate::rules;
use crate::state::{DeviceState, State};

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
    let interfaces = Interfaces {
        external: state.map_or("", |state| &state.external),
        device: state
            .and_then(|state| state.device.as_ref())
            .map(|device| device.name.as_str()),
    };
    let netlink = Netlink::open()?;
    let fast_path = earlier::remove(&netlink, &Pins::new(pin_path)).await;
    result
        .removed
        .extend(fast_path.context("take the programs off pods' interfaces")?);
    let pins = dataplane::remove(pin_path, &ALL_PROGRAMS, interfaces)
        .with_context(|| format!("remove the pins below {}", pin_path.display()))?;
    result.removed.extend(pins);
    Liberal::new(run_dir).restore();
    let Some(state) = state else { return Ok(()) };
    for path in &state.former_pins {
        let of_pods = earlier::remove_pinned(&Pins::new(path)).await;
        result
            .removed
            .extend(of_pods.context("take former programs off pods' interfaces")?);
        let pins = dataplane::remove(path, &[], interfaces)
            .with_context(|| format!("remove the pins below {}", path.display()))?;
        result.removed.extend(pins);
    }
    for device in state.devices_but(None) {
        // Of a device that is not ours any more, only what nobody else can have made.
        if let Some(link) = netlink.link_by_name(&device.name).await? {
            let objects = remove_unused_objects(&netlink, link.index).await;
            let objects = objects.context("remove next-hop objects")?;
            result.removed.extend(objects);
        }
        if remove_device(&netlink, &device).await? {
            result.removed.push(device_line(&device));
        }
    }
    let routes = remove_routes(&netlink).await.context("remove routes")?;
    result.removed.extend(routes);
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
    let former = state.map_or(&[][..], |state| &state.former_pins);
    let paths = former.iter().map(PathBuf::as_path).chain([pin_path]);
    let pins = paths.flat_map(|path| Pins::new(path).list());
    let lines = pins.map(|pin| format!("pin {}", pin.display()));
    result.removed.extend(lines);
    let netlink = Netlink::open()?;
    let filters = earlier::filters(&netlink).await;
    let filters = filters.context("list filters on pods' interfaces")?;
    let lines = filters.into_iter().map(|filter| filter.to_string());
    result.removed.extend(lines);
    let Some(state) = state else { return Ok(()) };
    for device in state.devices_but(None) {
        if is_own_device(&netlink, &device).await? {
            result.removed.push(device_line(&device));
        }
    }
    let routes = netlink.direct_routes().await.context("list routes")?;
    let lines = routes.iter().map(|(subnet, via)| route_line(*subnet, *via));
    result.removed.extend(lines);
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

fn device_line(device: &DeviceState) -> String {
    format!(
        "device {} with its routes, neighbours and FDB entries",
        device.name
    )
}

fn files(run_dir: &Path, state: &State) -> [PathBuf; 2] {
    [state.subnet_file.clone(), State::path(run_dir)]
}
