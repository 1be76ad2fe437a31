//! Routes, neighbours and FDB entries of peers.

use std::collections::BTreeSet;

use flannel_agent::backend::entries::forms::{Forms, Step};
use flannel_agent::backend::entries::{apply, read_actual};
use flannel_agent::netlink::{MacAddr, Netlink, errno};
use flannel_agent::plan::{Action, KernelState, plan};

use super::bed::{desired_state, device, in_namespace, peer, reconcile, run};

#[test]
fn entries_have_the_shape_of_flannel() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let device = device(&netlink).await;
        let desired = desired_state(&device, &[peer(34), peer(35)]);
        assert_eq!(reconcile(&netlink, &device, &desired).await, 6);

        assert_eq!(
            run("ip route show dev flannel.1"),
            [
                "10.5.34.0/24 via 10.5.34.0 onlink",
                "10.5.35.0/24 via 10.5.35.0 onlink"
            ]
        );
        let details = run("ip -d route show 10.5.34.0/24");
        let expected =
            "unicast 10.5.34.0/24 via 10.5.34.0 dev flannel.1 proto boot scope global onlink";
        assert_eq!(details, [expected]);
        let neighbours: BTreeSet<_> = run("ip -4 neigh show dev flannel.1").into_iter().collect();
        let expected = [
            "10.5.34.0 lladdr 02:00:00:01:00:22 PERMANENT",
            "10.5.35.0 lladdr 02:00:00:01:00:23 PERMANENT",
        ];
        assert_eq!(neighbours, expected.map(String::from).into());
        let fdb: BTreeSet<_> = run("bridge fdb show dev flannel.1").into_iter().collect();
        let expected = [
            "02:00:00:01:00:22 dst 192.168.7.34 self permanent",
            "02:00:00:01:00:23 dst 192.168.7.35 self permanent",
        ];
        assert_eq!(fdb, expected.map(String::from).into());

        assert_eq!(reconcile(&netlink, &device, &desired).await, 0);
    });
}

#[test]
fn entries_of_stock_flannel_are_taken_over_as_they_are() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let device = device(&netlink).await;
        run("ip neigh replace 10.5.34.0 lladdr 02:00:00:01:00:22 dev flannel.1 nud permanent");
        run("bridge fdb replace 02:00:00:01:00:22 dev flannel.1 dst 192.168.7.34 self permanent");
        run("ip route replace 10.5.34.0/24 via 10.5.34.0 dev flannel.1 onlink");
        let desired = desired_state(&device, &[peer(34)]);
        assert_eq!(reconcile(&netlink, &device, &desired).await, 0);
    });
}

#[test]
fn stale_entries_go_and_foreign_ones_stay() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let device = device(&netlink).await;
        reconcile(
            &netlink,
            &device,
            &desired_state(&device, &[peer(34), peer(35)]),
        )
        .await;
        run("ip route add 172.30.0.0/16 dev flannel.1 scope link");
        run("ip route add 10.9.0.0/24 via 10.9.0.0 dev flannel.1 onlink proto static");
        run("ip route add 10.5.35.0/24 via 10.5.35.0 dev flannel.1 onlink metric 50");
        run("ip route add 10.5.66.0/24 via 10.5.66.0 dev flannel.1 onlink table 100");
        run("ip neigh add 10.5.66.1 lladdr 02:00:00:00:00:66 dev flannel.1 nud stale");
        run("bridge fdb add 00:00:00:00:00:00 dev flannel.1 dst 192.168.7.66 self permanent");
        run(
            "bridge fdb add 02:00:00:00:00:66 dev flannel.1 dst 192.168.7.66 port 4789 self permanent",
        );
        run("bridge fdb add 02:00:00:00:00:67 dev flannel.1 dst 192.168.7.67 self dynamic");

        // 34 has a new MAC and a new address, 35 is gone.
        let mut changed = peer(34);
        changed.mac = Some(MacAddr([2, 0, 0, 2, 0, 34]));
        changed.public_ip = [192, 168, 7, 134].into();
        let desired = desired_state(&device, &[changed]);
        reconcile(&netlink, &device, &desired).await;
        assert_eq!(reconcile(&netlink, &device, &desired).await, 0);

        let routes: BTreeSet<_> = run("ip route show dev flannel.1").into_iter().collect();
        let expected = [
            "10.5.34.0/24 via 10.5.34.0 onlink",
            "10.5.35.0/24 via 10.5.35.0 metric 50 onlink",
            "10.9.0.0/24 via 10.9.0.0 proto static onlink",
            "172.30.0.0/16 scope link",
        ];
        assert_eq!(routes, expected.map(String::from).into());
        assert_eq!(run("ip route show table 100").len(), 1);
        let neighbours: BTreeSet<_> = run("ip -4 neigh show dev flannel.1").into_iter().collect();
        let expected = [
            "10.5.34.0 lladdr 02:00:00:02:00:22 PERMANENT",
            "10.5.66.1 lladdr 02:00:00:00:00:66 STALE",
        ];
        assert_eq!(neighbours, expected.map(String::from).into());
        let fdb: BTreeSet<_> = run("bridge fdb show dev flannel.1").into_iter().collect();
        let expected = [
            "00:00:00:00:00:00 dst 192.168.7.66 self permanent",
            "02:00:00:02:00:22 dst 192.168.7.134 self permanent",
            "02:00:00:00:00:66 dst 192.168.7.66 port 4789 self permanent",
            "02:00:00:00:00:67 dst 192.168.7.67 self",
        ];
        assert_eq!(fdb, expected.map(String::from).into());
    });
}

