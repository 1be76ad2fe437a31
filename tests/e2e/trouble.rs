//! What is in the way: a clear line each, nothing foreign touched, the rest served.

use std::time::Duration;

use flannel_agent::status::{KernelPeer, Status};
use flannel_tests::agent::{Agent, Datapath, PREFIX};
use flannel_tests::bed::{Bed, BedOptions};
use flannel_tests::bpf::{XDP_PASS, XdpMode, XdpProgram, exit, set};
use flannel_tests::cluster::{Cluster, config};
use flannel_tests::traffic::ping::{Options, ping};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;

use crate::look;
use flannel_tests::exercise::{self, packets, run_for};

const VXLAN: &str = r#"{"Type":"vxlan"}"#;
const HOST_GW: &str = r#"{"Type":"host-gw"}"#;
const UDP: &str = r#"{"Type":"udp"}"#;
const EXTENSION: &str = r#"{"Type":"extension",
    "SubnetAddCommand":"ip route replace $SUBNET via $PUBLIC_IP"}"#;

/// A lease that cannot be used, and words of the reason.
struct Lease {
    subnet: &'static str,
    value: &'static str,
    reason: &'static str,
}

const fn lease(subnet: &'static str, value: &'static str, reason: &'static str) -> Lease {
    Lease {
        subnet,
        value,
        reason,
    }
}

const OF_VXLAN: [Lease; 7] = [
    lease(
        "10.5.201.0-24",
        r#"{"PublicIP":"192.168.7.61","BackendType":"vxlan"}"#,
        "BackendData is missing",
    ),
    lease(
        "10.5.202.0-24",
        r#"{"PublicIP":"192.168.7.62","BackendType":"vxlan","BackendData":{"VNI":1}}"#,
        "no VtepMAC",
    ),
    lease(
        "10.5.203.0-24",
        r#"{"PublicIP":"192.168.7.63","BackendType":"vxlan","BackendData":{"VtepMAC":"garbage"}}"#,
        "VtepMAC",
    ),
    lease(
        "10.5.204.0-24",
        r#"{"PublicIP":"192.168.7.64","BackendType":"vxlan","BackendData":{"VtepMAC":"01:00:5e:00:00:01"}}"#,
        "not the address of a station",
    ),
    lease(
        "10.5.205.0-24",
        r#"{"PublicIP":"127.0.0.1","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:05"}}"#,
        "not the address of a host",
    ),
    lease(
        "10.6.207.0-24",
        r#"{"PublicIP":"192.168.7.67","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:07"}}"#,
        "outside of the network",
    ),
    lease(
        "10.5.208.0-24",
        r#"{"PublicIP":"192.168.7.68","BackendType":"host-gw"}"#,
        r#""host-gw", not vxlan"#,
    ),
];

const OF_HOST_GW: [Lease; 3] = [
    lease(
        "10.5.201.0-24",
        r#"{"PublicIP":"224.0.0.9","BackendType":"host-gw"}"#,
        "not the address of a host",
    ),
    lease(
        "10.5.202.0-24",
        r#"{"PublicIP":"192.168.7.62","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:05"}}"#,
        r#""vxlan", not host-gw"#,
    ),
    lease(
        "10.5.0.0-16",
        r#"{"PublicIP":"192.168.7.63","BackendType":"host-gw"}"#,
        "overlaps",
    ),
];

/// udp takes leases of any type, as stock flannel does.
const OF_UDP: [Lease; 1] = [lease(
    "10.5.201.0-24",
    r#"{"PublicIP":"255.255.255.255"}"#,
    "not the address of a host",
)];

const OF_EXTENSION: [Lease; 3] = [
    lease(
        "10.5.201.0-24",
        r#"{"PublicIP":"0.0.0.0","BackendType":"extension"}"#,
        "not the address of a host",
    ),
    lease(
        "10.5.202.0-24",
        r#"{"PublicIP":"192.168.7.62","BackendType":"extension","BackendData":{"no":"text"}}"#,
        "BackendData",
    ),
    lease(
        "10.5.203.0-24",
        r#"{"PublicIP":"192.168.7.63","BackendType":"udp"}"#,
        r#""udp", not extension"#,
    ),
];

