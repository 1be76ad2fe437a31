use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

/// The tables, as the kernel keeps them.
fn perform(state: &mut KernelState, action: Action) {
    match action {
        Action::ReplaceFdb { mac, remote } => {
            state.fdb.insert(mac, remote);
        }
        Action::ReplaceNeighbour { ip, mac } => {
            state.neighbours.insert(ip, mac);
        }
        Action::ReplaceRoute { subnet, via } => {
            state.routes.insert(subnet, via);
        }
        Action::RemoveRoute { subnet, via } => {
            assert_eq!(state.routes.remove(&subnet), Some(via));
        }
        Action::RemoveNeighbour { ip } => assert!(state.neighbours.remove(&ip).is_some()),
        Action::RemoveFdb { mac } => assert!(state.fdb.remove(&mac).is_some()),
    }
}

/// How a packet is sent: through the tunnel, with MAC and underlay address, or directly.
#[derive(Debug, PartialEq)]
enum Sent {
    Tunnel(MacAddr, Ipv4Addr),
    Direct(Ipv4Addr),
}

fn delivered(state: &KernelState, subnet: Ipv4Network) -> Option<Sent> {
    let via = state.routes.get(&subnet)?;
    if !via.is_onlink {
        return Some(Sent::Direct(via.gateway));
    }
    let mac = state.neighbours.get(&subnet.network())?;
    Some(Sent::Tunnel(*mac, *state.fdb.get(mac)?))
}

/// Through the tunnel device, as flannel routes.
fn tunnel(subnet: Ipv4Network) -> Via {
    Via {
        oif: 9,
        gateway: subnet.network(),
        is_onlink: true,
    }
}

/// Through the external interface.
fn direct(gateway: Ipv4Addr) -> Via {
    Via {
        oif: 3,
        gateway,
        is_onlink: false,
    }
}

fn subnet(i: u8) -> Ipv4Network {
    Ipv4Network::new([10, 5, i, 0].into(), 24).unwrap()
}

fn mac(i: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, i])
}

fn remote(i: u8) -> Ipv4Addr {
    [192, 168, 7, i].into()
}

/// What desired states look like: each subnet has one MAC, each MAC one address; some are direct.
fn random_leases(rng: &mut StdRng) -> KernelState {
    let mut state = KernelState::default();
    for i in 0..12 {
        if rng.random_bool(0.2) {
            let via = direct(remote(rng.random_range(0..6)));
            state.routes.insert(subnet(i), via);
        } else if rng.random_bool(0.6) {
            let mac = mac(rng.random_range(0..12));
            state.routes.insert(subnet(i), tunnel(subnet(i)));
            state.neighbours.insert(subnet(i).network(), mac);
            let ip = remote(rng.random_range(0..6));
            state.fdb.entry(mac).or_insert(ip);
        }
    }
    state
}

/// What somebody else, or a crash in the middle, may have left.
fn random_leftovers(rng: &mut StdRng) -> KernelState {
    let mut state = KernelState::default();
    for i in 0..12 {
        if rng.random_bool(0.5) {
            state.routes.insert(subnet(i), tunnel(subnet(i)));
        }
        if rng.random_bool(0.5) {
            let mac = mac(rng.random_range(0..12));
            state.neighbours.insert(subnet(i).network(), mac);
        }
        if rng.random_bool(0.5) {
            state.fdb.insert(mac(i), remote(rng.random_range(0..6)));
        }
    }
    state
}

#[test]
fn a_plan_leads_from_any_state_to_the_desired_one() {
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..3000 {
        let desired = random_leases(&mut rng);
        let mut state = random_leftovers(&mut rng);
        let actions = plan(&desired, &state);
        for action in &actions {
            perform(&mut state, *action);
        }
        assert_eq!(state, desired);
        assert_eq!(plan(&desired, &state), []);
        assert!(actions.is_sorted_by_key(Action::class));
    }
}

