//! The way to each peer over the underlay, as the kernel would send: what the dataplane needs to
//! finish a packet without asking anybody.
//!
//! A peer is carried by eBPF while the kernel's answer for it is one plain next hop on the external
//! interface with a known link-layer address. Everything else (several next hops, another
//! interface, a further tunnel, a neighbour that does not answer) stays with the kernel path, and
//! the reason is kept for `status`.
//!
//! Neighbour entries are the kernel's: this asks it to resolve them, and to look after those in
//! use, since packets that bypass the stack no longer do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use bytemuck::Zeroable as _;
use flannel_ebpf::abi;
use flannel_ebpf::wire::{ETHERTYPE_IPV4, Ethernet, Headers, Ipv4, PROTOCOL_UDP};
use rtnetlink::packet_route::route::RouteType;

use crate::backend::peer::Peer;
use crate::netlink::lookup::{UnderlayQuery, UnderlayRoute};
use crate::netlink::{self, MacAddr, Netlink};

/// The near end of the way to every peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Index of the external interface.
    pub ifindex: u32,
    /// Its link-layer address.
    pub mac: MacAddr,
    /// Source address of the tunnel.
    pub address: Ipv4Addr,
    /// Largest outer packet, bytes.
    pub mtu: u32,
    /// UDP port of the tunnel, for backends with one.
    pub port: Option<u16>,
    /// Headers that the tunnel puts in front of an inner packet, link layer not counted, bytes.
    pub overhead: u32,
    /// Length of the network's subnets, bits.
    pub subnet_len: u8,
    /// Whether the external interface completes checksums, also those inside of a tunnel.
    pub completes_checksums: bool,
}

/// One plain next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Whose link-layer address packets need.
    pub address: Ipv4Addr,
    /// Largest outer packet on the way, bytes.
    pub mtu: u32,
}

/// Why a peer is left to the kernel path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotPlain {
    /// The subnet is not of the network's size, and the peer table has one mask.
    #[error("subnet is a /{0}, the network's are of another size")]
    SubnetLen(u8),
    /// No unicast route.
    #[error("no route to its public IP")]
    NoRoute,
    /// The look-up itself failed; it is tried again.
    #[error("its route could not be looked up")]
    LookupFailed,
    /// Packets leave elsewhere.
    #[error("its route leaves by another interface")]
    OtherInterface,
    /// The kernel balances.
    #[error("its route has several next hops")]
    Multipath,
    /// More headers.
    #[error("its route adds a further encapsulation")]
    Encap,
    /// IPv6 next hop.
    #[error("its next hop is not an IPv4 address")]
    ForeignGateway,
    /// ARP has not answered.
    #[error("its next hop {0} has no link-layer address yet")]
    Unresolved(Ipv4Addr),
    /// Nothing fits.
    #[error("the MTU of its route is too small for a tunnel")]
    TooSmall,
}

/// Takes the kernel's answer for one plain next hop, if that is what it is.
fn judge(route: &UnderlayRoute, dst: Ipv4Addr, local: &Local) -> Result<Hop, NotPlain> {
    let UnderlayRoute {
        kind,
        oif,
        gateway: _,
        // The tunnel's packets have their own source.
        prefsrc: _,
        mtu,
        has_multipath,
        has_encap,
        has_foreign_gateway,
        is_assumed,
    } = *route;
    if kind != RouteType::Unicast || is_assumed {
        return Err(NotPlain::NoRoute);
    }
    if oif != local.ifindex {
        return Err(NotPlain::OtherInterface);
    }
    if has_multipath {
        return Err(NotPlain::Multipath);
    }
    if has_encap {
        return Err(NotPlain::Encap);
    }
    if has_foreign_gateway {
        return Err(NotPlain::ForeignGateway);
    }
    let mtu = mtu.map_or(local.mtu, |mtu| mtu.min(local.mtu));
    // 68 is the least that IPv4 asks of a link (RFC 791).
    if mtu < local.overhead + 68 {
        return Err(NotPlain::TooSmall);
    }
    Ok(Hop {
        address: route.next_hop(dst),
        mtu,
    })
}

