//! A host of the bed and its pods.

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ipnetwork::Ipv4Network;

use crate::mounts::FILES;
use crate::netns::NetNs;

/// Bridge that pods are attached to.
pub const BRIDGE: &str = "cni0";

/// A network namespace that plays a host.
#[derive(Debug)]
pub struct Host {
    /// Short name: `a`, `b`, …, `z`, `aa`, …
    pub name: String,
    /// Its namespace.
    pub ns: NetNs,
    /// Name of the external interface.
    pub external: String,
    /// Address of the external interface.
    pub address: Ipv4Addr,
    /// Router to the other links of the underlay, if there are any.
    pub gateway: Option<Ipv4Addr>,
    /// Its pods, in order of creation.
    pub pods: Vec<Pod>,
}

/// A network namespace that plays a pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its namespace; the device inside is `eth0`.
    pub ns: NetNs,
    /// Its address in the subnet of the host.
    pub address: Ipv4Addr,
    /// Host end of its veth pair.
    pub veth: String,
}

/// What an agent tells container runtimes: the content of `subnet.env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    /// Address of the bridge with the length of the host's subnet.
    pub bridge: Ipv4Network,
    /// MTU of pods.
    pub mtu: u32,
}

impl SubnetEnv {
    /// Reads the text of a `subnet.env`.
    ///
    /// # Errors
    /// A variable is missing or malformed.
    pub fn parse(text: &str) -> Result<Self> {
        let variables: HashMap<_, _> = text.lines().filter_map(|l| l.split_once('=')).collect();
        let variable = |name: &str| {
            variables
                .get(name)
                .copied()
                .with_context(|| format!("{name} is not in:\n{text}"))
        };
        Ok(Self {
            bridge: variable("FLANNEL_SUBNET")?
                .parse()
                .context("FLANNEL_SUBNET")?,
            mtu: variable("FLANNEL_MTU")?.parse().context("FLANNEL_MTU")?,
        })
    }
}

impl Host {
    /// Directory of this host's files, as its processes see it.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        Path::new(FILES).join(&self.name)
    }

    /// Adds a pod, and the bridge before the first.
    ///
    /// # Errors
    /// A device or address cannot be set up.
    pub fn add_pod(&mut self, subnet: &SubnetEnv) -> Result<&Pod> {
        let number = u32::try_from(self.pods.len())?;
        let SubnetEnv { bridge, mtu } = subnet;
        if number == 0 {
            self.ns.ip(&format!(
                "link add {BRIDGE} mtu {mtu} type bridge\n\
                 addr add {bridge} dev {BRIDGE}\n\
                 link set {BRIDGE} up"
            ))?;
        }
        let ns = NetNs::new(self.ns.mounts())?;
        let veth = format!("veth{number}");
        let address = Ipv4Addr::from(u32::from(bridge.ip()) + 1 + number);
        self.ns.ip(&format!(
            "link add {veth} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n\
             link set {veth} master {BRIDGE} up",
            ns.path()
        ))?;
        ns.ip(&format!(
            "addr add {address}/{} dev eth0\n\
             link set eth0 up\n\
             route add default via {}",
            bridge.prefix(),
            bridge.ip()
        ))?;
        self.pods.push(Pod { ns, address, veth });
        self.pods.last().context("no pod")
    }

    /// Kernel index of a device of this host.
    ///
    /// # Errors
    /// There is no such device.
    pub fn device_index(&self, device: &str) -> Result<u32> {
        let index = self.ns.enter(|| nix::net::if_::if_nametoindex(device))?;
        index.with_context(|| format!("device {device} of host {}", self.name))
    }
}

impl Pod {
    /// Its link-layer address.
    ///
    /// # Errors
    /// The device is gone.
    pub fn mac(&self) -> Result<[u8; 6]> {
        mac(&self.ns, "eth0")
    }

    /// Octets of the largest packet that it sends.
    ///
    /// # Errors
    /// The device is gone.
    pub fn mtu(&self) -> Result<usize> {
        let link = show(&self.ns, "eth0")?;
        let mtu = link["mtu"].as_u64();
        Ok(mtu
            .with_context(|| format!("no MTU in {link}"))?
            .try_into()?)
    }
}

/// Link-layer address of a device in a namespace.
///
/// # Errors
/// There is no such device.
pub fn mac(ns: &NetNs, device: &str) -> Result<[u8; 6]> {
    let link = show(ns, device)?;
    let address = link["address"]
        .as_str()
        .with_context(|| format!("no MAC in {link}"))?;
    parse_mac(address)
}

/// What `ip` says of a device.
fn show(ns: &NetNs, device: &str) -> Result<serde_json::Value> {
    let text = ns.run("ip", &["-json", "link", "show", "dev", device])?;
    let mut links: serde_json::Value = serde_json::from_str(&text)?;
    Ok(links[0].take())
}

/// Reads colon notation.
///
/// # Errors
/// Not six hexadecimal octets.
pub fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let octets: Result<Vec<u8>, _> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16))
        .collect();
    let octets = octets.with_context(|| format!("MAC {text}"))?;
    octets.try_into().map_err(|_| anyhow::anyhow!("MAC {text}"))
}

/// Makes the directory of a host's files.
pub(crate) fn make_files(host: &Host) -> Result<()> {
    let path = host.ns.mounts().outside(&host.files())?;
    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))
}