#[test]
fn a_peer_that_stays_is_reached_at_every_moment() {
    let mut rng = StdRng::seed_from_u64(4);
    for _ in 0..3000 {
        let before = random_leases(&mut rng);
        let after = random_leases(&mut rng);
        let mut state = before.clone();
        for action in plan(&after, &before) {
            perform(&mut state, action);
            let staying = before.routes.keys();
            for staying in staying.filter(|subnet| after.routes.contains_key(subnet)) {
                match delivered(&state, *staying).expect("a complete chain") {
                    Sent::Tunnel(mac, ip) => {
                        let macs = [&before, &after].map(|s| s.neighbours.get(&staying.network()));
                        let ips = [&before, &after].map(|s| s.fdb.get(&mac));
                        assert!(macs.contains(&Some(&mac)), "{staying} sent to {mac}");
                        assert!(ips.contains(&Some(&ip)), "{mac} sent to {ip}");
                    }
                    sent @ Sent::Direct(_) => {
                        let ways = [&before, &after].map(|s| delivered(s, *staying));
                        assert!(ways.contains(&Some(sent)), "{staying}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_subnet_is_routed_only_while_its_chain_is_complete() {
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..3000 {
        let before = random_leases(&mut rng);
        let after = random_leases(&mut rng);
        let mut state = before.clone();
        for action in plan(&after, &before) {
            perform(&mut state, action);
            for subnet in state.routes.keys() {
                assert!(delivered(&state, *subnet).is_some());
            }
        }
    }
}

#[test]
fn what_some_leases_change_is_the_same_beside_any_others() {
    let mut rng = StdRng::seed_from_u64(6);
    for _ in 0..1000 {
        let others = random_leases(&mut rng);
        // Other subnets, MACs and addresses.
        let [before, after] = [(); 2].map(|()| shifted(&random_leases(&mut rng)));
        let joined = |part: &KernelState| {
            let mut all = others.clone();
            all.replace(&KernelState::default(), part.clone());
            all
        };
        let mut actual = joined(&before);
        let actions = plan(&after, &actual.part([&before, &after]));
        assert_eq!(actions, plan(&joined(&after), &actual));
        actual.replace(&before, after.clone());
        assert_eq!(actual, joined(&after));
    }
}

/// The same entries under keys that [`random_leases`] never makes.
fn shifted(state: &KernelState) -> KernelState {
    let ip = |ip: Ipv4Addr| Ipv4Addr::from(u32::from(ip) ^ (1 << 31));
    let mac = |mut mac: MacAddr| {
        mac.0[1] ^= 1;
        mac
    };
    let subnet = |it: Ipv4Network| Ipv4Network::new(ip(it.network()), it.prefix()).unwrap();
    let KernelState {
        routes,
        neighbours,
        fdb,
    } = state;
    KernelState {
        routes: routes
            .iter()
            .map(|(key, via)| (subnet(*key), *via))
            .collect(),
        neighbours: neighbours
            .iter()
            .map(|(key, value)| (ip(*key), mac(*value)))
            .collect(),
        fdb: fdb.iter().map(|(key, value)| (mac(*key), *value)).collect(),
    }
}

#[test]
fn a_new_mac_is_in_the_fdb_before_the_neighbour_points_to_it() {
    let state = |mac| KernelState {
        routes: [(subnet(1), tunnel(subnet(1)))].into(),
        neighbours: [(subnet(1).network(), mac)].into(),
        fdb: [(mac, remote(1))].into(),
    };
    let ip = subnet(1).network();
    let expected = [
        Action::ReplaceFdb {
            mac: mac(2),
            remote: remote(1),
        },
        Action::ReplaceNeighbour { ip, mac: mac(2) },
        Action::RemoveFdb { mac: mac(1) },
    ];
    assert_eq!(plan(&state(mac(2)), &state(mac(1))), expected);
}

#[test]
fn a_wider_subnet_takes_over_the_neighbour_of_a_narrower_one() {
    let wide: Ipv4Network = "10.5.0.0/20".parse().unwrap();
    let narrow = subnet(0);
    let state = |subnet: Ipv4Network, i| KernelState {
        routes: [(subnet, tunnel(subnet))].into(),
        neighbours: [(subnet.network(), mac(i))].into(),
        fdb: [(mac(i), remote(i))].into(),
    };
    let actions = plan(&state(wide, 2), &state(narrow, 1));
    assert!(!actions.contains(&Action::RemoveNeighbour {
        ip: narrow.network()
    }));
    assert_eq!(actions.len(), 5);
}
