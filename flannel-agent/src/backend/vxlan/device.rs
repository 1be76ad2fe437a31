//! The tunnel device: made, kept, adjusted or made anew, and given its address.
//!
//! A device of an earlier run, stock flannel's too, is kept whenever peers would understand it (VNI,
//! port, lower link, source, group policy): its entries then carry traffic while the agent starts.
//! What an administrator set beside that, such as TTL or checksums, stays. What differs from
//! flannel: MTU, MAC and learning are brought into line on a kept device, and a device that is made
//! anew keeps the MAC of the one before, so that peers need not be told.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::netlink::link::{Link, Vxlan, VxlanSpec};
use crate::netlink::{self, MacAddr, Netlink};

/// The kernel's port where none is asked for.
pub const DEFAULT_PORT: u16 = 8472;

/// What the device must be. The MAC in it is used if there is no device whose MAC could be kept.
pub type DeviceSpec = VxlanSpec;

/// The device as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Link-layer address: the VTEP MAC to advertise.
    pub mac: MacAddr,
    /// Largest inner packet, bytes.
    pub mtu: u32,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
}

/// What had to be done for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChange {
    /// Nothing.
    Kept,
    /// It was changed in place. Its routes and FDB entries remain, and its neighbours too unless
    /// the MAC changed: then Linux flushes them (`NETDEV_CHANGEADDR`).
    Adjusted,
    /// There was none.
    Created,
    /// It was deleted and made anew; its entries are gone.
    Recreated,
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The name belongs to something else, which is not ours to delete.
    #[error(
        "{name} exists but is a {kind}, not a vxlan device: rename or delete it \
         (`ip link delete {name}`), or choose another VNI"
    )]
    Foreign {
        /// Name of the device.
        name: String,
        /// What it is.
        kind: String,
    },
    /// Another device has the VNI on this port.
    #[error(
        "cannot create {name}: {holder} has VNI {vni} on UDP port {port} already: delete it \
         (`ip link delete {holder}`), or choose another VNI or port"
    )]
    VniTaken {
        /// Name of the device wanted.
        name: String,
        /// Name of the device that is in the way.
        holder: String,
        /// VNI of both.
        vni: u32,
        /// Port of both.
        port: u16,
    },
    /// A socket has the port.
    #[error(
        "UDP port {port} is in use, so {name} cannot be set up: end its holder (`ss -lunp 'sport = \
         :{port}'` names it), or set another Port in the network config"
    )]
    PortTaken {
        /// Name of the device.
        name: String,
        /// Its port.
        port: u16,
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

/// Which link-layer address a device that is there may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownAs {
    /// Any that a station can have: peers know it by that, or are told.
    Itself,
    /// That of the spec, which has been advertised.
    Spec,
}

/// What to do about the link that has the name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// Keep it, after these changes.
    Keep {
        mtu: Option<u32>,
        mac: Option<MacAddr>,
        learning: Option<bool>,
    },
    /// Delete it and make it anew with this MAC.
    Recreate { mac: MacAddr },
    /// Leave it: it is not a vxlan device.
    Refuse { kind: String },
}

/// Makes the device what `spec` says. It is down when new: see [`ensure_address`].
///
/// # Errors
/// See [`DeviceError`].
pub async fn ensure_device(
    netlink: &Netlink,
    spec: &DeviceSpec,
    known_as: KnownAs,
) -> Result<(Device, DeviceChange), DeviceError> {
    let change = match netlink.link_by_name(&spec.name).await? {
        None => {
            create(netlink, spec).await?;
            DeviceChange::Created
        }
        Some(link) => match judge(spec, &link, known_as, default_port()) {
            Verdict::Refuse { kind } => {
                return Err(DeviceError::Foreign {
                    name: spec.name.clone(),
                    kind,
                });
            }
            Verdict::Recreate { mac } => {
                netlink.remove_link(link.index).await?;
                let spec = DeviceSpec {
                    mac,
                    ..spec.clone()
                };
                create(netlink, &spec).await?;
                DeviceChange::Recreated
            }
            Verdict::Keep { mtu, mac, learning } => {
                adjust(netlink, spec, link.index, mtu, mac, learning).await?
            }
        },
    };
    let device = read_device(netlink, &spec.name).await?;
    Ok((device, change))
}

async fn create(netlink: &Netlink, spec: &DeviceSpec) -> Result<(), DeviceError> {
    let Err(error) = netlink.create_vxlan(spec).await else {
        return Ok(());
    };
    // EEXIST for a name that was free: the VNI is taken. Say by whom.
    if netlink::errno(&error) == Some(libc::EEXIST) {
        let port = spec.port.unwrap_or_else(default_port);
        let holder = netlink.links().await?.into_iter().find(|link| {
            let same = |vxlan: &Vxlan| vxlan.vni == spec.vni && vxlan.port == port;
            link.vxlan.as_ref().is_some_and(same)
        });
        if let Some(holder) = holder {
            return Err(DeviceError::VniTaken {
                name: spec.name.clone(),
                holder: holder.name,
                vni: spec.vni,
                port,
            });
        }
    }
    Err(error.into())
}

