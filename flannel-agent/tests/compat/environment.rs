//! Variables beside flags.

use super::document::Is::{Other, Same};
use super::document::{Is, check};
use super::line::{parse, run};

#[test]
fn a_variable_stands_for_its_flag() {
    type Read = fn(&[&str], &[(&str, &str)]) -> String;
    let prefix: Read = |args, env| run(args, env).etcd_prefix;
    let margin: Read = |args, env| run(args, env).subnet_lease_renew_margin.to_string();
    let ifaces: Read = |args, env| run(args, env).iface.join(" ");
    let level: Read = |args, env| run(args, env).v.to_string();
    let masq: Read = |args, env| run(args, env).ip_masq.to_string();
    /// Command line, variable and value → what is read.
    type Row = (
        &'static [&'static str],
        &'static str,
        &'static str,
        Read,
        &'static str,
        Is,
    );
    let rows: [Row; 9] = [
        (&[], "FLANNELD_ETCD_PREFIX", "/e", prefix, "/e", Same),
        // The command line goes first, and an empty value counts as unset.
        (
            &["-etcd-prefix=/f"],
            "FLANNELD_ETCD_PREFIX",
            "/e",
            prefix,
            "/f",
            Same,
        ),
        (
            &[],
            "FLANNELD_ETCD_PREFIX",
            "",
            prefix,
            "/coreos.com/network",
            Same,
        ),
        // What does not parse leaves the default.
        (
            &[],
            "FLANNELD_SUBNET_LEASE_RENEW_MARGIN",
            "1h",
            margin,
            "60",
            Same,
        ),
        // One value, however many commas.
        (&[], "FLANNELD_IFACE", "a,b", ifaces, "a,b", Same),
        (&["-iface=c"], "FLANNELD_IFACE", "a", ifaces, "c", Same),
        (&[], "FLANNELD_V", "3", level, "3", Same),
        (&[], "FLANNELD_IP_MASQ", "T", masq, "true", Same),
        (
            &[],
            "ETCD_PREFIX",
            "/e",
            prefix,
            "/coreos.com/network",
            Same,
        ),
    ];
    for (args, name, value, read, expected, is) in rows {
        assert_eq!(read(args, &[(name, value)]), expected, "{name}={value}");
        check(is);
    }
}

#[test]
fn a_variable_that_does_not_parse_is_told_and_the_others_are_applied() {
    let env = [
        ("FLANNELD_IPTABLES_RESYNC", "soon"),
        ("FLANNELD_ETCD_PREFIX", "/e"),
    ];
    let parsed = parse(&[], &env).unwrap();
    assert!(parsed.warnings[0].contains("FLANNELD_IPTABLES_RESYNC=soon"));
    assert_eq!(run(&[], &env).etcd_prefix, "/e");
}

#[test]
fn a_variable_of_a_flag_that_is_not_acted_on_is_refused_like_the_flag() {
    let rows: [(&str, &str, bool, Is); 5] = [
        ("FLANNELD_KUBE_SUBNET_MGR", "true", false, Other("C20")),
        ("FLANNELD_KUBE_SUBNET_MGR", "false", true, Same),
        ("FLANNELD_LOG_BACKTRACE_AT", "a.go:1", true, Other("C7")),
        ("FLANNELD_LISTEN", ":8888", false, Other("C22")),
        ("FLANNELD_PUBLIC_IPV6", "fd00::1", false, Other("N20")),
    ];
    for (name, value, is_accepted, is) in rows {
        let parsed = parse(&[], &[(name, value)]);
        assert_eq!(parsed.is_ok(), is_accepted, "{name}={value}: {parsed:?}");
        check(is);
    }
}
