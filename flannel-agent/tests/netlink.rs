//! The netlink layer and the kernel path of the vxlan backend, against a real kernel.
//!
//! Each test has a network namespace of its own, on a thread of its own: nothing is left behind,
//! and any number of them run at once. Needs root, vxlan and veth.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use flannel_agent::backend::entries::{apply, read_actual};
use flannel_agent::backend::peer::Peer;
use flannel_agent::backend::vxlan::add_entries;
use flannel_agent::backend::vxlan::device::{
    Device, DeviceChange, DeviceError, DeviceSpec, ensure_address, ensure_device, remove_device,
};
use flannel_agent::netlink::monitor::{Monitor, NetlinkEvent};
use flannel_agent::netlink::route::{UnderlayQuery, UnderlayRoute};
use flannel_agent::netlink::{Change, MacAddr, Netlink, errno};
use flannel_agent::plan::{Action, KernelState, plan};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::route::RouteType;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 11);

/// Runs a test in a network namespace with an underlay: `eth0`, its other end `wire`.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        run("ip link set lo up");
        run("ip link add eth0 type veth peer name wire");
        run("ip addr add 192.168.7.11/24 dev eth0");
        run("ip link set eth0 up");
        run("ip link set wire up");
        runtime().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Output of a command, a line each without blanks at the end.
fn run(command: &str) -> Vec<String> {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.trim_end().into()).collect()
}

fn json(command: &str) -> Value {
    let value: Value = serde_json::from_str(&run(command).join("\n")).unwrap();
    value[0].clone()
}

async fn spec(netlink: &Netlink) -> DeviceSpec {
    spec_of(netlink.link_by_name("eth0").await.unwrap().unwrap().index)
}

fn spec_of(lower: u32) -> DeviceSpec {
    DeviceSpec {
        name: "flannel.1".into(),
        vni: 1,
        lower,
        local: LOCAL,
        port: None,
        mtu: 1450,
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        learning: false,
        gbp: false,
    }
}

/// The device, as an agent with subnet 10.5.1.0/24 sets it up.
async fn device(netlink: &Netlink) -> Device {
    let spec = spec(netlink).await;
    let (device, _) = ensure_device(netlink, &spec).await.unwrap();
    let own = "10.5.1.0/24".parse().unwrap();
    let network = "10.5.0.0/16".parse().unwrap();
    ensure_address(netlink, &device, own, network)
        .await
        .unwrap();
    device
}

fn peer(i: u16) -> Peer {
    let [high, low] = i.to_be_bytes();
    Peer {
        subnet: format!("10.{}.{low}.0/24", 5 + high).parse().unwrap(),
        mac: Some(MacAddr([2, 0, 0, 1, high, low])),
        direct: None,
        public_ip: [192, 168, 7 + high, low].into(),
    }
}

fn desired_state(device: &Device, peers: &[Peer]) -> KernelState {
    let mut state = KernelState::default();
    for peer in peers {
        add_entries(device.index, peer, &mut state);
    }
    state
}

async fn reconcile(netlink: &Netlink, device: &Device, desired: &KernelState) -> usize {
    let actual = read_actual(netlink, Some(device.index)).await.unwrap();
    let actions = plan(desired, &actual);
    let failed = apply(netlink, Some(device.index), actions.clone()).await;
    assert!(failed.is_empty(), "{failed:?}");
    actions.len()
}

#[test]
fn a_new_device_has_exactly_the_attributes_of_flannel() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let device = device(&netlink).await;
        assert_eq!((device.mtu, device.vni, device.port), (1450, 1, 8472));
        assert_eq!(device.mac, MacAddr([2, 0, 0, 0, 0, 1]));

        let made = json("ip -d -j link show flannel.1");
        // The same by hand, with another VNI, says what everything else defaults to.
        run(
            "ip link add twin mtu 1450 txqueuelen 0 type vxlan id 2 dev eth0 local 192.168.7.11 nolearning",
        );
        run("ip link set twin up");
        let mut twin = json("ip -d -j link show twin");
        twin["linkinfo"]["info_data"]["id"] = 1.into();
        twin["linkinfo"]["info_data"]["port"] = 8472.into();
        assert_eq!(made["linkinfo"], twin["linkinfo"]);
        assert_eq!(made["linkinfo"]["info_data"]["local"], "192.168.7.11");
        assert_eq!(made["linkinfo"]["info_data"]["link"], "eth0");
        assert_eq!(made["linkinfo"]["info_data"]["learning"], false);
        assert_eq!(made["linkinfo"]["info_data"]["udp_csum"], true);
        for key in ["mtu", "txqlen", "flags", "qdisc", "inet6_addr_gen_mode"] {
            assert_eq!(made[key], twin[key], "{key}");
        }
        assert_eq!(made["address"], "02:00:00:00:00:01");

        let addresses = run("ip -4 -o addr show dev flannel.1");
        assert_eq!(addresses.len(), 1);
        assert!(addresses[0].contains("inet 10.5.1.0/32 scope global flannel.1"));
        assert_eq!(
            run("cat /proc/sys/net/ipv6/conf/flannel.1/accept_ra"),
            ["0"]
        );
    });
}

