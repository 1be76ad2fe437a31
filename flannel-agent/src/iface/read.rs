//! The facts for the choice of the external interface, from rtnetlink.

use std::net::Ipv4Addr;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use thiserror::Error;

use super::{Addr, Hop, Host, Link, Selection};

/// A dump failed.
#[derive(Debug, Error)]
#[error("list {what}: {source}")]
pub struct ReadError {
    what: &'static str,
    source: rtnetlink::Error,
}

/// Reads links, addresses and the routes that the selection needs.
///
/// # Errors
/// The kernel refused a dump. A route that does not exist is no error here.
pub async fn read_host(handle: &Handle, selection: &Selection) -> Result<Host, ReadError> {
    let at = |what| move |source| ReadError { what, source };
    let links: Vec<_> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(at("links"))?;
    let addrs: Vec<_> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(at("addresses"))?;
    let dump = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<_> = handle
        .route()
        .get(dump)
        .execute()
        .try_collect()
        .await
        .map_err(at("routes"))?;
    let mut links: Vec<Link> = links.into_iter().map(link).collect();
    links.sort_by_key(|link| link.index);
    Ok(Host {
        links,
        addrs: addrs.into_iter().filter_map(addr).collect(),
        default_route: default_route(&routes),
        reach: match selection.can_reach {
            Some(target) => reach(handle, target).await,
            None => Err("not looked up".into()),
        },
    })
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        mac: [0; 6],
        is_up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().unwrap_or_default(),
            _ => {}
        }
    }
    link
}

fn addr(message: AddressMessage) -> Option<Addr> {
    if message.header.family != AddressFamily::Inet {
        return None;
    }
    let (mut local, mut other) = (None, None);
    let header = message.header.flags;
    let mut is_deprecated = header.contains(AddressHeaderFlags::Deprecated);
    let mut is_permanent = header.contains(AddressHeaderFlags::Permanent);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(std::net::IpAddr::V4(ip)) => local = Some(*ip),
            // On a point-to-point link this is the far end.
            AddressAttribute::Address(std::net::IpAddr::V4(ip)) => other = Some(*ip),
            AddressAttribute::Flags(flags) => {
                is_deprecated |= flags.contains(AddressFlags::Deprecated);
                is_permanent |= flags.contains(AddressFlags::Permanent);
            }
            _ => {}
        }
    }
    Some(Addr {
        link: message.header.index,
        address: local.or(other)?,
        is_deprecated,
        is_permanent,
    })
}

/// The dump of a table is ordered by metric, so the first default route is the one in use.
fn default_route(routes: &[RouteMessage]) -> Result<Hop, String> {
    let is_default = |route: &&RouteMessage| {
        let header = &route.header;
        let table = route
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::Table(table) => Some(*table),
                _ => None,
            });
        table.unwrap_or(header.table.into()) == u32::from(RouteHeader::RT_TABLE_MAIN)
            && header.destination_prefix_length == 0
            && header.kind == RouteType::Unicast
    };
    let route = routes.iter().find(is_default).ok_or("there is none")?;
    // The interface's own address order decides here, not the route's preferred source.
    let link = output(route).ok_or("it has several next hops")?;
    Ok(Hop { link, source: None })
}

async fn reach(handle: &Handle, target: Ipv4Addr) -> Result<Hop, String> {
    let lookup = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(target, 32)
        .build();
    let mut answers = Box::pin(handle.route().get(lookup).execute());
    let answer = match answers.try_next().await {
        Ok(Some(answer)) => answer,
        Ok(None) => return Err("the kernel knows no way".into()),
        Err(error) => return Err(format!("the kernel knows no way ({error})")),
    };
    let source = answer
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(source)) => Some(*source),
            _ => None,
        });
    let link = output(&answer).ok_or("the route names no interface")?;
    Ok(Hop { link, source })
}

fn output(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
}
