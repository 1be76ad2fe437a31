//! The vxlan backend: one device, `flannel.<VNI>`, carries all tunnelled peers. Per peer there is a
//! route, a permanent neighbour and a permanent FDB entry; nothing is learnt, and there is no
//! broadcast.

pub mod device;

use anyhow::{Result, bail};
use async_trait::async_trait;
use flannel_ebpf::abi::{self, Encap};
use flannel_ebpf::wire::{ETHERTYPE_IPV4, Ethernet, Headers, Udp, Vxlan as VxlanHeader};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tracing::info;

use self::device::{DeviceChange, DeviceSpec, KnownAs, ensure_address, ensure_device};
use super::peer::{IgnoredReason, Peer, require_type};
use super::{Advert, Backend, Device, Place, Reach, host_gw};
use crate::dataplane::{Attachment, Direction, Interface};
use crate::iface::ExternalInterface;
use crate::lease::Lease;
use crate::netlink::mac::ParseMacError;
use crate::netlink::route::Via;
use crate::netlink::{MacAddr, Netlink};
use crate::network;
use crate::plan::KernelState;

/// Value of `BackendType` in leases of this backend.
pub const BACKEND_TYPE: &str = "vxlan";

/// Bytes that encapsulation over IPv4 puts before an inner packet: IPv4 20, UDP 8, VXLAN 8 and the
/// inner Ethernet header 14 (RFC 7348, section 5).
pub const OVERHEAD: u32 = 50;

/// Smallest MTU that a link with IPv4 may have (RFC 791, section 3.2).
const MIN_MTU: u32 = 68;

/// Receiving first: a node that sends by eBPF should be able to take the answer.
pub const PROGRAMS: [Attachment; 2] = [
    Attachment {
        program: "vxlan_decap",
        interface: Interface::External,
        direction: Direction::Ingress,
        handle: 1,
    },
    Attachment {
        program: "vxlan_encap",
        interface: Interface::Device,
        direction: Direction::Egress,
        handle: 1,
    },
];

/// With `DirectRouting`.
const WITH_DIRECT: [Attachment; 4] = [
    PROGRAMS[0],
    PROGRAMS[1],
    host_gw::PROGRAMS[0],
    host_gw::PROGRAMS[1],
];

/// Name of the device for a VNI.
#[must_use]
pub fn device_name(vni: u32) -> String {
    format!("flannel.{vni}")
}

/// Largest inner packet over an external interface with this MTU, if one fits at all. The
/// `configured` MTU of the underlay can lower it, not raise it: the kernel would refuse.
#[must_use]
pub fn device_mtu(configured: Option<u32>, external_mtu: u32) -> Option<u32> {
    let underlay = configured.unwrap_or(external_mtu).min(external_mtu);
    underlay.checked_sub(OVERHEAD).filter(|mtu| *mtu >= MIN_MTU)
}

/// Adds what the device must have for a peer.
pub fn add_entries(device: u32, peer: &Peer, state: &mut KernelState) {
    let Some(mac) = peer.mac else { return };
    let gateway = peer.subnet.network();
    let via = Via {
        oif: device,
        gateway,
        is_onlink: true,
    };
    state.routes.insert(peer.subnet, via);
    state.neighbours.insert(gateway, mac);
    state.fdb.insert(mac, peer.public_ip);
}

/// The backend.
#[derive(Debug)]
pub struct Vxlan {
    options: network::Vxlan,
    /// Link-layer address of the device: the one that it had before, or a new one.
    mac: MacAddr,
    /// Whether peers know that.
    known_as: KnownAs,
}

impl Vxlan {
    /// The backend with these options.
    #[must_use]
    pub fn new(options: network::Vxlan, known_mac: Option<MacAddr>) -> Self {
        let mac = known_mac.unwrap_or_else(|| MacAddr::random_local(&mut rand::rng()));
        Self {
            options,
            mac,
            known_as: KnownAs::Itself,
        }
    }

    async fn ensure(
        &mut self,
        netlink: &Netlink,
        lower: u32,
        lower_mtu: u32,
        local: std::net::Ipv4Addr,
    ) -> Result<device::Device> {
        let Some(mtu) = self.pod_mtu(lower_mtu) else {
            bail!("the MTU of the external interface, {lower_mtu}, leaves no room for a tunnel");
        };
        let spec = DeviceSpec {
            name: device_name(self.options.vni),
            vni: self.options.vni,
            lower,
            local,
            port: self.options.port,
            mtu,
            mac: self.mac,
            learning: self.options.learning,
            gbp: self.options.gbp,
        };
        let (device, change) = ensure_device(netlink, &spec, self.known_as).await?;
        if change != DeviceChange::Kept {
            info!(device = device.name, mac = %device.mac, ?change, "set up the tunnel device");
        }
        Ok(device)
    }
}

