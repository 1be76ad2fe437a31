//! Routes through next-hop objects.

use std::net::Ipv4Addr;
use std::time::Duration;

use flannel_agent::backend::entries::forms::{Forms, PLAIN_ROUTES};
use flannel_agent::backend::entries::{apply, read_actual, remove_unused_objects};
use flannel_agent::backend::peer::Peer;
use flannel_agent::backend::vxlan::device::{Device, remove_device};
use flannel_agent::netlink::Netlink;
use flannel_agent::netlink::monitor::{Monitor, NetlinkEvent};
use flannel_agent::plan::{KernelState, plan};

use super::bed::{desired_state, device, in_namespace, peer, reconcile, run};
use super::monitor::expect_events;

/// Peers beyond the plain routes, the last of all: 10.8.0.0/24 and so on.
const BEYOND: usize = 3;

fn peers() -> Vec<Peer> {
    (0..PLAIN_ROUTES + BEYOND)
        .map(|i| peer(u16::try_from(256 + i).unwrap()))
        .collect()
}

/// A device with the routes of all peers.
async fn programmed(netlink: &Netlink) -> (Device, KernelState) {
    let device = device(netlink).await;
    let desired = desired_state(&device, &peers());
    reconcile(netlink, &device, &desired).await;
    (device, desired)
}

fn beyond(i: usize) -> Peer {
    peers()[PLAIN_ROUTES + i]
}

fn number(peer: &Peer) -> u32 {
    u32::from(peer.subnet.network())
}

fn route(peer: &Peer) -> Vec<String> {
    run(&format!("ip -d route show {}", peer.subnet))
}

async fn read(netlink: &Netlink, device: &Device) -> (KernelState, Forms) {
    read_actual(netlink, Some(device.index)).await.unwrap()
}

#[test]
fn routes_beyond_the_first_lead_through_objects_and_look_like_the_others() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let (_, _) = programmed(&netlink).await;
        let objects = run("ip nexthop show dev flannel.1");
        assert_eq!(objects.len(), BEYOND);
        let peer = beyond(0);
        let (id, gateway) = (number(&peer), peer.subnet.network());
        assert_eq!(
            objects[0],
            format!("id {id} via {gateway} dev flannel.1 scope link proto 70 onlink")
        );
        let shown = &route(&peer)[0];
        let subnet = peer.subnet;
        assert_eq!(
            *shown,
            format!(
                "unicast {subnet} nhid {id} via {gateway} dev flannel.1 proto boot scope global \
                 onlink"
            )
        );
        let all = run("ip route show dev flannel.1");
        assert_eq!(all.len(), PLAIN_ROUTES + BEYOND);
        let plain = all.iter().filter(|route| !route.contains("nhid"));
        assert_eq!(plain.count(), PLAIN_ROUTES);
    });
}

#[test]
fn both_forms_are_equal() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let (device, desired) = programmed(&netlink).await;
        // What the kernel tells of a route through an object differs.
        for mode in ["1", "0"] {
            std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", mode).unwrap();
            assert_eq!(
                reconcile(&netlink, &device, &desired).await,
                0,
                "mode {mode}"
            );
        }
        std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "1").unwrap();
        // Stock flannel, or an operator, sets a route of ours.
        let Peer { subnet, .. } = beyond(1);
        let gateway = subnet.network();
        run(&format!(
            "ip route replace {subnet} via {gateway} dev flannel.1 onlink"
        ));
        assert_eq!(reconcile(&netlink, &device, &desired).await, 0);
        let shown = run(&format!("ip route show {subnet}"));
        assert_eq!(
            shown,
            [format!("{subnet} via {gateway} dev flannel.1 onlink")]
        );
        // Its object is of no use any more.
        let objects = run("ip nexthop show dev flannel.1");
        assert_eq!(objects.len(), BEYOND - 1, "{objects:?}");
    });
}

#[test]
fn a_route_is_removed_in_whatever_form_it_is_and_its_object_with_it() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let (device, desired) = programmed(&netlink).await;
        let (_, mut forms) = read(&netlink, &device).await;
        // Nobody has told the agent of this one yet.
        let Peer { subnet, .. } = beyond(1);
        let gateway = subnet.network();
        run(&format!(
            "ip route replace {subnet} via {gateway} dev flannel.1 onlink"
        ));
        let left = desired_state(&device, &peers()[..PLAIN_ROUTES]);
        let actions = plan(&left, &desired);
        let failed = apply(&netlink, Some(device.index), actions, &mut forms).await;
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(read(&netlink, &device).await, (left, forms));
        assert!(run("ip nexthop show").is_empty());
        assert_eq!(run("ip route show dev flannel.1").len(), PLAIN_ROUTES);
    });
}

