//! The TUN device: made or opened again, adjusted, given its address and the network's route.
//!
//! flannel's device goes with the process. This one is persistent: address, route, and the BPF
//! programs on it stay while no agent runs, and carry packets. It has several queues, one for each
//! thread of the proxy, and offloads, so that packets come and go by the bundle. Anything else of
//! this name is somebody else's and is not touched.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ipnetwork::Ipv4Network;

use super::coalesce::Datagrams;
use super::sys;
use crate::netlink::link::Link;
use crate::netlink::{self, Netlink};

/// IP packets, without a prefix of their protocol but with the header of [`super::vnet`], from and
/// to several queues.
const FLAGS: libc::c_int =
    libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR;

/// What the proxy does in the kernel's place: checksums and TCP segments.
const OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO_ECN;
/// And UDP datagrams (Linux 6.2, which takes both versions or none).
const DATAGRAM_OFFLOADS: libc::c_uint = OFFLOADS | libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// More threads than this do not make one NIC faster.
const MAX_QUEUES: usize = 8;

/// Packets that wait in each queue; the kernel's default of 500 is 1 ms of small packets. They may
/// be aggregates, so many more would be a long queue in front of everybody.
const QUEUE_LEN: u32 = 1000;

/// How often, and how long, to wait for whoever has the device open. A process that the agent before
/// this one was just starting has copies of its descriptors for a moment.
const PATIENCE: u32 = 10;
const PATIENCE_STEP: Duration = Duration::from_millis(30);

/// What the device must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Name, [`super::DEVICE_NAME`].
    pub name: String,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Network address of the own subnet.
    pub address: Ipv4Addr,
    /// The whole network.
    pub network: Ipv4Network,
    /// Queues, one or more; see [`queue_count`].
    pub queues: usize,
}

/// The device as it is, with its queues. Clones share them.
#[derive(Debug, Clone)]
pub struct Device {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Whether the route to the network leads here; if not, somebody else has one, which is left
    /// alone.
    pub has_route: bool,
    pub(super) queues: Arc<Queues>,
}

impl Device {
    /// Whether the kernel takes aggregates of datagrams from the proxy and cuts them itself
    /// (Linux 6.2); of TCP it always does.
    #[must_use]
    pub fn cuts_datagrams(&self) -> bool {
        self.queues.datagrams == Datagrams::Coalesce
    }
}

/// Open queues of a device; they close with the last reference.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) each: Vec<File>,
    /// Whether the kernel cuts aggregates of datagrams.
    pub(super) datagrams: Datagrams,
}

/// What had to be done for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChange {
    /// Nothing.
    Kept,
    /// MTU or link state were brought into line.
    Adjusted,
    /// It was there from an earlier run, and its queues have been opened.
    Opened,
    /// There was none.
    Created,
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The name belongs to something else, which is not ours to delete.
    #[error(
        "{name} exists but is a {kind}, not a TUN device: rename it or delete it \
         (`ip link delete {name}`)"
    )]
    Foreign {
        /// Name of the device.
        name: String,
        /// What it is.
        kind: String,
    },
    /// A TUN device of another program.
    #[error(
        "{name} is a TUN device of another program, with one queue: if stock flanneld runs, end it; \
         if nothing does, delete the device (`ip link delete {name}`)"
    )]
    Unfit {
        /// Name of the device.
        name: String,
    },
    /// Somebody reads from it.
    #[error(
        "{name} is in use by another process, which is probably another flannel-agent: end it \
         (`grep -l 'iff:.*{name}' /proc/*/fdinfo/*` finds it)"
    )]
    Busy {
        /// Name of the device.
        name: String,
    },
    /// No TUN device can be opened.
    #[error("open the TUN device {name}{hint}")]
    Open {
        /// Name of the device.
        name: String,
        /// What may help, with the colon before it.
        hint: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// It was there a moment ago.
    #[error("{name} vanished while it was set up")]
    Vanished {
        /// Name of the device.
        name: String,
    },
    /// A netlink call failed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
}

/// As many queues as there are cores to serve them, within reason.
#[must_use]
pub fn queue_count() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_QUEUES))
}

/// Makes the device what `spec` says and gives it with open queues: those of `held`, the result of
/// the call before, if it is still the same device.
///
/// # Errors
/// See [`DeviceError`].
pub async fn ensure_device(
    netlink: &Netlink,
    spec: &DeviceSpec,
    held: Option<&Device>,
) -> Result<(Device, DeviceChange), DeviceError> {
    let name = &spec.name;
    let found = netlink.link_by_name(name).await?;
    let (queues, change) = match &found {
        None => (Arc::new(open(spec)?), DeviceChange::Created),
        Some(link) => {
            let held = held.filter(|held| held.index == link.index);
            match judge_patiently(netlink, link, held).await? {
                Verdict::Held(queues) => (queues, DeviceChange::Kept),
                Verdict::Free => (Arc::new(open(spec)?), DeviceChange::Opened),
            }
        }
    };
    let link = match found {
        Some(link) => link,
        None => netlink.link_by_name(name).await?.ok_or_else(|| {
            let name = name.clone();
            DeviceError::Vanished { name }
        })?,
    };
    if change != DeviceChange::Kept {
        netlink.set_queue_len(link.index, QUEUE_LEN).await?;
    }
    let is_adjusted = link.mtu != spec.mtu || !link.is_up;
    let has_route = configure(netlink, spec, &link).await?;
    let device = Device {
        index: link.index,
        name: link.name,
        mtu: spec.mtu,
        has_route,
        queues,
    };
    let change = match change {
        DeviceChange::Kept if is_adjusted => DeviceChange::Adjusted,
        change => change,
    };
    Ok((device, change))
}

