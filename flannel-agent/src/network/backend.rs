//! The `Backend` object of the network config.

mod extension;
mod udp;
mod vxlan;

pub use self::extension::Extension;
pub use self::udp::Udp;
pub use self::vxlan::Vxlan;
use super::{Document, NetworkError};
use crate::json::Members;

/// Backends that there are.
const SUPPORTED: [&str; 5] = ["vxlan", "host-gw", "udp", "alloc", "extension"];

/// Those that flannel has or had besides.
const KNOWN: [&str; 7] = [
    "ipip",
    "wireguard",
    "ipsec",
    "tencent-vpc",
    "aws-vpc",
    "gce",
    "ali-vpc",
];

/// How packets travel between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// VXLAN tunnels between all nodes.
    Vxlan(Vxlan),
    /// Plain routes by way of the nodes, which share a link.
    HostGw,
    /// Plain packets in UDP.
    Udp(Udp),
    /// Leases, and nothing that carries packets.
    Alloc,
    /// What the operator's commands set up.
    Extension(Extension),
}

impl Backend {
    /// Name as in the network config.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => "vxlan",
            Self::HostGw => "host-gw",
            Self::Udp(_) => "udp",
            Self::Alloc => "alloc",
            Self::Extension(_) => "extension",
        }
    }

    /// `BackendType` of the leases of its nodes; empty, it is not written.
    #[must_use]
    pub fn lease_type(&self) -> &'static str {
        match self {
            Self::Udp(_) | Self::Alloc => "",
            Self::Vxlan(_) | Self::HostGw | Self::Extension(_) => self.name(),
        }
    }

    pub(super) fn parse(
        document: &Document<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, NetworkError> {
        let Some(object) = document.members.get("Backend") else {
            warnings.push(
                "Backend is missing, which means udp, as in flannel; flannel's documentation says \
                 vxlan: if that is meant, add \"Backend\": {\"Type\": \"vxlan\"}"
                    .into(),
            );
            return Ok(Self::Udp(Udp::default()));
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
            "host-gw" => Ok(Self::HostGw),
            "udp" => Udp::parse(&backend).map(Self::Udp),
            "alloc" => Ok(Self::Alloc),
            "extension" => Extension::parse(&backend, warnings).map(Self::Extension),
            known if KNOWN.contains(&known) => Err(NetworkError::BackendNotSupported {
                name: kind,
                supported: SUPPORTED.join(", "),
            }),
            _ => {
                let value = backend.members.get("Type").unwrap_or(object);
                let wanted = format!(
                    "unknown backend type; there are {}, and in flannel also {}",
                    SUPPORTED.join(", "),
                    KNOWN.join(", ")
                );
                Err(document.error("Backend.Type", value, wanted))
            }
        }
    }
}