#[test]
fn a_device_that_fits_is_kept_and_what_can_be_is_adjusted() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let first = device(&netlink).await;
        let mut spec = spec(&netlink).await;
        // A MAC of one's own is kept, whatever the caller would choose.
        spec.mac = MacAddr([2, 0, 0, 0, 0, 99]);
        let before = run("ip -d link show flannel.1");
        let kept = ensure_device(&netlink, &spec).await.unwrap();
        assert_eq!(kept, (first.clone(), DeviceChange::Kept));
        assert_eq!(run("ip -d link show flannel.1"), before);

        spec.mtu = 1400;
        spec.learning = true;
        let (adjusted, change) = ensure_device(&netlink, &spec).await.unwrap();
        assert_eq!(change, DeviceChange::Adjusted);
        assert_eq!((adjusted.index, adjusted.mtu), (first.index, 1400));
        let shown = json("ip -d -j link show flannel.1");
        assert_eq!(shown["linkinfo"]["info_data"]["learning"], true);
        assert_eq!(shown["mtu"], 1400);
        let again = ensure_device(&netlink, &spec).await.unwrap();
        assert_eq!(again.1, DeviceChange::Kept);
    });
}

#[test]
fn a_device_with_another_port_or_source_is_made_anew_with_its_mac() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let first = device(&netlink).await;
        run("ip addr add 192.168.7.12/24 dev eth0");
        let base = spec(&netlink).await;
        let mac = MacAddr([2, 0, 0, 0, 0, 99]);
        let changes: [fn(&mut DeviceSpec); 3] = [
            |spec| spec.port = Some(4789),
            |spec| spec.local = [192, 168, 7, 12].into(),
            |spec| spec.gbp = true,
        ];
        let mut index = first.index;
        for change in changes {
            let mut spec = DeviceSpec {
                mac,
                ..base.clone()
            };
            change(&mut spec);
            let (device, done) = ensure_device(&netlink, &spec).await.unwrap();
            assert_eq!(done, DeviceChange::Recreated);
            assert_ne!(device.index, index);
            assert_eq!(device.mac, first.mac);
            assert_eq!(device.port, spec.port.unwrap_or(8472));
            let (_, again) = ensure_device(&netlink, &spec).await.unwrap();
            assert_eq!(again, DeviceChange::Kept);
            index = device.index;
        }
        // What a stock flannel of another VNI left under our name.
        run("ip link del flannel.1");
        run(
            "ip link add flannel.1 address 02:00:00:00:00:33 type vxlan id 77 dev eth0 local 192.168.7.11 dstport 8472",
        );
        let (device, done) = ensure_device(&netlink, &base).await.unwrap();
        assert_eq!((done, device.vni), (DeviceChange::Recreated, 1));
        assert_eq!(device.mac.to_string(), "02:00:00:00:00:33");
    });
}

#[test]
fn a_foreign_device_is_refused_by_name_and_kind() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        run("ip link add flannel.1 type bridge");
        let spec = spec(&netlink).await;
        let error = ensure_device(&netlink, &spec).await.unwrap_err();
        assert!(matches!(error, DeviceError::Foreign { .. }));
        let text = error.to_string();
        assert!(
            text.starts_with("flannel.1 exists but is a bridge"),
            "{text}"
        );
        assert!(remove_device(&netlink, "flannel.1").await.is_err());

        run("ip link del flannel.1");
        run("ip link add other type vxlan id 1 dev eth0 dstport 8472");
        let error = ensure_device(&netlink, &spec).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("other has VNI 1 on UDP port 8472"), "{text}");

        run("ip link del other");
        ensure_device(&netlink, &spec).await.unwrap();
        assert!(remove_device(&netlink, "flannel.1").await.unwrap());
        assert!(!remove_device(&netlink, "flannel.1").await.unwrap());
    });
}

