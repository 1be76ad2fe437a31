//! The topology: hosts, the underlay between them, and a management network with etcd.
//!
//! ```text
//! a: eth0 ═══ wire ═══ eth0 :b          two hosts
//! a: eth0 ── port0 [br0] port1 ── eth0 :b   any number of hosts
//! a, b: as on a switch [br0 ── br1] as on a switch :c and on   two links and a router
//! a: mgmt0 ── [mgmt] etcd ── mgmt0 :b   always, and apart from the underlay
//! ```

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use crate::etcd::{self, Etcd};
use crate::host::{self, Host};
use crate::mounts::Mounts;
use crate::netns::NetNs;
use crate::wire::Wire;

/// What joins the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underlay {
    /// A veth pair between exactly two hosts.
    Direct,
    /// A bridge in a namespace of its own.
    Switch,
    /// Two bridges in a namespace that routes between them: the first two hosts are on the one, all
    /// others on the other.
    Routed,
}

impl Underlay {
    /// The link of a host, by its third octet.
    fn link(self, host: u8) -> u8 {
        match self {
            Self::Routed if host >= 2 => 8,
            _ => 7,
        }
    }
}

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct BedOptions {
    /// Number of hosts.
    pub hosts: u8,
    /// What joins them.
    pub underlay: Underlay,
    /// How it treats large packets.
    pub wire: Wire,
    /// VLAN on which the external interface sits, as `eth0.ID`.
    pub vlan: Option<u16>,
}

impl Default for BedOptions {
    fn default() -> Self {
        Self {
            hosts: 2,
            underlay: Underlay::Direct,
            wire: Wire::Mtu1500,
            vlan: None,
        }
    }
}

/// Hosts, wires and etcd.
#[derive(Debug)]
pub struct Bed {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The lease store.
    pub etcd: Etcd,
    switch: Option<NetNs>,
}

impl Bed {
    /// Builds everything and starts etcd.
    ///
    /// # Errors
    /// Not root, a tool is missing, or the kernel lacks a device type.
    pub fn new(options: BedOptions) -> Result<Self> {
        let BedOptions {
            hosts: count,
            underlay,
            wire,
            vlan,
        } = options;
        ensure!(
            count == 2 || underlay != Underlay::Direct,
            "a direct wire joins two hosts"
        );
        let mounts = Arc::new(Mounts::new()?);
        let management = NetNs::new(&mounts)?;
        management.ip(&format!(
            "link add mgmt type bridge\n\
             addr add {}/16 dev mgmt\n\
             link set mgmt up",
            etcd::ADDRESS
        ))?;
        let namespaces: Vec<NetNs> = (0..count)
            .map(|_| NetNs::new(&mounts))
            .collect::<Result<_>>()?;
        let switch = match underlay {
            Underlay::Direct => {
                join_directly(&namespaces[0], &namespaces[1])?;
                None
            }
            Underlay::Switch | Underlay::Routed => {
                Some(join_by_switch(&mounts, underlay, &namespaces)?)
            }
        };
        let mut hosts = Vec::new();
        for (number, ns) in (0..count).zip(namespaces) {
            hosts.push(set_up_host(number, underlay, ns, &management, vlan)?);
        }
        let bed = Self {
            hosts,
            etcd: Etcd::start(management)?,
            switch,
        };
        bed.set_wire(wire)?;
        Ok(bed)
    }

    /// Takes the external interface of a host away and gives it another one of the same name and
    /// with the same address, as when a NIC's driver is loaded again.
    ///
    /// # Errors
    /// The hosts are joined by a direct wire, or not by plain `eth0`.
    pub fn replug(&self, number: u8) -> Result<()> {
        let switch = self.switch.as_ref().context("a host on a switch")?;
        let host = &self.hosts[usize::from(number)];
        let link = host.address.octets()[2];
        switch.ip(&format!("link del port{number}"))?;
        switch.ip(&plug(number, link, &host.ns))?;
        let address = host.address;
        host.ns.ip(&format!(
            "addr add {address}/24 dev eth0\n\
             link set eth0 up"
        ))
    }

