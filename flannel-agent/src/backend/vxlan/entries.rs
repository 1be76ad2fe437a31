//! Routes, neighbours and FDB entries of the tunnel device: read, and changed by plan.

use futures_util::{StreamExt as _, stream};

use super::device::Device;
use crate::netlink::{Error, Netlink};
use crate::plan::{Action, KernelState};

/// Requests under way at once. The kernel handles them one by one; more than a few hide the way
/// there and back, and the answers must fit the socket's receive buffer.
const IN_FLIGHT: usize = 64;

/// What the device has of flannel's shape, in three dumps.
///
/// # Errors
/// See [`Error`].
pub async fn read_actual(netlink: &Netlink, device: &Device) -> Result<KernelState, Error> {
    use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};

    let routes = netlink.device_routes(device.index).await?;
    let neighbours = netlink.neighbours(device.index).await?;
    let fdb = netlink.fdb(device.index).await?;
    Ok(KernelState {
        routes: routes
            .into_iter()
            .filter(|route| route.is_peer_route)
            .map(|route| route.subnet)
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
pub async fn apply(netlink: &Netlink, device: &Device, actions: &[Action]) -> Vec<(Action, Error)> {
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

async fn perform(netlink: &Netlink, device: &Device, action: Action) -> Result<(), Error> {
    let ifindex = device.index;
    match action {
        Action::ReplaceFdb { mac, remote } => netlink.replace_fdb(ifindex, mac, remote).await,
        Action::ReplaceNeighbour { ip, mac } => netlink.replace_neighbour(ifindex, ip, mac).await,
        Action::ReplaceRoute { subnet } => netlink.replace_peer_route(ifindex, subnet).await,
        Action::RemoveRoute { subnet } => netlink.remove_peer_route(ifindex, subnet).await,
        Action::RemoveNeighbour { ip } => netlink.remove_neighbour(ifindex, ip).await,
        Action::RemoveFdb { mac } => netlink.remove_fdb(ifindex, mac).await,
    }
}