#[test]
fn a_refusal_says_what_was_tried_and_the_kernels_words() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let mut spec = spec(&netlink).await;
        spec.vni = 1 << 24;
        let DeviceError::Netlink(error) = ensure_device(&netlink, &spec).await.unwrap_err() else {
            panic!("refused by the kernel");
        };
        assert_eq!(errno(&error), Some(libc::ERANGE));
        let text = error.to_string();
        let expected = "create the vxlan device flannel.1 (kernel: ";
        assert!(text.starts_with(expected), "{text}");
    });
}

#[test]
fn other_addresses_of_the_network_are_removed_and_no_more() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        device(&netlink).await;
        // flannel up to v0.8 had the network's prefix length; another run, another subnet.
        run("ip addr add 10.5.1.0/16 dev flannel.1");
        run("ip addr add 10.5.9.0/32 dev flannel.1");
        run("ip addr add 192.0.2.1/32 dev flannel.1");
        let device = device(&netlink).await;
        let addresses = netlink.addresses(device.index).await.unwrap();
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.5.1.0/32", "192.0.2.1/32"]);
    });
}

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
        let failed = apply(&netlink, Some(device.index), actions.clone()).await;
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert!(matches!(failed[0].0, Action::ReplaceFdb { mac, .. } if Some(mac) == bad.mac));
        let actual = read_actual(&netlink, Some(device.index)).await.unwrap();
        let left = plan(&desired, &actual);
        assert_eq!(left, [failed[0].0]);
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
        let actual = read_actual(&netlink, Some(up.index)).await.unwrap();
        let failed = apply(&netlink, Some(up.index), plan(&desired, &actual)).await;
        let is_down = |error| errno(error) == Some(libc::ENETDOWN);
        assert!(!failed.is_empty() && failed.iter().all(|(_, error)| is_down(error)));
        device(&netlink).await;
        reconcile(&netlink, &up, &desired).await;
        assert_eq!(reconcile(&netlink, &up, &desired).await, 0);
        assert_eq!(run("ip route show dev flannel.1").len(), 2);
    });
}

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

async fn expect_events(monitor: &mut Monitor, expected: impl IntoIterator<Item = NetlinkEvent>) {
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

async fn lookup(netlink: &Netlink, dst: [u8; 4]) -> UnderlayRoute {
    let oif = netlink.link_by_name("eth0").await.unwrap().unwrap().index;
    let query = UnderlayQuery {
        dst: dst.into(),
        source: LOCAL,
        oif,
        port: Some(8472),
    };
    netlink.underlay_route(query).await.unwrap()
}

#[test]
fn underlay_routes_are_told_in_facts() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let oif = netlink.link_by_name("eth0").await.unwrap().unwrap().index;
        let plain = UnderlayRoute {
            kind: RouteType::Unicast,
            oif,
            gateway: None,
            prefsrc: None,
            mtu: None,
            has_multipath: false,
            has_encap: false,
            has_foreign_gateway: false,
            is_assumed: false,
        };
        let gateway = Some(Ipv4Addr::new(192, 168, 7, 1));

        let on_link = lookup(&netlink, [192, 168, 7, 12]).await;
        let prefsrc = Some(LOCAL);
        assert_eq!(on_link, UnderlayRoute { prefsrc, ..plain });

        run("ip route add 198.51.100.0/24 via 192.168.7.1");
        let routed = lookup(&netlink, [198, 51, 100, 1]).await;
        assert_eq!(routed, UnderlayRoute { gateway, ..plain });
        assert_eq!(
            routed.next_hop([198, 51, 100, 1].into()),
            Ipv4Addr::new(192, 168, 7, 1)
        );

        run("ip route add 198.51.101.0/24 via 192.168.7.1 mtu 1400");
        let narrow = lookup(&netlink, [198, 51, 101, 1]).await;
        let expected = UnderlayRoute {
            gateway,
            mtu: Some(1400),
            ..plain
        };
        assert_eq!(narrow, expected);

        run("ip route add 198.51.102.0/24 nexthop via 192.168.7.1 nexthop via 192.168.7.2");
        let several = lookup(&netlink, [198, 51, 102, 1]).await;
        assert!(several.has_multipath);

        run("ip route add 198.51.103.0/24 via inet6 fe80::1 dev eth0");
        let other_family = lookup(&netlink, [198, 51, 103, 1]).await;
        assert!(other_family.has_foreign_gateway && other_family.gateway.is_none());

        run("ip nexthop add id 1 via 192.168.7.1 dev eth0");
        run("ip nexthop add id 2 via 192.168.7.2 dev eth0");
        run("ip nexthop add id 3 group 1/2");
        run("ip route add 198.51.104.0/24 nhid 1");
        run("ip route add 198.51.105.0/24 nhid 3");
        for (mode, told) in [("1", "inline"), ("0", "by number")] {
            std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", mode).unwrap();
            let group = lookup(&netlink, [198, 51, 105, 1]).await;
            assert!(group.has_multipath, "{told}");
        }

        // The vxlan device names its output link, and the kernel then overrides what the table
        // says and takes the destination for a neighbour.
        let assumed = UnderlayRoute {
            is_assumed: true,
            ..plain
        };
        assert_eq!(lookup(&netlink, [203, 0, 113, 1]).await, assumed);
        run("ip route add blackhole 198.51.106.0/24");
        run("ip route add unreachable 198.51.107.0/24");
        assert_eq!(lookup(&netlink, [198, 51, 106, 1]).await, assumed);
        assert_eq!(lookup(&netlink, [198, 51, 107, 1]).await, assumed);

        assert_eq!(
            lookup(&netlink, LOCAL.octets()).await.kind,
            RouteType::Local
        );

        let query = UnderlayQuery {
            dst: [192, 168, 7, 12].into(),
            source: [203, 0, 113, 9].into(),
            oif,
            port: Some(8472),
        };
        let error = netlink.underlay_route(query).await.unwrap_err();
        assert!(errno(&error).is_some(), "{error}");
    });
}

