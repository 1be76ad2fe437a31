//! How a node comes by its lease.

use std::collections::BTreeSet;
use std::time::Duration;

use flannel_agent::subnet::acquire::Term;
use tokio::time::{sleep, timeout};

use super::node::{acquire_as, keep_in_background, network, subnet, timing, try_acquire, value};
use super::server::{Etcd, PATIENCE};

#[tokio::test]
async fn a_lease_is_written_byte_for_byte_as_flannel_writes_it() {
    let etcd = Etcd::start().await;
    let wish = Some(subnet("10.5.34.0/24"));
    let held = try_acquire(&etcd.store(), &network(""), 11, wish)
        .await
        .unwrap();
    assert_eq!(held.subnet, subnet("10.5.34.0/24"));
    let keys = etcd.keys().await;
    let [(key, written, lease)] = keys.as_slice() else {
        panic!("{keys:?}");
    };
    assert_eq!(key, "/coreos.com/network/subnets/10.5.34.0-24");
    assert_eq!(
        written,
        r#"{"PublicIP":"192.168.7.11","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:0b"}}"#
    );
    let left = etcd
        .client()
        .await
        .lease_time_to_live(*lease, None)
        .await
        .unwrap();
    assert!((86_300..=86_400).contains(&left.ttl()), "{}", left.ttl());
}

#[tokio::test]
async fn a_node_takes_its_lease_back_by_its_public_ip() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let first = acquire_as(&store, 11).await;
    let before = etcd.keys().await;
    let again = acquire_as(&store, 11).await;
    let after = etcd.keys().await;
    assert_eq!(again.subnet, first.subnet);
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].0, before[0].0);
    assert_ne!(after[0].2, before[0].2, "the time of the lease starts anew");
}

#[tokio::test]
async fn of_several_leases_with_the_own_public_ip_the_earlier_subnet_is_taken_back() {
    let etcd = Etcd::start().await;
    for name in ["10.5.1.0-24", "10.5.34.0-24", "10.9.1.0-24"] {
        etcd.put(name, &value(11)).await;
    }
    let (store, network) = (etcd.store(), network(""));
    let with = async |previous| {
        let held = try_acquire(&store, &network, 11, previous);
        held.await.unwrap().subnet
    };
    let kept = subnet("10.5.34.0/24");
    assert_eq!(with(Some(kept)).await, kept);
    let unfit = Some(subnet("10.9.1.0/24"));
    assert_eq!(with(unfit).await, subnet("10.5.1.0/24"));
    assert_eq!(with(None).await, subnet("10.5.1.0/24"));
    assert_eq!(etcd.keys().await.len(), 3, "the others are left alone");
}

#[tokio::test]
async fn a_lease_that_does_not_fit_is_given_up_and_a_taken_wish_is_not_granted() {
    let etcd = Etcd::start().await;
    etcd.put("10.9.1.0-24", &value(11)).await;
    etcd.put("10.5.8.0-22", &value(12)).await;
    let wish = Some(subnet("10.5.9.0/24"));
    let held = try_acquire(&etcd.store(), &network(""), 11, wish)
        .await
        .unwrap();
    assert!(
        !subnet("10.5.8.0/22").v4.overlaps(held.subnet.v4),
        "{}",
        held.subnet
    );
    let keys: Vec<_> = etcd.keys().await.into_iter().map(|(key, ..)| key).collect();
    assert!(!keys.iter().any(|key| key.contains("10.9.1.0")), "{keys:?}");
    assert_eq!(keys.len(), 2);
}

#[tokio::test]
async fn d1_twenty_nodes_at_once_get_twenty_subnets_and_the_next_one_is_told() {
    let etcd = Etcd::start().await;
    let network = network(r#""SubnetMin":"10.5.1.0","SubnetMax":"10.5.20.0","#);
    let mut nodes = tokio::task::JoinSet::new();
    for last in 1..=20 {
        let (store, network) = (etcd.store(), network.clone());
        nodes.spawn(async move {
            try_acquire(&store, &network, last, None)
                .await
                .unwrap()
                .subnet
                .v4
        });
    }
    let subnets: BTreeSet<_> = nodes.join_all().await.into_iter().collect();
    assert_eq!(subnets.len(), 20);
    assert_eq!(etcd.keys().await.len(), 20);
    let error = try_acquire(&etcd.store(), &network, 21, None)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("10.5.1.0/24 to 10.5.20.0/24"), "{text}");
}

#[tokio::test]
async fn d2_a_reservation_stays_one() {
    let etcd = Etcd::start().await;
    etcd.put("10.5.7.0-24", r#"{ "PublicIP": "192.168.7.11" }"#)
        .await;
    let store = etcd.store();
    let held = acquire_as(&store, 11).await;
    assert_eq!(held.subnet, subnet("10.5.7.0/24"));
    assert_eq!(held.term, Term::Reserved);
    let reserved = (
        "/coreos.com/network/subnets/10.5.7.0-24".to_owned(),
        value(11),
        0,
    );
    assert_eq!(etcd.keys().await, std::slice::from_ref(&reserved));
    let kept = keep_in_background(&store, held, timing());
    sleep(Duration::from_millis(500)).await;
    assert_eq!(etcd.keys().await, [reserved]);
    kept.cancel.cancel();
    assert_eq!(timeout(PATIENCE, kept.task).await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn a_lease_becomes_a_reservation_when_an_operator_takes_its_time_away() {
    let etcd = Etcd::start().await;
    let store = etcd.store();
    let held = try_acquire(&store, &network(""), 11, Some(subnet("10.5.7.0/24")))
        .await
        .unwrap();
    let mut kept = keep_in_background(&store, held, timing());
    etcd.put("10.5.7.0-24", &value(11)).await;
    let reserved = kept.term.wait_for(|term| *term == Term::Reserved);
    timeout(PATIENCE, reserved).await.unwrap().unwrap();
    assert_eq!(etcd.keys().await[0].2, 0);
}
