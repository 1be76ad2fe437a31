//! The node's own doings, as the kernel tells of them.
//!
//! Each entry that the node writes comes back as a notification, soon, late, or folded into the
//! next one of the same entry. What says the same as the node knows is no news. What does not may
//! be an echo that another write has overtaken: its own echo follows. So an entry is in doubt until
//! the last that was heard of it is what the node knows, and looked at if it still is a little
//! later.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::backend::entries::forms::Forms;
use crate::netlink::MacAddr;
use crate::netlink::monitor::NetlinkEvent;
use crate::plan::KernelState;

/// Key of an entry of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Route(Ipv4Network),
    Neighbour(Ipv4Addr),
    Fdb(MacAddr),
    Object(Ipv4Addr),
}

/// Entries of which something else was heard last than the node knows.
#[derive(Debug, Default)]
pub(super) struct Doubts(BTreeSet<Entry>);

/// What an event is to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// It says what is known.
    Known,
    /// It says something else of a peer's entry.
    Doubted,
    /// It is not about a peer's entry.
    Other,
}

impl Doubts {
    /// Takes an event, given the node's tunnel device and the entries that it knows.
    pub(super) fn hear(
        &mut self,
        event: &NetlinkEvent,
        device: Option<u32>,
        (known, forms): (&KernelState, &Forms),
    ) -> Word {
        let is_device = |index: u32| device == Some(index);
        let (entry, is_known) = match event {
            NetlinkEvent::Route {
                oif,
                is_direct,
                peer: Some((subnet, via)),
            } if *is_direct || oif.is_some_and(is_device) => {
                let is_known = known.routes.get(subnet) == via.as_ref();
                (Entry::Route(*subnet), is_known)
            }
            NetlinkEvent::ObjectRoute { subnet, is_removed } => {
                let is_known = forms.is_through_object(*subnet) != *is_removed;
                (Entry::Route(*subnet), is_known)
            }
            NetlinkEvent::NextHop {
                ifindex,
                gateway,
                is_removed,
            } if is_device(*ifindex) => {
                let is_known = forms.has_object(*gateway) != *is_removed;
                (Entry::Object(*gateway), is_known)
            }
            NetlinkEvent::Neigh { ifindex, ip, peer } if is_device(*ifindex) => {
                let is_known = known.neighbours.get(ip) == peer.as_ref();
                (Entry::Neighbour(*ip), is_known)
            }
            NetlinkEvent::Fdb { ifindex, mac, peer } if is_device(*ifindex) => {
                let is_known = known.fdb.get(mac) == peer.as_ref();
                (Entry::Fdb(*mac), is_known)
            }
            _ => return Word::Other,
        };
        if is_known {
            self.0.remove(&entry);
            Word::Known
        } else {
            self.0.insert(entry);
            Word::Doubted
        }
    }

    /// Whether any entry is in doubt.
    pub(super) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Everything has been read.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::route::{Form, Via};

    const DEVICE: u32 = 9;

    #[test]
    fn an_echo_that_was_overtaken_is_no_doubt_once_the_last_has_come() {
        let subnet: Ipv4Network = "10.5.34.0/24".parse().unwrap();
        let via = Via {
            oif: DEVICE,
            gateway: subnet.network(),
            is_onlink: true,
        };
        let route = |via| NetlinkEvent::Route {
            oif: Some(DEVICE),
            is_direct: false,
            peer: Some((subnet, via)),
        };
        // Written and removed before either echo came.
        let (mut doubts, known) = (Doubts::default(), KernelState::default());
        let forms = Forms::default();
        let hear = |doubts: &mut Doubts, event| doubts.hear(&event, Some(DEVICE), (&known, &forms));
        assert_eq!(hear(&mut doubts, route(Some(via))), Word::Doubted);
        assert!(doubts.any());
        assert_eq!(hear(&mut doubts, route(None)), Word::Known);
        assert!(!doubts.any());
        // Somebody else's doing has no echo.
        assert_eq!(hear(&mut doubts, route(Some(via))), Word::Doubted);
        assert!(doubts.any());
    }

    #[test]
    fn entries_of_other_devices_are_not_the_nodes() {
        let (ip, mac) = ([10, 5, 34, 0].into(), MacAddr([2; 6]));
        let known = KernelState {
            neighbours: [(ip, mac)].into(),
            ..KernelState::default()
        };
        let neighbour = |ifindex, mac| NetlinkEvent::Neigh {
            ifindex,
            ip,
            peer: mac,
        };
        let mut doubts = Doubts::default();
        let forms = Forms::default();
        let mut hear = |event| doubts.hear(&event, Some(DEVICE), (&known, &forms));
        assert_eq!(hear(neighbour(DEVICE, Some(mac))), Word::Known);
        assert_eq!(hear(neighbour(DEVICE, None)), Word::Doubted);
        assert_eq!(hear(neighbour(3, Some(mac))), Word::Other);
        assert_eq!(hear(NetlinkEvent::Overrun), Word::Other);
    }

    #[test]
    fn an_object_of_ours_that_somebody_removes_is_a_doubt() {
        let subnet: Ipv4Network = "10.5.34.0/24".parse().unwrap();
        let gateway = subnet.network();
        let routes = [(subnet, Form::Object)].into_iter();
        let (forms, _) = Forms::of(routes, [gateway].into());
        let (mut doubts, known) = (Doubts::default(), KernelState::default());
        let mut hear = |event| doubts.hear(&event, Some(DEVICE), (&known, &forms));
        let object = |ifindex, is_removed| NetlinkEvent::NextHop {
            ifindex,
            gateway,
            is_removed,
        };
        assert_eq!(hear(object(DEVICE, false)), Word::Known);
        assert_eq!(hear(object(3, true)), Word::Other);
        assert_eq!(hear(object(DEVICE, true)), Word::Doubted);
        let route = |is_removed| NetlinkEvent::ObjectRoute { subnet, is_removed };
        assert_eq!(hear(route(false)), Word::Known);
        assert_eq!(hear(route(true)), Word::Doubted);
    }
}
