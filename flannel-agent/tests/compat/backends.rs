//! The `Backend` object: which backends there are, and the options of those beside vxlan.

use std::time::Duration;

use flannel_agent::network::{Backend, Extension, NetworkConfig, Udp};

use super::document::Is::{Other, Same};
use super::document::{check, names};

fn document(backend: &str) -> String {
    format!(r#"{{"Network": "10.3.0.0/16"{backend}}}"#)
}

/// `Backend` with a type and, behind it, options.
fn typed(options: &str) -> String {
    document(&format!(r#", "Backend": {{"Type": {options}}}"#))
}

const NO_COMMANDS: Extension = Extension {
    pre_startup: None,
    post_startup: None,
    subnet_add: None,
    subnet_remove: None,
    shell: None,
    timeout: Duration::from_secs(60),
};

#[test]
fn options_are_those_of_flannel() {
    let udp = |port| Backend::Udp(Udp { port });
    let commands = |pre: &str, add: &str| {
        Backend::Extension(Extension {
            pre_startup: Some(pre.into()),
            subnet_add: Some(add.into()),
            ..NO_COMMANDS
        })
    };
    let rows = [
        (document(""), udp(8285), Other("D18")),
        (typed(r#""udp""#), udp(8285), Same),
        (typed(r#""UDP", "port": 9000"#), udp(9000), Same),
        (typed(r#""udp", "Port": null"#), udp(8285), Same),
        (typed(r#""host-gw""#), Backend::HostGw, Same),
        (typed(r#""Host-Gw", "Unknown": 1"#), Backend::HostGw, Same),
        (typed(r#""alloc""#), Backend::Alloc, Same),
        (
            typed(r#""extension""#),
            Backend::Extension(NO_COMMANDS),
            Same,
        ),
        (
            typed(r#""extension", "SubnetAddCommand": "", "PostStartupCommand": null"#),
            Backend::Extension(NO_COMMANDS),
            Same,
        ),
        (
            typed(
                r#""Extension", "preStartupCommand": "cat /x", "SUBNETADDCOMMAND": "ip r add $SUBNET""#,
            ),
            commands("cat /x", "ip r add $SUBNET"),
            Same,
        ),
        (
            typed(r#""extension", "PreStartupCommand": "a | b", "SubnetAddCommand": "read X""#),
            commands("a | b", "read X"),
            Other("D15"),
        ),
        (
            typed(r#""extension", "SubnetAddCommand": " ""#),
            Backend::Extension(NO_COMMANDS),
            Other("B7"),
        ),
        (
            typed(r#""extension", "Shell": true, "CommandTimeout": 5"#),
            Backend::Extension(Extension {
                shell: Some("/bin/sh".into()),
                timeout: Duration::from_secs(5),
                ..NO_COMMANDS
            }),
            Other("B6"),
        ),
        (
            typed(r#""extension", "ShutdownCommand": "ip link del x""#),
            Backend::Extension(NO_COMMANDS),
            Other("B8"),
        ),
    ];
    for (text, expected, is) in rows {
        let (config, warnings) =
            NetworkConfig::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(config.backend, expected, "{text}");
        let is_told = matches!(is, Other("D15" | "D18" | "B8"));
        assert_eq!(!warnings.is_empty(), is_told, "{text}: {warnings:?}");
        check(is);
    }
}

/// As in leases of flannel; what it does not write is empty.
#[test]
fn leases_carry_the_type_that_flannel_writes() {
    let rows = [
        ("vxlan", "vxlan"),
        ("host-gw", "host-gw"),
        ("udp", ""),
        ("alloc", ""),
        ("extension", "extension"),
    ];
    for (name, written) in rows {
        let (config, _) = NetworkConfig::parse(&typed(&format!("{name:?}"))).unwrap();
        assert_eq!(config.backend.name(), name);
        assert_eq!(config.backend.lease_type(), written);
        assert!(names(name), "{name} is not in the document");
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let rows = [
        (
            document(r#", "Backend": {}"#),
            "unknown backend type",
            Other("N4"),
        ),
        (
            document(r#", "Backend": null"#),
            "Backend is null",
            Other("N4"),
        ),
        (
            document(r#", "Backend": "vxlan""#),
            "an object",
            Other("N4"),
        ),
        (typed(r#""vxlna""#), "unknown backend type", Other("N4")),
        (typed(r#""udp", "Port": "8285""#), "Port is", Same),
        (typed(r#""udp", "Port": 0"#), "Port is 0", Other("B5")),
        (
            typed(r#""extension", "SubnetAddCommand": 1"#),
            "SubnetAddCommand is 1",
            Same,
        ),
        (
            typed(r#""extension", "Shell": "sh""#),
            "Shell is",
            Other("B6"),
        ),
    ];
    let removed = ["aws-vpc", "gce", "ali-vpc"].map(|name| (name, Other("B22")));
    let missing = ["ipip", "wireguard", "ipsec", "tencent-vpc"].map(|name| (name, Other("B21")));
    let unsupported = removed.into_iter().chain(missing).map(|(name, is)| {
        assert!(names(name), "{name} is not in the document");
        (
            typed(&format!("{name:?}")),
            "is not supported by this version; supported: vxlan, host-gw, udp, alloc, extension",
            is,
        )
    });
    for (text, part, is) in rows.into_iter().chain(unsupported) {
        let error = NetworkConfig::parse(&text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
        check(is);
    }
}
