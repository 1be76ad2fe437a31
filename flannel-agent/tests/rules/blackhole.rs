//! The blackhole route of the own subnet, beside a bridge.

use flannel_agent::netlink::Netlink;
use flannel_agent::rules::{Blackhole, Spec, remove_ours};

use super::bed::{on_host, run, spec, start};

fn wanted() -> Spec {
    Spec {
        blackhole: Blackhole::Route,
        ..spec()
    }
}

fn blackholes() -> String {
    run("ip -o route show type blackhole").trim().to_owned()
}

fn way_to_a_pod() -> String {
    // An address that nobody has asked for before, of the subnet.
    let text = run("ip -o route show match 10.5.1.9 table main");
    text.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn packets_to_pods_that_do_not_exist_end_without_a_bridge() {
    on_host(async |_bed| {
        run("ip addr flush dev docker0");
        run("ip route add default via 192.168.7.1");
        let mut rules = start(wanted()).await;
        assert_eq!(blackholes(), "blackhole 10.5.1.0/24 metric 1718378862");
        let lookup = std::process::Command::new("ip")
            .args(["route", "get", "10.5.1.9"])
            .output();
        let error = String::from_utf8(lookup.unwrap().stderr).unwrap();
        assert!(error.contains("Invalid argument"), "{error}");
        // It comes back, once.
        run("ip route del blackhole 10.5.1.0/24");
        rules.sync().await;
        rules.sync().await;
        assert_eq!(blackholes().lines().count(), 1);
    });
}

#[test]
fn pods_are_reached_whichever_of_blackhole_and_bridge_is_first() {
    on_host(async |_bed| {
        start(wanted()).await;
        assert!(way_to_a_pod().contains("dev docker0"), "bridge first");
        run("ip addr flush dev docker0");
        assert!(way_to_a_pod().contains("blackhole"), "no bridge");
        run("ip addr add 10.5.1.1/24 dev docker0");
        assert!(way_to_a_pod().contains("dev docker0"), "blackhole first");
        assert_eq!(blackholes().lines().count(), 1);
    });
}

#[test]
fn the_blackhole_of_stock_flannel_that_hides_the_pods_is_taken_over() {
    for blackhole in [Blackhole::Route, Blackhole::None] {
        on_host(async move |_bed| {
            run("ip addr flush dev docker0");
            run("ip route add blackhole 10.5.1.0/24");
            run("ip route add blackhole 10.5.2.128/25");
            run("ip addr add 10.5.1.1/24 dev docker0");
            assert!(way_to_a_pod().contains("blackhole"), "the defect");
            start(Spec {
                blackhole,
                ..spec()
            })
            .await;
            assert!(way_to_a_pod().contains("dev docker0"));
            assert!(blackholes().contains("10.5.2.128/25"), "not ours");
        });
    }
}

#[test]
fn the_route_goes_with_the_flag_with_the_subnet_and_at_cleanup() {
    on_host(async |_bed| {
        let subnet = "10.5.7.0/24".parse().unwrap();
        start(Spec { subnet, ..wanted() }).await;
        start(wanted()).await;
        assert_eq!(blackholes(), "blackhole 10.5.1.0/24 metric 1718378862");
        start(spec()).await;
        assert_eq!(blackholes(), "");
        start(wanted()).await;
        let removed = remove_ours(&Netlink::open().unwrap()).await.unwrap();
        assert!(
            removed.contains(&"blackhole route 10.5.1.0/24".to_owned()),
            "{removed:?}"
        );
        assert_eq!(blackholes(), "");
    });
}
