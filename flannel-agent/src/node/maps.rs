//! What the programs know: the way to each peer, in maps, and where they are attached.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bytemuck::Zeroable as _;
use flannel_ebpf::abi::{self, Encap};
use ipnetwork::Ipv4Network;
use tracing::warn;

use super::{Error, Node, Scope};
use crate::backend::peer::Peer;
use crate::backend::{Backend, Device};
use crate::dataplane;
use crate::dataplane::maps::Part;
use crate::error::chain;
use crate::netlink::{MacAddr, Netlink};
use crate::underlay::{Local, NotPlain, outer_headers};

/// Peers that eBPF leaves to the kernel, with the reason.
pub(super) type LeftToKernel = Vec<(Ipv4Network, NotPlain)>;

impl Node {
    /// Maps, and with the first pass the attachment.
    pub(super) async fn sync_dataplane(&mut self, scope: Scope) -> Result<(), Error> {
        if !self.has_dataplane() {
            return Ok(());
        }
        let look = scope.neighbours || scope.device;
        let peers = std::mem::take(&mut self.peers);
        let synced = self.sync_maps(&peers, Part::All, Part::All, look).await;
        self.peers = peers;
        let (kernel, unresolved) = synced?;
        self.kernel = kernel;
        self.attach(scope).await?;
        if scope.device {
            self.keep_xdp().await?;
        }
        probe(&self.netlink, self.local.ifindex, unresolved).await;
        Ok(())
    }

    /// The XDP program, which comes after all others are attached.
    async fn keep_xdp(&mut self) -> Result<(), Error> {
        let links = self.netlink.links().await?;
        let external = links.iter().find(|link| link.name == self.spec.external);
        let is_watched = self.others.watch_arrivals();
        if let (Some(external), Some(dataplane)) = (external, self.datapath.dataplane())
            && dataplane.is_attached()
        {
            dataplane.keep_xdp(external, &links, is_watched);
        }
        Ok(())
    }

    /// Makes the maps, or the part of them that is about some peers, what these peers ask for. Says
    /// which peers are left to the kernel, and which next hops have to be resolved.
    pub(super) async fn sync_maps(
        &mut self,
        peers: &[Peer],
        subnets: Part<'_>,
        addresses: Part<'_>,
        look_at_neighbours: bool,
    ) -> Result<(LeftToKernel, BTreeSet<Ipv4Addr>), Error> {
        let Some(dataplane) = self.datapath.dataplane() else {
            return Ok(Default::default());
        };
        let underlay = &mut self.underlay;
        underlay
            .resolve_routes(&self.netlink, &self.local, peers)
            .await;
        let mut unresolved = underlay.unresolved(peers);
        if look_at_neighbours || !unresolved.is_empty() {
            underlay.read_neighbours(&self.netlink, &self.local).await?;
            unresolved = underlay.unresolved(peers);
        }
        let ttl = default_ttl();
        let (backend, device, local) = (&*self.backend, self.device.as_ref(), &self.local);
        let desired = underlay.desired(local, peers, |peer, mac, mtu| {
            entry(backend, device, local, ttl, peer, mac, mtu)
        });
        let direct = peers.iter().filter(|peer| peer.direct.is_some());
        let direct: BTreeSet<_> = direct.map(|peer| peer.subnet.network().octets()).collect();
        let maps = dataplane.maps();
        let mut sync = || {
            maps.set_config(&config(backend, device, local))?;
            // Senders first: whoever hears from us may answer.
            maps.sync_remotes(&desired.remotes, addresses)?;
            maps.sync_peers(&desired.peers, subnets)?;
            maps.sync_traffic(&direct, subnets)
        };
        sync().map_err(dataplane::Error::from)?;
        // To a direct peer the kernel's route is the way, not what is left of one.
        let mut kernel = desired.kernel;
        kernel.retain(|(subnet, _)| !direct.contains(&subnet.network().octets()));
        Ok((kernel, unresolved))
    }

    /// Asks the kernel to look after the neighbour entries in use, which packets that bypass the
    /// stack do not do: it verifies them as it would under traffic, and tells if one fails.
    pub async fn keep_neighbours(&self) {
        if self.has_dataplane() {
            probe(&self.netlink, self.local.ifindex, self.underlay.next_hops()).await;
        }
    }
}

/// A peer's entry in the maps.
fn entry(
    backend: &dyn Backend,
    device: Option<&Device>,
    local: &Local,
    ttl: u8,
    peer: &Peer,
    next_hop: MacAddr,
    mtu: u32,
) -> abi::Peer {
    let headers = outer_headers(local, ttl, peer, next_hop);
    let (encap, headers) = match device.filter(|_| peer.direct.is_none()) {
        Some(device) => (
            backend.encap(),
            backend.finish_headers(device, peer, headers),
        ),
        None => (Encap::Direct, headers),
    };
    let inner_mtu = mtu.saturating_sub(encap.overhead() as u32);
    // Behind VXLAN is a kernel, which reads all that another one sends.
    let needs_kin = encap == Encap::Udp && !local.completes_checksums;
    abi::Peer {
        needs_kin: needs_kin.into(),
        ..abi::Peer::new(headers, encap, inner_mtu, local.ifindex)
    }
}

/// What the programs know of this node.
fn config(backend: &dyn Backend, device: Option<&Device>, local: &Local) -> abi::Config {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(local.subnet_len))
        .unwrap_or(0);
    let config = abi::Config {
        subnet_mask: mask.to_be_bytes(),
        local_ip: local.address.octets(),
        udp_port: local.port.unwrap_or(0).to_be_bytes(),
        device_ifindex: device.map_or(0, |device| device.index),
        external_mac: local.mac.0,
        ..abi::Config::zeroed()
    };
    match device {
        Some(device) => backend.finish_config(device, config),
        None => config,
    }
}

pub(super) async fn probe(netlink: &Netlink, ifindex: u32, hops: BTreeSet<Ipv4Addr>) {
    match netlink.probe_neighbours(ifindex, hops).await {
        Ok(failed) => {
            for (hop, error) in failed {
                warn!(%hop, error = chain(&error), "cannot have the neighbour resolved");
            }
        }
        Err(error) => warn!(error = chain(&error), "cannot have neighbours resolved"),
    }
}

/// Time to live of packets that this host sends, as the kernel's tunnel takes it.
fn default_ttl() -> u8 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl");
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(64)
}
