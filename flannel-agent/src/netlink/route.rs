//! IPv4 routes to peers' subnets.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Change, Error, Netlink, errno, next_hop};

/// Protocol of the routes to direct peers, by which they are told from everybody else's on the same
/// interface ("F"; the kernel gives no meaning to numbers above 4, `linux/rtnetlink.h`).
pub const DIRECT_PROTOCOL: u8 = 70;

/// Where a route to a peer's subnet leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Via {
    /// Link that packets leave through.
    pub oif: u32,
    /// Next hop.
    pub gateway: Ipv4Addr,
    /// Whether the kernel is to take the next hop for a neighbour whatever its routes say: so to
    /// tunnelled peers. A route to a direct peer is refused where the peer is not on the link.
    pub is_onlink: bool,
}

/// A main-table route of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRoute {
    /// Destination.
    pub subnet: Ipv4Network,
    /// How it names its next hop if it is exactly as flannel makes them: unicast through the
    /// subnet's own network address, on-link, global scope, protocol `boot`, and without metric,
    /// source or anything.
    pub form: Option<Form>,
}

/// How a route to a peer names its next hop. Packets go the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// By gateway and device, as flannel does.
    Plain,
    /// By the number of the peer's [object](next_hop). Whether that object is ours the route does
    /// not tell.
    Object,
}

impl Netlink {
    /// Main-table IPv4 routes through the device that compete with a peer route: those without
    /// metric and TOS. Others live beside it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn device_routes(&self, ifindex: u32) -> Result<Vec<DeviceRoute>, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.attributes.push(RouteAttribute::Oif(ifindex));
        let found = self
            .dump(
                RouteNetlinkMessage::GetRoute(message),
                || format!("list routes of interface {ifindex}"),
                |object| match object {
                    RouteNetlinkMessage::NewRoute(message) => {
                        parse_device_route(&message, Some(ifindex))
                    }
                    _ => None,
                },
            )
            .await;
        match found {
            // ENOENT: the main table does not exist before its first route.
            Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Main-table IPv4 routes of ours to direct peers, whatever their interface.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn direct_routes(&self) -> Result<Vec<(Ipv4Network, Via)>, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Other(DIRECT_PROTOCOL);
        let found = self
            .dump(
                RouteNetlinkMessage::GetRoute(message),
                || "list routes to direct peers".into(),
                |object| match object {
                    RouteNetlinkMessage::NewRoute(message) => parse_direct_route(&message),
                    _ => None,
                },
            )
            .await;
        match found {
            Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Adds the route that leads all of `network` into the device, unless there is a route to it
    /// already, and says whether it leads into this device then. Another's route is not replaced.
    ///
    /// # Errors
    /// See [`Error`]; `ENETDOWN` while the device is down.
    pub async fn ensure_network_route(
        &self,
        ifindex: u32,
        network: Ipv4Network,
    ) -> Result<bool, Error> {
        let added = self
            .change(
                RouteNetlinkMessage::NewRoute(network_route_message(ifindex, network)),
                NLM_F_CREATE | NLM_F_EXCL,
                || format!("add the route to {network} through interface {ifindex}"),
            )
            .await;
        match added {
            // EEXIST: there is a route with this destination and without metric.
            Err(error) if errno(&error) == Some(libc::EEXIST) => {
                let routes = self.device_routes(ifindex).await?;
                Ok(routes.iter().any(|route| route.subnet == network))
            }
            other => other.map(|()| true),
        }
    }
}

impl Change {
    /// Sets the route to a tunnelled peer's subnet through the peer's next-hop object, which has to
    /// be there.
    #[must_use]
    pub fn set_object_route(subnet: Ipv4Network) -> Self {
        Self {
            message: RouteNetlinkMessage::NewRoute(object_route_message(subnet)).into(),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            tolerated: &[],
            operation: format!("set the route to {subnet} through its next-hop object"),
        }
    }

    /// Removes the route to a peer's subnet that leads through the peer's next-hop object.
    #[must_use]
    pub fn remove_object_route(subnet: Ipv4Network) -> Self {
        Self {
            message: RouteNetlinkMessage::DelRoute(object_route_message(subnet)).into(),
            flags: 0,
            // It is not there, or of the other form.
            tolerated: &[libc::ESRCH],
            operation: format!("remove the route to {subnet} through its next-hop object"),
        }
    }

    /// Sets the route to a peer's subnet. The kernel refuses with `ENETDOWN` while the link is down,
    /// and with `ENETUNREACH` for a next hop that is not on it.
    #[must_use]
    pub fn set_peer_route(subnet: Ipv4Network, via: Via) -> Self {
        Self {
            message: RouteNetlinkMessage::NewRoute(peer_route_message(subnet, via)).into(),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            tolerated: &[],
            operation: format!("set the route to {subnet} via {}", via.gateway),
        }
    }

    /// Removes the route to a peer's subnet; a route of another shape stays.
    #[must_use]
    pub fn remove_peer_route(subnet: Ipv4Network, via: Via) -> Self {
        Self {
            message: RouteNetlinkMessage::DelRoute(peer_route_message(subnet, via)).into(),
            flags: 0,
            // It is not there.
            tolerated: &[libc::ESRCH],
            operation: format!("remove the route to {subnet} via {}", via.gateway),
        }
    }
}

fn peer_route_message(subnet: Ipv4Network, via: Via) -> RouteMessage {
    let Via {
        oif,
        gateway,
        is_onlink,
    } = via;
    let (protocol, flags) = match is_onlink {
        true => (RouteProtocol::Boot, RouteFlags::Onlink),
        false => (RouteProtocol::Other(DIRECT_PROTOCOL), RouteFlags::empty()),
    };
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: subnet.prefix(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        flags,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(subnet.network())),
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
        RouteAttribute::Oif(oif),
    ];
    message
}

fn object_route_message(subnet: Ipv4Network) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: subnet.prefix(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(subnet.network())),
        RouteAttribute::NhId(next_hop::number(subnet.network())),
    ];
    message
}

