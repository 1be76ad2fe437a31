//! Routes, neighbours and FDB entries of peers: read, and changed by plan. The same for every backend.

pub mod forms;

use std::collections::BTreeSet;

use ipnetwork::Ipv4Network;
use tracing::debug;

use self::forms::{Forms, Step, Steps};
use crate::error::chain;
use crate::netlink::next_hop::{self, NextHop};
use crate::netlink::route::Via;
use crate::netlink::{Change, Error, Netlink, errno};
use crate::plan::{Action, KernelState};

/// What the kernel has of flannel's shape: routes to direct peers, and all of the tunnel `device`, if
/// there is one; and in which form it has the latter's routes.
///
/// # Errors
/// See [`Error`].
pub async fn read_actual(
    netlink: &Netlink,
    device: Option<u32>,
) -> Result<(KernelState, Forms), Error> {
    let (mut state, forms) = match device {
        Some(ifindex) => read_device(netlink, ifindex).await?,
        None => Default::default(),
    };
    // A subnet with both kinds of route has it from a change that was cut off; the plan replaces
    // whichever the kernel takes first.
    state.routes.extend(netlink.direct_routes().await?);
    Ok((state, forms))
}

async fn read_device(netlink: &Netlink, ifindex: u32) -> Result<(KernelState, Forms), Error> {
    let (forms, subnets) = read_forms(netlink, ifindex).await?;
    let neighbours = netlink.neighbours(ifindex).await?;
    let fdb = netlink.fdb(ifindex).await?;
    let via = |subnet: Ipv4Network| Via {
        oif: ifindex,
        gateway: subnet.network(),
        is_onlink: true,
    };
    let state = KernelState {
        routes: subnets
            .into_iter()
            .map(|subnet| (subnet, via(subnet)))
            .collect(),
        neighbours: neighbours
            .into_iter()
            .filter_map(|neighbour| Some((neighbour.ip, neighbour.peer_mac()?)))
            .collect(),
        fdb: fdb
            .into_iter()
            .filter_map(|entry| Some((entry.mac, entry.peer_remote()?)))
            .collect(),
    };
    Ok((state, forms))
}

/// The forms of a device's routes to peers, and their subnets.
async fn read_forms(
    netlink: &Netlink,
    ifindex: u32,
) -> Result<(Forms, BTreeSet<Ipv4Network>), Error> {
    let routes = netlink.device_routes(ifindex).await?;
    let objects = netlink.next_hops(ifindex)?.into_iter().collect();
    let routes = routes
        .into_iter()
        .filter_map(|route| Some((route.subnet, route.form?)));
    Ok(Forms::of(routes, objects))
}

/// Carries out a plan, in its order, and removes next-hop objects that nothing needs; returns what
/// failed. A step that fails does not keep others from being tried, and is not tried again here: the
/// next reconciliation finds it undone and plans it anew.
pub async fn apply(
    netlink: &Netlink,
    device: Option<u32>,
    actions: Vec<Action>,
    forms: &mut Forms,
) -> Vec<(Step, Error)> {
    let Steps { objects, mut steps } = forms.steps(actions);
    let refused = add_objects(netlink, objects, forms).await;
    if !refused.is_empty() {
        forms.without(&refused, &mut steps);
    }
    netlink
        .change_all(steps, move |step| change(device, *step))
        .await
}

/// Adds next-hop objects; returns those that cannot be had.
async fn add_objects(netlink: &Netlink, objects: Vec<NextHop>, forms: &mut Forms) -> Vec<NextHop> {
    let added = netlink.change_all(objects, |object| Change::add_next_hop(*object));
    let refused = added.await;
    for (object, error) in &refused {
        if !errno(error).is_some_and(next_hop::is_unsupported) {
            // Most likely somebody else has taken the number.
            debug!(?object, error = chain(error), "the route is made without");
        } else if forms.are_unsupported() {
            debug!("the kernel has no next-hop objects, routes are made without");
        }
    }
    refused.into_iter().map(|(object, _)| object).collect()
}

/// Removes the next-hop objects of a device that no route leads through; returns a line for each.
///
/// # Errors
/// See [`Error`].
pub async fn remove_unused_objects(netlink: &Netlink, ifindex: u32) -> Result<Vec<String>, Error> {
    let (mut forms, _) = read_forms(netlink, ifindex).await?;
    let Steps { steps, .. } = forms.steps(Vec::new());
    let mut removed = Vec::new();
    for step in steps {
        netlink.change_one(change(Some(ifindex), step))?;
        if let Step::RemoveObject(gateway) = step {
            removed.push(format!("next-hop object of {gateway}"));
        }
    }
    Ok(removed)
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
fn change(device: Option<u32>, step: Step) -> Change {
    let ifindex = device.unwrap_or(0);
    match step {
        Step::SetRoute { subnet, via: _ } => Change::set_object_route(subnet),
        Step::RemoveRoute(subnet) => Change::remove_object_route(subnet),
        Step::RemoveObject(gateway) => Change::remove_next_hop(gateway),
        Step::Plain(action) => match action {
            Action::ReplaceFdb { mac, remote } => Change::set_fdb(ifindex, mac, remote),
            Action::ReplaceNeighbour { ip, mac } => Change::set_neighbour(ifindex, ip, mac),
            Action::ReplaceRoute { subnet, via } => Change::set_peer_route(subnet, via),
            Action::RemoveRoute { subnet, via } => Change::remove_peer_route(subnet, via),
            Action::RemoveNeighbour { ip } => Change::remove_neighbour(ifindex, ip),
            Action::RemoveFdb { mac } => Change::remove_fdb(ifindex, mac),
        },
    }
}