    /// Changes how the underlay treats large packets.
    ///
    /// # Errors
    /// The devices cannot do it.
    pub fn set_wire(&self, wire: Wire) -> Result<()> {
        for (number, host) in self.hosts.iter().enumerate() {
            wire.apply(&host.ns, "eth0")?;
            if let Some(switch) = &self.switch {
                wire.apply(switch, &format!("port{number}"))?;
            }
        }
        Ok(())
    }
}

/// `a` to `z`, then `aa` and on.
fn host_name(number: u8) -> String {
    let letter = char::from(b'a' + number % 26);
    match number / 26 {
        0 => letter.to_string(),
        round => format!("{}{letter}", char::from(b'a' + round - 1)),
    }
}

/// Whether this kernel has VLAN devices; minimal kernels are built without.
///
/// # Errors
/// Not root.
pub fn has_vlan_devices() -> Result<bool> {
    let ns = NetNs::new(&Arc::new(Mounts::new()?))?;
    ns.ip("link add under type veth peer name other")?;
    Ok(ns.ip("link add tagged link under type vlan id 1").is_ok())
}

fn join_directly(a: &NetNs, b: &NetNs) -> Result<()> {
    a.ip(&format!(
        "link add eth0 type veth peer name eth0 netns {}",
        b.path()
    ))
}

fn join_by_switch(mounts: &Arc<Mounts>, underlay: Underlay, hosts: &[NetNs]) -> Result<NetNs> {
    let switch = NetNs::new(mounts)?;
    let mut lines = String::new();
    let bridges: &[u8] = match underlay {
        Underlay::Routed => &[7, 8],
        _ => &[7],
    };
    for link in bridges {
        lines += &format!("link add br{link} type bridge\nlink set br{link} up\n");
        if underlay == Underlay::Routed {
            lines += &format!("addr add {}/24 dev br{link}\n", router(*link));
        }
    }
    for (number, host) in (0..).zip(hosts) {
        lines += &plug(number, underlay.link(number), host);
    }
    switch.ip(&lines)?;
    if underlay == Underlay::Routed {
        switch.sysctl("net/ipv4/ip_forward", "1")?;
        // Sent back on the link they came from, as tests that move a host behind it do.
        switch.sysctl("net/ipv4/conf/all/send_redirects", "0")?;
        for link in bridges {
            switch.sysctl(&format!("net/ipv4/conf/br{link}/send_redirects"), "0")?;
        }
    }
    Ok(switch)
}

/// Lines that give a host a port of a link's bridge.
fn plug(number: u8, link: u8, host: &NetNs) -> String {
    format!(
        "link add port{number} type veth peer name eth0 netns {}\n\
         link set port{number} master br{link} up\n",
        host.path()
    )
}

/// The router's address on a link.
fn router(link: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, link, 1)
}

fn set_up_host(
    number: u8,
    underlay: Underlay,
    ns: NetNs,
    management: &NetNs,
    vlan: Option<u16>,
) -> Result<Host> {
    management.ip(&format!(
        "link add host{number} type veth peer name mgmt0 netns {}\n\
         link set host{number} master mgmt up",
        ns.path()
    ))?;
    let link = underlay.link(number);
    let address = Ipv4Addr::new(192, 168, link, 10 + number);
    let external = vlan.map_or_else(|| "eth0".to_owned(), |id| format!("eth0.{id}"));
    let mut lines = format!(
        "addr add 10.200.1.{number}/16 dev mgmt0\n\
         link set mgmt0 up\n\
         link set eth0 up\n"
    );
    if let Some(id) = vlan {
        lines += &format!("link add {external} link eth0 type vlan id {id}\n");
    }
    lines += &format!("addr add {address}/24 dev {external}\nlink set {external} up\n");
    let gateway = (underlay == Underlay::Routed).then(|| router(link));
    if let Some(gateway) = gateway {
        lines += &format!("route add 192.168.0.0/16 via {gateway}\n");
    }
    ns.ip(&lines)?;
    ns.sysctl("net/ipv4/ip_forward", "1")?;
    // Where br_netfilter is loaded it doubles the work of every bridge; figures of machines that
    // have it and that do not should compare. The setting is absent without the module.
    let _ = ns.sysctl("net/bridge/bridge-nf-call-iptables", "0");
    let name = host_name(number);
    let host = Host {
        name,
        ns,
        external,
        address,
        gateway,
        pods: Vec::new(),
    };
    host::make_files(&host)?;
    Ok(host)
}