/// Has one neighbour looked after.
async fn probe(netlink: &Netlink, ifindex: u32, ip: Ipv4Addr) {
    let failed = netlink.probe_neighbours(ifindex, [ip].into()).await;
    assert!(failed.unwrap().is_empty());
}

#[test]
fn a_permanent_neighbour_stays_what_it_is() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let oif = netlink.link_by_name("eth0").await.unwrap().unwrap().index;
        for (last, state) in [(13, "permanent"), (14, "noarp")] {
            let ip = Ipv4Addr::new(192, 168, 7, last);
            let lladdr = format!("lladdr 02:00:00:00:00:{last:02} dev eth0");
            run(&format!("ip neigh add {ip} {lladdr} nud {state}"));
            let before = netlink.neighbour(oif, ip).await.unwrap();
            probe(&netlink, oif, ip).await;
            assert_eq!(netlink.neighbour(oif, ip).await.unwrap(), before, "{state}");
        }
    });
}

#[test]
fn underlay_neighbours_are_read_and_probed() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let oif = netlink.link_by_name("eth0").await.unwrap().unwrap().index;
        let ip = Ipv4Addr::new(192, 168, 7, 12);
        assert_eq!(netlink.neighbour(oif, ip).await.unwrap(), None);

        let mut monitor = Monitor::open().unwrap();
        probe(&netlink, oif, ip).await;
        let event = NetlinkEvent::Neigh {
            ifindex: oif,
            ip,
            peer: None,
        };
        expect_events(&mut monitor, [event]).await;
        let asked = netlink.neighbour(oif, ip).await.unwrap().unwrap();
        assert_eq!((asked.mac, asked.usable_mac()), (None, None));

        run("ip neigh replace 192.168.7.12 lladdr 02:00:00:00:00:12 dev eth0 nud stale");
        let known = netlink.neighbour(oif, ip).await.unwrap().unwrap();
        assert_eq!(known.usable_mac(), Some(MacAddr([2, 0, 0, 0, 0, 0x12])));
        probe(&netlink, oif, ip).await;
        let all = netlink.neighbours(oif).await.unwrap();
        assert_eq!(all.iter().filter(|found| found.ip == ip).count(), 1);
    });
}