async fn adjust(
    netlink: &Netlink,
    spec: &DeviceSpec,
    index: u32,
    mtu: Option<u32>,
    mac: Option<MacAddr>,
    learning: Option<bool>,
) -> Result<DeviceChange, DeviceError> {
    if let Some(mtu) = mtu {
        netlink.set_mtu(index, mtu).await?;
    }
    if let Some(mac) = mac {
        netlink.set_mac(index, mac).await?;
    }
    if let Some(learning) = learning {
        match netlink.set_learning(index, learning).await {
            // Kernels before 4.18 fix it at creation, and it is not worth an outage.
            Err(error) if netlink::errno(&error) == Some(libc::EOPNOTSUPP) => {
                tracing::warn!(
                    device = spec.name,
                    learning,
                    "the kernel cannot change learning of an existing device"
                );
            }
            other => other?,
        }
    }
    let is_unchanged = mtu.is_none() && mac.is_none() && learning.is_none();
    Ok(if is_unchanged {
        DeviceChange::Kept
    } else {
        DeviceChange::Adjusted
    })
}

async fn read_device(netlink: &Netlink, name: &str) -> Result<Device, DeviceError> {
    let vanished = || DeviceError::Vanished { name: name.into() };
    let link = netlink.link_by_name(name).await?.ok_or_else(vanished)?;
    let vxlan = link.vxlan.ok_or_else(vanished)?;
    Ok(Device {
        index: link.index,
        mac: link.mac.ok_or_else(vanished)?,
        name: link.name,
        mtu: link.mtu,
        vni: vxlan.vni,
        port: vxlan.port,
    })
}

fn judge(spec: &DeviceSpec, link: &Link, known_as: KnownAs, default_port: u16) -> Verdict {
    let Some(vxlan) = &link.vxlan else {
        return Verdict::Refuse {
            kind: link
                .kind
                .clone()
                .unwrap_or_else(|| "hardware device".into()),
        };
    };
    let may_stay = |mac: &MacAddr| match known_as {
        KnownAs::Itself => mac.is_station(),
        KnownAs::Spec => *mac == spec.mac,
    };
    let kept_mac = link.mac.filter(may_stay);
    let expected = Vxlan {
        vni: spec.vni,
        lower: Some(spec.lower),
        local: Some(spec.local),
        port: spec.port.unwrap_or(default_port),
        gbp: spec.gbp,
        has_extras: false,
        // The one parameter that can be changed later.
        learning: vxlan.learning,
    };
    if *vxlan != expected {
        return Verdict::Recreate {
            mac: kept_mac.unwrap_or(spec.mac),
        };
    }
    Verdict::Keep {
        mtu: (link.mtu != spec.mtu).then_some(spec.mtu),
        mac: kept_mac.is_none().then_some(spec.mac),
        learning: (vxlan.learning != spec.learning).then_some(spec.learning),
    }
}

/// The module's `udp_port` parameter, which an administrator may have set.
fn default_port() -> u16 {
    std::fs::read_to_string("/sys/module/vxlan/parameters/udp_port")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT_PORT)
}

/// Gives the device the network address of the own subnet, as /32 and as the only one inside
/// `network`, and sets it up.
///
/// # Errors
/// See [`DeviceError`].
pub async fn ensure_address(
    netlink: &Netlink,
    device: &Device,
    own: Ipv4Network,
    network: Ipv4Network,
) -> Result<(), DeviceError> {
    refuse_router_advertisements(&device.name);
    let address = own.network();
    // The right one first: a device that loses its last address loses its routes.
    netlink.ensure_host_address(device.index, address).await?;
    for other in netlink.addresses(device.index).await? {
        if is_stale(other, address, network) {
            netlink.remove_address(device.index, other).await?;
        }
    }
    match netlink.set_up(device.index).await {
        // The device opens its socket when it is set up.
        Err(error) if netlink::errno(&error) == Some(libc::EADDRINUSE) => {
            Err(DeviceError::PortTaken {
                name: device.name.clone(),
                port: device.port,
            })
        }
        other => Ok(other?),
    }
}

fn is_stale(found: Ipv4Network, wanted: Ipv4Addr, network: Ipv4Network) -> bool {
    let is_wanted = found.ip() == wanted && found.prefix() == 32;
    !is_wanted && network.contains(found.ip())
}

/// No router is on this link. Best effort: without IPv6 there is nothing to refuse.
fn refuse_router_advertisements(name: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
    if let Err(error) = std::fs::write(&path, "0") {
        tracing::debug!(path, %error, "cannot turn off router advertisements");
    }
}

