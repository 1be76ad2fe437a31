//! Which leases are peers, and why the others are not. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use super::extension::NotText;
use super::vxlan::BackendDataError;
use crate::lease::Lease;
use crate::netlink::MacAddr;

/// This node, which no peer may be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// The whole network.
    pub network: Ipv4Network,
    /// Leased subnet.
    pub subnet: Ipv4Network,
    /// Address advertised to peers.
    pub public_ip: Ipv4Addr,
    /// Source address of the tunnel.
    pub local: Ipv4Addr,
    /// Link-layer address of the tunnel device, if it has one.
    pub mac: Option<MacAddr>,
}

/// A node that packets can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its subnet.
    pub subnet: Ipv4Network,
    /// Link-layer address of its tunnel device, where packets need it.
    pub mac: Option<MacAddr>,
    /// Its underlay address.
    pub public_ip: Ipv4Addr,
    /// Index of the link on which it is reached by a plain route; none for a tunnelled peer.
    pub direct: Option<u32>,
}

/// A lease that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Its subnet.
    pub subnet: Ipv4Network,
    /// Why.
    pub reason: IgnoredReason,
}

/// Why a lease is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoredReason {
    /// The node speaks another protocol.
    #[error("backend is {theirs:?}, not {ours}")]
    OtherBackend {
        /// What its lease says.
        theirs: String,
        /// What we speak.
        ours: &'static str,
    },
    /// No VTEP MAC.
    #[error(transparent)]
    BackendData(#[from] BackendDataError),
    /// No data for a command.
    #[error(transparent)]
    NotText(#[from] NotText),
    /// No packet can be sent there.
    #[error("public IP {0} is not the address of a host")]
    BadPublicIp(Ipv4Addr),
    /// Two nodes claim one address.
    #[error("public IP {0} is our own")]
    OwnPublicIp(Ipv4Addr),
    /// Two nodes claim one MAC; the kernel drops what seems to come from itself.
    #[error("VTEP MAC {0} is our own")]
    OwnMac(MacAddr),
    /// A route to it would take packets away from whatever is there, the underlay for example.
    #[error(
        "subnet is outside of the network, {0}; if the network config has changed, restart this \
         agent"
    )]
    OutsideNetwork(Ipv4Network),
    /// A route to it would take packets away from local pods.
    #[error("subnet overlaps our own, {0}")]
    OverlapsOwn(Ipv4Network),
    /// Nodes at two addresses claim one MAC, and the FDB has room for one.
    #[error("VTEP MAC {mac} belongs to {subnet} at {public_ip}")]
    DuplicateMac {
        /// The MAC.
        mac: MacAddr,
        /// Who has it.
        subnet: Ipv4Network,
        /// Where that one is.
        public_ip: Ipv4Addr,
    },
    /// A route to it would take packets away from another peer, or get none.
    #[error("subnet overlaps {0} of another lease")]
    Overlaps(Ipv4Network),
}

impl IgnoredReason {
    /// Whether it is for another lease's sake.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::DuplicateMac { .. } | Self::Overlaps(_))
    }
}

/// A lease of another backend is not ours to use.
///
/// # Errors
/// [`IgnoredReason::OtherBackend`].
pub fn require_type(lease: &Lease, ours: &'static str) -> Result<(), IgnoredReason> {
    match lease.attrs.backend_type.as_str() {
        theirs if theirs == ours => Ok(()),
        theirs => Err(IgnoredReason::OtherBackend {
            theirs: theirs.to_owned(),
            ours,
        }),
    }
}

/// The peers among `leases` that a backend can reach, and the rest with the reason. `accept` is the
/// backend's own word on a lease: the peer's link-layer address, or why it is of no use.
///
/// Where two leases exclude each other, one of this node's length, which is the length that the
/// network config asks for, goes before one of another; else the earlier of the two is used, so the
/// caller's order decides.
pub fn usable_peers<'a>(
    leases: impl IntoIterator<Item = &'a Lease>,
    own: &Own,
    accept: impl Fn(&Lease) -> Result<Option<MacAddr>, IgnoredReason>,
) -> (Vec<Peer>, Vec<Ignored>) {
    let mut peers: Vec<Peer> = Vec::new();
    let mut ignored = Vec::new();
    let mut by_mac = BTreeMap::new();
    // Subnets in use by their first address; no two of them overlap.
    let mut in_use: BTreeMap<Ipv4Addr, Ipv4Network> = BTreeMap::new();
    let is_usual = |lease: &&Lease| lease.subnet.v4.prefix() == own.subnet.prefix();
    let (usual, unusual): (Vec<_>, Vec<_>) = leases.into_iter().partition(is_usual);
    for lease in usual.into_iter().chain(unusual) {
        let verdict = usable_peer(lease, own, &accept).and_then(|peer| {
            let before = in_use.range(..=peer.subnet.broadcast()).next_back();
            if let Some((_, other)) = before.filter(|(_, other)| other.overlaps(peer.subnet)) {
                return Err(IgnoredReason::Overlaps(*other));
            }
            // One node may hold two leases for a while: same MAC, same address.
            let twin = peer.mac.and_then(|mac| Some((mac, by_mac.get(&mac)?)));
            match twin {
                Some((
                    mac,
                    Peer {
                        subnet, public_ip, ..
                    },
                )) if *public_ip != peer.public_ip => Err(IgnoredReason::DuplicateMac {
                    mac,
                    subnet: *subnet,
                    public_ip: *public_ip,
                }),
                _ => Ok(peer),
            }
        });
        match verdict {
            Ok(peer) => {
                in_use.insert(peer.subnet.network(), peer.subnet);
                if let Some(mac) = peer.mac {
                    by_mac.entry(mac).or_insert(peer);
                }
                peers.push(peer);
            }
            Err(reason) => ignored.push(Ignored {
                subnet: lease.subnet.v4,
                reason,
            }),
        }
    }
    (peers, ignored)
}