/// The subnet of a peer's route of which the kernel tells only the next-hop object, which it does
/// where `net.ipv4.nexthop_compat_mode` is 0; also used for events.
pub(super) fn parse_bare_object_route(message: &RouteMessage) -> Option<Ipv4Network> {
    let is_bare = |attribute: &RouteAttribute| !matches!(attribute, RouteAttribute::Oif(_));
    let route = parse_device_route(message, None)?;
    let is_ours = route.form == Some(Form::Object) && message.attributes.iter().all(is_bare);
    is_ours.then_some(route.subnet)
}

/// The route to a peer in a message, of either shape; also used for events.
pub(super) fn parse_peer_route(message: &RouteMessage) -> Option<(Ipv4Network, Via)> {
    let oif = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(oif) => Some(*oif),
            _ => None,
        })?;
    let tunnelled = parse_device_route(message, Some(oif)).filter(|route| route.form.is_some());
    let via = |subnet: Ipv4Network| Via {
        oif,
        gateway: subnet.network(),
        is_onlink: true,
    };
    tunnelled
        .map(|route| (route.subnet, via(route.subnet)))
        .or_else(|| parse_direct_route(message))
}

fn parse_direct_route(message: &RouteMessage) -> Option<(Ipv4Network, Via)> {
    let header = &message.header;
    let (mut destination, mut gateway, mut oif) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = Some(*ip),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(*ip),
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::Priority(_) => return None,
            _ => {}
        }
    }
    let is_ours = header.protocol == RouteProtocol::Other(DIRECT_PROTOCOL)
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.tos == 0;
    let via = Via {
        oif: oif?,
        gateway: gateway?,
        is_onlink: false,
    };
    let subnet = Ipv4Network::new(destination?, header.destination_prefix_length).ok()?;
    is_ours.then_some((subnet, via))
}

/// As flannel's udp backend sets it: global scope, protocol `boot`, no gateway.
fn network_route_message(ifindex: u32, network: Ipv4Network) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: network.prefix(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(network.network())),
        RouteAttribute::Oif(ifindex),
    ];
    message
}

