//! The vxlan backend: what peers must know of this node, and what this node makes of its peers.
//! Pure; [`device`] and [`entries`] have the effects.
//!
//! One device, `flannel.<VNI>`, carries all peers. Per peer there is a route, a permanent
//! neighbour and a permanent FDB entry; nothing is learnt, and there is no broadcast.

pub mod device;
pub mod entries;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::lease::Lease;
use crate::netlink::MacAddr;
use crate::netlink::mac::ParseMacError;
use crate::plan::KernelState;

/// Value of `BackendType` in leases of this backend.
pub const BACKEND_TYPE: &str = "vxlan";

/// Bytes that encapsulation over IPv4 puts before an inner packet: IPv4 20, UDP 8, VXLAN 8 and the
/// inner Ethernet header 14 (RFC 7348, section 5).
pub const OVERHEAD: u32 = 50;

/// Smallest MTU that a link with IPv4 may have (RFC 791, section 3.2).
const MIN_MTU: u32 = 68;

/// The vxlan part of the network configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanConfig {
    /// VXLAN network identifier, below 2²⁴.
    pub vni: u32,
    /// UDP port; the kernel's default, 8472, if absent.
    pub port: Option<u16>,
    /// MTU of the underlay; that of the external interface if absent.
    pub mtu: Option<u32>,
    /// Whether the FDB learns from received frames.
    pub learning: bool,
    /// Whether group policy ids are carried.
    pub gbp: bool,
}

impl Default for VxlanConfig {
    fn default() -> Self {
        Self {
            vni: 1,
            port: None,
            mtu: None,
            learning: false,
            gbp: false,
        }
    }
}

impl VxlanConfig {
    /// Name of the device.
    #[must_use]
    pub fn device_name(&self) -> String {
        format!("flannel.{}", self.vni)
    }

    /// Largest inner packet over an external interface with this MTU, if one fits at all. The
    /// configured MTU can lower it, not raise it: the kernel would refuse.
    #[must_use]
    pub fn device_mtu(&self, external_mtu: u32) -> Option<u32> {
        let underlay = self.mtu.unwrap_or(external_mtu).min(external_mtu);
        underlay.checked_sub(OVERHEAD).filter(|mtu| *mtu >= MIN_MTU)
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

/// This node, which no peer may be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// The whole network.
    pub network: Ipv4Network,
    /// Leased subnet.
    pub subnet: Ipv4Network,
    /// Address advertised to peers.
    pub public_ip: Ipv4Addr,
    /// Source address of the tunnel.
    pub local: Ipv4Addr,
    /// Link-layer address of the tunnel device.
    pub mac: MacAddr,
}

/// A node that packets can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its subnet.
    pub subnet: Ipv4Network,
    /// Link-layer address of its tunnel device.
    pub mac: MacAddr,
    /// Its underlay address.
    pub public_ip: Ipv4Addr,
}

/// A lease that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Its subnet.
    pub subnet: Ipv4Network,
    /// Why.
    pub reason: IgnoredReason,
}

/// Why a lease is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoredReason {
    /// The node speaks another protocol.
    #[error("backend is {0:?}, not vxlan")]
    OtherBackend(String),
    /// No VTEP MAC.
    #[error(transparent)]
    BackendData(#[from] BackendDataError),
    /// No packet can be sent there.
    #[error("public IP {0} is not the address of a host")]
    BadPublicIp(Ipv4Addr),
    /// Two nodes claim one address.
    #[error("public IP {0} is our own")]
    OwnPublicIp(Ipv4Addr),
    /// Two nodes claim one MAC; the kernel drops what seems to come from itself.
    #[error("VTEP MAC {0} is our own")]
    OwnMac(MacAddr),
    /// A route to it would take packets away from whatever is there, the underlay for example.
    #[error(
        "subnet is outside of the network, {0}; if the network config has changed, restart this \
         agent"
    )]
    OutsideNetwork(Ipv4Network),
    /// A route to it would take packets away from local pods.
    #[error("subnet overlaps our own, {0}")]
    OverlapsOwn(Ipv4Network),
    /// Nodes at two addresses claim one MAC, and the FDB has room for one.
    #[error("VTEP MAC {mac} belongs to {subnet} at {public_ip}")]
    DuplicateMac {
        /// The MAC.
        mac: MacAddr,
        /// Who has it.
        subnet: Ipv4Network,
        /// Where that one is.
        public_ip: Ipv4Addr,
    },
    /// A route to it would take packets away from another peer, or get none.
    #[error("subnet overlaps {0} of another lease")]
    Overlaps(Ipv4Network),
}

