//! What changes in the kernel, as events.
//!
//! An event says where to look again, and events of one object are folded into one. Of entries in
//! flannel's shape it says what they are now, too: most of those are the agent's own doing, of
//! which the kernel tells as of any other, and need no look. So a flood (a bridge that flaps) costs
//! a bounded amount of memory and one look; beyond [`MAX_PENDING`], and whenever the kernel itself
//! has dropped notifications, all there is to say is [`NetlinkEvent::Overrun`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::StreamExt as _;
use ipnetwork::Ipv4Network;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::proto::new_connection;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket as _, Socket, SocketAddr};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::next_hop::NextHop;
use super::route::{DIRECT_PROTOCOL, Via};
use super::{Error, MacAddr, link, neigh, next_hop, route};

/// Objects with an event that nobody has fetched; one more, and it is an overrun. Four for each of
/// sixteen thousand peers, some 4 MiB.
pub const MAX_PENDING: usize = 1 << 16;

/// Bytes of notifications that the kernel holds for us while we do not run, each with 1 KiB of
/// overhead; it doubles the figure. More than that is an overrun.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Silence after which a socket that was overrun is taken for drained. Until it is, the kernel goes
/// on dropping without a word (`netlink_overrun` in net/netlink/af_netlink.c), so that what is read
/// at the first word may be out of date.
const DRAINED: Duration = Duration::from_millis(20);

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetlinkEvent {
    /// Notifications were lost: everything may have changed. If the kernel has dropped them, this
    /// comes again when it does not any more.
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
        /// For a route in the shape of a peer's: its subnet, and where it leads, unless it went.
        peer: Option<(Ipv4Network, Option<Via>)>,
    },
    /// A route to a peer came, changed or went, of which the kernel tells only that it leads
    /// through the peer's next-hop object, which it does where `net.ipv4.nexthop_compat_mode` is 0.
    ObjectRoute {
        /// Subnet of the peer.
        subnet: Ipv4Network,
        /// Whether it is gone.
        is_removed: bool,
    },
    /// A next-hop object in the shape of a peer's came, changed or went. Its routes go with it
    /// without a word.
    NextHop {
        /// Index of its link.
        ifindex: u32,
        /// Its gateway.
        gateway: Ipv4Addr,
        /// Whether it is gone.
        is_removed: bool,
    },
    /// An IPv4 policy rule came or went.
    Rule,
    /// A queueing discipline or a filter came, changed or went. Programs on tcx come without a word.
    TrafficControl,
    /// An IPv4 neighbour came, changed or went.
    Neigh {
        /// Index of its link.
        ifindex: u32,
        /// Its address.
        ip: Ipv4Addr,
        /// Its link-layer address if it is in the shape of a peer's: permanent and plain.
        peer: Option<MacAddr>,
    },
    /// An FDB entry came, changed or went.
    Fdb {
        /// Index of the link that has the FDB.
        ifindex: u32,
        /// Link-layer address inside the tunnel.
        mac: MacAddr,
        /// Where frames to it are sent, if it is in the shape of a peer's.
        peer: Option<Ipv4Addr>,
    },
}

/// A subscription to the kernel's notifications, in the network namespace of its opener.
#[derive(Debug)]
pub struct Monitor {
    pending: mpsc::Receiver<Pending>,
    /// Fetched, and not handed on yet.
    fetched: Pending,
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
            MulticastGroup::Tc,
        ])
        .map_err(Error::Open)?;
        enlarge(connection.socket_mut().socket_mut())?;
        // Next-hop objects have their own, since the crate for routes cannot read them.
        let (mut objects, _handle, mut object_messages) =
            new_connection(NETLINK_ROUTE).map_err(Error::Open)?;
        join_next_hops(objects.socket_mut().socket_mut())?;

        // One place only: what waits, waits where it can be folded.
        let (sender, fetched) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        tasks.spawn(objects);
        tasks.spawn(async move {
            let mut pending = Pending::default();
            let mut is_overrun = false;
            loop {
                tokio::select! {
                    // In turn: the channels behind `messages` have no bound, and a flood must not
                    // keep the reader from hearing of it.
                    message = messages.next() => match message {
                        Some((message, _)) => {
                            is_overrun |= matches!(message.payload, NetlinkPayload::Overrun(_));
                            pending.note(message.payload);
                        }
                        None => return,
                    },
                    Some((message, _)) = object_messages.next() => {
                        is_overrun |= matches!(message.payload, NetlinkPayload::Overrun(_));
                        pending.note_next_hop(message.payload);
                    }
                    () = sleep(DRAINED), if is_overrun => {
                        is_overrun = false;
                        pending.overrun();
                    }
                    permit = sender.reserve(), if !pending.is_empty() => match permit {
                        Ok(permit) => permit.send(std::mem::take(&mut pending)),
                        Err(_) => return,
                    },
                }
            }
        });
        Ok(Self {
            pending: fetched,
            fetched: Pending::default(),
            _tasks: tasks,
        })
    }

    /// The next event; `None` once the socket is closed. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<NetlinkEvent> {
        loop {
            if let Some(event) = self.fetched.pop() {
                return Some(event);
            }
            self.fetched = self.pending.recv().await?;
        }
    }
}

/// Makes room for notifications beyond `net.core.rmem_max`, which `CAP_NET_ADMIN` allows.
fn enlarge(socket: &Socket) -> Result<(), Error> {
    setsockopt(socket, RcvBufForce, &RECEIVE_BUFFER).map_err(|errno| Error::Open(errno.into()))
}