/// A node of two: sets up its device and the other as its peer.
async fn join(netlink: &Netlink, lower: &str, own: u8, other: u8, other_mac: MacAddr) -> Device {
    let underlay = |i: u8| Ipv4Addr::new(192, 168, 7, 10 + i);
    let lower = netlink.link_by_name(lower).await.unwrap().unwrap().index;
    let spec = DeviceSpec {
        lower,
        local: underlay(own),
        mac: MacAddr([2, 0, 0, 0, 0, own]),
        ..spec_of(lower)
    };
    let (device, _) = ensure_device(netlink, &spec).await.unwrap();
    let subnet = |i: u8| format!("10.5.{i}.0/24").parse().unwrap();
    let network = "10.5.0.0/16".parse().unwrap();
    ensure_address(netlink, &device, subnet(own), network)
        .await
        .unwrap();
    let peer = Peer {
        subnet: subnet(other),
        mac: Some(other_mac),
        direct: None,
        public_ip: underlay(other),
    };
    reconcile(netlink, &device, &desired_state(&device, &[peer])).await;
    device
}

#[test]
fn packets_pass_between_two_nodes_also_after_one_has_a_new_mac() {
    let (ready, other_is_ready) = mpsc::channel();
    let (go, start) = mpsc::channel();
    // The other node: answers each datagram, and takes another MAC after the first.
    let other = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        ready.send(nix::unistd::gettid()).unwrap();
        start.recv().unwrap();
        run("ip addr add 192.168.7.12/24 dev wire");
        run("ip link set wire up");
        runtime().block_on(async {
            let netlink = Netlink::open().unwrap();
            let peer_mac = MacAddr([2, 0, 0, 0, 0, 1]);
            let device = join(&netlink, "wire", 2, 1, peer_mac).await;
            let socket = UdpSocket::bind("10.5.2.0:9000").unwrap();
            ready.send(nix::unistd::gettid()).unwrap();
            for mac in [77, 78] {
                // What is left of the round before does not count.
                let mut word = [0];
                let from = loop {
                    let (_, from) = socket.recv_from(&mut word).unwrap();
                    if word == [mac] {
                        break from;
                    }
                };
                socket.send_to(&word, from).unwrap();
                let mac = MacAddr([2, 0, 0, 0, 0, mac]);
                netlink.set_mac(device.index, mac).await.unwrap();
                // Linux flushes the neighbours of a device with a new address.
                join(&netlink, "wire", 2, 1, peer_mac).await;
                ready.send(nix::unistd::gettid()).unwrap();
            }
        });
    });
    in_namespace(async move || {
        let thread = other_is_ready.recv().unwrap();
        run(&format!("ip link set wire netns {thread}"));
        go.send(()).unwrap();
        other_is_ready.recv().unwrap();
        let netlink = Netlink::open().unwrap();
        for (mac, next) in [(2, 77), (77, 78)] {
            join(&netlink, "eth0", 1, 2, MacAddr([2, 0, 0, 0, 0, mac])).await;
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let moment = Duration::from_millis(100);
            socket.set_read_timeout(Some(moment)).unwrap();
            let deadline = Instant::now() + Duration::from_secs(10);
            // The first ones may be lost: a link takes a moment to notice that it has a carrier.
            let from = loop {
                socket.send_to(&[next], "10.5.2.0:9000").unwrap();
                if let Ok((_, from)) = socket.recv_from(&mut [0]) {
                    break from;
                }
                assert!(Instant::now() < deadline, "no answer in round {next}");
            };
            assert_eq!(from.to_string(), "10.5.2.0:9000");
            other_is_ready.recv().unwrap();
        }
    });
    other.join().unwrap();
}

#[test]
fn ten_thousand_peers() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let device = device(&netlink).await;
        let mut peers: Vec<_> = (256..10_256).map(peer).collect();
        let desired = desired_state(&device, &peers);
        let mut timings = Vec::new();
        peers[5000].mac = Some(MacAddr([2, 0, 0, 9, 9, 9]));
        let changed = desired_state(&device, &peers);
        for (step, desired, actions) in [
            ("from nothing", &desired, 30_000),
            ("no change", &desired, 0),
            ("one new MAC", &changed, 3),
            ("to nothing", &KernelState::default(), 30_000),
        ] {
            let started = Instant::now();
            assert_eq!(reconcile(&netlink, &device, desired).await, actions);
            timings.push(format!("{step} {:?}", started.elapsed()));
        }
        let started = Instant::now();
        for _ in 0..1000 {
            lookup(&netlink, [192, 168, 7, 12]).await;
        }
        timings.push(format!("1000 underlay lookups {:?}", started.elapsed()));
        println!("10 000 peers: {}", timings.join(", "));
    });
}
