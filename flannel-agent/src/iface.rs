//! Choice of the external interface and of the addresses that go with it (IPv4). Pure.
//!
//! The order is flannel's: each `iface`, each `iface-regex`, then `iface-can-reach`, the first that
//! fits; with none of them the interface that holds `public-ip`, and without that the one of the
//! default route. [`read_host`] gets the facts from the kernel.

mod read;

use std::fmt;
use std::net::Ipv4Addr;

use regex::Regex;
use thiserror::Error;

pub use self::read::{ReadError, read_host};

/// What the command line says about the interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Names or addresses, in order.
    pub ifaces: Vec<String>,
    /// Expressions for addresses or names, in order.
    pub regexes: Vec<String>,
    /// Take the interface that leads there.
    pub can_reach: Option<Ipv4Addr>,
    /// Advertise this address.
    pub public_ip: Option<Ipv4Addr>,
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel index.
    pub index: u32,
    /// Name, for example `eth0`.
    pub name: String,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Link-layer address; zeros where there is none of six bytes.
    pub mac: [u8; 6],
    /// Whether it is administratively up.
    pub is_up: bool,
}

/// One IPv4 address, in the order of the kernel's dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addr {
    /// Index of the interface that holds it.
    pub link: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// No longer to be used for new connections.
    pub is_deprecated: bool,
    /// Has no lifetime (not from DHCP).
    pub is_permanent: bool,
}

/// What the kernel would do with a packet: interface and, if it says so, source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Index of the interface.
    pub link: u32,
    /// Preferred source.
    pub source: Option<Ipv4Addr>,
}

/// The facts that the choice is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// All interfaces, by index.
    pub links: Vec<Link>,
    /// All IPv4 addresses.
    pub addrs: Vec<Addr>,
    /// The default route of the main table with the lowest metric, or why there is none.
    pub default_route: Result<Hop, String>,
    /// The way to [`Selection::can_reach`], or why there is none.
    pub reach: Result<Hop, String>,
}

/// The interface that carries the underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalInterface {
    /// Name.
    pub name: String,
    /// Kernel index.
    pub index: u32,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Link-layer address.
    pub mac: [u8; 6],
    /// Address on the interface: source of the tunnel.
    pub address: Ipv4Addr,
    /// Address advertised to peers.
    pub public_ip: Ipv4Addr,
}

/// No interface fits.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no external interface: {}. Interfaces of this host: {considered}", tried.join("; "))]
pub struct NoInterface {
    /// Why each candidate does not fit.
    pub tried: Vec<String>,
    /// All interfaces with their addresses.
    pub considered: String,
}

/// Chooses the external interface.
///
/// # Errors
/// Nothing fits; the error says why for each candidate, and lists what there is.
pub fn choose<'h>(host: &'h Host, selection: &Selection) -> Result<ExternalInterface, NoInterface> {
    let Selection {
        ifaces,
        regexes,
        can_reach,
        public_ip,
    } = selection;
    let mut tried = Vec::new();
    let mut attempt = |what: String, found: Result<Found<'h>, String>| {
        found
            .map_err(|reason| tried.push(format!("{what}: {reason}")))
            .ok()
    };
    let found = if ifaces.is_empty() && regexes.is_empty() && can_reach.is_none() {
        match public_ip {
            Some(ip) => {
                let found = host.holding(*ip).map_err(|reason| {
                    format!("{reason}; behind NAT, name the interface with --iface as well")
                });
                attempt(format!("--public-ip={ip}"), found)
            }
            None => attempt("default route".into(), host.by_hop(&host.default_route)),
        }
    } else {
        let by_iface = ifaces
            .iter()
            .find_map(|value| attempt(format!("--iface={value}"), host.by_name_or_ip(value)));
        let by_regex = || {
            regexes
                .iter()
                .find_map(|value| attempt(format!("--iface-regex={value}"), host.matching(value)))
        };
        let found = by_iface.or_else(by_regex);
        found.or_else(|| {
            let target = (*can_reach)?;
            let what = format!("--iface-can-reach={target}");
            attempt(what, host.by_hop(&host.reach))
        })
    };
    let usable = found.and_then(|(link, address)| {
        let mtu = (link.mtu > 0)
            .then_some(link.mtu)
            .ok_or("its MTU is 0".to_owned());
        let mtu = mtu.map_err(|reason| tried.push(format!("{}: {reason}", link.name)));
        Some(ExternalInterface {
            name: link.name.clone(),
            index: link.index,
            mtu: mtu.ok()?,
            mac: link.mac,
            address,
            public_ip: public_ip.unwrap_or(address),
        })
    });
    usable.ok_or_else(|| NoInterface {
        tried,
        considered: host.to_string(),
    })
}