/// The peers among `leases` that this backend can reach, and the rest with the reason.
///
/// Where two leases exclude each other, one of this node's length, which is the length that the
/// network config asks for, goes before one of another; else the earlier of the two is used, so the
/// caller's order decides.
pub fn usable_peers<'a>(
    leases: impl IntoIterator<Item = &'a Lease>,
    own: &Own,
) -> (Vec<Peer>, Vec<Ignored>) {
    let mut peers: Vec<Peer> = Vec::new();
    let mut ignored = Vec::new();
    let mut by_mac = BTreeMap::new();
    // Subnets in use by their first address; no two of them overlap.
    let mut in_use: BTreeMap<Ipv4Addr, Ipv4Network> = BTreeMap::new();
    let is_usual = |lease: &&Lease| lease.subnet.v4.prefix() == own.subnet.prefix();
    let (usual, unusual): (Vec<_>, Vec<_>) = leases.into_iter().partition(is_usual);
    for lease in usual.into_iter().chain(unusual) {
        let verdict = usable_peer(lease, own).and_then(|peer| {
            let before = in_use.range(..=peer.subnet.broadcast()).next_back();
            if let Some((_, other)) = before.filter(|(_, other)| other.overlaps(peer.subnet)) {
                return Err(IgnoredReason::Overlaps(*other));
            }
            // One node may hold two leases for a while: same MAC, same address.
            match by_mac.get(&peer.mac) {
                Some(Peer {
                    subnet, public_ip, ..
                }) if *public_ip != peer.public_ip => Err(IgnoredReason::DuplicateMac {
                    mac: peer.mac,
                    subnet: *subnet,
                    public_ip: *public_ip,
                }),
                _ => Ok(peer),
            }
        });
        match verdict {
            Ok(peer) => {
                in_use.insert(peer.subnet.network(), peer.subnet);
                by_mac.entry(peer.mac).or_insert(peer);
                peers.push(peer);
            }
            Err(reason) => ignored.push(Ignored {
                subnet: lease.subnet.v4,
                reason,
            }),
        }
    }
    (peers, ignored)
}

fn usable_peer(lease: &Lease, own: &Own) -> Result<Peer, IgnoredReason> {
    let subnet = lease.subnet.v4;
    let attrs = &lease.attrs;
    if attrs.backend_type != BACKEND_TYPE {
        return Err(IgnoredReason::OtherBackend(attrs.backend_type.clone()));
    }
    let mac = vtep_mac(attrs.backend_data.as_deref())?;
    let public_ip = attrs.public_ip;
    if public_ip.octets()[0] == 0
        || public_ip.is_loopback()
        || public_ip.is_multicast()
        || public_ip.is_broadcast()
    {
        return Err(IgnoredReason::BadPublicIp(public_ip));
    }
    if !subnet.is_subnet_of(own.network) {
        return Err(IgnoredReason::OutsideNetwork(own.network));
    }
    if subnet.overlaps(own.subnet) {
        return Err(IgnoredReason::OverlapsOwn(own.subnet));
    }
    if public_ip == own.public_ip || public_ip == own.local {
        return Err(IgnoredReason::OwnPublicIp(public_ip));
    }
    if mac == own.mac {
        return Err(IgnoredReason::OwnMac(mac));
    }
    Ok(Peer {
        subnet,
        mac,
        public_ip,
    })
}

/// What the tunnel device must have for these peers, as [`usable_peers`] returned them.
#[must_use]
pub fn desired_state(peers: &[Peer]) -> KernelState {
    KernelState {
        routes: peers
            .iter()
            .map(|peer| peer.subnet)
            .collect::<BTreeSet<_>>(),
        neighbours: peers
            .iter()
            .map(|peer| (peer.subnet.network(), peer.mac))
            .collect(),
        fdb: peers
            .iter()
            .map(|peer| (peer.mac, peer.public_ip))
            .collect(),
    }
}

#[cfg(test)]
mod tests;
