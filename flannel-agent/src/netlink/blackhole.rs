//! IPv4 routes that drop packets.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Error, Netlink, errno, tolerate};

/// A blackhole route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlackholeRoute {
    /// Destination.
    pub subnet: Ipv4Network,
    /// Of several routes to one destination the lowest metric decides.
    pub metric: u32,
    /// Who made it.
    pub protocol: RouteProtocol,
}

impl Netlink {
    /// Main-table IPv4 blackhole routes.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn blackhole_routes(&self) -> Result<Vec<BlackholeRoute>, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::BlackHole;
        let found = self
            .dump(
                RouteNetlinkMessage::GetRoute(message),
                || "list blackhole routes".into(),
                |object| match object {
                    RouteNetlinkMessage::NewRoute(message) => parse(&message),
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

    /// Adds the route, beside routes to the same destination with other metrics.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn add_blackhole_route(&self, route: BlackholeRoute) -> Result<(), Error> {
        let added = self
            .change(
                RouteNetlinkMessage::NewRoute(message(route)),
                NLM_F_CREATE,
                || format!("add the blackhole route to {}", route.subnet),
            )
            .await;
        // EEXIST: it is there.
        tolerate(added, &[libc::EEXIST])
    }

    /// Removes the route.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove_blackhole_route(&self, route: BlackholeRoute) -> Result<(), Error> {
        let removed = self
            .change(RouteNetlinkMessage::DelRoute(message(route)), 0, || {
                format!("remove the blackhole route to {}", route.subnet)
            })
            .await;
        // ESRCH: it is not there.
        tolerate(removed, &[libc::ESRCH])
    }
}

fn message(route: BlackholeRoute) -> RouteMessage {
    let BlackholeRoute {
        subnet,
        metric,
        protocol,
    } = route;
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: subnet.prefix(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol,
        scope: RouteScope::Universe,
        kind: RouteType::BlackHole,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(subnet.network())),
        RouteAttribute::Priority(metric),
    ];
    message
}

fn parse(message: &RouteMessage) -> Option<BlackholeRoute> {
    let header = &message.header;
    if header.kind != RouteType::BlackHole || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let mut metric = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = *ip,
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    Some(BlackholeRoute {
        subnet: Ipv4Network::new(destination, header.destination_prefix_length).ok()?,
        metric,
        protocol: header.protocol,
    })
}
