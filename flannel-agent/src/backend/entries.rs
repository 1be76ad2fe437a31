//! Routes, neighbours and FDB entries of peers: read, and changed by plan. The same for every backend.

use ipnetwork::Ipv4Network;

use crate::netlink::route::Via;
use crate::netlink::{Change, Error, Netlink};
use crate::plan::{Action, KernelState};

/// What the kernel has of flannel's shape: routes to direct peers, and all of the tunnel `device`, if
/// there is one.
///
/// # Errors
/// See [`Error`].
pub async fn read_actual(netlink: &Netlink, device: Option<u32>) -> Result<KernelState, Error> {
    let mut state = match device {
        Some(ifindex) => read_device(netlink, ifindex).await?,
        None => KernelState::default(),
    };
    // A subnet with both kinds of route has it from a change that was cut off; the plan replaces
    // whichever the kernel takes first.
    state.routes.extend(netlink.direct_routes().await?);
    Ok(state)
}

async fn read_device(netlink: &Netlink, ifindex: u32) -> Result<KernelState, Error> {
    let routes = netlink.device_routes(ifindex).await?;
    let neighbours = netlink.neighbours(ifindex).await?;
    let fdb = netlink.fdb(ifindex).await?;
    let via = |subnet: Ipv4Network| Via {
        oif: ifindex,
        gateway: subnet.network(),
        is_onlink: true,
    };
    Ok(KernelState {
        routes: routes
            .into_iter()
            .filter(|route| route.is_peer_route)
            .map(|route| (route.subnet, via(route.subnet)))
            .collect(),
        neighbours: neighbours
            .into_iter()
            .filter_map(|neighbour| Some((neighbour.ip, neighbour.peer_mac()?)))
            .collect(),
        fdb: fdb
            .into_iter()
            .filter_map(|entry| Some((entry.mac, entry.peer_remote()?)))
            .collect(),
    })
}

/// Carries out a plan, in its order; returns what failed. An action that fails does not keep others
/// from being tried, and is not tried again here: the next reconciliation finds it undone and plans
/// it anew.
///
/// # Kernel
/// Routes are the slow part of many peers. Linux files next hops under a hash of the device, not of
/// the gateway (`fib_info_hash_bucket` in net/ipv4/fib_semantics.c, 6.18), and searches that list
/// for each route: ten thousand take 1.7 to 2.3 s, through `ip -batch` as well, against 0.3 s where
/// the hash differs. What else is hashed (protocol, metric, preferred source, scope, number of a
/// next-hop object) shows in `ip route`, and flannel's routes have none of it.
pub async fn apply(
    netlink: &Netlink,
    device: Option<u32>,
    actions: Vec<Action>,
) -> Vec<(Action, Error)> {
    netlink
        .change_all(actions, move |action| change(device, *action))
        .await
}

/// Removes every route of ours to a direct peer; returns a line for each.
///
/// # Errors
/// See [`Error`].
pub async fn remove_routes(netlink: &Netlink) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    for (subnet, via) in netlink.direct_routes().await? {
        netlink.change_one(Change::remove_peer_route(subnet, via))?;
        removed.push(route_line(subnet, via));
    }
    Ok(removed)
}

/// A route in words.
#[must_use]
pub fn route_line(subnet: Ipv4Network, via: Via) -> String {
    format!("route to {subnet} via {}", via.gateway)
}

/// Neighbours and FDB entries are the device's; without one there are none.
fn change(device: Option<u32>, action: Action) -> Change {
    let ifindex = device.unwrap_or(0);
    match action {
        Action::ReplaceFdb { mac, remote } => Change::set_fdb(ifindex, mac, remote),
        Action::ReplaceNeighbour { ip, mac } => Change::set_neighbour(ifindex, ip, mac),
        Action::ReplaceRoute { subnet, via } => Change::set_peer_route(subnet, via),
        Action::RemoveRoute { subnet, via } => Change::remove_peer_route(subnet, via),
        Action::RemoveNeighbour { ip } => Change::remove_neighbour(ifindex, ip),
        Action::RemoveFdb { mac } => Change::remove_fdb(ifindex, mac),
    }
}
