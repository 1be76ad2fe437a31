//! `subnet.env`: as it is written, and as it is read at the next start.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use flannel_agent::subnet::file::{PreviousSubnet, SubnetEnv};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::document::Is::{Other, Same};
use super::document::{Is, check};

fn ipv4(ip_masq: bool) -> SubnetEnv {
    SubnetEnv {
        v4: Some((
            "10.5.0.0/16".parse().unwrap(),
            "10.5.34.0/24".parse().unwrap(),
        )),
        v6: None,
        mtu: 1450,
        ip_masq,
    }
}

#[test]
fn the_text_is_that_of_flannel() {
    assert_eq!(
        ipv4(true).to_text(),
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/24\nFLANNEL_MTU=1450\n\
         FLANNEL_IPMASQ=true\n"
    );
    let dual = SubnetEnv {
        v6: Some((
            "fd00:5::/48".parse().unwrap(),
            "fd00:5:0:22::/64".parse().unwrap(),
        )),
        ..ipv4(false)
    };
    assert_eq!(
        dual.to_text(),
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.34.1/24\n\
         FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:22::1/64\n\
         FLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
    );
}

#[test]
fn directory_file_and_modes_are_those_of_flannel() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("run/flannel/subnet.env");
    let mut rng = StdRng::seed_from_u64(1);
    ipv4(true).write(&path, &mut rng).unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.as_path()), 0o644);
    // The umask may take from a directory, as it does with flannel.
    assert_eq!(mode(path.parent().unwrap()) & !0o755, 0);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

/// A file of an earlier start → the subnet that is asked for again.
#[test]
fn the_previous_subnet_is_read_as_flannel_reads_it() {
    let rows: [(&str, Option<&str>, Is); 11] = [
        (&ipv4(true).to_text(), Some("10.5.34.0/24"), Same),
        ("FLANNEL_SUBNET=10.5.34.77/24\n", Some("10.5.34.0/24"), Same),
        (
            "FLANNEL_SUBNET=\"10.5.34.1/24\"",
            Some("10.5.34.0/24"),
            Same,
        ),
        ("FLANNEL_SUBNET='10.5.34.1/24'", Some("10.5.34.0/24"), Same),
        (
            "export FLANNEL_SUBNET=10.5.34.1/24",
            Some("10.5.34.0/24"),
            Same,
        ),
        (
            "# by hand\nFLANNEL_SUBNET=10.5.34.1/24 # mine\n",
            Some("10.5.34.0/24"),
            Same,
        ),
        // Lists of several subnets, of v0.21 to v0.22.3, are refused as a whole.
        ("FLANNEL_SUBNET=10.5.34.1/24,10.6.34.1/24", None, Same),
        ("FLANNEL_SUBNET=10.5.34.1/99", None, Same),
        ("FLANNEL_SUBNET=", None, Same),
        ("", None, Same),
        ("FLANNEL_SUBNET: 10.5.34.1/24", None, Other("F2")),
    ];
    for (text, expected, is) in rows {
        let found = PreviousSubnet::from_text(text)
            .v4
            .map(|net| net.to_string());
        assert_eq!(found.as_deref(), expected, "{text}");
        check(is);
    }
}
