use super::*;

fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.into(),
        mtu: 1500,
        mac: [2, 0, 0, 0, 0, 1],
        is_up: true,
    }
}

fn addr(link: u32, address: [u8; 4]) -> Addr {
    Addr {
        link,
        address: address.into(),
        is_deprecated: false,
        is_permanent: true,
    }
}

fn host() -> Host {
    Host {
        links: vec![
            link(1, "lo"),
            link(2, "eth0"),
            link(3, "eth1"),
            link(4, "dummy0"),
        ],
        addrs: vec![
            addr(1, [127, 0, 0, 1]),
            addr(2, [192, 168, 7, 11]),
            addr(2, [192, 168, 7, 12]),
            addr(3, [169, 254, 3, 4]),
            Addr {
                is_permanent: false,
                ..addr(3, [10, 9, 0, 1])
            },
            Addr {
                is_deprecated: true,
                ..addr(3, [10, 9, 0, 2])
            },
            addr(3, [10, 9, 0, 3]),
        ],
        default_route: Ok(Hop {
            link: 2,
            source: None,
        }),
        reach: Ok(Hop {
            link: 3,
            source: Some([10, 9, 0, 1].into()),
        }),
    }
}

fn pick(selection: Selection) -> (String, [u8; 4], [u8; 4]) {
    let ExternalInterface {
        name,
        address,
        public_ip,
        ..
    } = choose(&host(), &selection).unwrap();
    (name, address.octets(), public_ip.octets())
}

fn iface(values: &[&str]) -> Selection {
    Selection {
        ifaces: values.iter().map(|value| (*value).to_owned()).collect(),
        ..Selection::default()
    }
}

fn regex(values: &[&str]) -> Selection {
    Selection {
        ifaces: Vec::new(),
        regexes: iface(values).ifaces,
        ..Selection::default()
    }
}

#[test]
fn the_default_route_decides_when_nothing_is_asked_for() {
    let first = [192, 168, 7, 11];
    assert_eq!(pick(Selection::default()), ("eth0".into(), first, first));
}

#[test]
fn names_and_addresses_are_tried_in_order() {
    let global = [10, 9, 0, 3];
    assert_eq!(
        pick(iface(&["eth1", "eth0"])),
        ("eth1".into(), global, global)
    );
    assert_eq!(pick(iface(&["eth9", "10.9.0.1"])).1, [10, 9, 0, 1]);
    assert_eq!(pick(iface(&["dummy0", "eth0"])).0, "eth0");
}

#[test]
fn expressions_match_addresses_before_names() {
    assert_eq!(pick(regex(&["^10\\.9"])).1, [10, 9, 0, 1]);
    assert_eq!(pick(regex(&["th1$"])).1, [10, 9, 0, 3]);
    assert_eq!(pick(regex(&["(", "1"])).0, "eth0");
}

#[test]
fn a_target_decides_by_its_route_and_source() {
    let selection = Selection {
        can_reach: Some([10, 9, 9, 9].into()),
        ..iface(&["eth9"])
    };
    assert_eq!(
        pick(selection),
        ("eth1".into(), [10, 9, 0, 1], [10, 9, 0, 1])
    );
}

#[test]
fn a_public_address_alone_must_be_on_an_interface_and_beside_one_it_may_be_anywhere() {
    let public_ip = Some([192, 168, 7, 12].into());
    let alone = Selection {
        public_ip,
        ..Selection::default()
    };
    assert_eq!(
        pick(alone),
        ("eth0".into(), [192, 168, 7, 12], [192, 168, 7, 12])
    );
    let public_ip = Some([203, 0, 113, 9].into());
    let behind_nat = Selection {
        public_ip,
        ..iface(&["eth0"])
    };
    assert_eq!(
        pick(behind_nat),
        ("eth0".into(), [192, 168, 7, 11], [203, 0, 113, 9])
    );
    let alone = Selection {
        public_ip,
        ..Selection::default()
    };
    let error = choose(&host(), &alone).unwrap_err().to_string();
    assert!(
        error.contains("--public-ip=203.0.113.9") && error.contains("--iface"),
        "{error}"
    );
}

#[test]
fn a_failure_says_why_for_each_candidate_and_lists_what_there_is() {
    let selection = Selection {
        regexes: vec!["^wl".into(), "[".into()],
        ..iface(&["eth9", "10.1.1.1"])
    };
    let error = choose(&host(), &selection).unwrap_err();
    assert_eq!(error.tried.len(), 4, "{error}");
    let text = error.to_string();
    for part in [
        "--iface=eth9: there is no interface of this name",
        "--iface=10.1.1.1: no interface holds this address",
        "--iface-regex=^wl: no address and no name matches",
        "--iface-regex=[: not a regular expression",
        "eth0 (192.168.7.11 192.168.7.12)",
        "dummy0 (no IPv4 address)",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let lo = choose(&host(), &iface(&["lo"])).unwrap_err().to_string();
    assert!(lo.contains("lo has no usable IPv4 address"), "{lo}");
    let no_default = Host {
        default_route: Err("there is none".into()),
        ..host()
    };
    let error = choose(&no_default, &Selection::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("no external interface: default route: there is none."),
        "{error}"
    );
}

#[test]
fn an_interface_without_mtu_is_refused() {
    let mut host = host();
    host.links[1].mtu = 0;
    let error = choose(&host, &Selection::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("its MTU is 0"), "{error}");
}

#[tokio::test]
async fn the_kernel_is_read() {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let selection = Selection {
        can_reach: Some(Ipv4Addr::LOCALHOST),
        ..Selection::default()
    };
    let host = read_host(&handle, &selection).await.unwrap();
    let lo = host.links.iter().find(|link| link.name == "lo").unwrap();
    assert!(lo.mtu > 0);
    // Loopback may be down in a fresh namespace; nothing else is promised here.
    if lo.is_up {
        assert!(
            host.addrs
                .iter()
                .any(|addr| addr.address == Ipv4Addr::LOCALHOST)
        );
        assert_eq!(host.reach.unwrap().link, lo.index);
    }
}
