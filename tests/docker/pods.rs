//! Pods that CNI's plugins attach, as flannel's own plugin would have them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use flannel_tests::cni::{Attached, Cni, delegate_config, portmap};
use flannel_tests::host::Pod;
use flannel_tests::machine::Machine;
use flannel_tests::traffic::ping::{self, Fragmentation, ping};
use flannel_tests::traffic::stream;
use serde_json::{Value, json};

use crate::setting::{Hosts, LIMIT};

/// `delegate` as flannel ships it.
fn shipped() -> Value {
    json!({ "hairpinMode": true, "isDefaultGateway": true })
}

struct Machines {
    machines: Vec<Machine>,
    hosts: Hosts,
}

impl Machines {
    fn new(flags: &[&str]) -> Self {
        let hosts = Hosts::new(flags);
        let machines = hosts.bed.hosts.iter().map(|host| {
            // Kubernetes asks for it before anything else.
            host.ns.sysctl("net/ipv4/ip_forward", "1").expect("sysctl");
            Machine::new(host).expect("machine")
        });
        Self {
            machines: machines.collect(),
            hosts,
        }
    }

    fn delegate(&self, host: usize, delegate: &Value) -> Value {
        let agent = &self.hosts.agents[host];
        let file = agent.outside(&agent.places.subnet_file).expect("path");
        let text = fs::read_to_string(file).expect("subnet.env");
        delegate_config(&text, delegate).expect("configuration")
    }

    fn plugins(&self) -> Vec<Cni<'_>> {
        let plugins = |machine| Cni::new(machine).expect("CNI plugins");
        self.machines.iter().map(plugins).collect()
    }
}

/// Pings that fit exactly and those that do not, and TCP, both ways.
fn talk(a: &Pod, b: &Pod) {
    for (from, to) in [(a, b), (b, a)] {
        let limits = [(56, true), (1422, true), (1423, false)];
        for (size, fits) in limits {
            let options = ping::Options {
                size,
                fragmentation: Fragmentation::Forbidden,
                ..ping::Options::default()
            };
            let answer = ping(&from.ns, to.address, options).expect("ping");
            assert_eq!(answer.is_complete(), fits, "size {size}:\n{}", answer.text);
        }
        stream::check(from, to, 2, 2 << 20).expect("TCP");
    }
}

fn mtu(pod: &Pod) -> u64 {
    let text = pod.ns.run("ip", &["-json", "link", "show", "dev", "eth0"]);
    let links: Value = serde_json::from_str(&text.expect("ip")).expect("JSON");
    links[0]["mtu"].as_u64().expect("MTU")
}

fn attached_pods_talk(flags: &[&str], delegate: &Value) {
    let machines = Machines::new(flags);
    let plugins = machines.plugins();
    let pods: Vec<Attached> = (0..2)
        .map(|host| {
            let config = machines.delegate(host, delegate);
            plugins[host].add("pod", vec![config]).expect("ADD")
        })
        .collect();
    assert_eq!(
        pods.iter().map(|pod| mtu(&pod.pod)).collect::<Vec<_>>(),
        [1450, 1450]
    );
    talk(&pods[0].pod, &pods[1].pod);
    let neighbour = plugins[0].add("neighbour", vec![machines.delegate(0, delegate)]);
    let neighbour = neighbour.expect("ADD of a second pod");
    talk(&neighbour.pod, &pods[1].pod);
    talk(&neighbour.pod, &pods[0].pod);
    for agent in &machines.hosts.agents {
        let counters = agent.status().expect("status").datapath.counters;
        let by_ebpf = |direction: &str| -> u64 {
            let counters = counters
                .iter()
                .filter(|c| c.direction == direction && c.handled);
            counters.map(|counter| counter.packets).sum()
        };
        println!(
            "egress {}, ingress {}",
            by_ebpf("egress"),
            by_ebpf("ingress")
        );
        assert!(
            by_ebpf("egress") > 100 && by_ebpf("ingress") > 100,
            "{counters:?}"
        );
    }
    for (host, pod) in [(0, &pods[0]), (0, &neighbour), (1, &pods[1])] {
        plugins[host].delete(pod).expect("DEL");
        let devices = machines.machines[host].ns().run("ip", &["-brief", "link"]);
        let devices = devices.expect("ip");
        assert!(!devices.contains(&pod.pod.veth), "after DEL:\n{devices}");
    }
    for plugins in &plugins {
        assert_eq!(
            plugins.reserved("cbr0").expect("host-local"),
            [Ipv4Addr::UNSPECIFIED; 0]
        );
    }
}

#[test]
fn pods_on_a_bridge_talk() {
    attached_pods_talk(&["--ip-masq"], &shipped());
}

#[test]
fn pods_on_a_bridge_talk_where_the_plugin_masquerades() {
    attached_pods_talk(&[], &shipped());
}

#[test]
fn pods_on_point_to_point_links_talk() {
    attached_pods_talk(&["--ip-masq"], &json!({ "type": "ptp" }));
}

/// Sends the address of whoever connects, once.
fn answer_once(listener: &TcpListener) {
    let (mut connection, peer) = listener.accept().expect("accept");
    write!(connection, "{}", peer.ip()).expect("answer");
}

#[test]
fn portmap_publishes_a_port_of_a_pod() {
    let machines = Machines::new(&["--ip-masq"]);
    let plugins = machines.plugins();
    let chain = |host: usize| vec![machines.delegate(host, &shipped()), portmap(&[(8080, 80)])];
    let server = plugins[0].add("server", chain(0)).expect("ADD");
    let client = plugins[1].add("client", chain(1)).expect("ADD");
    let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80));
    let listener = server
        .pod
        .ns
        .enter(bind)
        .expect("namespace")
        .expect("listen");
    let [here, there] = [&machines.hosts.bed.hosts[0], &machines.hosts.bed.hosts[1]];
    let published = SocketAddr::from((here.address, 8080));
    let direct = SocketAddr::from((server.pod.address, 80));
    let clients = [
        ("the other host", &there.ns, published, Some(there.address)),
        (
            "a pod of the other host",
            &client.pod.ns,
            published,
            Some(there.address),
        ),
        ("the host itself", &here.ns, published, None),
        (
            "a pod, directly",
            &client.pod.ns,
            direct,
            Some(client.pod.address),
        ),
    ];
    for (who, ns, target, source) in clients {
        let text = thread::scope(|scope| {
            scope.spawn(|| answer_once(&listener));
            let connect = || TcpStream::connect_timeout(&target, LIMIT);
            let mut connection = ns.enter(connect).expect("namespace").expect(who);
            let mut text = String::new();
            connection.read_to_string(&mut text).expect("answer");
            text
        });
        println!("{who}: seen as {text}");
        if let Some(source) = source {
            assert_eq!(text, source.to_string(), "{who}");
        }
    }
    plugins[0].delete(&server).expect("DEL");
    let rules = machines.machines[0].run("iptables", &["-t", "nat", "-S"]);
    let rules = rules.expect("rules");
    assert!(!rules.contains("8080"), "after DEL:\n{rules}");
}
