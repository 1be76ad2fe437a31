//! Pods whose address goes elsewhere, and nodes whose lease does: never a packet to a third.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flannel_tests::agent::PREFIX;
use flannel_tests::cluster::Cluster;
use flannel_tests::host::Pod;
use flannel_tests::netns::NetNs;
use flannel_tests::raw::Raw;
use flannel_tests::traffic::pulse::Protocol;

use super::row::{BOUND, Flows, MARGIN, Table};
use super::{cluster, wait_for_pods};

/// Counts the IPv4 packets to an address that come to a pod.
struct Seen {
    start: Instant,
    count: Arc<AtomicU64>,
    /// Of the last one, microseconds from the start.
    last: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Seen {
    fn by(pod: &Pod, address: [u8; 4]) -> Self {
        let raw = Raw::open(&pod.ns, "eth0").expect("packet socket");
        let start = Instant::now();
        let [count, last] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let reader = {
            let (count, last, stop) = (Arc::clone(&count), Arc::clone(&last), Arc::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match raw.receive() {
                        Ok(Some((frame, _))) => {
                            let is_ipv4 = frame.get(12..14) == Some(&[8, 0]);
                            if is_ipv4 && frame.get(30..34) == Some(&address) {
                                count.fetch_add(1, Ordering::Relaxed);
                                let now = start.elapsed().as_micros() as u64;
                                last.store(now, Ordering::Relaxed);
                            }
                        }
                        _ => thread::sleep(Duration::from_millis(1)),
                    }
                }
            })
        };
        Self {
            start,
            count,
            last,
            stop,
            reader: Some(reader),
        }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Time from a change until the last packet.
    fn after(&self, changed: Instant) -> Duration {
        let last = self.start + Duration::from_micros(self.last.load(Ordering::Relaxed));
        last.saturating_duration_since(changed)
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // Its panic has been printed.
            let _ = reader.join();
        }
    }
}

/// Lets a bridge hand a pod only what is for its own link-layer address, and not all that is for one
/// whose port the bridge has forgotten: that is nobody's mistake.
fn no_flood(cluster: &Cluster, pod: &Pod) {
    let args = ["link", "set", "dev", pod.veth.as_str(), "flood", "off"];
    let done = cluster.host(1).ns.run("bridge", &args);
    done.expect("no flooding");
}

#[test]
fn an_address_that_moves_takes_its_packets_along() {
    let (mut cluster, mut table) = (cluster(), Table::default());
    for _ in 0..2 {
        cluster.add_pod(1).expect("pod");
    }
    wait_for_pods(&cluster.agents[1], 3);
    let host = cluster.host(1);
    let [old, new, third] = [0, 1, 2].map(|number| &host.pods[number]);
    let flows = Flows::start(&cluster);
    let octets = old.address.octets();
    no_flood(&cluster, third);
    let seen = [old, new, third].map(|pod| Seen::by(pod, octets));
    // As a runtime that stops the one pod and gives its address to the other does.
    let address = old.address;
    old.ns.ip("addr flush dev eth0").expect("address off");
    new.ns
        .ip(&format!("addr add {address}/24 dev eth0"))
        .expect("address on");
    let mac = new.mac().expect("MAC").map(|octet| format!("{octet:02x}"));
    let mac = mac.join(":");
    let line = format!("neigh replace {address} lladdr {mac} dev cni0");
    host.ns.ip(&line).expect("neighbour");
    let changed = Instant::now();
    thread::sleep(BOUND + MARGIN * 2);
    let moved = seen[1].count();
    thread::sleep(MARGIN);
    assert!(seen[1].count() > moved, "the other pod gets them");
    assert_eq!(seen[2].count(), 0, "a third pod has got packets");
    table.note(
        "address moved to another pod".into(),
        seen[0].after(changed),
    );
    drop(flows);
    table.check();
}

#[test]
fn a_pod_that_is_deleted_leaves_nothing_to_others() {
    let mut cluster = cluster();
    cluster.add_pod(1).expect("pod");
    wait_for_pods(&cluster.agents[1], 2);
    let flows = Flows::start(&cluster);
    let (address, host) = (cluster.pod(1).address, cluster.host(1));
    no_flood(&cluster, &host.pods[1]);
    let other = Seen::by(&host.pods[1], address.octets());
    host.ns.ip("link del veth0").expect("delete the pod");
    let changed = Instant::now();
    thread::sleep(BOUND);
    assert_eq!(other.count(), 0, "another pod has got packets");
    println!("nothing within {} ms", changed.elapsed().as_millis());
    // A pod that comes in its place gets the flows: the old ones, too, as they are still sent.
    wait_for_pods(&cluster.agents[1], 1);
    let ns = &cluster.host(1).ns;
    let fresh = NetNs::new(ns.mounts()).expect("namespace");
    let gateway = {
        let [a, b, c, _] = address.octets();
        format!("{a}.{b}.{c}.1")
    };
    ns.ip(&format!(
        "link add veth7 mtu 1450 type veth peer name eth0 mtu 1450 netns {}\n\
         link set veth7 master cni0 up",
        fresh.path()
    ))
    .expect("pod");
    fresh
        .ip(&format!(
            "addr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {gateway}"
        ))
        .expect("address");
    let pod = Pod {
        ns: fresh,
        address,
        veth: "veth7".into(),
    };
    let next = Seen::by(&pod, address.octets());
    thread::sleep(BOUND + MARGIN);
    drop(flows);
    println!("{} to the next pod", next.count());
    let again = Flows::between(&cluster, cluster.pod(0), &pod);
    again.wait_received();
    assert_eq!(other.count(), 0, "another pod has got packets");
}

#[test]
fn a_lease_that_moves_takes_its_packets_along() {
    let (cluster, mut table) = (cluster(), Table::default());
    let flows = Flows::start(&cluster);
    let etcd = &cluster.bed.etcd;
    let keys = etcd.keys(&format!("{PREFIX}/subnets/")).expect("leases");
    let [a, b, c, _] = cluster.pod(1).address.octets();
    let name = format!("{a}.{b}.{c}.0-24");
    let key = keys.iter().find(|key| key.ends_with(&name));
    let key = key.expect("the lease of the second host");
    let moved = r#"{"PublicIP":"192.168.7.99","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:02"}}"#;
    etcd.put(key, moved).expect("move the lease");
    let changed = Instant::now();
    table.push(flows.held("lease moved to another node", changed));
    assert_eq!(flows.pulses.len(), Protocol::ALL.len());
    table.check();
}
