//! The way to a peer over the underlay.

use std::net::Ipv4Addr;

use flannel_agent::netlink::lookup::{UnderlayQuery, UnderlayRoute};
use flannel_agent::netlink::monitor::{Monitor, NetlinkEvent};
use flannel_agent::netlink::{Error, MacAddr, Netlink, errno};
use rtnetlink::packet_route::route::RouteType;

use super::bed::{LOCAL, in_namespace, run};
use super::monitor::expect_events;

async fn ask(netlink: &Netlink, query: UnderlayQuery) -> Result<UnderlayRoute, Error> {
    let mut answers = netlink.underlay_routes(vec![query]).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0).1
}

pub(super) async fn lookup(netlink: &Netlink, dst: [u8; 4]) -> UnderlayRoute {
    let oif = netlink.link_by_name("eth0").await.unwrap().unwrap().index;
    let query = UnderlayQuery {
        dst: dst.into(),
        source: LOCAL,
        oif,
        port: Some(8472),
    };
    ask(netlink, query).await.unwrap()
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
        let error = ask(&netlink, query).await.unwrap_err();
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