type Found<'a> = (&'a Link, Ipv4Addr);

impl Host {
    fn link(&self, index: u32) -> Result<&Link, String> {
        let found = self.links.iter().find(|link| link.index == index);
        found.ok_or_else(|| format!("interface {index} is gone"))
    }

    fn holding(&self, ip: Ipv4Addr) -> Result<Found<'_>, String> {
        let holder = self.addrs.iter().find(|addr| addr.address == ip);
        let holder = holder.ok_or("no interface holds this address")?;
        Ok((self.link(holder.link)?, ip))
    }

    fn by_name_or_ip(&self, value: &str) -> Result<Found<'_>, String> {
        if let Ok(ip) = value.parse() {
            return self.holding(ip);
        }
        let link = self.links.iter().find(|link| link.name == value);
        let link = link.ok_or("there is no interface of this name")?;
        Ok((link, self.best_address(link)?))
    }

    fn matching(&self, expression: &str) -> Result<Found<'_>, String> {
        let regex = Regex::new(expression).map_err(|error| {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim();
            format!("not a regular expression ({reason})")
        })?;
        for link in &self.links {
            let mut addrs = self.addrs_of(link);
            let matches = |addr: &&Addr| regex.is_match(&addr.address.to_string());
            if let Some(addr) = addrs.find(matches) {
                return Ok((link, addr.address));
            }
        }
        let link = self.links.iter().find(|link| regex.is_match(&link.name));
        let link = link.ok_or("no address and no name matches")?;
        Ok((link, self.best_address(link)?))
    }

    fn by_hop(&self, hop: &Result<Hop, String>) -> Result<Found<'_>, String> {
        let Hop { link, source } = *hop.as_ref().map_err(String::clone)?;
        let link = self.link(link)?;
        let address = source.map_or_else(|| self.best_address(link), Ok)?;
        Ok((link, address))
    }

    /// Usable addresses of a link.
    fn addrs_of(&self, link: &Link) -> impl Iterator<Item = &Addr> {
        let index = link.index;
        self.addrs.iter().filter(move |addr| {
            let ip = addr.address;
            let is_unicast = !(ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unspecified()
                || ip.is_broadcast());
            addr.link == index && is_unicast && !addr.is_deprecated
        })
    }

    /// Global before link-local, permanent before dynamic, else the kernel's order.
    fn best_address(&self, link: &Link) -> Result<Ipv4Addr, String> {
        let best = self
            .addrs_of(link)
            .min_by_key(|addr| (addr.address.is_link_local(), !addr.is_permanent));
        best.map(|addr| addr.address)
            .ok_or_else(|| format!("{} has no usable IPv4 address", link.name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, link) in self.links.iter().enumerate() {
            let separator = if n == 0 { "" } else { ", " };
            write!(f, "{separator}{}", link.name)?;
            let addrs = self.addrs.iter().filter(|addr| addr.link == link.index);
            let addrs: Vec<_> = addrs.map(|addr| addr.address.to_string()).collect();
            let down = if link.is_up { "" } else { "down, " };
            match addrs.is_empty() {
                true => write!(f, " ({down}no IPv4 address)")?,
                false => write!(f, " ({down}{})", addrs.join(" "))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
