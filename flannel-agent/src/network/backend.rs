//! The `Backend` object of the network config.

use super::{Document, NetworkError};
use crate::json::Members;

/// Backends that flannel has or had, in the order of its documentation.
const KNOWN: [&str; 12] = [
    "vxlan",
    "host-gw",
    "udp",
    "alloc",
    "ipip",
    "wireguard",
    "ipsec",
    "extension",
    "tencent-vpc",
    "aws-vpc",
    "gce",
    "ali-vpc",
];

/// Room that the outer headers take: Ethernet, IPv4, UDP and VXLAN.
const VXLAN_OVERHEAD: u32 = 50;

/// Smallest MTU of IPv4 (RFC 791, section 3.2).
const SMALLEST_MTU: u32 = 68;

/// How packets travel between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// VXLAN tunnels between all nodes.
    Vxlan(Vxlan),
}

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

impl Backend {
    /// Name as in leases: `vxlan`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => "vxlan",
        }
    }

    pub(super) fn parse(document: &Document<'_>) -> Result<Self, NetworkError> {
        let Some(object) = document.members.get("Backend") else {
            return Err(NetworkError::BackendNotSupported {
                name: "udp".into(),
                hint: " (Backend is missing, which means udp)",
            });
        };
        let wanted = "an object such as {\"Type\": \"vxlan\"} is expected";
        let backend = Document {
            text: document.text,
            members: Members::parse(object.get())
                .map_err(|_| document.error("Backend", object, wanted))?,
        };
        let kind: Option<String> = backend.typed("Type", "the name of a backend is expected")?;
        let kind = kind.unwrap_or_default().to_lowercase();
        match kind.as_str() {
            "vxlan" => Vxlan::parse(&backend).map(Self::Vxlan),
            known if KNOWN.contains(&known) => Err(NetworkError::BackendNotSupported {
                name: kind,
                hint: "",
            }),
            _ => {
                let value = backend.members.get("Type").unwrap_or(object);
                let wanted = format!("unknown backend type; flannel knows {}", KNOWN.join(", "));
                Err(document.error("Backend.Type", value, wanted))
            }
        }
    }
}

impl Vxlan {
    fn parse(backend: &Document<'_>) -> Result<Self, NetworkError> {
        let number = |key, lowest: u32, highest: u32| {
            let wanted = format!("a number from {lowest} to {highest} is expected");
            let value: Option<u32> = backend.typed(key, &wanted)?;
            match (value, backend.members.get(key)) {
                (Some(0), _) => Ok(Some(0)),
                (Some(given), Some(text)) if !(lowest..=highest).contains(&given) => {
                    Err(backend.error(key, text, wanted))
                }
                _ => Ok(value),
            }
        };
        let vni = number("VNI", 0, (1 << 24) - 1)?.unwrap_or(1);
        // 0 means "not given" for these two, but not for the VNI.
        let port = number("Port", 0, u16::MAX.into())?.filter(|port| *port != 0);
        let mtu = number("MTU", SMALLEST_MTU + VXLAN_OVERHEAD, 65535)?.filter(|mtu| *mtu != 0);
        Ok(Self {
            vni,
            port: port.and_then(|port| u16::try_from(port).ok()),
            mtu,
            gbp: backend.flag("GBP")?.unwrap_or(false),
            learning: backend.flag("Learning")?.unwrap_or(false),
            direct_routing: backend.flag("DirectRouting")?.unwrap_or(false),
        })
    }
}