#[test]
fn a_lease_that_cannot_be_used_is_named_and_costs_nobody_else() {
    for (backend, leases) in [
        (VXLAN, &OF_VXLAN[..]),
        (HOST_GW, &OF_HOST_GW),
        (UDP, &OF_UDP),
        (EXTENSION, &OF_EXTENSION),
    ] {
        for datapath in [Datapath::Kernel, Datapath::Ebpf] {
            let options = BedOptions::default();
            let mut cluster =
                Cluster::with_config(&config(backend), options, &[datapath; 2]).expect("cluster");
            for Lease { subnet, value, .. } in leases {
                let key = format!("{PREFIX}/subnets/{subnet}");
                cluster.bed.etcd.put(&key, value).expect("put");
            }
            let agent = &mut cluster.agents[0];
            let ignored = || {
                let ignored = agent.status()?.peers.ignored;
                Ok((ignored.len() == leases.len()).then_some(ignored))
            };
            let ignored = wait::until("all of them", Duration::from_secs(10), ignored)
                .unwrap_or_else(|error| panic!("{error}: {:?}", agent.status()));
            for Lease { subnet, reason, .. } in leases {
                let subnet = subnet.replace('-', "/");
                let said = ignored.iter().find(|peer| peer.subnet == subnet);
                let said = &said.expect(&subnet).reason;
                println!("{backend}, {datapath}, {subnet}: {said}");
                assert!(said.contains(reason), "{reason:?} is not in {said:?}");
                assert_eq!(
                    look::run(cluster.host(0), &format!("ip route show exact {subnet}")),
                    ""
                );
            }
            cluster.wait_for_peers(1).expect("the real peer");
            let [a, b] = [cluster.pod(0), cluster.pod(1)];
            // The commands of an extension are still under way.
            let reached = || {
                let answer = ping(&a.ns, b.address, Options::default())?;
                Ok(answer.is_complete().then_some(()))
            };
            wait::until("an answer", Duration::from_secs(5), reached)
                .unwrap_or_else(|error| panic!("{backend}, {datapath}: {error}"));
        }
    }
}

/// Leases that are right, but of nodes that are not to be had: nobody answers on the link; and there
/// is no way at all.
const SILENT: Absent = Absent {
    subnet: "10.5.201.0/24",
    address: "192.168.7.77",
    mac: "02:00:00:00:00:05",
    said: "no link-layer address",
};
const UNREACHABLE: Absent = Absent {
    subnet: "10.5.202.0/24",
    address: "203.0.113.5",
    mac: "02:00:00:00:00:06",
    said: "no route",
};

/// A node that is not there.
struct Absent {
    subnet: &'static str,
    address: &'static str,
    mac: &'static str,
    /// Words of what eBPF says of it where there is a tunnel.
    said: &'static str,
}

