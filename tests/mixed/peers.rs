//! What happens to a host of stock flannel, ours follows.

use std::time::Duration;

use flannel_tests::agent::Datapath;
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::CONFIG;
use flannel_tests::exercise;
use flannel_tests::wait;

use crate::neighbours::{Neighbours, leases, wait_for_answer};

/// How long a change may take to get through.
const LIMIT: Duration = Duration::from_secs(10);

/// The only lease under the stock host's public address.
fn lease_of_stock(neighbours: &Neighbours) -> (String, String) {
    let address = neighbours.bed.hosts[0].address.to_string();
    let mut own = leases(&neighbours.bed).into_iter();
    own.find(|(_, value)| value.contains(&address))
        .expect("a lease of stock flannel")
}

/// As after a reboot: the device is gone, and stock flannel makes one with another address.
#[test]
fn a_peer_that_comes_back_with_another_mac_is_followed() {
    for datapath in [Datapath::Ebpf, Datapath::Kernel] {
        let mut neighbours = Neighbours::new(CONFIG, BedOptions::default(), datapath);
        wait_for_answer(neighbours.pod(0), neighbours.pod(1));
        let before = lease_of_stock(&neighbours);
        neighbours.stock.kill().expect("end of stock flannel");
        let host = &neighbours.bed.hosts[0];
        host.ns
            .ip("link del flannel.1")
            .expect("device of stock flannel");
        neighbours.stock.start().expect("start of stock flannel");
        wait::until("another MAC in the lease", LIMIT, || {
            Ok((lease_of_stock(&neighbours).1 != before.1).then_some(()))
        })
        .expect("another MAC");
        assert_eq!(lease_of_stock(&neighbours).0, before.0, "the subnet stays");
        wait_for_answer(neighbours.pod(1), neighbours.pod(0));
        exercise::between(neighbours.pod(0), neighbours.pod(1));
    }
}

/// Its lease is gone, and then there again.
#[test]
fn a_peer_without_a_lease_has_no_route_and_a_later_one_has() {
    let mut neighbours = Neighbours::new(CONFIG, BedOptions::default(), Datapath::Ebpf);
    wait_for_answer(neighbours.pod(0), neighbours.pod(1));
    neighbours.stock.kill().expect("end of stock flannel");
    let (key, value) = lease_of_stock(&neighbours);
    neighbours.bed.etcd.delete(&key).expect("delete the lease");
    neighbours.ours.wait_for_peers(0).expect("no peers");
    let routes = || {
        let ns = &neighbours.bed.hosts[1].ns;
        ns.run("ip", &["-o", "route", "show", "dev", "flannel.1"])
    };
    assert_eq!(routes().expect("routes"), "");
    neighbours
        .bed
        .etcd
        .put(&key, &value)
        .expect("put the lease");
    neighbours.ours.wait_for_peers(1).expect("the peer");
    wait_for_answer(neighbours.pod(1), neighbours.pod(0));
    exercise::between(neighbours.pod(0), neighbours.pod(1));
}