#[test]
fn objects_of_others_are_left_alone() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let device = device(&netlink).await;
        let [taken, used] = [beyond(0), beyond(1)];
        // Somebody has taken the number of one peer, and routes another through an own object.
        run(&format!(
            "ip nexthop add id {} via 192.168.7.1 dev eth0",
            number(&taken)
        ));
        run("ip nexthop add id 7 via 10.8.1.0 dev flannel.1 onlink");
        run(&format!(
            "ip nexthop add id {} via 10.8.1.0 dev flannel.1 onlink",
            number(&used)
        ));
        let before = run("ip nexthop show");
        let desired = desired_state(&device, &peers());
        reconcile(&netlink, &device, &desired).await;
        assert_eq!(reconcile(&netlink, &device, &desired).await, 0);
        for peer in [taken, used] {
            let shown = route(&peer);
            assert!(
                !shown[0].contains("nhid") && shown[0].contains("flannel.1"),
                "{shown:?}"
            );
        }
        let foreign = |objects: Vec<String>| -> Vec<String> {
            let foreign = objects.into_iter();
            foreign
                .filter(|object| !object.contains("proto 70"))
                .collect()
        };
        assert_eq!(foreign(run("ip nexthop show")), before);
        // Nor is a route through an object of somebody else taken for a peer's.
        run(&format!("ip route replace {} nhid 7", taken.subnet));
        run(&format!(
            "ip route replace {} nhid {}",
            used.subnet,
            number(&used)
        ));
        let (actual, _) = read(&netlink, &device).await;
        assert!(!actual.routes.contains_key(&taken.subnet));
        assert!(!actual.routes.contains_key(&used.subnet));
        reconcile(&netlink, &device, &KernelState::default()).await;
        assert_eq!(run("ip nexthop show"), before);
    });
}

#[test]
fn objects_that_no_route_needs_are_swept() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let (device, desired) = programmed(&netlink).await;
        run(&format!(
            "ip route del {} nhid {}",
            beyond(0).subnet,
            number(&beyond(0))
        ));
        let removed = remove_unused_objects(&netlink, device.index).await.unwrap();
        let gateway = beyond(0).subnet.network();
        assert_eq!(removed, [format!("next-hop object of {gateway}")]);
        assert_eq!(run("ip nexthop show dev flannel.1").len(), BEYOND - 1);
        assert_eq!(
            run("ip route show dev flannel.1").len(),
            PLAIN_ROUTES + BEYOND - 1
        );

        // A crash in the middle of a change.
        reconcile(&netlink, &device, &desired).await;
        run(&format!(
            "ip route del {} nhid {}",
            beyond(2).subnet,
            number(&beyond(2))
        ));
        let fewer = desired_state(&device, &peers()[..PLAIN_ROUTES + 2]);
        reconcile(&netlink, &device, &fewer).await;
        assert_eq!(run("ip nexthop show dev flannel.1").len(), 2);

        // The kernel sweeps what is left with the device.
        assert!(remove_device(&netlink, "flannel.1").await.unwrap());
        assert!(run("ip nexthop show").is_empty());
    });
}

#[test]
fn the_kernels_word_on_objects_is_heard_in_either_mode() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let mut monitor = Monitor::open().unwrap();
        let (device, _) = programmed(&netlink).await;
        let ifindex = device.index;
        let told = |peer: &Peer, is_removed| NetlinkEvent::NextHop {
            ifindex,
            gateway: peer.subnet.network(),
            is_removed,
        };
        expect_events(&mut monitor, (0..BEYOND).map(|i| told(&beyond(i), false))).await;
        // Nothing else tells that the route has gone with it.
        run(&format!("ip nexthop del id {}", number(&beyond(0))));
        expect_events(&mut monitor, [told(&beyond(0), true)]).await;
        assert!(route(&beyond(0)).is_empty());

        std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0").unwrap();
        let Peer { subnet, .. } = beyond(1);
        run(&format!(
            "ip route del {subnet} nhid {}",
            number(&beyond(1))
        ));
        let is_removed = true;
        expect_events(
            &mut monitor,
            [NetlinkEvent::ObjectRoute { subnet, is_removed }],
        )
        .await;
        // Of others nothing is told.
        run("ip nexthop add id 7 via 192.168.7.1 dev eth0");
        let next = tokio::time::timeout(Duration::from_millis(200), monitor.next()).await;
        let gateway = Ipv4Addr::new(192, 168, 7, 1);
        let is_about = |event: &NetlinkEvent| matches!(event, NetlinkEvent::NextHop { gateway: it, .. } if *it == gateway);
        assert!(!next.is_ok_and(|event| event.is_some_and(|event| is_about(&event))));
    });
}
