//! The blackhole route of the own subnet.
//!
//! It ends packets to pods that do not exist, which would otherwise leave by the default route and
//! come back. Stock flannel adds it without a metric; a bridge that gets its address later then
//! has its route *behind* the blackhole, and its pods cannot be reached. Ours has the highest
//! metric around, so any other route of the subnet comes first, whichever is made first.

use ipnetwork::Ipv4Network;
use rtnetlink::packet_route::route::RouteProtocol;

use super::{Blackhole, Spec};
use crate::netlink::blackhole::BlackholeRoute;
use crate::netlink::{Error, Netlink};

/// Metric of the route, by which it is also known as ours: `flan` in ASCII.
const METRIC: u32 = 0x666c_616e;

/// What changes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    add: Option<BlackholeRoute>,
    remove: Vec<BlackholeRoute>,
}

/// Sets the route, or removes it, and takes over the one of stock flannel. Says what changed.
pub(super) async fn ensure(netlink: &Netlink, spec: &Spec) -> Result<Vec<String>, Error> {
    let changes = plan(spec, &netlink.blackhole_routes().await?);
    let mut lines = Vec::new();
    if let Some(route) = changes.add {
        netlink.add_blackhole_route(route).await?;
        lines.push(format!("added blackhole route {}", route.subnet));
    }
    for route in changes.remove {
        netlink.remove_blackhole_route(route).await?;
        lines.push(format!("removed blackhole route {}", route.subnet));
    }
    Ok(lines)
}

/// All blackhole routes that are ours.
pub(super) async fn ours(netlink: &Netlink) -> Result<Vec<BlackholeRoute>, Error> {
    let mut routes = netlink.blackhole_routes().await?;
    routes.retain(|route| route.metric == METRIC);
    Ok(routes)
}

fn plan(spec: &Spec, actual: &[BlackholeRoute]) -> Changes {
    let desired = ours_to(spec.subnet);
    let is_wanted = spec.blackhole == Blackhole::Route;
    let is_stock = |route: &BlackholeRoute| {
        let BlackholeRoute {
            subnet,
            metric,
            protocol,
        } = *route;
        subnet == spec.subnet && metric == 0 && protocol == RouteProtocol::Boot
    };
    let goes = |route: &&BlackholeRoute| match route.metric {
        METRIC => !is_wanted || **route != desired,
        _ => is_stock(route),
    };
    Changes {
        add: (is_wanted && !actual.contains(&desired)).then_some(desired),
        remove: actual.iter().filter(goes).copied().collect(),
    }
}

fn ours_to(subnet: Ipv4Network) -> BlackholeRoute {
    BlackholeRoute {
        subnet,
        metric: METRIC,
        protocol: RouteProtocol::Boot,
    }
}
