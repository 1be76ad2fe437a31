//! Leases: all nodes at once, and what should not be among the keys.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use flannel_agent::status::Status;
use flannel_tests::agent::{Agent, Datapath, PREFIX};
use flannel_tests::bed::{Bed, BedOptions, Underlay};
use flannel_tests::cluster::{CONFIG, Cluster};
use flannel_tests::traffic::ping::{Options, ping};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;
use nix::sys::signal::Signal;

use flannel_tests::exercise::{run_for, wait_sent};

/// Agents at once.
const NODES: u8 = 50;
/// Of these, carried by eBPF.
const EBPF_NODES: usize = 4;
/// Pause of an agent between two looks for the network config, and some time more.
const RETRY: Duration = Duration::from_millis(1200);

fn switched(hosts: u8) -> BedOptions {
    BedOptions {
        hosts,
        underlay: Underlay::Switch,
        ..BedOptions::default()
    }
}

/// Room for exactly as many subnets as there are nodes. All agents wait for the network config,
/// are stopped, and go on in one moment when it is there.
#[test]
fn d1_fifty_nodes_at_one_instant_get_fifty_subnets() {
    let bed = Bed::new(switched(NODES)).expect("bed");
    let mut agents: Vec<Agent> = Vec::new();
    for (number, host) in bed.hosts.iter().enumerate() {
        let datapath = match number < EBPF_NODES {
            true => Datapath::Ebpf,
            false => Datapath::Kernel,
        };
        let mut agent = Agent::new(host, datapath).expect("agent");
        agent.start().expect("start");
        agents.push(agent);
    }
    for agent in &mut agents {
        agent.wait_for_log("is missing").expect("no config yet");
    }
    for agent in &agents {
        agent.signal(Signal::SIGSTOP).expect("stop");
    }
    let config = format!(
        r#"{{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.{NODES}.0","Backend":{{"Type":"vxlan"}}}}"#
    );
    bed.etcd
        .put(&format!("{PREFIX}/config"), &config)
        .expect("config");
    thread::sleep(RETRY);
    let start = Instant::now();
    for agent in &agents {
        agent.signal(Signal::SIGCONT).expect("go on");
    }
    let together = start.elapsed();
    let subnets: BTreeSet<_> = agents
        .iter_mut()
        .map(|agent| agent.wait_for_subnet().expect("lease").bridge.to_string())
        .collect();
    let leased = start.elapsed();
    assert_eq!(subnets.len(), usize::from(NODES), "{subnets:?}");
    let keys = bed.etcd.keys(&format!("{PREFIX}/subnets/")).expect("keys");
    assert_eq!(keys.len(), usize::from(NODES), "{keys:?}");
    for agent in &mut agents {
        agent
            .wait_for_peers(usize::from(NODES) - 1)
            .expect("all the others");
    }
    let races: usize = agents
        .iter()
        .map(|agent| agent.log_tail().matches("another node was faster").count())
        .sum();
    println!(
        "{NODES} agents within {together:?}: all leases after {leased:?}, all peers after {:?}, \
         {races} races lost and tried again",
        start.elapsed()
    );
    assert!(races > 0, "the nodes did not meet");
}

/// Two hosts that nothing of this concerns talk all the time; the third is the neighbour of
/// whatever is wrong.
struct Bystanders {
    cluster: Cluster,
    flows: Vec<Flow>,
}

impl Bystanders {
    fn new() -> Self {
        let datapaths = [Datapath::Ebpf, Datapath::Kernel, Datapath::Ebpf];
        // What the tests write by hand lies outside of this range.
        let config = CONFIG.replace(
            "\"Backend\"",
            r#""SubnetMin":"10.5.16.0","SubnetMax":"10.5.199.0","Backend""#,
        );
        let bed = Bed::new(switched(3)).expect("bed");
        bed.etcd
            .put(&format!("{PREFIX}/config"), &config)
            .expect("config");
        let mut cluster = Cluster {
            agents: Vec::new(),
            bed,
        };
        for datapath in datapaths {
            cluster.join(datapath).expect("agent");
        }
        cluster.wait_for_peers(2).expect("peers");
        let flows = [(0, 1), (1, 0)].map(|(from, to)| {
            Flow::start(cluster.pod(from), cluster.pod(to), 200, 1000).expect("flow")
        });
        wait_sent(&flows[0], 200);
        Self {
            cluster,
            flows: flows.into(),
        }
    }

    /// Writes a key below the prefix.
    fn put(&self, name: &str, value: &str) {
        let key = format!("{PREFIX}/{name}");
        self.cluster.bed.etcd.put(&key, value).expect("put");
    }

    fn delete(&self, name: &str) {
        let key = format!("{PREFIX}/{name}");
        self.cluster.bed.etcd.delete(&key).expect("delete");
    }

