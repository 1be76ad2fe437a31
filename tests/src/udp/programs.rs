//! The udp backend's programs on one of two hosts, with maps as an agent would fill them.

use anyhow::Result;
use aya::programs::TcAttachType::{Egress, Ingress};
use bytemuck::Zeroable as _;
use flannel_agent::backend::udp::DEVICE_NAME;
use flannel_ebpf::abi::{Config, Encap, Peer, Remote};
use flannel_ebpf::wire::{ETHERTYPE_IPV4, Ethernet, Headers, Ipv4, PROTOCOL_UDP, Udp, Vxlan};

use super::{MTU, PORT, subnet};
use crate::host::{self, Host};
use crate::programs::Programs;

/// What the way to the other host starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum External {
    /// A NIC, which completes checksums.
    Nic,
    /// A virtual interface, which leaves that to nobody.
    Virtual,
}

/// Loads the programs of host `number`, which knows the other one, and attaches them. Its TUN device
/// has to be there.
///
/// # Errors
/// The kernel refuses them.
pub fn attach(hosts: [&Host; 2], number: u8, external: External) -> Result<Programs> {
    let host = hosts[usize::from(number)];
    let mut programs = load(hosts, number, external)?;
    programs.attach("udp_decap", &host.ns, &host.external, Ingress)?;
    programs.attach("udp_encap", &host.ns, DEVICE_NAME, Egress)?;
    Ok(programs)
}

/// The same, attached nowhere yet.
///
/// # Errors
/// As [`attach`].
pub fn load(hosts: [&Host; 2], number: u8, external: External) -> Result<Programs> {
    let (host, other) = (hosts[usize::from(number)], 1 - number);
    let mut programs = Programs::load(&Config {
        vxlan: Vxlan::zeroed(),
        subnet_mask: [255, 255, 255, 0],
        local_ip: host.address.octets(),
        vtep_mac: [0; 6],
        udp_port: PORT.to_be_bytes(),
        device_ifindex: host.device_index(DEVICE_NAME)?,
        external_mac: [0; 6],
        reserved: [0; 6],
    })?;
    let peer = hosts[usize::from(other)];
    programs.set_peer(network_of(other), &way(host, peer, external)?)?;
    programs.set_remote(peer.address.octets(), sender(other))?;
    Ok(programs)
}

/// A host as a sender of which nothing has been received.
#[must_use]
pub fn sender(number: u8) -> Remote {
    Remote::new(network_of(number), 24)
}

fn network_of(number: u8) -> [u8; 4] {
    subnet(number).network().octets()
}

/// The way from a host to a peer on the same wire.
fn way(host: &Host, peer: &Host, external: External) -> Result<Peer> {
    let headers = Headers {
        outer: Ethernet {
            destination: host::mac(&peer.ns, &peer.external)?,
            source: host::mac(&host.ns, &host.external)?,
            ethertype: ETHERTYPE_IPV4,
        },
        ip: Ipv4 {
            version_ihl: Ipv4::VERSION_IHL,
            ttl: 64,
            protocol: PROTOCOL_UDP,
            source: host.address.octets(),
            destination: peer.address.octets(),
            ..Ipv4::zeroed()
        },
        udp: Udp {
            source: PORT.to_be_bytes(),
            destination: PORT.to_be_bytes(),
            ..Udp::zeroed()
        },
        ..Headers::zeroed()
    };
    let ifindex = host.device_index(&host.external)?;
    Ok(Peer {
        needs_kin: (external == External::Virtual).into(),
        ..Peer::new(headers, Encap::Udp, MTU, ifindex)
    })
}
