//! Routes, neighbours and FDB entries of peers: read, and changed by plan. The same for every backend.

use futures_util::{StreamExt as _, stream};
use ipnetwork::Ipv4Network;

use crate::netlink::route::Via;
use crate::netlink::{Error, Netlink};
use crate::plan::{Action, KernelState};

/// Requests under way at once. The kernel handles them one by one; more than a few hide the way
/// there and back, and the answers must fit the socket's receive buffer.
const IN_FLIGHT: usize = 64;

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
    use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};

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
            .filter(|neighbour| {
                neighbour.state == NeighbourState::Permanent
                    && neighbour.flags == NeighbourFlags::empty()
            })
            .filter_map(|neighbour| Some((neighbour.ip, neighbour.mac?)))
            .collect(),
        fdb: fdb
            .into_iter()
            // All-zero is the default remote, groups are for broadcast: neither is a peer's.
            .filter(|entry| entry.is_plain && entry.mac.is_station())
            .filter_map(|entry| Some((entry.mac, entry.remote?)))
            .collect(),
    })
}

/// Carries out a plan; returns what failed. An action that fails does not keep others from being
/// tried, and is not tried again here: the next reconciliation finds it undone and plans it anew.
///
/// # Kernel
/// Routes are the slow part of many peers. Linux files all next hops of one device under one hash,
/// whatever their gateway, and searches that list for each route: ten thousand take 2 to 5 s,
/// through `ip -batch` as well, against 0.4 s for routes without gateway (Linux 6.18, 2 CPUs).
pub async fn apply(
    netlink: &Netlink,
    device: Option<u32>,
    actions: &[Action],
) -> Vec<(Action, Error)> {
    let mut failed = Vec::new();
    // The order between classes is what keeps traffic flowing; within one there is none.
    for class in actions.chunk_by(|a, b| a.class() == b.class()) {
        let mut results = stream::iter(class)
            .map(|action| async move { (*action, perform(netlink, device, *action).await) })
            .buffer_unordered(IN_FLIGHT);
        while let Some((action, result)) = results.next().await {
            failed.extend(result.err().map(|error| (action, error)));
        }
    }
    failed
}

/// Removes every route of ours to a direct peer; returns a line for each.
///
/// # Errors
/// See [`Error`].
pub async fn remove_routes(netlink: &Netlink) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    for (subnet, via) in netlink.direct_routes().await? {
        netlink.remove_peer_route(subnet, via).await?;
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
async fn perform(netlink: &Netlink, device: Option<u32>, action: Action) -> Result<(), Error> {
    let ifindex = device.unwrap_or(0);
    match action {
        Action::ReplaceFdb { mac, remote } => netlink.replace_fdb(ifindex, mac, remote).await,
        Action::ReplaceNeighbour { ip, mac } => netlink.replace_neighbour(ifindex, ip, mac).await,
        Action::ReplaceRoute { subnet, via } => netlink.replace_peer_route(subnet, via).await,
        Action::RemoveRoute { subnet, via } => netlink.remove_peer_route(subnet, via).await,
        Action::RemoveNeighbour { ip } => netlink.remove_neighbour(ifindex, ip).await,
        Action::RemoveFdb { mac } => netlink.remove_fdb(ifindex, mac).await,
    }
}