/// Subscribes to next-hop objects; to nothing, without a word, where the kernel has none.
fn join_next_hops(socket: &mut Socket) -> Result<(), Error> {
    socket.bind(&SocketAddr::new(0, 0)).map_err(Error::Open)?;
    enlarge(socket)?;
    match socket.add_membership(MulticastGroup::Nexthop as u32) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other.map_err(Error::Open),
    }
}

/// Events that nobody has fetched, folded by object.
#[derive(Debug, Default)]
struct Pending {
    has_overrun: bool,
    /// By link, whether to a direct peer and, in the shape of a peer's, subnet.
    routes: BTreeMap<(Option<u32>, bool, Option<Ipv4Network>), Option<Via>>,
    /// Whether they are gone.
    object_routes: BTreeMap<Ipv4Network, bool>,
    /// Whether they are gone.
    next_hops: BTreeMap<NextHop, bool>,
    has_rule: bool,
    has_traffic_control: bool,
    links: BTreeMap<u32, (String, bool)>,
    addresses: BTreeSet<u32>,
    fdbs: BTreeMap<(u32, MacAddr), Option<Ipv4Addr>>,
    neighs: BTreeMap<(u32, Ipv4Addr), Option<MacAddr>>,
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
                Message::NewRoute(message) => self.note_route(&message, false),
                Message::DelRoute(message) => self.note_route(&message, true),
                Message::NewRule(_) | Message::DelRule(_) => self.has_rule = true,
                Message::NewQueueDiscipline(_)
                | Message::DelQueueDiscipline(_)
                | Message::NewTrafficFilter(_)
                | Message::DelTrafficFilter(_) => self.has_traffic_control = true,
                Message::NewNeighbour(message) => self.note_neighbour(&message, false),
                Message::DelNeighbour(message) => self.note_neighbour(&message, true),
                _ => {}
            },
            _ => {}
        }
        self.limit();
    }

    fn limit(&mut self) {
        let objects = self.neighs.len()
            + self.links.len()
            + self.addresses.len()
            + self.fdbs.len()
            + self.routes.len()
            + self.object_routes.len()
            + self.next_hops.len();
        if objects > MAX_PENDING {
            self.overrun();
        }
    }

    fn note_route(&mut self, message: &RouteMessage, is_removed: bool) {
        let oif = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::Oif(oif) => Some(*oif),
                _ => None,
            });
        if let Some(subnet) = route::parse_bare_object_route(message) {
            self.object_routes.insert(subnet, is_removed);
            return;
        }
        let is_direct = message.header.protocol == RouteProtocol::Other(DIRECT_PROTOCOL);
        let peer = route::parse_peer_route(message);
        let subnet = peer.map(|(subnet, _)| subnet);
        let via = peer.map(|(_, via)| via).filter(|_| !is_removed);
        self.routes.insert((oif, is_direct, subnet), via);
    }

    fn note_next_hop(&mut self, payload: NetlinkPayload<next_hop::Message>) {
        match payload {
            NetlinkPayload::Overrun(_) => self.overrun(),
            NetlinkPayload::InnerMessage(message) => {
                let next_hop = message.next_hop();
                self.next_hops
                    .extend(next_hop.map(|it| (it, message.is_removal())));
            }
            _ => {}
        }
        self.limit();
    }

    fn note_neighbour(&mut self, message: &NeighbourMessage, is_removed: bool) {
        let ifindex = message.header.ifindex;
        if message.header.family == AddressFamily::Bridge {
            if let Some(entry) = neigh::parse_fdb(message) {
                let peer = entry.peer_remote().filter(|_| !is_removed);
                self.fdbs.insert((ifindex, entry.mac), peer);
            }
        } else if let Some(neighbour) = neigh::parse_neighbour(message) {
            let peer = neighbour.peer_mac().filter(|_| !is_removed);
            self.neighs.insert((ifindex, neighbour.ip), peer);
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
            object_routes,
            next_hops,
            has_rule,
            has_traffic_control,
            links,
            addresses,
            fdbs,
            neighs,
        } = self;
        !(*has_overrun || *has_rule || *has_traffic_control)
            && routes.is_empty()
            && object_routes.is_empty()
            && next_hops.is_empty()
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
        if let Some(((oif, is_direct, subnet), via)) = self.routes.pop_first() {
            let peer = subnet.map(|subnet| (subnet, via));
            return Some(NetlinkEvent::Route {
                oif,
                is_direct,
                peer,
            });
        }
        if let Some((subnet, is_removed)) = self.object_routes.pop_first() {
            return Some(NetlinkEvent::ObjectRoute { subnet, is_removed });
        }
        if let Some((NextHop { oif, gateway }, is_removed)) = self.next_hops.pop_first() {
            return Some(NetlinkEvent::NextHop {
                ifindex: oif,
                gateway,
                is_removed,
            });
        }
        if std::mem::take(&mut self.has_rule) {
            return Some(NetlinkEvent::Rule);
        }
        if std::mem::take(&mut self.has_traffic_control) {
            return Some(NetlinkEvent::TrafficControl);
        }
        if let Some(((ifindex, mac), peer)) = self.fdbs.pop_first() {
            return Some(NetlinkEvent::Fdb { ifindex, mac, peer });
        }
        let ((ifindex, ip), peer) = self.neighs.pop_first()?;
        Some(NetlinkEvent::Neigh { ifindex, ip, peer })
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::LinkAttribute;
    use rtnetlink::packet_route::neighbour::NeighbourAttribute;

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
                peer: None,
            },
            NetlinkEvent::Neigh {
                ifindex: 3,
                ip,
                peer: None,
            },
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
            NetlinkEvent::Neigh {
                ifindex: 3,
                ip,
                peer: None,
            },
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