    fn value(&self, host: usize) -> String {
        let key = format!("{PREFIX}/{}", self.key(host));
        self.cluster.bed.etcd.get(&key).expect("get")
    }

    /// Name of a host's lease below the prefix.
    fn key(&self, host: usize) -> String {
        let subnet = self.cluster.agents[host].status().expect("status").lease;
        format!("subnets/{}", subnet.subnet.replace('/', "-"))
    }

    /// Waits until the status of a host is as it should be.
    fn until(&self, host: usize, what: &str, is_right: impl Fn(&Status) -> bool) -> Status {
        let mut last = None;
        let right = wait::until(what, Duration::from_secs(20), || {
            let status = self.cluster.agents[host].status()?;
            let found = is_right(&status).then(|| status.clone());
            last = Some(status);
            Ok(found)
        });
        right.unwrap_or_else(|error| panic!("{error:#}: {last:?}"))
    }

    /// Waits until all three have seen everything that was written before, in the order of etcd's
    /// revisions: a last key that cannot be read is listed.
    fn settle(&self, mark: &str) {
        self.put(&format!("subnets/{mark}"), "");
        for host in 0..3 {
            self.until(host, mark, |status| unreadable(status).contains(&mark));
        }
        self.delete(&format!("subnets/{mark}"));
        for host in 0..3 {
            self.until(host, mark, |status| !unreadable(status).contains(&mark));
        }
    }

    /// All pairs of pods talk.
    fn check(&self) {
        for (from, to) in [(0, 1), (0, 2), (1, 2), (2, 0), (2, 1)] {
            let (from, to) = (self.cluster.pod(from), self.cluster.pod(to));
            let answer = ping(&from.ns, to.address, Options::default()).expect("ping");
            assert!(answer.is_complete(), "{}", answer.text);
        }
    }

    fn finish(self) {
        for flow in self.flows {
            let tally = run_for(flow, 200);
            println!("{tally:?}");
            assert!(tally.is_lossless(), "{tally:?}");
        }
    }
}

fn unreadable(status: &Status) -> Vec<&str> {
    let keys = status.store.unreadable.iter();
    keys.map(|key| key.key.as_str()).collect()
}

/// Why a host does not use a lease.
fn ignored<'s>(status: &'s Status, subnet: &str) -> Option<&'s str> {
    let found = status.peers.ignored.iter().find(|one| one.subnet == subnet);
    found.map(|one| one.reason.as_str())
}

fn lease(public_ip: &str, last: u8) -> String {
    format!(
        r#"{{"PublicIP":"{public_ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:{last:02x}"}}}}"#
    )
}

