//! The external interface: who drives it, what its driver can do with XDP, and whose programs it
//! runs. Only asked, never touched.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, TcAttachType};

use super::facts::{Holder, Interface, is_denied};
use crate::dataplane::foreign::is_own;
use crate::error::chain;
use crate::iface::{self, ExternalInterface, Selection};
use crate::netlink::Netlink;
use crate::netlink::netdev::{XdpFeatures, xdp_features};
use crate::netlink::nic::{ClsactSide, Filter, Nic, XdpMode};

/// The interface that the agent would choose.
///
/// # Errors
/// Why there is none.
pub(super) async fn read(selection: &Selection) -> Result<Interface> {
    let netlink = Netlink::open()?;
    let chosen = choose(selection).await?;
    let mut unknown = Vec::new();
    let nic = netlink.nic(chosen.index).await?;
    let link = netlink.link_by_index(chosen.index).await?;
    let features = xdp_features(chosen.index).unwrap_or_else(|error| {
        unknown.push(format!("features of the driver: {error}"));
        None
    });
    let mut programs = xdp_programs(&nic);
    programs.extend(tcx_programs(&chosen.name, &mut unknown));
    for (side, hook) in [
        (ClsactSide::Ingress, "clsact ingress"),
        (ClsactSide::Egress, "clsact egress"),
    ] {
        let holder = |Filter { name, id, .. }: Filter| {
            Some(Holder {
                hook: hook.into(),
                is_ours: name.as_deref().is_some_and(is_own),
                name,
                id: id?,
            })
        };
        match netlink.filters(chosen.index, side).await {
            Ok(filters) => programs.extend(filters.into_iter().filter_map(holder)),
            Err(error) => unknown.push(chain(&error)),
        }
    }
    Ok(Interface {
        name: chosen.name,
        index: chosen.index,
        mtu: chosen.mtu,
        driver: driver(&nic).or_else(|| link.and_then(|link| link.kind)),
        xdp_features: features.map(XdpFeatures::names),
        programs,
        unknown,
    })
}

async fn choose(selection: &Selection) -> Result<ExternalInterface> {
    let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket")?;
    let connection = tokio::spawn(connection);
    let host = iface::read_host(&handle, selection).await;
    connection.abort();
    Ok(iface::choose(&host?, selection)?)
}

/// Name of the driver of the hardware. Looked up by its bus, since `/sys/class/net` may show the
/// interfaces of another network namespace.
fn driver(nic: &Nic) -> Option<String> {
    let (bus, device) = nic.parent.as_ref()?;
    let link = Path::new("/sys/bus")
        .join(bus)
        .join("devices")
        .join(device)
        .join("driver");
    let driver = fs::read_link(link).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

fn xdp_programs(nic: &Nic) -> Vec<Holder> {
    let holder = |(mode, id): &(XdpMode, u32)| Holder {
        hook: match mode {
            XdpMode::Native => "native XDP",
            XdpMode::Generic => "generic XDP",
            XdpMode::Offloaded => "offloaded XDP",
        }
        .into(),
        name: program_name(*id),
        id: *id,
        is_ours: false,
    };
    nic.xdp.iter().map(holder).collect()
}

/// Name of a loaded program; none without the privilege to ask.
fn program_name(id: u32) -> Option<String> {
    let mut programs = aya::programs::loaded_programs().map_while(Result::ok);
    let found = programs.find(|program| program.id() == id)?;
    found.name_as_str().map(str::to_owned)
}

fn tcx_programs(interface: &str, unknown: &mut Vec<String>) -> Vec<Holder> {
    let mut holders = Vec::new();
    for (direction, hook) in [
        (TcAttachType::Ingress, "tcx ingress"),
        (TcAttachType::Egress, "tcx egress"),
    ] {
        let holder = |info: &ProgramInfo| {
            let name = info.name_as_str().map(str::to_owned);
            Holder {
                hook: hook.into(),
                is_ours: name.as_deref().is_some_and(is_own),
                name,
                id: info.id(),
            }
        };
        match SchedClassifier::query_tcx(interface, direction) {
            Ok((_, infos)) => holders.extend(infos.iter().map(holder)),
            // Without the privilege it cannot be asked, without tcx there is nothing to ask for.
            Err(ProgramError::SyscallError(error)) if is_denied(&error.io_error) => {
                unknown.push("programs at tcx: only root is told".into());
                break;
            }
            Err(_) => {}
        }
    }
    holders
}
