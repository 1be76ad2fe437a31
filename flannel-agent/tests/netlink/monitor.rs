//! The kernel's notifications.

use std::collections::BTreeSet;
use std::time::Duration;

use flannel_agent::backend::vxlan::device::remove_device;
use flannel_agent::netlink::monitor::{Monitor, NetlinkEvent};
use flannel_agent::netlink::{Change, MacAddr, Netlink};

use super::bed::{desired_state, device, in_namespace, peer, reconcile, run};

#[test]
fn the_monitor_tells_what_changed() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let mut monitor = Monitor::open().unwrap();
        let device = device(&netlink).await;
        let ifindex = device.index;
        let desired = desired_state(&device, &[peer(34)]);
        let mac = peer(34).mac.unwrap();
        reconcile(&netlink, &device, &desired).await;
        run("ip rule add from 192.0.2.0/24 table 100");
        let name = || "flannel.1".to_owned();
        let link = |is_removed| NetlinkEvent::Link {
            index: ifindex,
            name: name(),
            is_removed,
        };
        expect_events(
            &mut monitor,
            [
                link(false),
                NetlinkEvent::Address { ifindex },
                NetlinkEvent::Route {
                    oif: Some(ifindex),
                    is_direct: false,
                    peer: desired
                        .routes
                        .first_key_value()
                        .map(|(&at, &via)| (at, Some(via))),
                },
                NetlinkEvent::Rule,
                NetlinkEvent::Fdb {
                    ifindex,
                    mac,
                    peer: desired.fdb.get(&mac).copied(),
                },
                NetlinkEvent::Neigh {
                    ifindex,
                    ip: [10, 5, 34, 0].into(),
                    peer: Some(mac),
                },
            ],
        )
        .await;
        remove_device(&netlink, "flannel.1").await.unwrap();
        expect_events(&mut monitor, [link(true)]).await;
    });
}

#[test]
fn looking_again_without_need_causes_no_event() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let first = device(&netlink).await;
        let desired = desired_state(&first, &[peer(34)]);
        reconcile(&netlink, &first, &desired).await;
        let mut monitor = Monitor::open().unwrap();
        let second = device(&netlink).await;
        assert_eq!(reconcile(&netlink, &second, &desired).await, 0);
        // The last in the order of delivery.
        run("ip neigh add 223.255.255.254 lladdr 02:00:00:00:00:66 dev flannel.1 nud stale");
        let marker = NetlinkEvent::Neigh {
            ifindex: second.index,
            ip: [223, 255, 255, 254].into(),
            peer: None,
        };
        // Otherwise an agent that reconciles on events would never rest.
        loop {
            match monitor.next().await.unwrap() {
                event if event == marker => break,
                // The underlay's carrier comes when it comes.
                NetlinkEvent::Link { index, .. } if index != second.index => {}
                event => panic!("{event:?}"),
            }
        }
    });
}

pub(super) async fn expect_events(
    monitor: &mut Monitor,
    expected: impl IntoIterator<Item = NetlinkEvent>,
) {
    let mut expected: BTreeSet<_> = expected.into_iter().collect();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while !expected.is_empty() {
        let event = tokio::time::timeout_at(deadline, monitor.next()).await;
        let event = event.unwrap_or_else(|_| panic!("never came: {expected:?}"));
        expected.remove(&event.unwrap());
    }
}

#[test]
fn a_flood_of_notifications_ends_in_an_overrun_and_no_loss_of_sight() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let device = device(&netlink).await;
        let mut monitor = Monitor::open().unwrap();
        // More than the socket holds, and no chance to read in between.
        for n in 0..40_000_u32 {
            let [_, high, middle, low] = n.to_be_bytes();
            let mac = MacAddr([2, 0, 0, high, middle, low]);
            let change = Change::set_neighbour(device.index, [10, 5, 34, 0].into(), mac);
            netlink.change_one(change).unwrap();
        }
        expect_events(&mut monitor, [NetlinkEvent::Overrun]).await;
        // The socket may still be full; once it is not, everything has to be looked at again.
        run("ip rule add from 198.51.100.0/24 table 100");
        expect_events(&mut monitor, [NetlinkEvent::Overrun]).await;
        run("ip rule add from 192.0.2.0/24 table 100");
        expect_events(&mut monitor, [NetlinkEvent::Rule]).await;
    });
}
