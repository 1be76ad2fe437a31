//! What changes in the kernel, as events.
//!
//! An event says where to look again, not what is there now: a reader that compares desired with
//! actual state needs no more, and events of one object can then be folded into one. So a flood
//! (ten thousand neighbours, a bridge that flaps) costs a bounded amount of memory and one look;
//! beyond [`MAX_PENDING`], and whenever the kernel itself has dropped notifications, all there is
//! to say is [`NetlinkEvent::Overrun`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteProtocol};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::AsyncSocket as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::route::DIRECT_PROTOCOL;
use super::{Error, link, neigh};

/// Neighbours with an event that nobody has fetched; one more, and it is an overrun.
pub const MAX_PENDING: usize = 4096;

/// Bytes of notifications that the kernel holds for us while we do not run; it doubles the figure
/// and caps it at `net.core.rmem_max`. More than that is an overrun.
const RECEIVE_BUFFER: i32 = 1 << 20;

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetlinkEvent {
    /// Notifications were lost: everything may have changed.
    Overrun,
    /// A link came, changed or went.
    Link {
        /// Kernel index.
        index: u32,
        /// Name, last heard.
        name: String,
        /// Whether it is gone.
        is_removed: bool,
    },
    /// An IPv4 address of the link came or went.
    Address {
        /// Index of the link.
        ifindex: u32,
    },
    /// An IPv4 route came, changed or went.
    Route {
        /// Index of the link that it leaves through; none for several next hops or for no link.
        oif: Option<u32>,
        /// Whether it is one to a direct peer, by its protocol.
        is_direct: bool,
    },
    /// An IPv4 policy rule came or went.
    Rule,
    /// An IPv4 neighbour came, changed or went.
    Neigh {
        /// Index of its link.
        ifindex: u32,
        /// Its address.
        ip: Ipv4Addr,
    },
    /// An FDB entry came, changed or went.
    Fdb {
        /// Index of the link that has the FDB.
        ifindex: u32,
    },
}

/// A subscription to the kernel's notifications, in the network namespace of its opener.
#[derive(Debug)]
pub struct Monitor {
    events: mpsc::Receiver<NetlinkEvent>,
    _tasks: JoinSet<()>,
}

impl Monitor {
    /// Subscribes. What changes after this returns leads to an event.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn open() -> Result<Self, Error> {
        let (mut connection, _handle, mut messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Rule,
        ])
        .map_err(Error::Open)?;
        connection
            .socket_mut()
            .socket_mut()
            .set_rx_buf_sz(RECEIVE_BUFFER)
            .map_err(Error::Open)?;

        // One place only: what waits, waits where it can be folded.
        let (sender, events) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        tasks.spawn(async move {
            let mut pending = Pending::default();
            loop {
                tokio::select! {
                    // In turn: the channel behind `messages` has no bound, and a flood must not keep
                    // the reader from hearing of it.
                    message = messages.next() => match message {
                        Some((message, _)) => pending.note(message.payload),
                        None => return,
                    },
                    permit = sender.reserve(), if !pending.is_empty() => match (permit, pending.pop()) {
                        (Ok(permit), Some(event)) => permit.send(event),
                        (Ok(_), None) => {}
                        (Err(_), _) => return,
                    },
                }
            }
        });
        Ok(Self {
            events,
            _tasks: tasks,
        })
    }

    /// The next event; `None` once the socket is closed. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<NetlinkEvent> {
        self.events.recv().await
    }
}

/// Events that nobody has fetched, folded by object.
#[derive(Debug, Default)]
struct Pending {
    has_overrun: bool,
    routes: BTreeSet<(Option<u32>, bool)>,
    has_rule: bool,
    links: BTreeMap<u32, (String, bool)>,
    addresses: BTreeSet<u32>,
    fdbs: BTreeSet<u32>,
    neighs: BTreeSet<(u32, Ipv4Addr)>,
}

impl Pending {
    fn note(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) {
        use RouteNetlinkMessage as Message;
        match payload {
            NetlinkPayload::Overrun(_) => self.overrun(),
            NetlinkPayload::InnerMessage(message) => match message {
                Message::NewLink(message) => self.note_link(&message, false),
                Message::DelLink(message) => self.note_link(&message, true),
                Message::NewAddress(message) | Message::DelAddress(message) => {
                    self.addresses.insert(message.header.index);
                }
                Message::NewRoute(message) | Message::DelRoute(message) => {
                    let oif = message
                        .attributes
                        .iter()
                        .find_map(|attribute| match attribute {
                            RouteAttribute::Oif(oif) => Some(*oif),
                            _ => None,
                        });
                    let is_direct =
                        message.header.protocol == RouteProtocol::Other(DIRECT_PROTOCOL);
                    self.routes.insert((oif, is_direct));
                }
                Message::NewRule(_) | Message::DelRule(_) => self.has_rule = true,
                Message::NewNeighbour(message) | Message::DelNeighbour(message) => {
                    if message.header.family == AddressFamily::Bridge {
                        self.fdbs.insert(message.header.ifindex);
                    } else if let Some(found) = neigh::parse_neighbour(&message) {
                        self.neighs.insert((found.ifindex, found.ip));
                    }
                }
                _ => {}
            },
            _ => {}
        }
        let objects = self.neighs.len()
            + self.links.len()
            + self.addresses.len()
            + self.fdbs.len()
            + self.routes.len();
        if objects > MAX_PENDING {
            self.overrun();
        }
    }