/// What becomes of the peers when some leases change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerChange {
    /// What was leased, or is.
    pub subnets: BTreeSet<Ipv4Network>,
    /// Peers of the changed subnets as they were.
    pub gone: Vec<Peer>,
    /// As they are.
    pub come: Vec<Peer>,
    /// Changed leases that are not used.
    pub ignored: Vec<Ignored>,
}

/// The same for a few `changed` leases, given what came out before, at the cost of the change; none
/// where only [`usable_peers`] can tell: a changed lease and another one exclude each other, or
/// share a MAC or an address, or did before.
pub fn changed_peers<'a>(
    (peers, ignored): (&[Peer], &[Ignored]),
    changed: impl IntoIterator<Item = (Ipv4Network, Option<&'a Lease>)>,
    own: &Own,
    accept: impl Fn(&Lease) -> Result<Option<MacAddr>, IgnoredReason>,
) -> Option<PeerChange> {
    if ignored.iter().any(|ignored| ignored.reason.is_conflict()) {
        return None;
    }
    let mut change = PeerChange::default();
    for (subnet, lease) in changed {
        change.subnets.insert(subnet);
        match lease.map(|lease| usable_peer(lease, own, &accept)) {
            Some(Ok(peer)) => change.come.push(peer),
            Some(Err(reason)) => change.ignored.push(Ignored { subnet, reason }),
            None => {}
        }
    }
    let mut taken = Taken::default();
    for peer in &change.come {
        if !taken.take(peer) {
            return None;
        }
    }
    // Entries of a peer that is gone are removed by its MAC and address.
    let changed: Vec<_> = change.subnets.iter().map(|it| Range::of(*it)).collect();
    let is_changed = |peer: &&Peer| changed.binary_search(&Range::of(peer.subnet)).is_ok();
    change.gone = peers.iter().filter(is_changed).copied().collect();
    for peer in &change.gone {
        taken.take_addresses(peer);
    }
    let mut stay = peers.iter().filter(|peer| !is_changed(peer));
    stay.all(|peer| taken.is_free(peer)).then_some(change)
}

/// The addresses of a subnet, to be compared ten thousand times for each change of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    first: u32,
    last: u32,
}

impl Range {
    fn of(subnet: Ipv4Network) -> Self {
        let hosts = u32::MAX.checked_shr(subnet.prefix().into()).unwrap_or(0);
        let first = subnet.ip().to_bits() & !hosts;
        Self {
            first,
            last: first | hosts,
        }
    }
}

/// What some peers have to themselves, in order: they are few, and each of many others is held
/// against them.
#[derive(Default)]
struct Taken {
    /// No two overlap.
    subnets: Vec<Range>,
    macs: Vec<MacAddr>,
    addresses: Vec<Ipv4Addr>,
}

impl Taken {
    fn is_free(&self, peer: &Peer) -> bool {
        let range = Range::of(peer.subnet);
        let behind = self.subnets.partition_point(|it| it.first <= range.last);
        let before = behind.checked_sub(1).map(|index| self.subnets[index]);
        before.is_none_or(|other| other.last < range.first)
            && peer
                .mac
                .is_none_or(|mac| self.macs.binary_search(&mac).is_err())
            && self.addresses.binary_search(&peer.public_ip).is_err()
    }

    /// Says whether nobody had any of it.
    fn take(&mut self, peer: &Peer) -> bool {
        let is_free = self.is_free(peer);
        insert(&mut self.subnets, Range::of(peer.subnet));
        self.take_addresses(peer);
        is_free
    }

    fn take_addresses(&mut self, peer: &Peer) {
        if let Some(mac) = peer.mac {
            insert(&mut self.macs, mac);
        }
        insert(&mut self.addresses, peer.public_ip);
    }
}

fn insert<T: Ord>(sorted: &mut Vec<T>, item: T) {
    if let Err(index) = sorted.binary_search(&item) {
        sorted.insert(index, item);
    }
}

fn usable_peer(
    lease: &Lease,
    own: &Own,
    accept: impl Fn(&Lease) -> Result<Option<MacAddr>, IgnoredReason>,
) -> Result<Peer, IgnoredReason> {
    let subnet = lease.subnet.v4;
    let mac = accept(lease)?;
    let public_ip = lease.attrs.public_ip;
    if public_ip.octets()[0] == 0
        || public_ip.is_loopback()
        || public_ip.is_multicast()
        || public_ip.is_broadcast()
    {
        return Err(IgnoredReason::BadPublicIp(public_ip));
    }
    if !subnet.is_subnet_of(own.network) {
        return Err(IgnoredReason::OutsideNetwork(own.network));
    }
    if subnet.overlaps(own.subnet) {
        return Err(IgnoredReason::OverlapsOwn(own.subnet));
    }
    if public_ip == own.public_ip || public_ip == own.local {
        return Err(IgnoredReason::OwnPublicIp(public_ip));
    }
    if let Some(mac) = mac.filter(|_| mac == own.mac) {
        return Err(IgnoredReason::OwnMac(mac));
    }
    Ok(Peer {
        subnet,
        mac,
        public_ip,
        direct: None,
    })
}

#[cfg(test)]
mod tests;
