//! The overlay as stock flannel shapes it, set up with `ip` and without any agent.
//!
//! A reference to compare with: what the agent's kernel path must look and perform like.

use std::net::Ipv4Addr;

use anyhow::Result;
use ipnetwork::Ipv4Network;

use crate::bed::{Bed, BedOptions};
use crate::host::{self, Host, SubnetEnv};

/// UDP port of flannel's vxlan backend on Linux.
const PORT: u16 = 8472;
/// Bytes that VXLAN over IPv4 adds.
const OVERHEAD: u32 = 50;

/// A bed with the overlay programmed and `pods` pods on each host.
///
/// # Errors
/// The bed cannot be built.
pub fn overlay(options: BedOptions, pods: usize) -> Result<Bed> {
    let mut bed = Bed::new(options)?;
    for (number, host) in (0..).zip(&mut bed.hosts) {
        add_device(host, number)?;
        let mtu = 1500 - OVERHEAD;
        let bridge = Ipv4Network::new(Ipv4Addr::new(10, 5, number, 1), 24)?;
        for _ in 0..pods {
            host.add_pod(&SubnetEnv { bridge, mtu })?;
        }
    }
    for host in &bed.hosts {
        for (number, peer) in (0..).zip(&bed.hosts) {
            if peer.name != host.name {
                add_peer(host, number, peer)?;
            }
        }
    }
    Ok(bed)
}

fn add_device(host: &Host, number: u8) -> Result<()> {
    host.ns.ip(&format!(
        "link add flannel.1 mtu {} type vxlan id 1 dev {} local {} dstport {PORT} nolearning\n\
         addr add 10.5.{number}.0/32 dev flannel.1\n\
         link set flannel.1 up",
        1500 - OVERHEAD,
        host.external,
        host.address
    ))
}

fn add_peer(host: &Host, number: u8, peer: &Host) -> Result<()> {
    let mac = host::mac(&peer.ns, "flannel.1")?
        .map(|octet| format!("{octet:02x}"))
        .join(":");
    host.ns.ip(&format!(
        "neigh replace 10.5.{number}.0 lladdr {mac} dev flannel.1 nud permanent\n\
         route replace 10.5.{number}.0/24 via 10.5.{number}.0 dev flannel.1 onlink"
    ))?;
    let address = peer.address.to_string();
    host.ns
        .run(
            "bridge",
            &[
                "fdb",
                "replace",
                &mac,
                "dev",
                "flannel.1",
                "dst",
                &address,
                "self",
            ],
        )
        .map(drop)
}