impl Absent {
    /// Its lease, with what the backend `named` adds.
    fn value(&self, named: &str) -> String {
        let Self { address, mac, .. } = self;
        let data = match named {
            VXLAN => format!(r#","BackendType":"vxlan","BackendData":{{"VtepMAC":"{mac}"}}"#),
            HOST_GW => r#","BackendType":"host-gw""#.to_owned(),
            _ => String::new(),
        };
        format!(r#"{{"PublicIP":"{address}"{data}}}"#)
    }

    /// Whether a reason says what it is.
    fn is_told(&self, peers: &[KernelPeer]) -> bool {
        let mut of = peers.iter().filter(|peer| peer.subnet == self.subnet);
        of.any(|peer| peer.reason.contains(self.said))
    }
}

#[test]
fn a_peer_that_cannot_be_reached_is_told_and_costs_nobody_else() {
    for backend in [VXLAN, HOST_GW, UDP] {
        for datapath in [Datapath::Kernel, Datapath::Ebpf] {
            let options = BedOptions::default();
            let cluster =
                Cluster::with_config(&config(backend), options, &[datapath; 2]).expect("cluster");
            let [a, b] = [cluster.pod(0), cluster.pod(1)];
            let flow = Flow::start(a, b, 200, 1000).expect("flow");
            for absent in [SILENT, UNREACHABLE] {
                let key = format!("{PREFIX}/subnets/{}", absent.subnet.replace('/', "-"));
                let value = absent.value(backend);
                cluster.bed.etcd.put(&key, &value).expect("put");
            }
            let told = || {
                let Status {
                    peers, problems, ..
                } = cluster.agents[0].status()?;
                let is_told = match (backend, datapath) {
                    // The kernel takes no route over a gateway to which there is none.
                    (HOST_GW, _) => problems.iter().any(|p| p.contains(UNREACHABLE.subnet)),
                    // Left to the kernel, as all peers are.
                    (_, Datapath::Kernel) => true,
                    _ => [SILENT, UNREACHABLE]
                        .iter()
                        .all(|a| a.is_told(&peers.kernel)),
                };
                anyhow::ensure!(is_told && peers.total == 3, "{peers:?}, {problems:?}");
                Ok(Some(()))
            };
            wait::until("what is said of them", Duration::from_secs(10), told)
                .unwrap_or_else(|error| panic!("{backend}, {datapath}: {error:#}"));
            // Packets to them disturb nobody.
            let options = Options {
                interval_ms: 50,
                ..Options::default()
            };
            for address in [[10, 5, 201, 2], [10, 5, 202, 2]] {
                let answer = ping(&a.ns, address.into(), options).expect("ping");
                assert_eq!(answer.received, 0, "{}", answer.text);
            }
            let tally = run_for(flow, 200);
            assert!(tally.is_lossless(), "{backend}, {datapath}: {tally:?}");
        }
    }
}

/// What somebody else has, what to look at before and after, and words of the refusal.
struct Obstacle {
    backend: &'static str,
    /// Lines for `ip`.
    made: &'static str,
    /// A port that a process listens on.
    port: Option<u16>,
    said: &'static [&'static str],
}

const OBSTACLES: [Obstacle; 7] = [
    Obstacle {
        backend: VXLAN,
        made: "link add flannel.1 type bridge",
        port: None,
        said: &[
            "flannel.1",
            "bridge",
            "not a vxlan device",
            "ip link delete flannel.1",
        ],
    },
    Obstacle {
        backend: UDP,
        made: "link add flannel0 type bridge",
        port: None,
        said: &[
            "flannel0",
            "bridge",
            "not a TUN device",
            "ip link delete flannel0",
        ],
    },
    Obstacle {
        backend: UDP,
        made: "tuntap add flannel0 mode tun",
        port: None,
        said: &["flannel0", "another program", "ip link delete flannel0"],
    },
    Obstacle {
        backend: VXLAN,
        made: "link add other type vxlan id 1 dstport 8472 dev eth0",
        port: None,
        said: &["flannel.1", "other", "VNI 1", "8472"],
    },
    Obstacle {
        backend: VXLAN,
        made: "",
        port: Some(8472),
        said: &["flannel.1", "8472", "in use"],
    },
    Obstacle {
        backend: UDP,
        made: "",
        port: Some(8285),
        said: &["8285", "in use", "ss -lunp"],
    },
    Obstacle {
        backend: r#"{"Type":"udp","Port":9000}"#,
        made: "",
        port: Some(9000),
        said: &["9000", "in use"],
    },
];

#[test]
fn what_is_taken_is_named_with_the_remedy_and_left_alone() {
    let bed = Bed::new(BedOptions::default()).expect("bed");
    let host = &bed.hosts[0];
    for datapath in [Datapath::Kernel, Datapath::Ebpf] {
        for obstacle in &OBSTACLES {
            let Obstacle {
                backend,
                made,
                port,
                said,
            } = obstacle;
            let before = look::devices(host);
            host.ns.ip(made).expect(made);
            let socket = port.map(|port| {
                let bind = || std::net::UdpSocket::bind(("0.0.0.0", port));
                host.ns.enter(bind).expect("enter").expect("port")
            });
            let text = look::run(host, "ip -details link");
            let key = format!("{PREFIX}/config");
            bed.etcd.put(&key, &config(backend)).expect("config");
            let mut agent = Agent::new(host, datapath).expect("agent");
            agent.start().expect("start");
            let status = agent.wait_for_end().expect("the end");
            let log = agent.log_tail();
            let last = log.lines().last().expect("a line");
            println!("{datapath}, {made:?}, {port:?}: {last}");
            assert_eq!(status.code(), Some(1), "{log}");
            for words in *said {
                assert!(last.contains(words), "{words:?} is not in: {last}");
            }
            // A tunnel device of ours may be there besides, down.
            let after = look::run(host, "ip -details link");
            for line in text
                .lines()
                .filter(|line| line.contains("flannel") || line.contains("other"))
            {
                assert!(after.contains(line), "{line:?} is not in: {after}");
            }
            drop(socket);
            let names = look::devices(host);
            for name in names.iter().filter(|name| !before.contains(name)) {
                host.ns.ip(&format!("link del {name}")).expect("clean");
            }
        }
    }
}

#[test]
fn programs_of_others_on_the_same_hooks_stay_and_see_packets() {
    for backend in [VXLAN, HOST_GW, UDP] {
        let options = BedOptions::default();
        let mut cluster = Cluster::with_config(&config(backend), options, &[Datapath::Kernel; 2])
            .expect("cluster");
        if backend == UDP {
            exercise::fill_in_checksums(&cluster);
            exercise::bear_disorder(&cluster.bed);
        }
        let host = cluster.host(0);
        let index = host.device_index("eth0").expect("index");
        let program = XdpProgram::load(&[set(0, XDP_PASS), exit()]).expect("XDP program");
        let link = host
            .ns
            .enter(|| program.attach(index, XdpMode::Generic))
            .expect("enter")
            .expect("attach");
        host.ns
            .run("tc", &["qdisc", "add", "dev", "eth0", "clsact"])
            .expect("clsact");
        for direction in ["ingress", "egress"] {
            let args = ["filter", "add", "dev", "eth0", direction, "prio", "3"];
            let args = [&args[..], &["bpf", "bytecode", "1,6 0 0 0"]].concat();
            host.ns.run("tc", &args).expect("filter");
        }
        let others = || {
            let mut programs = look::programs(cluster.host(0));
            let ours = ["vxlan_", "udp_", "direct_"];
            programs.retain(|line| !ours.iter().any(|name| line.contains(name)));
            programs
        };
        let before = others();
        assert_eq!(before.len(), 3, "{before:?}");
        for datapath in [Datapath::Ebpf, Datapath::Kernel, Datapath::Ebpf] {
            let agent = &mut cluster.agents[0];
            agent.terminate().expect("SIGTERM");
            agent.datapath = datapath;
            agent.start().expect("start");
            let status = agent.wait_for_peers(1).expect("peers");
            assert_eq!(status.datapath.active, datapath.to_string());
            let mut programs = look::programs(cluster.host(0));
            programs.retain(|line| before.contains(line));
            assert_eq!(programs, before, "{backend}, {datapath}");
            assert_told(&status);
            exercise::everything(&cluster);
            if datapath == Datapath::Ebpf && backend == VXLAN {
                let status = cluster.agents[0].status().expect("status");
                let carried = ["egress", "ingress"].map(|way| packets(&status, way).0);
                assert!(carried.iter().all(|carried| *carried > 0), "{carried:?}");
            }
        }
        drop(link);
    }
}

/// With eBPF an operator is told of all three.
fn assert_told(status: &Status) {
    let notices = status.notices.join("; ");
    for words in [
        "programs of others see packets before",
        "eth0: generic XDP",
        "eth0: clsact ingress bpf",
        "eth0: clsact egress bpf",
    ] {
        let is_told = status.datapath.active == "ebpf";
        assert_eq!(notices.contains(words), is_told, "{words:?}: {notices}");
    }
}

/// A filter that takes every packet, and so lets none through to filters behind it, shows who is
/// first: what it has taken goes by the kernel path.
#[test]
fn filters_of_others_have_the_first_look() {
    let cluster = Cluster::new(BedOptions::default(), &[Datapath::Ebpf; 2]).expect("cluster");
    let host = cluster.host(0);
    let way = |status: &Status| {
        let mut programs = status.datapath.programs.iter();
        let decap = programs.find(|program| program.name == "vxlan_decap");
        decap.expect("vxlan_decap").attach.clone()
    };
    let status = || cluster.agents[0].status().expect("status");
    let carried = || {
        let before = packets(&status(), "ingress").0;
        let [a, b] = [cluster.pod(0), cluster.pod(1)];
        let answer = ping(&a.ns, b.address, Options::default()).expect("ping");
        assert!(answer.is_complete(), "{}", answer.text);
        packets(&status(), "ingress").0 - before
    };
    let tc = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        host.ns.run("tc", &words).expect("tc");
    };
    // The agent looks when something about its interfaces changes, and once a minute.
    let look = || {
        let lines = "link set eth0 txqueuelen 999\nlink set eth0 txqueuelen 1000";
        host.ns.ip(lines).expect("change");
    };
    let first = way(&status());
    assert!(carried() > 0);
    tc("qdisc replace dev eth0 clsact");
    let filter = [
        "filter", "add", "dev", "eth0", "ingress", "prio", "3", "bpf", "bytecode",
    ];
    let filter = [&filter[..], &["1,6 0 0 4294967295"]].concat();
    host.ns.run("tc", &filter).expect("filter");
    look();
    look::until_equal("ours behind it", &"clsact".to_owned(), || way(&status()));
    assert_eq!(carried(), 0, "the filter is first");
    tc("filter del dev eth0 ingress prio 3");
    look();
    look::until_equal("ours as before", &first, || way(&status()));
    assert!(carried() > 0);
    assert_eq!(status().notices, [""; 0]);
}