/// Deletes the device if it is there and is a vxlan device, and with it all its entries; says
/// whether there was one.
///
/// # Errors
/// See [`DeviceError`].
pub async fn remove_device(netlink: &Netlink, name: &str) -> Result<bool, DeviceError> {
    match netlink.link_by_name(name).await? {
        None => Ok(false),
        Some(link) if link.vxlan.is_none() => Err(DeviceError::Foreign {
            name: link.name,
            kind: link.kind.unwrap_or_else(|| "hardware device".into()),
        }),
        Some(link) => {
            netlink.remove_link(link.index).await?;
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn spec() -> DeviceSpec {
        DeviceSpec {
            name: "flannel.1".into(),
            vni: 1,
            lower: 7,
            local: [192, 168, 7, 11].into(),
            port: None,
            mtu: 1450,
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            learning: false,
            gbp: false,
        }
    }

    fn link() -> Link {
        Link {
            index: 9,
            name: "flannel.1".into(),
            mtu: 1450,
            mac: Some(OLD_MAC),
            kind: Some("vxlan".into()),
            bus: None,
            is_up: true,
            lower: Some(7),
            controller: None,
            has_end_elsewhere: false,
            max_mtu: None,
            qdisc: None,
            xdp_id: None,
            vxlan: Some(Vxlan {
                vni: 1,
                lower: Some(7),
                local: Some([192, 168, 7, 11].into()),
                port: 8472,
                ..Vxlan::default()
            }),
        }
    }

    fn judged(change: impl FnOnce(&mut Link)) -> Verdict {
        let mut link = link();
        change(&mut link);
        judge(&spec(), &link, KnownAs::Itself, DEFAULT_PORT)
    }

    fn judged_vxlan(change: impl FnOnce(&mut Vxlan)) -> Verdict {
        judged(|link| change(link.vxlan.as_mut().unwrap()))
    }

    #[test]
    fn a_device_that_fits_is_kept_with_its_mac() {
        let nothing = Verdict::Keep {
            mtu: None,
            mac: None,
            learning: None,
        };
        assert_eq!(judged(|_| ()), nothing);
    }

    #[test]
    fn an_address_that_has_been_advertised_is_set_back() {
        let link = Link {
            mac: Some(MacAddr([2, 0, 0, 0, 0, 99])),
            ..link()
        };
        let Verdict::Keep { mac, .. } = judge(&spec(), &link, KnownAs::Spec, DEFAULT_PORT) else {
            panic!("it fits but for that")
        };
        assert_eq!(mac, Some(spec().mac));
        assert_eq!(
            judge(&spec(), &link, KnownAs::Itself, DEFAULT_PORT),
            Verdict::Keep {
                mtu: None,
                mac: None,
                learning: None
            }
        );
    }

    #[test]
    fn what_can_be_changed_in_place_is() {
        let keep = |mtu, mac, learning| Verdict::Keep { mtu, mac, learning };
        assert_eq!(judged(|link| link.mtu = 1400), keep(Some(1450), None, None));
        assert_eq!(
            judged(|link| link.mac = Some(MacAddr([0; 6]))),
            keep(None, Some(spec().mac), None)
        );
        assert_eq!(
            judged_vxlan(|vxlan| vxlan.learning = true),
            keep(None, None, Some(false))
        );
    }

    #[test]
    fn a_device_that_sends_other_bytes_is_made_anew_with_its_mac() {
        let changes: [fn(&mut Vxlan); 7] = [
            |vxlan| vxlan.vni = 2,
            |vxlan| vxlan.lower = Some(8),
            |vxlan| vxlan.lower = None,
            |vxlan| vxlan.local = Some([203, 0, 113, 1].into()),
            |vxlan| vxlan.port = 4789,
            |vxlan| vxlan.gbp = true,
            |vxlan| vxlan.has_extras = true,
        ];
        for change in changes {
            assert_eq!(judged_vxlan(change), Verdict::Recreate { mac: OLD_MAC });
        }
    }

    #[test]
    fn a_foreign_device_is_refused_by_kind() {
        for (kind, name) in [(Some("bridge"), "bridge"), (None, "hardware device")] {
            let verdict = judged(|link| {
                link.vxlan = None;
                link.kind = kind.map(Into::into);
            });
            assert_eq!(verdict, Verdict::Refuse { kind: name.into() });
        }
    }

    #[test]
    fn only_other_addresses_inside_the_network_are_stale() {
        let network = "10.5.0.0/16".parse().unwrap();
        let stale = |found: &str| is_stale(found.parse().unwrap(), [10, 5, 34, 0].into(), network);
        assert!(!stale("10.5.34.0/32"));
        assert!(stale("10.5.34.0/16"));
        assert!(stale("10.5.33.0/32"));
        assert!(!stale("192.0.2.1/32"));
    }
}
