use super::*;

const PEER_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 12);

fn local() -> Local {
    Local {
        ifindex: 3,
        mac: MacAddr([2, 0, 0, 0, 0, 11]),
        address: [192, 168, 7, 11].into(),
        mtu: 1_500,
        port: Some(8_472),
        overhead: 50,
        subnet_len: 24,
        completes_checksums: true,
    }
}

fn peer() -> Peer {
    Peer {
        subnet: "10.5.2.0/24".parse().unwrap(),
        mac: Some(MacAddr([0x5e, 0, 0, 0, 0, 12])),
        public_ip: PEER_IP,
        direct: None,
    }
}

fn plain() -> UnderlayRoute {
    UnderlayRoute {
        kind: RouteType::Unicast,
        oif: 3,
        gateway: None,
        prefsrc: None,
        mtu: None,
        has_multipath: false,
        has_encap: false,
        has_foreign_gateway: false,
        is_assumed: false,
    }
}

#[test]
fn a_peer_on_the_link_is_its_own_next_hop() {
    let hop = judge(&plain(), PEER_IP, &local()).unwrap();
    assert_eq!(
        hop,
        Hop {
            address: PEER_IP,
            mtu: 1_500
        }
    );
}

#[test]
fn a_gateway_is_the_next_hop_and_the_smaller_mtu_counts() {
    let gateway = Some([192, 168, 7, 1].into());
    let route = UnderlayRoute {
        gateway,
        mtu: Some(1_400),
        ..plain()
    };
    let hop = judge(&route, PEER_IP, &local()).unwrap();
    assert_eq!(
        hop,
        Hop {
            address: [192, 168, 7, 1].into(),
            mtu: 1_400
        }
    );
    let route = UnderlayRoute {
        mtu: Some(9_000),
        ..plain()
    };
    assert_eq!(judge(&route, PEER_IP, &local()).unwrap().mtu, 1_500);
}

#[test]
fn every_other_answer_stays_with_the_kernel() {
    let rows = [
        (
            UnderlayRoute {
                kind: RouteType::BlackHole,
                ..plain()
            },
            NotPlain::NoRoute,
        ),
        (
            UnderlayRoute {
                is_assumed: true,
                ..plain()
            },
            NotPlain::NoRoute,
        ),
        (
            UnderlayRoute { oif: 4, ..plain() },
            NotPlain::OtherInterface,
        ),
        (
            UnderlayRoute {
                has_multipath: true,
                ..plain()
            },
            NotPlain::Multipath,
        ),
        (
            UnderlayRoute {
                has_encap: true,
                ..plain()
            },
            NotPlain::Encap,
        ),
        (
            UnderlayRoute {
                has_foreign_gateway: true,
                ..plain()
            },
            NotPlain::ForeignGateway,
        ),
        (
            UnderlayRoute {
                mtu: Some(100),
                ..plain()
            },
            NotPlain::TooSmall,
        ),
    ];
    for (route, reason) in rows {
        assert_eq!(judge(&route, PEER_IP, &local()), Err(reason), "{route:?}");
    }
}

fn underlay(hop: Result<Hop, NotPlain>, mac: Option<MacAddr>) -> Underlay {
    Underlay {
        links: BTreeMap::new(),
        hops: [(PEER_IP, hop)].into(),
        neighbours: mac.map(|mac| (PEER_IP, mac)).into_iter().collect(),
    }
}

fn entry(peer: &Peer, next_hop: MacAddr, mtu: u32) -> abi::Peer {
    let headers = outer_headers(&local(), 64, peer, next_hop);
    abi::Peer::new(headers, abi::Encap::Direct, mtu, local().ifindex)
}

#[test]
fn a_peer_is_on_a_link_if_its_one_route_has_no_gateway() {
    assert_eq!(on_link(&plain()), Some(3));
    let behind = UnderlayRoute {
        gateway: Some([192, 168, 7, 1].into()),
        ..plain()
    };
    let odd = [
        behind,
        UnderlayRoute {
            has_multipath: true,
            ..plain()
        },
        UnderlayRoute {
            kind: RouteType::Local,
            ..plain()
        },
    ];
    for route in odd {
        assert_eq!(on_link(&route), None, "{route:?}");
    }
}

#[test]
fn a_resolved_peer_gets_its_way() {
    let mac = MacAddr([2, 0, 0, 0, 0, 12]);
    let underlay = underlay(
        Ok(Hop {
            address: PEER_IP,
            mtu: 1_400,
        }),
        Some(mac),
    );
    let desired = underlay.desired(&local(), &[peer()], entry);
    assert!(desired.kernel.is_empty());
    let entry = desired.peers[&[10, 5, 2, 0]];
    assert_eq!((entry.mtu, entry.ifindex), (1_400, 3));
    assert_eq!(entry.headers.outer.destination, mac.0);
    assert_eq!(entry.headers.outer.source, local().mac.0);
    assert_eq!(entry.headers.ip.destination, PEER_IP.octets());
    assert_eq!(entry.headers.ip.source, local().address.octets());
    assert_eq!(entry.headers.ip.ttl, 64);
    let remote = abi::Remote::new([10, 5, 2, 0], 24);
    assert_eq!(desired.remotes, [(PEER_IP.octets(), remote)].into());
}

#[test]
fn an_unresolved_peer_is_left_to_the_kernel_but_may_send() {
    let underlay = underlay(
        Ok(Hop {
            address: PEER_IP,
            mtu: 1_500,
        }),
        None,
    );
    let desired = underlay.desired(&local(), &[peer()], entry);
    assert_eq!(desired.peers[&[10, 5, 2, 0]].mtu, 0);
    assert_eq!(
        desired.kernel,
        [(peer().subnet, NotPlain::Unresolved(PEER_IP))]
    );
    assert!(desired.remotes.contains_key(&PEER_IP.octets()));
    assert_eq!(underlay.unresolved(&[peer()]), [PEER_IP].into());
}

#[test]
fn a_subnet_of_another_size_has_no_entry() {
    let underlay = underlay(
        Ok(Hop {
            address: PEER_IP,
            mtu: 1_500,
        }),
        Some(MacAddr([2, 0, 0, 0, 0, 12])),
    );
    let peer = Peer {
        subnet: "10.5.2.0/25".parse().unwrap(),
        ..peer()
    };
    let desired = underlay.desired(&local(), &[peer], entry);
    assert!(desired.peers.is_empty());
    assert_eq!(desired.kernel, [(peer.subnet, NotPlain::SubnetLen(25))]);
    assert_eq!(desired.remotes.len(), 1);
}