    fn note_link(&mut self, message: &LinkMessage, is_removed: bool) {
        // The link group also carries what bridges say about their ports; a port that leaves its
        // bridge is not a link that is gone.
        let is_removed = is_removed && message.header.interface_family == AddressFamily::Unspec;
        if let Some(link) = link::parse_link(message) {
            let was_removed = matches!(self.links.get(&link.index), Some((_, true)));
            let state = (link.name, is_removed || was_removed);
            self.links.insert(link.index, state);
        }
    }

    /// Everything may have changed: that covers what waits.
    fn overrun(&mut self) {
        *self = Self {
            has_overrun: true,
            ..Self::default()
        };
    }

    fn is_empty(&self) -> bool {
        let Self {
            has_overrun,
            routes,
            has_rule,
            links,
            addresses,
            fdbs,
            neighs,
        } = self;
        !(*has_overrun || *has_rule)
            && routes.is_empty()
            && links.is_empty()
            && addresses.is_empty()
            && fdbs.is_empty()
            && neighs.is_empty()
    }

    fn pop(&mut self) -> Option<NetlinkEvent> {
        if std::mem::take(&mut self.has_overrun) {
            return Some(NetlinkEvent::Overrun);
        }
        if let Some((index, (name, is_removed))) = self.links.pop_first() {
            return Some(NetlinkEvent::Link {
                index,
                name,
                is_removed,
            });
        }
        if let Some(ifindex) = self.addresses.pop_first() {
            return Some(NetlinkEvent::Address { ifindex });
        }
        if let Some((oif, is_direct)) = self.routes.pop_first() {
            return Some(NetlinkEvent::Route { oif, is_direct });
        }
        if std::mem::take(&mut self.has_rule) {
            return Some(NetlinkEvent::Rule);
        }
        if let Some(ifindex) = self.fdbs.pop_first() {
            return Some(NetlinkEvent::Fdb { ifindex });
        }
        let (ifindex, ip) = self.neighs.pop_first()?;
        Some(NetlinkEvent::Neigh { ifindex, ip })
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::LinkAttribute;
    use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
    use rtnetlink::packet_route::route::RouteMessage;

    use super::*;

    fn neighbour(ip: u32) -> NetlinkPayload<RouteNetlinkMessage> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 3;
        let ip = Ipv4Addr::from(ip);
        message
            .attributes
            .push(NeighbourAttribute::Destination(ip.into()));
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message))
    }

    fn drain(pending: &mut Pending) -> Vec<NetlinkEvent> {
        std::iter::from_fn(|| pending.pop()).collect()
    }

    #[test]
    fn events_of_one_object_are_one_event() {
        let mut pending = Pending::default();
        for _ in 0..100 {
            pending.note(neighbour(1));
            let route = RouteNetlinkMessage::NewRoute(RouteMessage::default());
            pending.note(NetlinkPayload::InnerMessage(route));
        }
        let ip = Ipv4Addr::from(1);
        let expected = [
            NetlinkEvent::Route {
                oif: None,
                is_direct: false,
            },
            NetlinkEvent::Neigh { ifindex: 3, ip },
        ];
        assert_eq!(drain(&mut pending), expected);
        assert!(pending.is_empty());
    }

    #[test]
    fn a_flood_becomes_one_overrun_and_what_follows_it() {
        let mut pending = Pending::default();
        let flood = u32::try_from(MAX_PENDING).unwrap() + 1;
        (0..flood).for_each(|ip| pending.note(neighbour(ip)));
        pending.note(neighbour(7));
        let ip = Ipv4Addr::from(7);
        let expected = [
            NetlinkEvent::Overrun,
            NetlinkEvent::Neigh { ifindex: 3, ip },
        ];
        assert_eq!(drain(&mut pending), expected);
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_removed() {
        let mut message = LinkMessage::default();
        message.header.index = 5;
        message.attributes.push(LinkAttribute::IfName("v0".into()));
        let removed = |message: &LinkMessage| {
            let mut pending = Pending::default();
            let message = RouteNetlinkMessage::DelLink(message.clone());
            pending.note(NetlinkPayload::InnerMessage(message));
            drain(&mut pending)
        };
        let event = |is_removed| NetlinkEvent::Link {
            index: 5,
            name: "v0".into(),
            is_removed,
        };
        assert_eq!(removed(&message), [event(true)]);
        message.header.interface_family = AddressFamily::Bridge;
        assert_eq!(removed(&message), [event(false)]);
    }
}