/// What is known of the underlay.
#[derive(Debug, Default)]
pub struct Underlay {
    /// Links on which peers are, by public IP, as far as asked for: `None` is behind a gateway.
    links: BTreeMap<Ipv4Addr, Option<u32>>,
    hops: BTreeMap<Ipv4Addr, Result<Hop, NotPlain>>,
    neighbours: BTreeMap<Ipv4Addr, MacAddr>,
}

/// What the maps should hold, and the peers that they cannot.
#[derive(Debug, Default, PartialEq)]
pub struct Desired {
    /// Entries of `peers`.
    pub peers: BTreeMap<[u8; 4], abi::Peer>,
    /// Entries of `remotes`.
    pub remotes: BTreeMap<[u8; 4], abi::Remote>,
    /// Peers that eBPF does not send to, by subnet.
    pub kernel: Vec<(ipnetwork::Ipv4Network, NotPlain)>,
}

impl Underlay {
    /// Forgets the routes: they, or what they depend on, have changed.
    pub fn forget_routes(&mut self) {
        self.hops.clear();
        self.links.clear();
    }

    /// Forgets what nobody but `peers` needs, and what could not be found out.
    pub fn retain(&mut self, peers: &[Peer]) {
        let wanted: BTreeSet<_> = peers.iter().map(|peer| peer.public_ip).collect();
        self.links.retain(|dst, _| wanted.contains(dst));
        self.hops
            .retain(|dst, hop| wanted.contains(dst) && !matches!(hop, Err(NotPlain::LookupFailed)));
    }

    /// Forgets the way to a peer that is gone.
    pub fn forget(&mut self, public_ip: Ipv4Addr) {
        self.links.remove(&public_ip);
        self.hops.remove(&public_ip);
    }

    /// Finds out which peers are on a link of this host, as far as that is not known yet: those
    /// that the kernel reaches by one route without a gateway.
    pub async fn resolve_links(&mut self, netlink: &Netlink, peers: &[Peer]) {
        let wanted: BTreeSet<_> = peers.iter().map(|peer| peer.public_ip).collect();
        let missing = wanted
            .into_iter()
            .filter(|dst| !self.links.contains_key(dst));
        for (dst, answer) in netlink.host_routes(missing.collect()).await {
            match answer {
                Ok(route) => {
                    self.links.insert(dst, on_link(&route));
                }
                // The kernel's no is an answer; anything else is asked again.
                Err(error) if netlink::errno(&error).is_some() => {
                    self.links.insert(dst, None);
                }
                Err(error) => {
                    tracing::warn!(%dst, error = crate::error::chain(&error), "route look-up failed");
                }
            }
        }
    }

    /// The link on which a peer is, as [`resolve_links`](Self::resolve_links) found it.
    #[must_use]
    pub fn link_of(&self, public_ip: Ipv4Addr) -> Option<u32> {
        self.links.get(&public_ip).copied().flatten()
    }

    /// Looks up the routes to peers that are not known yet.
    pub async fn resolve_routes(&mut self, netlink: &Netlink, local: &Local, peers: &[Peer]) {
        let wanted: BTreeSet<_> = peers.iter().map(|peer| peer.public_ip).collect();
        let missing = wanted
            .into_iter()
            .filter(|dst| !self.hops.contains_key(dst));
        let query = |dst| UnderlayQuery {
            dst,
            source: local.address,
            oif: local.ifindex,
            port: local.port,
        };
        let answers = netlink.underlay_routes(missing.map(query).collect());
        for (UnderlayQuery { dst, .. }, answer) in answers.await {
            let hop = match answer {
                Ok(route) => judge(&route, dst, local),
                Err(error) if netlink::errno(&error).is_some() => Err(NotPlain::NoRoute),
                Err(error) => {
                    tracing::warn!(%dst, error = crate::error::chain(&error), "route look-up failed");
                    Err(NotPlain::LookupFailed)
                }
            };
            self.hops.insert(dst, hop);
        }
    }

