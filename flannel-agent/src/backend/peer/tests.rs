use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::value::RawValue;

use super::*;
use crate::backend::vxlan::{BACKEND_TYPE, add_entries, vtep_mac};
use crate::lease::{LeaseAttrs, Subnet};
use crate::plan::KernelState;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.into()).unwrap()
}

fn lease(subnet: &str, public_ip: [u8; 4], data: &str) -> Lease {
    Lease {
        subnet: Subnet {
            v4: subnet.parse().unwrap(),
            v6: None,
        },
        attrs: LeaseAttrs {
            public_ip: public_ip.into(),
            public_ipv6: None,
            backend_type: BACKEND_TYPE.into(),
            backend_data: Some(raw(data)),
            backend_v6_data: None,
        },
    }
}

fn peer(i: u8) -> Lease {
    let data = format!(r#"{{"VNI":1,"VtepMAC":"02:00:00:00:00:{i:02x}"}}"#);
    lease(&format!("10.5.{i}.0/24"), [192, 168, 7, i], &data)
}

fn own() -> Own {
    Own {
        network: "10.5.0.0/16".parse().unwrap(),
        subnet: "10.5.200.0/24".parse().unwrap(),
        public_ip: [203, 0, 113, 1].into(),
        local: [192, 168, 7, 200].into(),
        mac: Some(MacAddr([2, 0, 0, 0, 0, 200])),
    }
}

/// As the vxlan backend accepts.
fn usable<'a>(leases: impl IntoIterator<Item = &'a Lease>) -> (Vec<Peer>, Vec<Ignored>) {
    usable_peers(leases, &own(), |lease| {
        require_type(lease, BACKEND_TYPE)?;
        Ok(Some(vtep_mac(lease.attrs.backend_data.as_deref())?))
    })
}

/// What becomes of a lease beside the good one of peer 1, which must not suffer.
fn reason(lease: &Lease) -> String {
    let (peers, ignored) = usable([&peer(1), lease]);
    assert_eq!(peers.len(), 1);
    assert_eq!(ignored[0].subnet, lease.subnet.v4);
    ignored[0].reason.to_string()
}