enum Verdict {
    /// The queues are open already.
    Held(Arc<Queues>),
    /// Nobody has it open.
    Free,
}

/// As [`judge`], but not put off by somebody who is about to be gone.
async fn judge_patiently(
    netlink: &Netlink,
    link: &Link,
    held: Option<&Device>,
) -> Result<Verdict, DeviceError> {
    for _ in 0..PATIENCE {
        match judge(netlink, link, held).await {
            Err(DeviceError::Busy { .. }) => tokio::time::sleep(PATIENCE_STEP).await,
            other => return other,
        }
    }
    judge(netlink, link, held).await
}

/// What to do with the device that is there; `held` is it, if its queues were open before.
async fn judge(
    netlink: &Netlink,
    link: &Link,
    held: Option<&Device>,
) -> Result<Verdict, DeviceError> {
    let name = link.name.clone();
    let tun = match netlink.tun(link.index).await? {
        Some(tun) if tun.is_tun => tun,
        Some(_) => {
            let kind = "TAP device".into();
            return Err(DeviceError::Foreign { name, kind });
        }
        None => {
            let kind = link.kind.clone();
            let kind = kind.unwrap_or_else(|| "hardware device".into());
            return Err(DeviceError::Foreign { name, kind });
        }
    };
    if !tun.is_multi_queue {
        return Err(DeviceError::Unfit { name });
    }
    let open = usize::try_from(tun.queues).unwrap_or(usize::MAX);
    match held {
        Some(held) if held.queues.each.len() == open => Ok(Verdict::Held(Arc::clone(&held.queues))),
        _ if open == 0 => Ok(Verdict::Free),
        _ => Err(DeviceError::Busy { name }),
    }
}

/// Opens the queues, and makes the device if there is none.
fn open(spec: &DeviceSpec) -> Result<Queues, DeviceError> {
    let DeviceSpec { name, queues, .. } = spec;
    let failed = |source: io::Error| {
        let name = name.clone();
        match source.raw_os_error() {
            // Other flags, or not a TUN device: somebody was faster.
            Some(libc::EINVAL) => DeviceError::Unfit { name },
            Some(libc::EBUSY | libc::E2BIG) => DeviceError::Busy { name },
            number => DeviceError::Open {
                name,
                hint: hint(number),
                source,
            },
        }
    };
    let open = || -> io::Result<Queues> {
        let each: Vec<File> = (0..(*queues).max(1))
            .map(|_| sys::attach_queue(name, FLAGS))
            .collect::<io::Result<_>>()?;
        let datagrams = match sys::set_offload(&each[0], DATAGRAM_OFFLOADS) {
            Ok(()) => Datagrams::Coalesce,
            Err(_) => {
                sys::set_offload(&each[0], OFFLOADS)?;
                Datagrams::Pass
            }
        };
        // Last, so that a device that could not be set up goes with its queues.
        sys::set_persistent(&each[0])?;
        Ok(Queues { each, datagrams })
    };
    open().map_err(failed)
}

fn hint(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            ": load the module (`modprobe tun`), and give a container the device /dev/net/tun"
        }
        Some(libc::EPERM | libc::EACCES) => {
            ": needs CAP_NET_ADMIN, and in a container the device /dev/net/tun"
        }
        _ => "",
    }
}

/// Sets MTU, address, link state and route, and says whether the route leads into the device.
async fn configure(
    netlink: &Netlink,
    spec: &DeviceSpec,
    link: &Link,
) -> Result<bool, netlink::Error> {
    if link.mtu != spec.mtu {
        netlink.set_mtu(link.index, spec.mtu).await?;
    }
    netlink
        .ensure_sole_address(link.index, spec.address, spec.network)
        .await?;
    if !link.is_up {
        netlink.set_up(link.index).await?;
    }
    netlink.ensure_network_route(link.index, spec.network).await
}

/// Deletes the device if it is there and was left by an agent, and with it address and route; says
/// whether there was one.
///
/// # Errors
/// See [`DeviceError`]; a device that is in use is not deleted.
pub async fn remove_device(netlink: &Netlink, name: &str) -> Result<bool, DeviceError> {
    let Some(link) = netlink.link_by_name(name).await? else {
        return Ok(false);
    };
    judge_patiently(netlink, &link, None).await?;
    netlink.remove_link(link.index).await?;
    Ok(true)
}
