//! How much of the host a pass looks at, and what events ask for.

use std::ops::BitOrAssign;

use crate::netlink::monitor::NetlinkEvent;

/// What may differ from what the agent remembers. Leases are always compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scope {
    /// Tunnel device, its address, the external interface, attachment of programs.
    pub device: bool,
    /// Routes to peers, neighbours and FDB entries of the tunnel device.
    pub entries: bool,
    /// Routes of the underlay.
    pub routes: bool,
    /// Neighbours on the external interface.
    pub neighbours: bool,
}

impl Scope {
    /// Only the leases have changed.
    pub const LEASES: Self = Self {
        device: false,
        entries: false,
        routes: false,
        neighbours: false,
    };
    /// Nothing is taken for granted.
    pub const ALL: Self = Self {
        device: true,
        entries: true,
        routes: true,
        neighbours: true,
    };

    /// What an event asks for, on a node with these interfaces; nothing for foreign ones.
    #[must_use]
    pub fn of(event: &NetlinkEvent, device: Option<u32>, external: u32) -> Option<Self> {
        let none = Self::LEASES;
        let is_device = |index: u32| device == Some(index);
        let is_ours = |index: u32| index == external || is_device(index);
        match event {
            NetlinkEvent::Overrun => Some(Self::ALL),
            NetlinkEvent::Link { index, .. } => is_ours(*index).then_some(Self::ALL),
            NetlinkEvent::Address { ifindex } => is_ours(*ifindex).then_some(Self::ALL),
            // Our own peer routes are among them; those say nothing of the underlay.
            NetlinkEvent::Route { oif, is_direct, .. }
                if *is_direct || oif.is_some_and(is_device) =>
            {
                Some(Self {
                    entries: true,
                    ..none
                })
            }
            // One that takes the place of ours is told without a word about ours.
            NetlinkEvent::Route { .. } => Some(Self {
                routes: true,
                entries: true,
                ..none
            }),
            // Not the underlay's.
            NetlinkEvent::ObjectRoute { .. } => Some(Self {
                entries: true,
                ..none
            }),
            NetlinkEvent::Rule => Some(Self {
                routes: true,
                ..none
            }),
            // The fast path's business.
            NetlinkEvent::TrafficControl => None,
            NetlinkEvent::Neigh { ifindex, .. } if *ifindex == external => Some(Self {
                neighbours: true,
                ..none
            }),
            NetlinkEvent::Neigh { ifindex, .. }
            | NetlinkEvent::Fdb { ifindex, .. }
            | NetlinkEvent::NextHop { ifindex, .. } => is_device(*ifindex).then_some(Self {
                entries: true,
                ..none
            }),
        }
    }
}

impl BitOrAssign for Scope {
    fn bitor_assign(&mut self, other: Self) {
        let Self {
            device,
            entries,
            routes,
            neighbours,
        } = other;
        self.device |= device;
        self.entries |= entries;
        self.routes |= routes;
        self.neighbours |= neighbours;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::MacAddr;

    const DEVICE: u32 = 9;
    const EXTERNAL: u32 = 3;

    fn of(event: &NetlinkEvent) -> Option<Scope> {
        Scope::of(event, Some(DEVICE), EXTERNAL)
    }

    fn fdb(ifindex: u32) -> NetlinkEvent {
        NetlinkEvent::Fdb {
            ifindex,
            mac: MacAddr([2; 6]),
            peer: None,
        }
    }

    fn route(oif: u32, is_direct: bool) -> NetlinkEvent {
        NetlinkEvent::Route {
            oif: Some(oif),
            is_direct,
            peer: None,
        }
    }

    #[test]
    fn foreign_interfaces_ask_for_nothing() {
        let ip = [10, 0, 0, 1].into();
        let neighbour = NetlinkEvent::Neigh {
            ifindex: 7,
            ip,
            peer: None,
        };
        assert_eq!(of(&neighbour), None);
        assert_eq!(of(&fdb(EXTERNAL)), None);
        assert_eq!(of(&NetlinkEvent::Address { ifindex: 7 }), None);
    }

    #[test]
    fn own_routes_do_not_touch_the_underlay() {
        for own in [route(DEVICE, false), route(EXTERNAL, true)] {
            let own = of(&own).unwrap();
            assert!(own.entries && !own.routes);
        }
        let other = of(&route(EXTERNAL, false)).unwrap();
        assert!(other.routes && other.entries);
    }

    #[test]
    fn scopes_add_up() {
        let mut scope = Scope::LEASES;
        scope |= of(&NetlinkEvent::Rule).unwrap();
        scope |= of(&fdb(DEVICE)).unwrap();
        assert_eq!(
            scope,
            Scope {
                routes: true,
                entries: true,
                ..Scope::LEASES
            }
        );
        scope |= of(&NetlinkEvent::Overrun).unwrap();
        assert_eq!(scope, Scope::ALL);
    }
}
