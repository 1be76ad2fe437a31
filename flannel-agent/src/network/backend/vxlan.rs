//! Options of the vxlan backend.

use crate::network::{Document, NetworkError};

/// Room that the outer headers take: Ethernet, IPv4, UDP and VXLAN.
const OVERHEAD: u32 = 50;

/// Smallest MTU of IPv4 (RFC 791, section 3.2).
const SMALLEST_MTU: u32 = 68;

/// Options of the vxlan backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier, 24 bits; also part of the device's name.
    pub vni: u32,
    /// UDP port; absent leaves the choice to the kernel (8472).
    pub port: Option<u16>,
    /// MTU of the underlay, bytes; absent takes that of the external interface.
    pub mtu: Option<u32>,
    /// Group-based policy extension.
    pub gbp: bool,
    /// Whether the device learns addresses from packets.
    pub learning: bool,
    /// Whether peers of the own link are reached by plain routes.
    pub direct_routing: bool,
}

impl Vxlan {
    pub(super) fn parse(backend: &Document<'_>) -> Result<Self, NetworkError> {
        let port = backend.number_or_zero("Port", 1..=u16::MAX.into())?;
        Ok(Self {
            vni: backend.number("VNI", 0..=(1 << 24) - 1)?.unwrap_or(1),
            port: port.and_then(|port| u16::try_from(port).ok()),
            mtu: backend.number_or_zero("MTU", SMALLEST_MTU + OVERHEAD..=65535)?,
            gbp: backend.flag("GBP")?.unwrap_or(false),
            learning: backend.flag("Learning")?.unwrap_or(false),
            direct_routing: backend.flag("DirectRouting")?.unwrap_or(false),
        })
    }
}
