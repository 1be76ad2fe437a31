//! Every flag that flannel has or had: acted on, or told why not.

use std::collections::BTreeSet;

use flannel_agent::cli::RunArgs;

use super::document::Is::{Other, Same};
use super::document::{self, Is, check};
use super::line::{parse, run};

/// Flags of v0.28.9.
const CURRENT: [&str; 32] = [
    "etcd-endpoints",
    "etcd-prefix",
    "etcd-keyfile",
    "etcd-certfile",
    "etcd-cafile",
    "etcd-username",
    "etcd-password",
    "iface",
    "iface-regex",
    "iface-can-reach",
    "public-ip",
    "public-ipv6",
    "subnet-file",
    "subnet-lease-renew-margin",
    "ip-masq",
    "ip-masq-fully-random-disable",
    "iptables-resync",
    "iptables-forward-rules",
    "ip-blackhole-route",
    "healthz-ip",
    "healthz-port",
    "kube-subnet-mgr",
    "kube-api-url",
    "kubeconfig-file",
    "kube-annotation-prefix",
    "net-config-path",
    "set-node-network-unavailable",
    "version",
    "v",
    "vmodule",
    "log_backtrace_at",
    "help",
];

/// Flags of older versions.
const FORMER: [&str; 9] = [
    "listen",
    "remote",
    "remote-keyfile",
    "remote-certfile",
    "remote-cafile",
    "networks",
    "subnet-dir",
    "watch-networks",
    "use-multi-cluster-cidr",
];

/// A flag that is acted on: its default, a value and what it makes of the setting.
struct Acted {
    flag: &'static str,
    default: &'static str,
    value: &'static str,
    read: fn(&RunArgs) -> String,
}

fn acted() -> Vec<Acted> {
    macro_rules! rows {
        ($($flag:literal, $default:literal, $value:literal, |$args:ident| $read:expr;)*) => {
            vec![$(Acted {
                flag: $flag,
                default: $default,
                value: $value,
                read: |$args| $read,
            }),*]
        };
    }
    rows! {
        "etcd-endpoints", "http://127.0.0.1:4001,http://127.0.0.1:2379", "http://a:1", |a| a.etcd_endpoints.clone();
        "etcd-prefix", "/coreos.com/network", "/x", |a| a.etcd_prefix.clone();
        "etcd-keyfile", "", "/k", |a| a.etcd_keyfile.clone();
        "etcd-certfile", "", "/c", |a| a.etcd_certfile.clone();
        "etcd-cafile", "", "/a", |a| a.etcd_cafile.clone();
        "etcd-username", "", "root", |a| a.etcd_username.clone();
        "etcd-password", "", "secret", |a| a.etcd_password.clone();
        "iface", "", "eth0", |a| a.iface.join(" ");
        "iface-regex", "", "^en", |a| a.iface_regex.join(" ");
        "iface-can-reach", "", "10.0.0.1", |a| a.iface_can_reach.clone();
        "public-ip", "", "10.0.0.1", |a| a.public_ip.clone();
        "subnet-file", "/run/flannel/subnet.env", "/x", |a| a.subnet_file.display().to_string();
        "subnet-lease-renew-margin", "60", "90", |a| a.subnet_lease_renew_margin.to_string();
        "ip-masq", "false", "true", |a| a.ip_masq.to_string();
        "ip-masq-fully-random-disable", "false", "true", |a| a.ip_masq_fully_random_disable.to_string();
        "iptables-resync", "5", "7", |a| a.iptables_resync.to_string();
        "iptables-forward-rules", "true", "false", |a| a.iptables_forward_rules.to_string();
        "ip-blackhole-route", "false", "true", |a| a.ip_blackhole_route.to_string();
        "healthz-ip", "0.0.0.0", "127.0.0.1", |a| a.healthz_ip.clone();
        "healthz-port", "0", "8080", |a| a.healthz_port.to_string();
        "v", "0", "4", |a| a.v.to_string();
    }
}

/// A flag that is not acted on: what of it asks for nothing and is accepted, and what is refused.
/// Nothing is refused of klog's, nor of those that mean something only beside `kube-subnet-mgr`.
const NOT_ACTED: [(&str, &[&str], Option<&str>, Is); 18] = [
    ("public-ipv6", &[""], Some("fd00::1"), Other("N20")),
    ("kube-subnet-mgr", &["false"], Some("true"), Other("C20")),
    ("kube-api-url", &["http://a"], None, Other("C20")),
    ("kubeconfig-file", &["/x"], None, Other("C20")),
    ("kube-annotation-prefix", &["a.b"], None, Other("C20")),
    ("net-config-path", &["/x"], None, Other("C20")),
    (
        "set-node-network-unavailable",
        &["true", "false"],
        None,
        Other("C20"),
    ),
    ("vmodule", &["", "vxlan=4"], None, Other("C7")),
    ("log_backtrace_at", &["", "a.go:1"], None, Other("C7")),
    ("listen", &[""], Some(":8888"), Other("C22")),
    ("remote", &[""], Some("10.0.0.1:8888"), Other("C22")),
    ("remote-keyfile", &[""], Some("/k"), Other("C22")),
    ("remote-certfile", &[""], Some("/c"), Other("C22")),
    ("remote-cafile", &[""], Some("/a"), Other("C22")),
    ("networks", &[""], Some("blue"), Other("C22")),
    ("subnet-dir", &[""], Some("/x"), Other("C22")),
    ("watch-networks", &["false"], Some("true"), Other("C22")),
    (
        "use-multi-cluster-cidr",
        &["false"],
        Some("true"),
        Other("C22"),
    ),
];

/// These end the program; see the rows about that.
const ENDING: [&str; 2] = ["version", "help"];

#[test]
fn every_flag_is_in_one_table_and_in_the_document() {
    let acted = acted().into_iter().map(|row| row.flag);
    let not_acted = NOT_ACTED.iter().map(|row| row.0);
    let told: Vec<&str> = acted.chain(not_acted).chain(ENDING).collect();
    let known: BTreeSet<&str> = CURRENT.into_iter().chain(FORMER).collect();
    assert_eq!(told.iter().copied().collect::<BTreeSet<_>>(), known);
    assert_eq!(told.len(), known.len(), "a flag is told twice");
    for flag in known {
        assert!(document::names(flag), "{flag} is not in the document");
    }
}

#[test]
fn flags_have_the_defaults_of_flannel_and_are_acted_on() {
    for Acted {
        flag,
        default,
        value,
        read,
    } in acted()
    {
        assert_eq!(read(&run(&[], &[])), default, "{flag}");
        for line in [format!("-{flag}={value}"), format!("--{flag}={value}")] {
            assert_eq!(read(&run(&[&line], &[])), value, "{line}");
        }
    }
    check(Same);
}

#[test]
fn repeatable_flags_keep_all_values_in_order() {
    let args = run(
        &["-iface=a", "-iface-regex=b", "-iface=c", "-iface-regex=d"],
        &[],
    );
    assert_eq!(
        (args.iface.join(" "), args.iface_regex.join(" ")),
        ("a c".to_owned(), "b d".to_owned())
    );
}

#[test]
fn flags_that_are_not_acted_on_are_accepted_where_they_ask_for_nothing() {
    for (flag, harmless, refused, is) in NOT_ACTED {
        for value in harmless {
            run(&[&format!("--{flag}={value}")], &[]);
        }
        if let Some(value) = refused {
            let stop = parse(&[&format!("--{flag}={value}")], &[]).unwrap_err();
            assert_eq!(stop.code, 2, "{stop}");
            assert!(stop.text.contains(flag), "{stop}");
        }
        check(is);
    }
}
