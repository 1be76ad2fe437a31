//! Containers of two hosts talk, ports are published, outside traffic is masqueraded.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use flannel_tests::host::Pod;
use flannel_tests::netns::NetNs;
use flannel_tests::traffic::iperf::{Placement, Server};
use flannel_tests::traffic::ping::{self, ping};
use flannel_tests::traffic::stream;
use flannel_tests::wire_watch::Watch;

use crate::setting::{Hosts, SLEEP, containers};

/// How long a connection and an answer may take.
const LIMIT: Duration = Duration::from_secs(3);
/// Payloads that fit, that just fit, and that are fragmented in the container.
const SIZES: [u32; 4] = [0, 56, 1422, 4000];

fn pings(from: &Pod, to: &Pod) {
    for size in SIZES {
        let options = ping::Options {
            size,
            ..ping::Options::default()
        };
        let answer = ping(&from.ns, to.address, options).expect("ping");
        assert!(answer.is_complete(), "size {size}:\n{}", answer.text);
    }
}

/// Address of whoever connects from `client` to a listener in `server` at `address`.
fn source_seen(client: &NetNs, server: &NetNs, address: Ipv4Addr) -> Ipv4Addr {
    let listener = server
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))
        .expect("namespace")
        .expect("listen");
    let target = SocketAddr::from((address, listener.local_addr().expect("port").port()));
    let _connection = client
        .enter(|| TcpStream::connect_timeout(&target, LIMIT))
        .expect("namespace")
        .expect("connect");
    match listener.accept().expect("accept").1 {
        SocketAddr::V4(source) => *source.ip(),
        SocketAddr::V6(source) => panic!("{source}"),
    }
}

/// What a web server says to `client`.
fn fetch(client: &NetNs, server: SocketAddr) -> Result<String> {
    let mut connection = client.enter(|| TcpStream::connect_timeout(&server, LIMIT))??;
    connection.set_read_timeout(Some(LIMIT))?;
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok(body.to_owned())
}

#[test]
fn containers_talk_although_docker_drops_forwarded_packets() {
    let hosts = Hosts::new(&["--ip-masq"]);
    let dockers = hosts.docker(&[]);
    let pods = containers(&dockers, "one");
    let [a, b] = &pods;
    for docker in &dockers {
        let chain = docker.chain("FORWARD").expect("chain");
        assert!(chain.contains("-P FORWARD DROP"), "{chain}");
        let mtu = docker
            .docker(&["exec", "one", "cat", "/sys/class/net/eth0/mtu"])
            .expect("exec");
        assert_eq!(mtu.trim(), "1450");
    }
    let watch = Watch::start(&hosts.bed.hosts[1]).expect("watch the wire");
    for (from, to) in [(a, b), (b, a)] {
        pings(from, to);
        stream::check(from, to, 4, 4 << 20).expect("TCP streams");
        let server = Server::start(to, Placement::Free).expect("iperf3");
        let gbps = server
            .measure(from, Duration::from_secs(1))
            .expect("iperf3");
        println!("iperf3: {gbps:.2} Gbit/s");
    }
    // By the program inside of a container, too, and by its name for the other one.
    let target = b.address.to_string();
    let words = ["exec", "one", "ping", "-c", "2", "-W", "2", &target];
    dockers[0].docker(&words).expect("ping in the container");
    let seen = watch.finish().expect("frames");
    println!("{seen:?}");
    assert!(seen.tunnelled > 100, "{seen:?}");
    assert_eq!(seen.bare, 0, "packets of containers outside of the tunnel");
    for agent in &hosts.agents {
        let status = agent.status().expect("status");
        for direction in ["egress", "ingress"] {
            let packets: u64 = status
                .datapath
                .counters
                .iter()
                .filter(|counter| counter.direction == direction && counter.handled)
                .map(|counter| counter.packets)
                .sum();
            assert!(packets > 100, "{direction}: {:?}", status.datapath.counters);
        }
    }
}

#[test]
fn only_what_leaves_the_overlay_is_masqueraded() {
    let hosts = Hosts::new(&["--ip-masq"]);
    let dockers = hosts.docker(&[]);
    let [a, b] = &containers(&dockers, "one");
    let [host_a, host_b] = [&hosts.bed.hosts[0], &hosts.bed.hosts[1]];
    for docker in &dockers {
        let machine = docker.machine();
        let nat = machine
            .run("iptables", &["-t", "nat", "-S"])
            .expect("rules");
        let own = format!("-s {}", a.address);
        assert!(
            !nat.contains("MASQUERADE") || !nat.contains(&own),
            "Docker masquerades:\n{nat}"
        );
    }
    for (pod, here, there) in [(a, host_a, host_b), (b, host_b, host_a)] {
        assert_eq!(source_seen(&pod.ns, &there.ns, there.address), here.address);
    }
    assert_eq!(source_seen(&a.ns, &b.ns, b.address), a.address);
    assert_eq!(source_seen(&b.ns, &a.ns, a.address), b.address);
}

#[test]
fn docker_masquerades_where_the_agent_does_not() {
    let hosts = Hosts::new(&[]);
    let dockers = hosts.docker(&[]);
    let [a, _] = &containers(&dockers, "one");
    let [here, there] = [&hosts.bed.hosts[0], &hosts.bed.hosts[1]];
    assert_eq!(source_seen(&a.ns, &there.ns, there.address), here.address);
}

fn published_ports_work(flags: &[&str]) {
    let hosts = Hosts::new(flags);
    let dockers = hosts.docker(&[]);
    let serve = "echo from $(hostname) >/index.html; exec httpd -f -p 80";
    let mut webs = Vec::new();
    for docker in &dockers {
        let name = format!("web-{}", docker.machine().name);
        let options = ["--publish", "8080:80", "--hostname", &name];
        let pod = docker.container(&name, &options, &["sh", "-c", serve]);
        webs.push(pod.expect("container"));
    }
    let others = [0, 1].map(|index| {
        dockers[index]
            .container("other", &[], &SLEEP)
            .expect("container")
    });
    let mut failures = Vec::new();
    for (number, host) in hosts.bed.hosts.iter().enumerate() {
        let expected = format!("from web-{}\n", host.name);
        let published = SocketAddr::from((host.address, 8080));
        let direct = SocketAddr::from((webs[number].address, 80));
        let remote = 1 - number;
        let clients = [
            ("the host itself", &host.ns, published),
            ("the other host", &hosts.bed.hosts[remote].ns, published),
            (
                "a container of the other host",
                &others[remote].ns,
                published,
            ),
            (
                "a container of the same host",
                &others[number].ns,
                published,
            ),
            ("the container itself", &webs[number].ns, published),
            (
                "the other host by the container's address",
                &hosts.bed.hosts[remote].ns,
                direct,
            ),
            (
                "a remote container by the container's address",
                &others[remote].ns,
                direct,
            ),
        ];
        for (who, client, server) in clients {
            match fetch(client, server) {
                Ok(text) => assert_eq!(text, expected, "{who}, {server}"),
                Err(error) => failures.push(format!("{who}, {server}: {error:#}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    published_ports_work(&["--ip-masq"]);
}

#[test]
fn published_ports_are_reached_where_docker_masquerades() {
    published_ports_work(&[]);
}