#[test]
fn unusable_data_costs_its_peer_only() {
    for (data, why) in [
        (r#"{"VNI":1}"#, "BackendData has no VtepMAC"),
        (r#"{"VtepMAC":null}"#, "BackendData has no VtepMAC"),
        ("[]", "BackendData is not a JSON object"),
        ("null", "BackendData is not a JSON object"),
        (
            r#"{"VtepMAC":"x"}"#,
            "VtepMAC \"x\" is not a link-layer address such as 5e:1a:0b:33:9c:02",
        ),
        (
            r#"{"VtepMAC":"01:00:5e:00:00:01"}"#,
            "VtepMAC 01:00:5e:00:00:01 is not the address of a station",
        ),
        (
            r#"{"VtepMAC":"00:00:00:00:00:00"}"#,
            "VtepMAC 00:00:00:00:00:00 is not the address of a station",
        ),
        (
            r#"{"VtepMAC":"02:00:00:00:00:c8"}"#,
            "VTEP MAC 02:00:00:00:00:c8 is our own",
        ),
        (
            r#"{"VtepMAC":"02:00:00:00:00:01"}"#,
            "VTEP MAC 02:00:00:00:00:01 belongs to 10.5.1.0/24 at 192.168.7.1",
        ),
    ] {
        assert_eq!(reason(&lease("10.5.2.0/24", [192, 168, 7, 2], data)), why);
    }
    let mut none = peer(2);
    none.attrs.backend_data = None;
    assert_eq!(reason(&none), "BackendData is missing");
    none.attrs.backend_type = "host-gw".into();
    assert_eq!(reason(&none), "backend is \"host-gw\", not vxlan");
}

#[test]
fn unusable_addresses_cost_their_peer_only() {
    for ip in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
        let mut bad = peer(2);
        bad.attrs.public_ip = ip.into();
        assert!(reason(&bad).ends_with("is not the address of a host"));
    }
    for ip in [own().public_ip, own().local] {
        let mut twin = peer(2);
        twin.attrs.public_ip = ip;
        assert_eq!(reason(&twin), format!("public IP {ip} is our own"));
    }
}

#[test]
fn overlapping_subnets_are_refused() {
    let data = r#"{"VtepMAC":"02:00:00:00:00:02"}"#;
    assert_eq!(
        reason(&lease("10.5.200.128/25", [192, 168, 7, 2], data)),
        "subnet overlaps our own, 10.5.200.0/24"
    );
    // Inside the subnet of a peer, around it, or both at one address.
    for subnet in ["10.5.1.0/25", "10.5.1.128/25", "10.5.0.0/23", "10.5.0.0/17"] {
        assert_eq!(
            reason(&lease(subnet, [192, 168, 7, 2], data)),
            "subnet overlaps 10.5.1.0/24 of another lease"
        );
    }
    let beside = lease("10.5.2.0/23", [192, 168, 7, 2], data);
    let (peers, ignored) = usable([&peer(1), &beside, &peer(9)]);
    assert_eq!((peers.len(), ignored.len()), (3, 0));
}

#[test]
fn subnets_outside_of_the_network_are_refused() {
    let data = r#"{"VtepMAC":"02:00:00:00:00:02"}"#;
    // The underlay itself, everything, and what contains the network.
    for subnet in ["192.168.7.0/24", "0.0.0.0/0", "10.0.0.0/8", "10.6.1.0/24"] {
        let why = reason(&lease(subnet, [192, 168, 7, 2], data));
        assert!(
            why.starts_with("subnet is outside of the network, 10.5.0.0/16"),
            "{subnet}: {why}"
        );
    }
}

#[test]
fn a_node_with_two_leases_keeps_both() {
    let mut second = peer(1);
    second.subnet.v4 = "10.5.77.0/24".parse().unwrap();
    let (peers, ignored) = usable([&peer(1), &second]);
    assert_eq!((peers.len(), ignored.len()), (2, 0));
    let mut state = KernelState::default();
    for peer in &peers {
        add_entries(9, peer, &mut state);
    }
    assert_eq!(
        (state.routes.len(), state.neighbours.len(), state.fdb.len()),
        (2, 2, 1)
    );
}

/// Leases of few subnets, MACs and addresses, so that they often have something in common.
fn random_lease(rng: &mut StdRng) -> Lease {
    let subnet = match rng.random_range(0..8) {
        0 => "10.5.0.0/20".to_owned(),
        1 => "10.5.200.0/24".to_owned(),
        _ => format!("10.5.{}.0/24", rng.random_range(0..24)),
    };
    let mut few = |many: u8| match rng.random_range(0..4) {
        0 => rng.random_range(0..4),
        _ => rng.random_range(4..many),
    };
    let data = format!(r#"{{"VtepMAC":"02:00:00:00:00:{:02x}"}}"#, few(220));
    lease(&subnet, [192, 168, 7, few(220)], &data)
}

#[test]
fn changes_come_out_as_if_all_leases_were_looked_at() {
    let mut rng = StdRng::seed_from_u64(7);
    let accept = |lease: &Lease| Ok(Some(vtep_mac(lease.attrs.backend_data.as_deref())?));
    let (mut followed, mut left) = (0, 0);
    for _ in 0..300 {
        let mut leases: BTreeMap<Ipv4Network, Lease> = BTreeMap::new();
        let (mut peers, mut ignored) = (Vec::new(), Vec::new());
        for _ in 0..12 {
            let mut changed = BTreeSet::new();
            for _ in 0..rng.random_range(1..3) {
                let lease = random_lease(&mut rng);
                let subnet = lease.subnet.v4;
                changed.insert(subnet);
                if rng.random_bool(0.3) {
                    leases.remove(&subnet);
                } else {
                    leases.insert(subnet, lease);
                }
            }
            let all = usable_peers(leases.values(), &own(), accept);
            let before = (peers.as_slice(), ignored.as_slice());
            let changed = changed.iter().map(|subnet| (*subnet, leases.get(subnet)));
            if let Some(change) = changed_peers(before, changed, &own(), accept) {
                peers.retain(|peer: &Peer| !change.subnets.contains(&peer.subnet));
                peers.extend(&change.come);
                ignored.retain(|it: &Ignored| !change.subnets.contains(&it.subnet));
                ignored.extend(change.ignored);
                let mut expected = all.clone();
                expected.0.sort_by_key(|peer| peer.subnet);
                peers.sort_by_key(|peer| peer.subnet);
                expected.1.sort_by_key(|it| it.subnet);
                ignored.sort_by_key(|it| it.subnet);
                assert_eq!((&peers, &ignored), (&expected.0, &expected.1));
                followed += 1;
            } else {
                left += 1;
            }
            (peers, ignored) = all;
        }
    }
    assert!(followed > 300 && left > 300, "{followed} and {left}");
}

#[test]
fn a_lease_that_shares_with_no_other_is_followed_alone() {
    let (peers, ignored) = usable([&peer(1), &peer(2), &peer(3)]);
    let accept = |lease: &Lease| Ok(Some(vtep_mac(lease.attrs.backend_data.as_deref())?));
    let change = |subnet: &Lease, lease: Option<&Lease>| {
        let changed = [(subnet.subnet.v4, lease)];
        changed_peers((&peers, &ignored), changed, &own(), accept)
    };
    let gone = change(&peer(2), None).unwrap();
    assert_eq!((gone.gone.as_slice(), gone.come.len()), (&peers[1..2], 0));
    let come = change(&peer(4), Some(&peer(4))).unwrap();
    assert_eq!((come.gone.len(), come.come.len()), (0, 1));
    // The MAC of peer 1, its address, and its subnet.
    let data = peer(1).attrs.backend_data.unwrap();
    for shared in [
        lease("10.5.4.0/24", [192, 168, 7, 4], data.get()),
        lease(
            "10.5.4.0/24",
            [192, 168, 7, 1],
            r#"{"VtepMAC":"02:00:00:00:00:04"}"#,
        ),
        lease(
            "10.5.0.0/22",
            [192, 168, 7, 4],
            r#"{"VtepMAC":"02:00:00:00:00:04"}"#,
        ),
    ] {
        assert_eq!(change(&shared, Some(&shared)), None, "{shared:?}");
    }
}