#[async_trait]
impl Backend for Vxlan {
    fn name(&self) -> &'static str {
        BACKEND_TYPE
    }

    fn device_name(&self) -> Option<String> {
        Some(device_name(self.options.vni))
    }

    fn reach(&self) -> Reach {
        match self.options.direct_routing {
            true => Reach::TunnelUnlessOnLink,
            false => Reach::Tunnel,
        }
    }

    fn programs(&self) -> &'static [Attachment] {
        match self.options.direct_routing {
            true => &WITH_DIRECT,
            false => &PROGRAMS,
        }
    }

    fn pod_mtu(&self, external_mtu: u32) -> Option<u32> {
        device_mtu(self.options.mtu, external_mtu)
    }

    /// Makes the device, since its link-layer address is what peers must know.
    async fn prepare(&mut self, netlink: &Netlink, external: &ExternalInterface) -> Result<Advert> {
        let ExternalInterface {
            index,
            mtu,
            address,
            ..
        } = *external;
        let device = self.ensure(netlink, index, mtu, address).await?;
        // What the device has is what is advertised, also when it had it before.
        self.mac = device.mac;
        self.known_as = KnownAs::Spec;
        let data = BackendData {
            vni: device.vni,
            vtep_mac: device.mac,
        };
        Ok(Advert {
            backend_data: Some(data.to_json()?),
            mac: Some(device.mac),
        })
    }

    async fn set_up(&mut self, netlink: &Netlink, place: &Place) -> Result<Option<Device>> {
        let Place {
            external,
            local,
            network,
            subnet,
        } = place;
        let device = self
            .ensure(netlink, external.index, external.mtu, *local)
            .await?;
        ensure_address(netlink, &device, *subnet, *network).await?;
        Ok(Some(Device {
            name: device.name,
            index: device.index,
            mtu: device.mtu,
            mac: Some(device.mac),
            vni: Some(device.vni),
            port: device.port,
        }))
    }

    fn accept(&self, lease: &Lease) -> Result<Option<MacAddr>, IgnoredReason> {
        require_type(lease, BACKEND_TYPE)?;
        Ok(Some(vtep_mac(lease.attrs.backend_data.as_deref())?))
    }

    fn add_tunnel(&self, device: &Device, peer: &Peer, state: &mut KernelState) {
        add_entries(device.index, peer, state);
    }

    fn encap(&self) -> Encap {
        Encap::Vxlan
    }

    fn finish_headers(&self, device: &Device, peer: &Peer, headers: Headers) -> Headers {
        let mac = |mac: Option<MacAddr>| mac.unwrap_or(MacAddr([0; 6])).0;
        Headers {
            udp: Udp {
                destination: device.port.to_be_bytes(),
                ..headers.udp
            },
            vxlan: VxlanHeader::new(self.options.vni),
            inner: Ethernet {
                destination: mac(peer.mac),
                source: mac(device.mac),
                ethertype: ETHERTYPE_IPV4,
            },
            ..headers
        }
    }

    fn finish_config(&self, device: &Device, config: abi::Config) -> abi::Config {
        abi::Config {
            vxlan: VxlanHeader::new(self.options.vni),
            vtep_mac: device.mac.unwrap_or(MacAddr([0; 6])).0,
            ..config
        }
    }
}

/// What a node tells its peers in `BackendData`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BackendData {
    /// VXLAN network identifier; for people, readers do not use it.
    #[serde(rename = "VNI")]
    pub vni: u32,
    /// Link-layer address of the node's tunnel device.
    #[serde(rename = "VtepMAC")]
    pub vtep_mac: MacAddr,
}

/// `BackendData` that is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendDataError {
    /// There is none.
    #[error("BackendData is missing")]
    Missing,
    /// It is not an object.
    #[error("BackendData is not a JSON object")]
    NotAnObject,
    /// It does not have the one thing needed.
    #[error("BackendData has no VtepMAC")]
    NoMac,
    /// The MAC is garbage.
    #[error("VtepMAC {0}")]
    BadMac(#[from] ParseMacError),
    /// The MAC cannot be that of a device.
    #[error("VtepMAC {0} is not the address of a station")]
    NotAStation(MacAddr),
}

impl BackendData {
    /// The JSON text, as flannel writes it.
    ///
    /// # Errors
    /// None in practice: both fields have a JSON form.
    pub fn to_json(&self) -> serde_json::Result<Box<RawValue>> {
        serde_json::value::to_raw_value(self)
    }
}

/// The VTEP MAC in `BackendData`. Names match whatever their case; other members do not matter,
/// since the reader has its own VNI.
///
/// # Errors
/// See [`BackendDataError`].
pub fn vtep_mac(data: Option<&RawValue>) -> Result<MacAddr, BackendDataError> {
    let data = data.ok_or(BackendDataError::Missing)?;
    let value: Value =
        serde_json::from_str(data.get()).map_err(|_| BackendDataError::NotAnObject)?;
    let object = value.as_object().ok_or(BackendDataError::NotAnObject)?;
    let text = object
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("VtepMAC"))
        .find_map(|(_, value)| value.as_str())
        .ok_or(BackendDataError::NoMac)?;
    let mac: MacAddr = text.parse()?;
    if mac.is_station() {
        Ok(mac)
    } else {
        Err(BackendDataError::NotAStation(mac))
    }
}

#[cfg(test)]
mod tests;
