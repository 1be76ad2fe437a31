//! Ten thousand peers.

use std::time::Instant;

use flannel_agent::netlink::{MacAddr, Netlink};
use flannel_agent::plan::KernelState;

use super::bed::{desired_state, device, in_namespace, peer, reconcile};
use super::underlay::lookup;

#[test]
fn ten_thousand_peers() {
    in_namespace(async || {
        let netlink = Netlink::open().unwrap();
        let device = device(&netlink).await;
        let mut peers: Vec<_> = (256..10_256).map(peer).collect();
        let desired = desired_state(&device, &peers);
        let mut timings = Vec::new();
        peers[5000].mac = Some(MacAddr([2, 0, 0, 9, 9, 9]));
        let changed = desired_state(&device, &peers);
        for (step, desired, actions) in [
            ("from nothing", &desired, 30_000),
            ("no change", &desired, 0),
            ("one new MAC", &changed, 3),
            ("to nothing", &KernelState::default(), 30_000),
        ] {
            let started = Instant::now();
            assert_eq!(reconcile(&netlink, &device, desired).await, actions);
            timings.push(format!("{step} {:?}", started.elapsed()));
        }
        let started = Instant::now();
        for _ in 0..1000 {
            lookup(&netlink, [192, 168, 7, 12]).await;
        }
        timings.push(format!("1000 underlay lookups {:?}", started.elapsed()));
        println!("10 000 peers: {}", timings.join(", "));
    });
}
