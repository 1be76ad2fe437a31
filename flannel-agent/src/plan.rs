//! What has to change so that the kernel has what the leases ask for. Pure.
//!
//! A packet to a tunnelled peer passes three tables: route → neighbour → FDB, that is subnet → VTEP
//! MAC → underlay address; to a direct peer only the first. The order of a plan keeps every packet
//! on a complete chain while it is carried out, for peers that stay, also when their MAC, their
//! address or the way to them changes:
//!
//! 1. FDB entries, then neighbours, then routes are set: an entry exists before another leads to
//!    it. Each of these overwrites, so there is no moment without.
//! 2. Routes, then neighbours, then FDB entries are removed: nothing leads to an entry that goes.
//!
//! So a peer that changes its MAC has both MACs in the FDB until its neighbour entry points to the
//! second one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::netlink::MacAddr;
use crate::netlink::route::Via;

/// Entries of flannel's shape. What has another shape is no part of it, and so is never removed; it
/// is overwritten where it has the key of a desired entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelState {
    /// Routes of the main table: subnet → where to.
    pub routes: BTreeMap<Ipv4Network, Via>,
    /// Permanent neighbours: network address of a subnet → VTEP MAC.
    pub neighbours: BTreeMap<Ipv4Addr, MacAddr>,
    /// Permanent FDB entries: VTEP MAC → underlay address.
    pub fdb: BTreeMap<MacAddr, Ipv4Addr>,
}

impl KernelState {
    /// Those entries that have a key of one of `keys`.
    #[must_use]
    pub fn part(&self, keys: [&Self; 2]) -> Self {
        let mut part = Self::default();
        for keys in keys {
            pick(&self.routes, &keys.routes, &mut part.routes);
            pick(&self.neighbours, &keys.neighbours, &mut part.neighbours);
            pick(&self.fdb, &keys.fdb, &mut part.fdb);
        }
        part
    }

    /// Takes the entries of `after` for those of `before`.
    pub fn replace(&mut self, before: &Self, after: Self) {
        let Self {
            routes,
            neighbours,
            fdb,
        } = after;
        remove(&mut self.routes, &before.routes);
        remove(&mut self.neighbours, &before.neighbours);
        remove(&mut self.fdb, &before.fdb);
        self.routes.extend(routes);
        self.neighbours.extend(neighbours);
        self.fdb.extend(fdb);
    }
}

/// One change of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Set an FDB entry.
    ReplaceFdb {
        /// VTEP MAC of the peer.
        mac: MacAddr,
        /// Its underlay address.
        remote: Ipv4Addr,
    },
    /// Set a permanent neighbour.
    ReplaceNeighbour {
        /// Network address of the peer's subnet.
        ip: Ipv4Addr,
        /// VTEP MAC of the peer.
        mac: MacAddr,
    },
    /// Set a route.
    ReplaceRoute {
        /// Subnet of the peer.
        subnet: Ipv4Network,
        /// Where to.
        via: Via,
    },
    /// Remove a route.
    RemoveRoute {
        /// Subnet that nobody holds.
        subnet: Ipv4Network,
        /// Where it led to: another route to the subnet stays.
        via: Via,
    },
    /// Remove a neighbour.
    RemoveNeighbour {
        /// Network address of a subnet that nobody holds.
        ip: Ipv4Addr,
    },
    /// Remove an FDB entry.
    RemoveFdb {
        /// MAC that no peer has.
        mac: MacAddr,
    },
}

impl Action {
    /// Actions of one class may be carried out in any order, or at once; classes one after the
    /// other.
    #[must_use]
    pub fn class(&self) -> u8 {
        match self {
            Self::ReplaceFdb { .. } => 0,
            Self::ReplaceNeighbour { .. } => 1,
            Self::ReplaceRoute { .. } => 2,
            Self::RemoveRoute { .. } => 3,
            Self::RemoveNeighbour { .. } => 4,
            Self::RemoveFdb { .. } => 5,
        }
    }
}

/// The actions that lead from `actual` to `desired`, ordered by [class](Action::class).
#[must_use]
pub fn plan(desired: &KernelState, actual: &KernelState) -> Vec<Action> {
    let fdb = differing(&desired.fdb, &actual.fdb);
    let neighbours = differing(&desired.neighbours, &actual.neighbours);
    let routes = differing(&desired.routes, &actual.routes);
    let stale_routes = actual.routes.iter();
    let stale_routes = stale_routes.filter(|(subnet, _)| !desired.routes.contains_key(subnet));
    let stale_neighbours = absent(&actual.neighbours, &desired.neighbours);
    let stale_fdb = absent(&actual.fdb, &desired.fdb);

    let mut actions = Vec::new();
    actions.extend(fdb.map(|(mac, remote)| Action::ReplaceFdb { mac, remote }));
    actions.extend(neighbours.map(|(ip, mac)| Action::ReplaceNeighbour { ip, mac }));
    actions.extend(routes.map(|(subnet, via)| Action::ReplaceRoute { subnet, via }));
    actions.extend(stale_routes.map(|(&subnet, &via)| Action::RemoveRoute { subnet, via }));
    actions.extend(stale_neighbours.map(|ip| Action::RemoveNeighbour { ip }));
    actions.extend(stale_fdb.map(|mac| Action::RemoveFdb { mac }));
    actions
}

fn pick<K: Ord + Copy, V: Copy>(
    from: &BTreeMap<K, V>,
    keys: &BTreeMap<K, V>,
    into: &mut BTreeMap<K, V>,
) {
    let found = keys.keys().filter_map(|key| Some((*key, *from.get(key)?)));
    into.extend(found);
}

fn remove<K: Ord, V>(from: &mut BTreeMap<K, V>, keys: &BTreeMap<K, V>) {
    for key in keys.keys() {
        from.remove(key);
    }
}

/// Entries of `desired` that `actual` does not have, or has with another value.
fn differing<'a, K: Ord + Copy, V: Eq + Copy>(
    desired: &'a BTreeMap<K, V>,
    actual: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (K, V)> + 'a {
    desired
        .iter()
        .filter(|(key, value)| actual.get(key) != Some(*value))
        .map(|(key, value)| (*key, *value))
}

/// Keys of `actual` that `desired` does not have.
fn absent<'a, K: Ord + Copy, V>(
    actual: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = K> + 'a {
    actual
        .keys()
        .filter(|key| !desired.contains_key(key))
        .copied()
}

#[cfg(test)]
mod tests;
