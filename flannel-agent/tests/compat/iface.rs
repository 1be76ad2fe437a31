//! Choice of the external interface.

use std::net::Ipv4Addr;

use flannel_agent::iface::{Addr, Hop, Host, Link, Selection, choose};

use super::document::Is::{Other, Same};
use super::document::{Is, check};

/// `eth0` has the default route and two addresses, `eth1` one of each kind, `eth2` none.
fn host() -> Host {
    let link = |index, name: &str| Link {
        index,
        name: name.into(),
        mtu: 1500,
        mac: [2, 0, 0, 0, 0, 1],
        is_up: true,
    };
    let addr = |link, address: &str| Addr {
        link,
        address: address.parse().unwrap(),
        is_deprecated: false,
        is_permanent: true,
    };
    Host {
        links: vec![
            link(1, "lo"),
            link(2, "eth0"),
            link(3, "eth1"),
            link(4, "eth2"),
        ],
        addrs: vec![
            addr(1, "127.0.0.1"),
            addr(2, "192.168.7.11"),
            addr(2, "192.168.7.12"),
            addr(3, "169.254.3.4"),
            Addr {
                is_deprecated: true,
                ..addr(3, "10.9.0.1")
            },
            Addr {
                is_permanent: false,
                ..addr(3, "10.9.0.2")
            },
            addr(3, "10.9.0.3"),
        ],
        default_route: Ok(Hop {
            link: 2,
            source: None,
        }),
        reach: Ok(Hop {
            link: 3,
            source: Some(Ipv4Addr::new(10, 9, 0, 2)),
        }),
    }
}

fn selection(words: &[(&str, &str)]) -> Selection {
    let mut selection = Selection::default();
    for (flag, value) in words {
        match *flag {
            "iface" => selection.ifaces.push((*value).to_owned()),
            "regex" => selection.regexes.push((*value).to_owned()),
            "reach" => selection.can_reach = Some(value.parse().unwrap()),
            "public" => selection.public_ip = Some(value.parse().unwrap()),
            other => panic!("{other}"),
        }
    }
    selection
}

/// Flags → interface, address on it, address that is advertised.
#[test]
fn interface_and_addresses_are_those_that_flannel_takes() {
    const FIRST: &str = "192.168.7.11";
    type Row = (
        &'static [(&'static str, &'static str)],
        (&'static str, &'static str, &'static str),
        Is,
    );
    let rows: [Row; 17] = [
        // Nothing given: the default route.
        (&[], ("eth0", FIRST, FIRST), Same),
        // The public IP alone is looked up as an interface.
        (
            &[("public", "192.168.7.12")],
            ("eth0", "192.168.7.12", "192.168.7.12"),
            Same,
        ),
        // Beside an interface it is advertised, wherever it is.
        (
            &[("iface", "eth0"), ("public", "203.0.113.9")],
            ("eth0", FIRST, "203.0.113.9"),
            Same,
        ),
        (&[("iface", "eth0")], ("eth0", FIRST, FIRST), Same),
        (
            &[("iface", "192.168.7.12")],
            ("eth0", "192.168.7.12", "192.168.7.12"),
            Same,
        ),
        // The first that fits, in order; those that do not fit are passed over.
        (
            &[("iface", "eth9"), ("iface", "eth2"), ("iface", "eth0")],
            ("eth0", FIRST, FIRST),
            Same,
        ),
        (
            &[("regex", "eth0"), ("iface", "eth1")],
            ("eth1", "10.9.0.3", "10.9.0.3"),
            Same,
        ),
        (
            &[("iface", "eth9"), ("regex", "eth0"), ("reach", "10.9.9.9")],
            ("eth0", FIRST, FIRST),
            Same,
        ),
        (
            &[("iface", "eth9"), ("reach", "10.9.9.9")],
            ("eth1", "10.9.0.2", "10.9.0.2"),
            Same,
        ),
        // Addresses first, then names; not anchored; a bad expression costs only itself.
        (
            &[("regex", "7\\.12")],
            ("eth0", "192.168.7.12", "192.168.7.12"),
            Same,
        ),
        (&[("regex", "1")], ("eth0", FIRST, FIRST), Same),
        (&[("regex", "th1")], ("eth1", "10.9.0.3", "10.9.0.3"), Same),
        (
            &[("regex", "("), ("regex", "eth0")],
            ("eth0", FIRST, FIRST),
            Same,
        ),
        (
            &[("regex", "^10\\.9\\.0\\.2$")],
            ("eth1", "10.9.0.2", "10.9.0.2"),
            Same,
        ),
        // Global before link-local, permanent before dynamic, and none that is deprecated.
        (&[("iface", "eth1")], ("eth1", "10.9.0.3", "10.9.0.3"), Same),
        (
            &[("iface", "169.254.3.4")],
            ("eth1", "169.254.3.4", "169.254.3.4"),
            Same,
        ),
        // An address is on its interface also when it is deprecated.
        (
            &[("iface", "10.9.0.1")],
            ("eth1", "10.9.0.1", "10.9.0.1"),
            Same,
        ),
    ];
    for (words, (name, address, public_ip), is) in rows {
        let found = choose(&host(), &selection(words)).unwrap_or_else(|e| panic!("{words:?}: {e}"));
        let expected = (name, address.parse().unwrap(), public_ip.parse().unwrap());
        let found = (found.name.as_str(), found.address, found.public_ip);
        assert_eq!(found, expected, "{words:?}");
        check(is);
    }
}

#[test]
fn nothing_that_fits_is_an_error_and_the_default_route_is_no_way_out() {
    type Row = (&'static [(&'static str, &'static str)], &'static str, Is);
    let rows: [Row; 8] = [
        (&[("iface", "eth9")], "--iface=eth9", Same),
        (&[("iface", "10.1.1.1")], "--iface=10.1.1.1", Same),
        (&[("iface", "eth2")], "no usable IPv4 address", Same),
        (&[("iface", "lo")], "no usable IPv4 address", Same),
        (&[("iface", "fd00::1")], "--iface=fd00::1", Same),
        (&[("regex", "^wl")], "--iface-regex=^wl", Same),
        (&[("regex", "[")], "not a regular expression", Same),
        // NAT without an interface; flannel says less.
        (
            &[("public", "203.0.113.9")],
            "with --iface as well",
            Other("I2"),
        ),
    ];
    for (words, part, is) in rows {
        let text = choose(&host(), &selection(words)).unwrap_err().to_string();
        assert!(text.contains(part), "{words:?}: {text}");
        assert!(text.contains("eth0 (192.168.7.11 192.168.7.12)"), "{text}");
        check(is);
    }
    let mut without_mtu = host();
    without_mtu.links[1].mtu = 0;
    choose(&without_mtu, &Selection::default()).unwrap_err();
    let no_route = Host {
        default_route: Err("there is none".into()),
        ..host()
    };
    choose(&no_route, &Selection::default()).unwrap_err();
}
