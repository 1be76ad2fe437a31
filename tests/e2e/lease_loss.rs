//! The own lease is lost while the agent runs.

use std::time::Duration;

use flannel_tests::agent::{Datapath, PREFIX};
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::Cluster;
use flannel_tests::host::BRIDGE;
use flannel_tests::traffic::ping::{Options, ping};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;

use flannel_tests::exercise::{run_for, wait_sent};

/// How long an agent may take to react on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// Subnet of a host's lease, ids of its programs.
fn held(cluster: &Cluster, host: usize) -> (String, Vec<u32>) {
    let status = cluster.agents[host].status().expect("status");
    let ids = status.datapath.programs.iter().map(|program| program.id);
    (status.lease.subnet.clone(), ids.collect())
}

fn key(subnet: &str) -> String {
    format!("{PREFIX}/subnets/{}", subnet.replace('/', "-"))
}

#[test]
fn a_lease_deleted_by_hand_is_taken_back_within_a_moment() {
    let mut cluster = Cluster::new(BedOptions::default(), &[Datapath::Ebpf; 2]).expect("cluster");
    let flow = Flow::start(cluster.pod(0), cluster.pod(1), 200, 1000).expect("flow");
    wait_sent(&flow, 200);
    let before = held(&cluster, 0);
    let key = key(&before.0);
    cluster.bed.etcd.delete(&key).expect("delete");
    let back = wait::until("the lease is back", LIMIT, || {
        let keys = cluster.bed.etcd.keys(PREFIX)?;
        Ok(keys.contains(&key).then_some(()))
    });
    back.expect("lease");
    cluster.wait_for_peers(1).expect("peers");
    let tally = run_for(flow, 200);
    println!("lease of the sender deleted and acquired again: {tally:?}");
    assert_eq!(held(&cluster, 0), before);
    // Whoever hears of the deletion takes the peer away, and back some milliseconds later; a packet
    // is sent in each.
    assert!(tally.lost <= 20, "{tally:?}");
}

#[test]
fn a_node_whose_lease_is_stolen_goes_on_with_another_subnet() {
    let mut cluster = Cluster::new(BedOptions::default(), &[Datapath::Ebpf; 2]).expect("cluster");
    let (before, programs) = held(&cluster, 0);
    let thief = r#"{"PublicIP":"192.0.2.77","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:02"}}"#;
    cluster.bed.etcd.put(&key(&before), thief).expect("steal");
    let moved = wait::until("another subnet", LIMIT, || {
        let (now, _) = held(&cluster, 0);
        Ok((now != before).then_some(now))
    });
    let now = moved.expect("another subnet");
    // Nobody knows the way to the thief, so it counts among the peers of the kernel path.
    let known = wait::until("the thief is a peer", LIMIT, || {
        let statuses = [cluster.agents[0].status()?, cluster.agents[1].status()?];
        let is_known = statuses.iter().all(|status| status.peers.total == 2);
        Ok(is_known.then_some(()))
    });
    known.expect("peers");
    assert_eq!(held(&cluster, 0).1, programs, "programs stay attached");
    // As Docker does when it restarts with new options: the bridge of the subnet that the file tells.
    let env = cluster.agents[0].wait_for_subnet().expect("subnet.env");
    let readdress = format!(
        "addr flush dev {BRIDGE}\naddr add {} dev {BRIDGE}",
        env.bridge
    );
    cluster.bed.hosts[0].ns.ip(&readdress).expect("bridge");
    cluster.add_pod(0).expect("a pod in the new subnet");
    let host = &cluster.bed.hosts[0];
    let pod = host.pods.last().expect("the pod");
    println!(
        "{before} was stolen, {now} is held, the pod has {}",
        pod.address
    );
    let network: ipnetwork::Ipv4Network = now.parse().expect("subnet");
    assert!(network.contains(pod.address));
    let answer = ping(&pod.ns, cluster.pod(1).address, Options::default());
    let answer = answer.expect("ping");
    assert!(answer.is_complete(), "{}", answer.text);
}
