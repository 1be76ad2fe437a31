//! The network config: the JSON document under `<prefix>/config`. Pure.
//!
//! Read as flannel reads it (names in any case, unknown keys ignored, last duplicate wins), with
//! its defaults and its rules. What v0.5 to v0.9 accepted and later versions refuse is accepted
//! with a warning that names the difference. Every error names the key, its value, where it stands
//! and what would be right.

mod backend;
mod difference;
mod document;
mod range;

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use thiserror::Error;

pub use self::backend::{Backend, Extension, Udp, Vxlan};
use self::document::Document;
use self::range::{FamilyRules, Wanted, subnet_range};
use crate::json::Members;

/// The document, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The IPv4 overlay; absent when switched off.
    pub ipv4: Option<Overlay<Ipv4Network>>,
    /// The IPv6 overlay; absent unless switched on.
    pub ipv6: Option<Overlay<Ipv6Network>>,
    /// Traffic rules go to nftables instead of iptables.
    pub enable_nftables: bool,
    /// How packets travel between nodes.
    pub backend: Backend,
}

/// The addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlay<N> {
    /// All of the overlay.
    pub network: N,
    /// What nodes may lease.
    pub subnets: SubnetRange<N>,
}

/// Subnets of one length, from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubnetRange<N> {
    /// First subnet.
    pub min: N,
    /// Last subnet.
    pub max: N,
    /// Prefix length of each.
    pub len: u8,
}

/// Why the document cannot be used.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// Not JSON, or not an object. The parser's text carries line and column.
    #[error("not a JSON object: {0}")]
    Syntax(serde_json::Error),
    /// A key has a value that it cannot have.
    #[error("{key} is {value} (line {line} column {column}): {wanted}")]
    Value {
        /// Name of the key.
        key: &'static str,
        /// Its JSON text.
        value: String,
        /// Line of the value, from 1.
        line: usize,
        /// Column of the value, from 1.
        column: usize,
        /// What would be right.
        wanted: String,
    },
    /// A key is missing.
    #[error("{key} is missing: {wanted}")]
    Missing {
        /// Name of the key.
        key: &'static str,
        /// What would be right.
        wanted: &'static str,
    },
    /// Keys contradict each other.
    #[error("{0}")]
    Rule(String),
    /// flannel knows the backend, this version of the agent does not.
    #[error("backend {name} is not supported by this version; supported: {supported}")]
    BackendNotSupported {
        /// Name of the backend.
        name: String,
        /// Names of those that are.
        supported: String,
    },
}

impl NetworkConfig {
    /// Reads the document; the strings are warnings for the operator.
    ///
    /// # Errors
    /// The document cannot be used as it stands.
    pub fn parse(text: &str) -> Result<(Self, Vec<String>), NetworkError> {
        let document = Document {
            text,
            members: Members::parse(text).map_err(NetworkError::Syntax)?,
        };
        let mut warnings = Vec::new();
        let enable_ipv4 = document.flag("EnableIPv4")?.unwrap_or(true);
        let enable_ipv6 = document.flag("EnableIPv6")?.unwrap_or(false);
        if !enable_ipv4 && !enable_ipv6 {
            let text = "EnableIPv4 and EnableIPv6 are both false: turn one of them on";
            return Err(NetworkError::Rule(text.into()));
        }
        let ipv4 = ipv4(&document, enable_ipv4, &mut warnings)?;
        let ipv6 = ipv6(&document, enable_ipv6, &mut warnings)?;
        let config = Self {
            ipv4,
            ipv6,
            enable_nftables: document.flag("EnableNFTables")?.unwrap_or(false),
            backend: Backend::parse(&document, &mut warnings)?,
        };
        Ok((config, warnings))
    }
}