#[test]
fn d3_poison_and_foreign_keys_cost_nobody_anything() {
    let bed = Bystanders::new();
    // A key that is none, a value that is none, and what lies beside the leases.
    bed.put("subnets/junk", &lease("192.168.7.77", 77));
    bed.put("subnets/10.5.250.0-24", "{\"PublicIP\":");
    bed.put("subnets/10.5.251.0-24", r#"{"PublicIP":"nowhere"}"#);
    bed.put("subnets/deeper/10.5.252.0-24", &lease("192.168.7.78", 78));
    bed.put("subnets-old/10.5.253.0-24", &lease("192.168.7.79", 79));
    bed.put("other", "{}");
    bed.settle("mark");
    for host in 0..3 {
        let status = bed.cluster.agents[host].status().expect("status");
        assert_eq!(
            unreadable(&status),
            [
                "10.5.250.0-24",
                "10.5.251.0-24",
                "deeper/10.5.252.0-24",
                "junk"
            ]
        );
        assert_eq!(status.peers.total, 2, "{status:?}");
        assert!(status.ready, "{:?}", status.problems);
    }
    bed.check();

    // Garbage in a peer's own key: the peer writes it again, and meanwhile nobody forgets it.
    let (key, value) = (bed.key(2), bed.value(2));
    bed.put(&key, "garbage");
    let again = || Ok((bed.value(2) == value).then_some(()));
    wait::until("the value to be repaired", Duration::from_secs(20), again).expect("repaired");
    bed.settle("mark");
    bed.check();
    bed.finish();
}

#[test]
fn leases_that_would_take_packets_from_others_are_not_used() {
    let bed = Bystanders::new();
    let third = bed.cluster.agents[2].status().expect("status").lease.subnet;
    let inside = third.replace(".0/24", ".128/25");
    let around = third.parse::<ipnetwork::Ipv4Network>().expect("subnet");
    let around = ipnetwork::Ipv4Network::new(around.ip(), 20).expect("subnet");
    let around = format!("{}/20", around.network());
    let rows = [
        (inside.as_str(), "of another lease"),
        (around.as_str(), ""),
        ("192.168.7.0/24", "outside of the network"),
        ("10.200.0.0/16", "outside of the network"),
        ("10.9.9.0/24", "outside of the network"),
        ("0.0.0.0/0", "outside of the network"),
    ];
    for (number, (subnet, _)) in (100..).zip(rows) {
        let value = lease(&format!("192.168.7.{number}"), number);
        bed.put(&format!("subnets/{}", subnet.replace('/', "-")), &value);
    }
    // Somebody else with the first host's address, and another MAC.
    bed.put("subnets/10.5.254.0-24", &lease("192.168.7.10", 99));
    bed.settle("mark");

    for host in 0..2 {
        let status = bed.cluster.agents[host].status().expect("status");
        for (subnet, reason) in rows {
            let found = ignored(&status, subnet);
            assert!(
                found.is_some_and(|found| found.contains(reason)),
                "{subnet}: {found:?} instead of {reason:?}"
            );
        }
    }
    // To the node inside of whose subnet it lies, it overlaps its own.
    let status = bed.cluster.agents[2].status().expect("status");
    let own = ignored(&status, &inside).unwrap_or_default();
    assert!(own.contains("overlaps our own"), "{own}");
    // The node whose address it is does not send to itself; the others cannot tell who is right.
    let status = bed.cluster.agents[0].status().expect("status");
    let own = ignored(&status, "10.5.254.0/24").unwrap_or_default();
    assert_eq!(own, "public IP 192.168.7.10 is our own");
    assert_eq!(status.peers.total, 2);
    let status = bed.cluster.agents[1].status().expect("status");
    assert_eq!(status.peers.total, 3);
    bed.check();
    bed.finish();
}

#[test]
fn the_own_subnet_deleted_by_hand_is_leased_again() {
    let mut bed = Bystanders::new();
    let (key, value) = (bed.key(2), bed.value(2));
    bed.delete(&key);
    let agent = &mut bed.cluster.agents[2];
    agent
        .wait_for_log("the same subnet is leased again")
        .expect("the same subnet");
    bed.cluster.wait_for_peers(2).expect("peers");
    assert_eq!((bed.key(2), bed.value(2)), (key, value));
    bed.check();
    bed.finish();
}

#[test]
fn the_own_subnet_deleted_by_hand_ends_an_agent_that_is_told_so() {
    let mut bed = Bystanders::new();
    let key = bed.key(2);
    let agent = &mut bed.cluster.agents[2];
    agent.terminate().expect("SIGTERM");
    agent.flags = vec!["--on-lease-loss=exit".into()];
    agent.start().expect("start");
    bed.cluster.wait_for_peers(2).expect("peers");
    bed.delete(&key);
    let end = bed.cluster.agents[2].wait_for_end().expect("end");
    assert_eq!(end.code(), Some(1), "{end}");
    let log = bed.cluster.agents[2].log_tail();
    assert!(log.contains("was deleted or has expired"), "{log}");
    for host in 0..2 {
        bed.until(host, "one peer", |status| status.peers.total == 1);
    }
    // As a supervisor does it.
    bed.cluster.agents[2].start().expect("start");
    bed.cluster.wait_for_peers(2).expect("peers");
    assert_eq!(bed.key(2), key);
    bed.check();
    bed.finish();
}

#[test]
fn a_lease_with_the_own_address_does_not_move_a_node_that_starts_again() {
    let mut bed = Bystanders::new();
    let key = bed.key(0);
    // Before any that the agents can have chosen.
    bed.put("subnets/10.5.0.0-24", &lease("192.168.7.10", 99));
    bed.settle("mark");
    bed.cluster.agents[0].terminate().expect("SIGTERM");
    bed.cluster.agents[0].start().expect("start");
    bed.cluster.agents[0].wait_for_peers(2).expect("peers");
    assert_eq!(bed.key(0), key);
    bed.check();
    bed.finish();
}

#[test]
fn an_exhausted_pool_is_told_with_its_bounds() {
    let bed = Bed::new(BedOptions::default()).expect("bed");
    let config = CONFIG.replace(
        "\"Backend\"",
        r#""SubnetMin":"10.5.1.0","SubnetMax":"10.5.1.0","Backend""#,
    );
    bed.etcd
        .put(&format!("{PREFIX}/config"), &config)
        .expect("config");
    let [mut first, mut second] =
        [0, 1].map(|host| Agent::new(&bed.hosts[host], Datapath::Kernel).expect("agent"));
    first.start().expect("start");
    first.wait_for_subnet().expect("the only subnet");
    second.start().expect("start");
    let end = second.wait_for_end().expect("end");
    assert_eq!(end.code(), Some(1), "{end}");
    let log = second.log_tail();
    assert!(log.contains("from 10.5.1.0/24 to 10.5.1.0/24"), "{log}");
    first.wait_for_peers(0).expect("still there");
}
