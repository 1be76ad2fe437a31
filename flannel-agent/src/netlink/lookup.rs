//! The kernel's answer to where it would send a packet: of a tunnel, or a host's own.

use std::net::Ipv4Addr;

use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::batch::Question;
use super::{Error, Netlink, errno};

/// Protocol number of UDP (RFC 768).
const UDP: u8 = 17;

/// A question to the routing tables: where do packets of the tunnel to `dst` go?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayQuery {
    /// Underlay address of the peer.
    pub dst: Ipv4Addr,
    /// Source address of the tunnel.
    pub source: Ipv4Addr,
    /// External interface.
    pub oif: u32,
    /// UDP destination port of the tunnel; none where packets go as they are.
    pub port: Option<u16>,
}

/// The answer, in facts; see [`Netlink::underlay_routes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderlayRoute {
    /// Kind; anything but unicast is not sent to a next hop.
    pub kind: RouteType,
    /// Link that packets leave through.
    pub oif: u32,
    /// IPv4 gateway; none if the destination is on the link.
    pub gateway: Option<Ipv4Addr>,
    /// Source address that the route prefers; the tunnel's packets have their own.
    pub prefsrc: Option<Ipv4Addr>,
    /// MTU of the route or of the path, if it is not that of the link, bytes.
    pub mtu: Option<u32>,
    /// Whether the route has several next hops, of which this is the one for one flow.
    pub has_multipath: bool,
    /// Whether a light-weight tunnel puts on more headers.
    pub has_encap: bool,
    /// Whether the gateway is of another address family.
    pub has_foreign_gateway: bool,
    /// Whether no route matches and the kernel only assumes the destination to be on the link,
    /// which it does when the output link is given, even where a route says `unreachable`.
    pub is_assumed: bool,
}

impl UnderlayRoute {
    /// Whose link-layer address packets to `dst` need.
    #[must_use]
    pub fn next_hop(&self, dst: Ipv4Addr) -> Ipv4Addr {
        self.gateway.unwrap_or(dst)
    }
}

/// What the kernel said to each question.
pub type Answers<Q> = Vec<(Q, Result<UnderlayRoute, Error>)>;

impl Netlink {
    /// Asks where a host's own packets to each of `destinations` go: without source, link or ports.
    /// The kernel refuses where no route leads there.
    pub async fn host_routes(&self, destinations: Vec<Ipv4Addr>) -> Answers<Ipv4Addr> {
        let answers = self.ask_all(destinations, |dst| {
            let mut message = RouteMessage::default();
            message.header = RouteHeader {
                address_family: AddressFamily::Inet,
                destination_prefix_length: 32,
                flags: RouteFlags::FibMatch,
                ..RouteHeader::default()
            };
            message.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet(*dst))];
            question(message, *dst)
        });
        let answers = answers.await.into_iter();
        answers.map(|(dst, it)| (dst, read(it, dst))).collect()
    }

    /// Asks as the vxlan device does: with the output link, source, protocol and port of the outer
    /// packet, so that policy rules see what they will see.
    ///
    /// The answer is the entry of the table, which tells what the kernel chooses from; where there
    /// is none, or one that the kernel passes over, what it does instead. What the kernel has
    /// learned of the path's MTU is not in it: the tunnel's packets may be fragmented, so nothing
    /// is learned from them. The kernel refuses where it would not send, as from a source that is
    /// not local.
    ///
    /// # Kernel
    /// Linux 4.19 for the port.
    pub async fn underlay_routes(&self, queries: Vec<UnderlayQuery>) -> Answers<UnderlayQuery> {
        let entries = self.ask_all(queries, |query| {
            question(query_message(*query, RouteFlags::FibMatch), query.dst)
        });
        let (mut answers, mut passed_over) = (Vec::new(), Vec::new());
        for (query, entry) in entries.await {
            match read(entry, query.dst) {
                Err(error) if errno(&error).is_some() => passed_over.push(query),
                answer => answers.push((query, answer)),
            }
        }
        let chosen = self.ask_all(passed_over, |query| {
            question(query_message(*query, RouteFlags::empty()), query.dst)
        });
        for (query, chosen) in chosen.await {
            let chosen = read(chosen, query.dst).map(|route| UnderlayRoute {
                is_assumed: true,
                ..route
            });
            answers.push((query, chosen));
        }
        answers
    }
}

fn question(message: RouteMessage, dst: Ipv4Addr) -> Question {
    Question {
        message: RouteNetlinkMessage::GetRoute(message),
        operation: operation(dst),
    }
}

fn operation(dst: Ipv4Addr) -> String {
    format!("look up the route to {dst}")
}

fn read(answer: Result<RouteNetlinkMessage, Error>, dst: Ipv4Addr) -> Result<UnderlayRoute, Error> {
    match answer? {
        RouteNetlinkMessage::NewRoute(route) => Ok(parse_underlay(&route)),
        _ => Err(Error::Unexpected {
            operation: operation(dst),
        }),
    }
}

fn query_message(query: UnderlayQuery, flags: RouteFlags) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: 32,
        source_prefix_length: 32,
        flags,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(query.dst)),
        RouteAttribute::Source(RouteAddress::Inet(query.source)),
        RouteAttribute::Oif(query.oif),
    ];
    if let Some(port) = query.port {
        message.attributes.push(RouteAttribute::IpProto(UDP));
        message.attributes.push(RouteAttribute::Dport(port));
    }
    message
}

fn parse_underlay(answer: &RouteMessage) -> UnderlayRoute {
    let mut route = UnderlayRoute {
        kind: answer.header.kind,
        oif: 0,
        gateway: None,
        prefsrc: None,
        mtu: None,
        has_multipath: has_multipath(answer),
        has_encap: false,
        has_foreign_gateway: false,
        is_assumed: false,
    };
    for attribute in &answer.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.oif = *index,
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => route.gateway = Some(*ip),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => {
                route.has_foreign_gateway = true;
            }
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => route.prefsrc = Some(*ip),
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => route.has_encap = true,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    route
}

/// Several next hops are listed; of a next-hop object the kernel may give the number alone, which
/// may stand for a group.
fn has_multipath(entry: &RouteMessage) -> bool {
    let has = |wanted: fn(&RouteAttribute) -> bool| entry.attributes.iter().any(wanted);
    has(|attribute| matches!(attribute, RouteAttribute::MultiPath(_)))
        || has(|attribute| matches!(attribute, RouteAttribute::NhId(_)))
            && !has(|attribute| matches!(attribute, RouteAttribute::Oif(_)))
}