#[test]
fn a_foreign_entry_in_the_place_of_a_peer_is_overwritten() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let device = device(&netlink).await;
        run("ip route add blackhole 10.5.34.0/24");
        run("ip neigh add 10.5.34.0 lladdr 02:00:00:00:00:66 dev flannel.1 nud stale");
        run(
            "bridge fdb add 02:00:00:01:00:22 dev flannel.1 dst 192.168.7.66 port 4789 self dynamic",
        );
        let desired = desired_state(&device, &[peer(34)]);
        assert_eq!(reconcile(&netlink, &device, &desired).await, 3);
        assert_eq!(reconcile(&netlink, &device, &desired).await, 0);
        assert_eq!(run("ip route show 10.5.34.0/24").len(), 1);
        let fdb = run("bridge fdb show dev flannel.1");
        assert_eq!(fdb, ["02:00:00:01:00:22 dst 192.168.7.34 self permanent"]);
    });
}

#[test]
fn an_entry_that_fails_does_not_block_the_others() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let device = device(&netlink).await;
        let mut bad = peer(35);
        // No usable peer has a group address; the FDB refuses it.
        bad.mac = Some(MacAddr([1, 0, 0, 1, 0, 35]));
        let desired = desired_state(&device, &[peer(34), bad, peer(36)]);
        let actions = plan(&desired, &KernelState::default());
        let forms = &mut Forms::default();
        let failed = apply(&netlink, Some(device.index), actions, forms).await;
        assert_eq!(failed.len(), 1, "{failed:?}");
        let Step::Plain(refused) = failed[0].0 else {
            panic!("{failed:?}");
        };
        assert!(matches!(refused, Action::ReplaceFdb { mac, .. } if Some(mac) == bad.mac));
        let (actual, _) = read_actual(&netlink, Some(device.index)).await.unwrap();
        assert_eq!(plan(&desired, &actual), [refused]);
    });
}

#[test]
fn a_device_that_was_down_gets_its_entries_back() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let up = device(&netlink).await;
        let desired = desired_state(&up, &[peer(34), peer(35)]);
        reconcile(&netlink, &up, &desired).await;
        run("ip link set flannel.1 down");
        let (actual, mut forms) = read_actual(&netlink, Some(up.index)).await.unwrap();
        let actions = plan(&desired, &actual);
        let failed = apply(&netlink, Some(up.index), actions, &mut forms).await;
        let is_down = |error| errno(error) == Some(libc::ENETDOWN);
        assert!(!failed.is_empty() && failed.iter().all(|(_, error)| is_down(error)));
        device(&netlink).await;
        reconcile(&netlink, &up, &desired).await;
        assert_eq!(reconcile(&netlink, &up, &desired).await, 0);
        assert_eq!(run("ip route show dev flannel.1").len(), 2);
    });
}