/// A route that the kernel lists as one of the device `ifindex`; with none, of any.
fn parse_device_route(message: &RouteMessage, ifindex: Option<u32>) -> Option<DeviceRoute> {
    let header = &message.header;
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let (mut gateway, mut oif, mut object) = (None, None, None);
    let mut is_bare = true;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = *ip,
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(*ip),
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::NhId(number) => object = Some(*number),
            // With a metric it has a key of its own in the table.
            RouteAttribute::Priority(_) => return None,
            RouteAttribute::Table(_) | RouteAttribute::CacheInfo(_) => {}
            _ => is_bare = false,
        }
    }
    if header.table != RouteHeader::RT_TABLE_MAIN || header.tos != 0 {
        return None;
    }
    let is_through_itself = oif.is_some()
        && oif == ifindex
        && gateway == Some(destination)
        && header.flags.contains(RouteFlags::Onlink);
    let form = match object {
        None => is_through_itself.then_some(Form::Plain),
        // The kernel tells what is in the object, too, or nothing of it.
        Some(number) => {
            let is_whole = is_through_itself || (oif, gateway) == (None, None);
            (number == next_hop::number(destination) && is_whole).then_some(Form::Object)
        }
    };
    let is_usual = is_bare
        && header.kind == RouteType::Unicast
        && header.scope == RouteScope::Universe
        && header.protocol == RouteProtocol::Boot;
    Some(DeviceRoute {
        subnet: Ipv4Network::new(destination, header.destination_prefix_length).ok()?,
        form: form.filter(|_| is_usual),
    })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::RouteMetric;

    use super::*;

    fn tunnel(subnet: Ipv4Network) -> Via {
        Via {
            oif: 7,
            gateway: subnet.network(),
            is_onlink: true,
        }
    }

    fn form(message: &RouteMessage) -> Option<Form> {
        parse_device_route(message, Some(7)).unwrap().form
    }

    #[test]
    fn a_direct_route_is_known_by_its_protocol() {
        let subnet = "10.5.34.0/24".parse().unwrap();
        let via = Via {
            oif: 3,
            gateway: [192, 168, 7, 12].into(),
            is_onlink: false,
        };
        let mut route = peer_route_message(subnet, via);
        assert_eq!(parse_direct_route(&route), Some((subnet, via)));
        route.header.protocol = RouteProtocol::Boot;
        assert_eq!(parse_direct_route(&route), None);
    }

    #[test]
    fn only_the_exact_shape_is_a_peer_route() {
        let subnet = "10.5.34.0/24".parse().unwrap();
        let made = peer_route_message(subnet, tunnel(subnet));
        let is_peer = |message: &RouteMessage| form(message) == Some(Form::Plain);
        assert!(is_peer(&made));
        assert_eq!(parse_device_route(&made, Some(7)).unwrap().subnet, subnet);

        let foreign: [fn(&mut RouteMessage); 7] = [
            |route| route.header.protocol = RouteProtocol::Static,
            |route| route.header.scope = RouteScope::Link,
            |route| route.header.kind = RouteType::BlackHole,
            |route| route.header.flags = RouteFlags::empty(),
            |route| route.header.destination_prefix_length = 16,
            |route| {
                let mtu = RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]);
                route.attributes.push(mtu);
            },
            |route| {
                route.attributes[1] =
                    RouteAttribute::Gateway(RouteAddress::Inet([10, 5, 34, 1].into()));
            },
        ];
        for (i, change) in foreign.iter().enumerate() {
            let mut route = made.clone();
            change(&mut route);
            // A wider prefix through the same gateway is the shape of another subnet.
            let expected = i == 4;
            assert_eq!(is_peer(&route), expected, "{route:?}");
        }
    }

    #[test]
    fn a_route_with_a_metric_does_not_compete() {
        let subnet = "10.5.34.0/24".parse().unwrap();
        let mut route = peer_route_message(subnet, tunnel(subnet));
        route.attributes.push(RouteAttribute::Priority(100));
        assert_eq!(parse_device_route(&route, Some(7)), None);
    }

    #[test]
    fn a_route_through_the_object_of_its_peer_is_a_peer_route() {
        let subnet = "10.5.34.0/24".parse().unwrap();
        // As it is made, and as it is told with `nexthop_compat_mode` 0.
        let bare = object_route_message(subnet);
        assert_eq!(form(&bare), Some(Form::Object));
        assert_eq!(parse_bare_object_route(&bare), Some(subnet));
        assert_eq!(parse_peer_route(&bare), None);
        // As it is told otherwise.
        let mut whole = peer_route_message(subnet, tunnel(subnet));
        let number = RouteAttribute::NhId(next_hop::number(subnet.network()));
        whole.attributes.push(number);
        assert_eq!(form(&whole), Some(Form::Object));
        assert_eq!(parse_bare_object_route(&whole), None);
        assert_eq!(parse_peer_route(&whole), Some((subnet, tunnel(subnet))));

        let mut foreign = bare.clone();
        foreign.attributes[1] = RouteAttribute::NhId(7);
        assert_eq!(form(&foreign), None);
        assert_eq!(parse_bare_object_route(&foreign), None);
        // Somebody has given the object another gateway.
        let mut replaced = whole.clone();
        replaced.attributes[1] = RouteAttribute::Gateway(RouteAddress::Inet([10, 5, 34, 1].into()));
        assert_eq!(form(&replaced), None);
        let plain = peer_route_message(subnet, tunnel(subnet));
        assert_eq!(parse_bare_object_route(&plain), None);
    }
}
