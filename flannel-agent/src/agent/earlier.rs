//! What an earlier run has left: taken over where it fits, removed where it does not.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};
use tracing::{info, warn};

use crate::backend::vxlan::vtep_mac;
use crate::backend::{self, ALL_PROGRAMS, Backend};
use crate::config::Config;
use crate::dataplane::pin::Pins;
use crate::dataplane::{self, Attachment, Interfaces};
use crate::error::chain;
use crate::fast_path;
use crate::iface::ExternalInterface;
use crate::netlink::{MacAddr, Netlink};
use crate::state::{DeviceState, State};
use crate::subnet::acquire::find_lease;
use crate::subnet::store::Listing;

/// What the earlier run has noted.
pub(super) fn load(config: &Config) -> Option<State> {
    State::load(&config.run_dir).unwrap_or_else(|error| {
        warn!(%error, "the state of an earlier run cannot be read");
        None
    })
}

/// The VTEP MAC that this node had before, so that peers need not learn another one: from its own
/// state, or, since that does not outlive a reboot, from its lease.
pub(super) fn known_mac(
    earlier: Option<&State>,
    leases: &Listing,
    device: &str,
    public_ip: Ipv4Addr,
) -> Option<MacAddr> {
    let kept = earlier.and_then(|state| state.device.as_ref());
    let mac = kept
        .filter(|kept| kept.name == device)
        .and_then(|kept| kept.mac);
    if mac.is_some() {
        return mac;
    }
    let attrs = find_lease(leases, public_ip)?.attrs;
    let mac = vtep_mac(attrs.backend_data.as_deref()).ok()?;
    info!(%mac, "taking the VTEP MAC over from the lease of this node");
    Some(mac)
}

/// Notes what this run leaves on the host, and takes our filters off an external interface that is
/// not it any more: a filter on clsact, unlike a pinned link, is nowhere else remembered.
///
/// # Errors
/// The file cannot be written.
pub(super) fn note(
    config: &Config,
    earlier: Option<&State>,
    backend: &dyn Backend,
    mac: Option<MacAddr>,
    external: &ExternalInterface,
) -> Result<State> {
    if let Some(former) = earlier.map(|state| &state.external)
        && *former != external.name
    {
        match dataplane::leave(former, &ALL_PROGRAMS) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => info!(?removed, "took our programs off the former interface"),
            Err(error) => warn!(
                interface = former,
                error = chain(&error),
                "our programs stay on the former external interface"
            ),
        }
    }
    let device = backend.device_name().map(|name| DeviceState { name, mac });
    let former = earlier.map_or_else(Vec::new, |state| state.devices_but(device.as_ref()));
    let pins = &config.bpf_pin_path;
    let former_pins = earlier.map_or_else(Vec::new, |state| state.pins_but(pins));
    let state = State {
        device,
        former,
        former_pins,
        external: external.name.clone(),
        public_ip: external.public_ip,
        bpf_pin_path: config.bpf_pin_path.clone(),
        subnet_file: config.subnet_file.clone(),
    };
    store(config, &state)?;
    Ok(state)
}

/// Once this run carries all peers: removes devices, programs and maps of earlier ones that this
/// one does not use. `programs` are those that it does.
pub(super) async fn remove_unused(
    config: &Config,
    netlink: &Netlink,
    state: State,
    programs: &[Attachment],
) {
    let device = state.device.as_ref().map(|device| device.name.as_str());
    let interfaces = Interfaces {
        external: &state.external,
        device,
    };
    let pins = &config.bpf_pin_path;
    let removed = match programs {
        [] => dataplane::remove(pins, &ALL_PROGRAMS, interfaces),
        used => dataplane::remove_others(pins, &ALL_PROGRAMS, used, interfaces),
    };
    match removed {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => info!(?removed, "removed eBPF programs of an earlier run"),
        Err(error) => warn!(
            error = chain(&error),
            "eBPF programs of an earlier run stay"
        ),
    }
    let mut left = state.clone();
    left.former.clear();
    left.former_pins.clear();
    for path in &state.former_pins {
        match remove_pins(path).await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => info!(?removed, "removed eBPF programs that were pinned elsewhere"),
            Err(error) => {
                let error = format!("{error:#}");
                warn!(path = %path.display(), error, "eBPF programs of an earlier run stay");
                left.former_pins.push(path.clone());
            }
        }
    }
    for device in &state.former {
        match backend::remove_device(netlink, device).await {
            Ok(true) => info!(device = device.name, "removed the device of an earlier run"),
            Ok(false) => {}
            Err(error) => {
                warn!(
                    device = device.name,
                    error = format!("{error:#}"),
                    "the device of an earlier run stays"
                );
                left.former.push(device.clone());
            }
        }
    }
    if left != state
        && let Err(error) = store(config, &left)
    {
        warn!(error = format!("{error:#}"), "cannot note what is left");
    }
}

/// Ends the programs that an earlier run has pinned elsewhere; returns what was removed.
async fn remove_pins(path: &Path) -> Result<Vec<String>> {
    let mut removed = fast_path::earlier::remove_pinned(&Pins::new(path)).await?;
    // What hangs on clsact is not pinned, and has been replaced.
    let nowhere = Interfaces {
        external: "",
        device: None,
    };
    removed.extend(dataplane::remove(path, &[], nowhere)?);
    Ok(removed)
}

fn store(config: &Config, state: &State) -> Result<()> {
    state
        .store(&config.run_dir)
        .with_context(|| format!("write {}", State::path(&config.run_dir).display()))
}
