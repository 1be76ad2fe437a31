//! Leases of both in one store.

use std::collections::HashSet;

use flannel_tests::agent::{Agent, Datapath};
use flannel_tests::bed::{BedOptions, Underlay};
use flannel_tests::flanneld::Flanneld;
use flannel_tests::host::SubnetEnv;

use crate::neighbours::{bed, flanneld, leases};

/// Starts of stock flannel until it has a subnet.
const STARTS: u32 = 20;

/// Its subnet, however often its service has to start it: it ends when others are quicker (D1).
fn subnet(stock: &mut Flanneld) -> SubnetEnv {
    for _ in 1..STARTS {
        if let Ok(subnet) = stock.wait_for_subnet() {
            return subnet;
        }
        stock.kill().expect("it has ended");
        stock.start().expect("start of stock flannel");
    }
    stock.wait_for_subnet().expect("subnet.env")
}

/// The network has room for as many subnets as there are hosts, and all start at once.
#[test]
fn who_starts_together_gets_a_subnet_each() {
    let config = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.8.0","SubnetMax":"10.5.15.0","Backend":{"Type":"vxlan"}}"#;
    let options = BedOptions {
        hosts: 8,
        underlay: Underlay::Switch,
        ..BedOptions::default()
    };
    let bed = bed(config, options);
    let (mut stock, mut ours) = (Vec::new(), Vec::new());
    for (number, host) in bed.hosts.iter().enumerate() {
        if number % 2 == 0 {
            stock.push(flanneld(host));
        } else {
            ours.push(Agent::new(host, Datapath::Auto).expect("agent"));
        }
    }
    for (stock, ours) in stock.iter_mut().zip(&mut ours) {
        ours.start().expect("start");
        stock.start().expect("start of stock flannel");
    }
    let mut subnets = HashSet::new();
    for (stock, ours) in stock.iter_mut().zip(&mut ours) {
        let of_ours = ours.wait_for_subnet().expect("subnet.env");
        subnets.extend([subnet(stock), of_ours].map(|subnet| subnet.bridge));
    }
    assert_eq!(subnets.len(), bed.hosts.len(), "{subnets:?}");
    for ours in &mut ours {
        let status = ours.wait_for_peers(7).expect("peers");
        assert!(status.problems.is_empty(), "{:?}", status.problems);
    }
    let leases = leases(&bed);
    assert_eq!(leases.len(), bed.hosts.len(), "{leases:?}");
}