    /// Reads the neighbour table of the external interface.
    ///
    /// # Errors
    /// What the kernel said; what was known before stays known.
    pub async fn read_neighbours(
        &mut self,
        netlink: &Netlink,
        local: &Local,
    ) -> Result<(), netlink::Error> {
        let table = netlink.neighbours(local.ifindex).await?;
        self.neighbours = table
            .into_iter()
            .filter_map(|neighbour| Some((neighbour.ip, neighbour.usable_mac()?)))
            .collect();
        Ok(())
    }

    /// Next hops to peers without a link-layer address.
    #[must_use]
    pub fn unresolved(&self, peers: &[Peer]) -> BTreeSet<Ipv4Addr> {
        let hops = peers
            .iter()
            .filter_map(|peer| self.hops.get(&peer.public_ip));
        let addresses = hops.flatten().map(|hop| hop.address);
        addresses
            .filter(|address| !self.neighbours.contains_key(address))
            .collect()
    }

    /// All next hops in use.
    #[must_use]
    pub fn next_hops(&self) -> BTreeSet<Ipv4Addr> {
        self.hops
            .values()
            .flatten()
            .map(|hop| hop.address)
            .collect()
    }

    /// What the maps should hold for these peers; `entry` makes a peer's entry from its next hop's
    /// link-layer address and MTU. A peer without a plain way has an entry all the
    /// same: its packets are left to the kernel path as `unresolved`, not as `unknown_peer`.
    #[must_use]
    pub fn desired(
        &self,
        local: &Local,
        peers: &[Peer],
        entry: impl Fn(&Peer, MacAddr, u32) -> abi::Peer,
    ) -> Desired {
        let mut desired = Desired::default();
        for peer in peers {
            let subnet = peer.subnet.network().octets();
            let prefix_len = u32::from(peer.subnet.prefix());
            // A sender is a sender, whatever the way back.
            let remote = abi::Remote::new(subnet, prefix_len);
            desired.remotes.insert(peer.public_ip.octets(), remote);
            if peer.subnet.prefix() != local.subnet_len {
                let reason = NotPlain::SubnetLen(peer.subnet.prefix());
                desired.kernel.push((peer.subnet, reason));
                continue;
            }
            let (hop, mac) = match self.way(peer.public_ip) {
                Ok(way) => way,
                Err(reason) => {
                    desired.kernel.push((peer.subnet, reason));
                    (
                        Hop {
                            address: peer.public_ip,
                            mtu: 0,
                        },
                        MacAddr([0; 6]),
                    )
                }
            };
            desired.peers.insert(subnet, entry(peer, mac, hop.mtu));
        }
        desired
    }

    fn way(&self, public_ip: Ipv4Addr) -> Result<(Hop, MacAddr), NotPlain> {
        let hop = self
            .hops
            .get(&public_ip)
            .copied()
            .unwrap_or(Err(NotPlain::LookupFailed))?;
        let mac = self.neighbours.get(&hop.address);
        mac.map(|mac| (hop, *mac))
            .ok_or(NotPlain::Unresolved(hop.address))
    }
}

/// The link of a destination that is on one.
fn on_link(route: &UnderlayRoute) -> Option<u32> {
    let is_plain = route.kind == RouteType::Unicast
        && route.gateway.is_none()
        && !route.has_multipath
        && !route.has_encap
        && !route.has_foreign_gateway;
    is_plain.then_some(route.oif)
}

/// The link-layer and IPv4 headers in front of packets to a peer. What the tunnel adds is the
/// backend's; of the IPv4 header, a direct peer needs nothing.
#[must_use]
pub fn outer_headers(local: &Local, ttl: u8, peer: &Peer, next_hop: MacAddr) -> Headers {
    Headers {
        outer: Ethernet {
            destination: next_hop.0,
            source: local.mac.0,
            ethertype: ETHERTYPE_IPV4,
        },
        ip: Ipv4 {
            version_ihl: Ipv4::VERSION_IHL,
            tos: 0,
            total_len: [0; 2],
            id: [0; 2],
            // DF clear, so that the underlay may fragment, as with the kernel's device.
            fragment: [0; 2],
            ttl,
            protocol: PROTOCOL_UDP,
            checksum: [0; 2],
            source: local.address.octets(),
            destination: peer.public_ip.octets(),
        },
        ..Headers::zeroed()
    }
}

#[cfg(test)]
mod tests;