fn ipv4(
    document: &Document<'_>,
    enabled: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<Overlay<Ipv4Network>>, NetworkError> {
    const RULES: FamilyRules = FamilyRules {
        keys: ["Network", "SubnetLen", "SubnetMin", "SubnetMax"],
        width: 32,
        usual_len: 24,
        accepts_old_lengths: true,
        show: |address| Ipv4Addr::from(u32::try_from(address).unwrap_or(u32::MAX)).to_string(),
    };
    let address = |text: &str| text.parse::<Ipv4Addr>().ok();
    let cidr = "an IPv4 network such as \"10.5.0.0/16\"";
    let network = document.text("Network", cidr, |text| {
        let (address, len) = split_cidr(text)?;
        Ipv4Network::new_checked(address.parse().ok()?, len)
    })?;
    let wanted = Wanted {
        len: document.length("SubnetLen")?,
        min: document.text("SubnetMin", "an IPv4 address", address)?,
        max: document.text("SubnetMax", "an IPv4 address", address)?,
    }
    .map(|address| u32::from(address).into());
    if !enabled {
        return Ok(None);
    }
    let network = network.ok_or(NetworkError::Missing {
        key: "Network",
        wanted: "the overlay network is needed, such as \"Network\": \"10.5.0.0/16\"",
    })?;
    let base = u32::from(network.network()).into();
    let (min, max, len) = subnet_range(&RULES, base, network.prefix(), wanted, warnings)?;
    let subnet = |address: u128| {
        let address = u32::try_from(address).ok()?;
        Ipv4Network::new_checked(address.into(), len)
    };
    overlay(
        Ipv4Network::new_checked(network.network(), network.prefix()),
        subnet(min),
        subnet(max),
        len,
    )
}

fn ipv6(
    document: &Document<'_>,
    enabled: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<Overlay<Ipv6Network>>, NetworkError> {
    const RULES: FamilyRules = FamilyRules {
        keys: [
            "IPv6Network",
            "IPv6SubnetLen",
            "IPv6SubnetMin",
            "IPv6SubnetMax",
        ],
        width: 128,
        usual_len: 64,
        accepts_old_lengths: false,
        show: |address| Ipv6Addr::from(address).to_string(),
    };
    let cidr = "an IPv6 network such as \"fd00:5::/48\"";
    let network = document.text("IPv6Network", cidr, |text| {
        let (address, len) = split_cidr(text)?;
        Ipv6Network::new_checked(address.parse().ok()?, len)
    })?;
    let bound = |key| {
        let present = document.members.get_non_null(key).is_some();
        let read = |text: &str| text.parse::<Ipv6Addr>().ok();
        let bound = present.then(|| document.text(key, "an IPv6 address", read));
        bound.transpose().map(Option::flatten)
    };
    let wanted = Wanted {
        len: document.length("IPv6SubnetLen")?,
        min: bound("IPv6SubnetMin")?,
        max: bound("IPv6SubnetMax")?,
    }
    .map(u128::from);
    if !enabled {
        return Ok(None);
    }
    let network = network.ok_or(NetworkError::Missing {
        key: "IPv6Network",
        wanted: "EnableIPv6 needs it, such as \"IPv6Network\": \"fd00:5::/48\"",
    })?;
    let base = network.network().into();
    let (min, max, len) = subnet_range(&RULES, base, network.prefix(), wanted, warnings)?;
    overlay(
        Ipv6Network::new_checked(network.network(), network.prefix()),
        Ipv6Network::new_checked(min.into(), len),
        Ipv6Network::new_checked(max.into(), len),
        len,
    )
}

fn overlay<N>(
    network: Option<N>,
    min: Option<N>,
    max: Option<N>,
    len: u8,
) -> Result<Option<Overlay<N>>, NetworkError> {
    match (network, min, max) {
        (Some(network), Some(min), Some(max)) => Ok(Some(Overlay {
            network,
            subnets: SubnetRange { min, max, len },
        })),
        // `subnet_range` gives lengths and addresses of the family.
        _ => Err(NetworkError::Rule("prefix length out of range".into())),
    }
}

/// Address and length of `10.5.0.0/16`; the length in digits only, as Go's parser wants it.
fn split_cidr(text: &str) -> Option<(&str, u8)> {
    let (address, length) = text.split_once('/')?;
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    Some((address, digits.then(|| length.parse().ok()).flatten()?))
}

#[cfg(test)]
mod tests;
