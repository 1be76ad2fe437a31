//! host-gw: plain routes through the peers' own addresses, and nothing else on the host.

use std::time::{Duration, Instant};

use flannel_tests::agent::{Datapath, PREFIX};
use flannel_tests::bed::{BedOptions, Underlay};
use flannel_tests::cluster::{Cluster, config};
use flannel_tests::traffic::ping::{Options, ping};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;

use crate::look::{self, until_equal};
use flannel_tests::exercise::{run_for, wait_sent};

const HOST_GW: &str = r#"{"Type":"host-gw"}"#;

fn cluster(underlay: Underlay, hosts: u8, agents: usize, datapath: Datapath) -> Cluster {
    let options = BedOptions {
        hosts,
        underlay,
        ..BedOptions::default()
    };
    Cluster::with_config(&config(HOST_GW), options, &vec![datapath; agents]).expect("cluster")
}

fn subnet(cluster: &Cluster, host: usize) -> String {
    cluster.agents[host].status().expect("status").lease.subnet
}

fn route(cluster: &Cluster, to: usize) -> String {
    let (subnet, address) = (subnet(cluster, to), cluster.host(to).address);
    format!("{subnet} via {address} dev eth0 proto 70")
}

#[test]
fn routes_are_all_there_is_and_come_back() {
    for datapath in [Datapath::Kernel, Datapath::Ebpf] {
        let mut cluster = cluster(Underlay::Switch, 3, 3, datapath);
        let [a, b, c] = [0, 1, 2].map(|host| subnet(&cluster, host));
        let to_b = route(&cluster, 1);
        let host = cluster.host(0);
        assert_eq!(look::devices(host), ["cni0", "eth0", "mgmt0", "veth0"]);
        assert_eq!(look::routes(host, &b), to_b);
        assert_eq!(look::routes(host, &c), route(&cluster, 2));
        let status = cluster.agents[0].status().expect("status");
        assert_eq!(
            (status.backend.as_str(), status.device.is_none()),
            ("host-gw", true)
        );
        let foreign = format!("{b} via 192.168.7.200 dev eth0 metric 500");
        host.ns.ip(&format!("route add {foreign}")).expect("route");

        let changes = [
            format!("route del {to_b}"),
            format!("route replace {b} via 192.168.7.200 dev eth0"),
            format!("route replace blackhole {b}"),
            "link set eth0 down\nlink set eth0 up".to_owned(),
        ];
        for change in changes {
            let start = Instant::now();
            host.ns.ip(&change).expect("change");
            let routes = || look::routes(host, &b).lines().next().map(str::to_owned);
            until_equal(&change, &Some(to_b.clone()), routes);
            println!(
                "{datapath}, {change:?}: repaired after {:?}",
                start.elapsed()
            );
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "by the event, not by the clock"
            );
            let answers = || {
                let answer = ping(
                    &cluster.pod(0).ns,
                    cluster.pod(1).address,
                    Options::default(),
                );
                Ok(answer?.is_complete().then_some(()))
            };
            wait::until("an answer", Duration::from_secs(5), answers).expect("reached");
            if change.starts_with("link") {
                // The kernel drops a route with its link; this one had an owner who must know.
                host.ns.ip(&format!("route add {foreign}")).expect("route");
            }
        }
        let flow = Flow::start(cluster.pod(0), cluster.pod(1), 200, 1000).expect("flow");
        wait_sent(&flow, 100);
        let key = format!("{PREFIX}/subnets/{}", c.replace('/', "-"));
        cluster.agents[2].kill().expect("kill");
        cluster.bed.etcd.delete(&key).expect("delete the lease");
        let host = cluster.host(0);
        until_equal("no route to a peer that left", &String::new(), || {
            look::routes(host, &c)
        });
        assert_eq!(look::routes(host, &b), format!("{to_b}\n{foreign}"));
        let tally = run_for(flow, 100);
        assert!(tally.is_lossless(), "{tally:?}");
        assert_eq!(look::routes(host, &a).lines().count(), 1, "the pods' own");
    }
}

#[test]
fn a_peer_off_the_link_is_told_and_the_rest_is_served() {
    for datapath in [Datapath::Kernel, Datapath::Ebpf] {
        // `c` is behind a router.
        let mut cluster = cluster(Underlay::Routed, 3, 2, datapath);
        cluster.join(datapath).expect("a host on another link");
        let c = subnet(&cluster, 2);
        let problem = format!("the route to {c} via 192.168.8.12");
        let told = || {
            let status = cluster.agents[0].status()?;
            let told = status.problems.iter().any(|line| line.contains(&problem));
            Ok(told.then_some(status))
        };
        let status = wait::until(&problem, Duration::from_secs(10), told).expect("told");
        println!("{datapath}: {:?}", status.problems);
        assert!(!status.ready && status.peers.total == 2, "{status:?}");
        let answer = ping(
            &cluster.pod(0).ns,
            cluster.pod(1).address,
            Options::default(),
        );
        assert!(answer.expect("ping").is_complete(), "the peer on the link");
        assert_eq!(look::routes(cluster.host(0), &c), "");
        // The one that is served by nobody else: its own pods, and those that reach it.
        let host = cluster.host(0);
        host.ns
            .ip("route add 192.168.8.12/32 dev eth0")
            .expect("on the link, so to say");
        until_equal(
            "the route, once the kernel takes it",
            &route(&cluster, 2),
            || look::routes(host, &c),
        );
        cluster.agents[0].wait_for_peers(2).expect("whole");
    }
}

#[test]
fn an_address_of_a_nat_gateway_is_refused() {
    let mut cluster = cluster(Underlay::Direct, 2, 2, Datapath::Kernel);
    cluster.agents[0].terminate().expect("SIGTERM");
    cluster.agents[0].flags = vec!["--public-ip=203.0.113.9".into()];
    cluster.agents[0].start().expect("start");
    let status = cluster.agents[0].wait_for_end().expect("the end");
    let log = cluster.agents[0].log_tail();
    assert_eq!(status.code(), Some(1), "{log}");
    for words in [
        "203.0.113.9",
        "192.168.7.10",
        "eth0",
        "use vxlan behind NAT",
    ] {
        assert!(log.contains(words), "{words:?} is not in: {log}");
    }
}
