use std::time::Duration;

use super::*;

fn parse(text: &str) -> (NetworkConfig, Vec<String>) {
    NetworkConfig::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str) -> String {
    NetworkConfig::parse(text).unwrap_err().to_string()
}

/// The document with the vxlan backend and these keys before it.
fn with(keys: &str) -> String {
    format!(r#"{{{keys}, "Backend": {{"Type": "vxlan"}}}}"#)
}

fn ipv4_of(keys: &str) -> (Overlay<Ipv4Network>, Vec<String>) {
    let (config, warnings) = parse(&with(keys));
    (config.ipv4.unwrap(), warnings)
}

#[test]
fn lengths_and_bounds_follow_the_rules_of_flannel() {
    // keys, length, first, last
    let cases = [
        (r#""Network": "10.3.0.0/16""#, 24, "10.3.1.0", "10.3.255.0"),
        (r#""Network": "10.3.7.9/16""#, 24, "10.3.1.0", "10.3.255.0"),
        (r#""Network": "10.0.0.0/8""#, 24, "10.0.1.0", "10.255.255.0"),
        (r#""Network": "10.3.0.0/22""#, 24, "10.3.1.0", "10.3.3.0"),
        (
            r#""Network": "10.3.0.0/23""#,
            25,
            "10.3.0.128",
            "10.3.1.128",
        ),
        (r#""Network": "10.3.0.0/28""#, 30, "10.3.0.4", "10.3.0.12"),
        (r#""Network": "0.0.0.0/1""#, 24, "0.0.1.0", "127.255.255.0"),
        (
            r#""Network": "10.3.0.0/16", "SubnetLen": 0"#,
            24,
            "10.3.1.0",
            "10.3.255.0",
        ),
        (
            r#""Network": "10.3.0.0/16", "SubnetLen": 30"#,
            30,
            "10.3.0.4",
            "10.3.255.252",
        ),
        (
            r#""Network": "10.3.0.0/16", "SubnetLen": 18"#,
            18,
            "10.3.64.0",
            "10.3.192.0",
        ),
        (
            r#""Network": "10.3.0.0/16", "SubnetMin": "10.3.0.0""#,
            24,
            "10.3.0.0",
            "10.3.255.0",
        ),
        (
            r#""Network": "10.3.0.0/16", "SubnetMin": "0.0.0.0""#,
            24,
            "10.3.1.0",
            "10.3.255.0",
        ),
        (
            r#""network": "10.3.0.0/16", "SUBNETMIN": "10.3.9.0", "subnetMax": "10.3.12.0""#,
            24,
            "10.3.9.0",
            "10.3.12.0",
        ),
    ];
    for (keys, len, min, max) in cases {
        let (overlay, warnings) = ipv4_of(keys);
        let SubnetRange {
            min: first,
            max: last,
            len: length,
        } = overlay.subnets;
        let (first, last) = (first.network().to_string(), last.network().to_string());
        assert_eq!(
            (length, first.as_str(), last.as_str()),
            (len, min, max),
            "{keys}"
        );
        assert!(warnings.is_empty(), "{keys}: {warnings:?}");
    }
}

#[test]
fn what_only_old_versions_accept_comes_with_a_warning() {
    let cases = [
        (
            r#""Network": "10.3.0.0/23", "SubnetLen": 24"#,
            24,
            "10.3.1.0",
            "10.3.1.0",
        ),
        (
            r#""Network": "10.3.0.0/24", "SubnetLen": 31"#,
            31,
            "10.3.0.2",
            "10.3.0.254",
        ),
        (r#""Network": "10.3.0.0/29""#, 30, "10.3.0.4", "10.3.0.4"),
        (
            r#""Network": "10.3.0.0/16", "SubnetMin": "10.3.5.7", "SubnetMax": "10.3.9.9""#,
            24,
            "10.3.6.0",
            "10.3.9.0",
        ),
        (
            r#""Network": "10.3.4.0/24", "SubnetLen": 24, "SubnetMin": "10.3.4.0""#,
            24,
            "10.3.4.0",
            "10.3.4.0",
        ),
    ];
    for (keys, len, min, max) in cases {
        let (overlay, warnings) = ipv4_of(keys);
        let SubnetRange {
            min: first,
            max: last,
            len: length,
        } = overlay.subnets;
        let (first, last) = (first.network().to_string(), last.network().to_string());
        assert_eq!(
            (length, first.as_str(), last.as_str()),
            (len, min, max),
            "{keys}"
        );
        assert!(
            warnings.iter().all(|text| text.contains("v0.9")),
            "{keys}: {warnings:?}"
        );
        assert!(!warnings.is_empty(), "{keys}");
    }
}

#[test]
fn unusable_documents_are_refused_naming_key_value_and_remedy() {
    let vxlan =
        |keys: &str| format!(r#"{{"Network":"10.3.0.0/16","Backend":{{"Type":"vxlan",{keys}}}}}"#);
    let cases = [
        (String::new(), "line 1 column 0"),
        (
            "{\n \"Network\": \"10.3.0.0/16\",\n}".into(),
            "line 3 column 1",
        ),
        ("[]".into(), "a JSON object"),
        (with(r#""SubnetLen": 24"#), "Network is missing"),
        (with(r#""Network": null"#), "Network is null"),
        (
            with(r#""Network": """#),
            "such as \"10.5.0.0/16\" is expected",
        ),
        (
            with(r#""Network": "fd00::/48""#),
            "Network is \"fd00::/48\" (line 1 column 13)",
        ),
        (with(r#""Network": "10.3.0.0""#), "an IPv4 network"),
        (with(r#""Network": "0.0.0.0/0""#), "every address there is"),
        (
            with(r#""Network": "10.3.0.0/255.255.0.0""#),
            "an IPv4 network",
        ),
        (with(r#""Network": "10.3.0.0/33""#), "an IPv4 network"),
        (
            with(r#""Network": "10.3.0.0/16", "SubnetLen": "24""#),
            "SubnetLen is \"24\"",
        ),
        (
            with(r#""Network": "10.3.0.0/16", "SubnetLen": -1"#),
            "a prefix length",
        ),
        (
            with(r#""Network": "10.3.0.0/16", "SubnetLen": 15"#),
            "from 18 to 30",
        ),
        (
            with(r#""Network": "10.3.0.0/16", "SubnetLen": 32"#),
            "from 18 to 30",
        ),
        (with(r#""Network": "10.3.0.0/31""#), "at most 28"),
        (
            with(r#""Network": "10.3.0.0/16", "SubnetLen": 16"#),
            "no /16 subnet",
        ),
        (
            with(r#""Network": "10.3.0.0/16", "SubnetMin": null"#),
            "SubnetMin is null",
        ),
        (
            with(r#""Network": "10.3.0.0/16", "SubnetMax": """#),
            "an IPv4 address is expected",
        ),
        (
            with(r#""Network": "10.3.0.0/16", "SubnetMin": "10.4.0.0""#),
            "outside of Network",
        ),
        (
            with(r#""Network": "10.3.0.0/16", "SubnetMin": "10.3.9.0", "SubnetMax": "10.3.8.0""#),
            "no /24 subnet lies between",
        ),
        (
            with(r#""Network": "10.3.0.0/16", "EnableIPv4": "no""#),
            "true or false",
        ),
        (with(r#""EnableIPv4": false"#), "turn one of them on"),
        (
            with(r#""Network": "10.3.0.0/16", "EnableIPv6": true"#),
            "IPv6Network is missing",
        ),
        (
            r#"{"Network": "10.3.0.0/16", "Backend": {}}"#.into(),
            "unknown backend type",
        ),
        (
            r#"{"Network": "10.3.0.0/16", "Backend": null}"#.into(),
            "Backend is null",
        ),
        (
            r#"{"Network": "10.3.0.0/16", "Backend": "vxlan"}"#.into(),
            "an object such as",
        ),
        (
            r#"{"Network": "10.3.0.0/16", "Backend": {"Type": "WireGuard"}}"#.into(),
            "wireguard is not supported by this version; supported: vxlan, host-gw, udp, ",
        ),
        (
            r#"{"Network": "10.3.0.0/16", "Backend": {"Type": "vxlna"}}"#.into(),
            "there are vxlan, host-gw, ",
        ),
        (vxlan(r#""VNI": 16777216"#), "from 0 to 16777215"),
        (vxlan(r#""VNI": "1""#), "VNI is \"1\""),
        (vxlan(r#""VNI": -1"#), "VNI is -1"),
        (vxlan(r#""Port": 65536"#), "Port is 65536"),
        (vxlan(r#""MTU": 100"#), "from 118 to 65535"),
        (vxlan(r#""GBP": 1"#), "GBP is 1"),
    ];
    for (text, expected) in cases {
        let message = error(&text);
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn vxlan_options_have_the_defaults_of_flannel() {
    let (config, _) = parse(&with(r#""Network": "10.3.0.0/16""#));
    let defaults = Vxlan {
        vni: 1,
        port: None,
        mtu: None,
        gbp: false,
        learning: false,
        direct_routing: false,
    };
    assert_eq!(config.backend, Backend::Vxlan(defaults.clone()));
    assert!(!config.enable_nftables);
    let text = r#"{"Network": "10.3.0.0/16", "EnableNFTables": true, "Unknown": {}, "backend":
        {"type": "VXLAN", "vni": 7, "VNI": 42, "port": 4789, "mtu": 1400, "gbp": true,
         "Learning": null, "directrouting": true}}"#;
    let (config, warnings) = parse(text);
    assert!(warnings.is_empty(), "{warnings:?}");
    let given = Vxlan {
        vni: 42,
        port: Some(4789),
        mtu: Some(1400),
        gbp: true,
        learning: false,
        direct_routing: true,
    };
    assert_eq!(config.backend, Backend::Vxlan(given));
    assert!(config.enable_nftables);
    let zeros = r#"{"Network": "10.3.0.0/16", "Backend": {"Type": "vxlan", "VNI": 0, "Port": 0}}"#;
    let zeros = parse(zeros).0.backend;
    assert_eq!(zeros, Backend::Vxlan(Vxlan { vni: 0, ..defaults }));
}

#[test]
fn ipv6_networks_follow_the_rules_of_flannel() {
    let (config, warnings) = parse(&with(
        r#""EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetMin": null"#,
    ));
    let overlay = config.ipv6.unwrap();
    assert_eq!(config.ipv4, None);
    assert_eq!(overlay.subnets.len, 64);
    assert_eq!(overlay.subnets.min, "fc00:0:0:1::/64".parse().unwrap());
    assert_eq!(overlay.subnets.max, "fc00:0:0:ffff::/64".parse().unwrap());
    assert!(warnings.is_empty());
    for (keys, expected) in [
        (r#""IPv6Network": "10.3.0.0/16""#, "an IPv6 network"),
        (
            r#""IPv6Network": "fc00::/48", "IPv6SubnetMin": """#,
            "an IPv6 address",
        ),
        (
            r#""IPv6Network": "fc00::/48", "IPv6SubnetLen": 49"#,
            "from 50 to 126",
        ),
        (
            r#""IPv6Network": "fc00::/48", "IPv6SubnetMin": "fc00::5""#,
            "is not the start of a /64",
        ),
        (r#""IPv6Network": "fc00::/125""#, "at most 124"),
    ] {
        let keys = format!(r#""Network": "10.3.0.0/16", "EnableIPv6": true, {keys}"#);
        let message = error(&with(&keys));
        assert!(message.contains(expected), "{keys}: {message}");
    }
}

/// The document with a backend of this type and these keys.
fn backend(keys: &str) -> String {
    format!(r#"{{"Network": "10.3.0.0/16", "Backend": {{"Type": {keys}}}}}"#)
}

#[test]
fn without_a_backend_it_is_udp_and_said_so() {
    let (config, warnings) = parse(r#"{"Network": "10.3.0.0/16"}"#);
    assert_eq!(config.backend, Backend::Udp(Udp { port: 8285 }));
    assert!(warnings[0].contains("which means udp"), "{warnings:?}");
    assert!(warnings[0].contains(r#""Type": "vxlan""#), "{warnings:?}");
}

#[test]
fn every_backend_has_its_name_its_lease_type_and_its_defaults() {
    let extension = Extension {
        pre_startup: None,
        post_startup: None,
        subnet_add: None,
        subnet_remove: None,
        shell: None,
        timeout: Duration::from_secs(60),
    };
    let rows = [
        (r#""HOST-GW""#, Backend::HostGw, "host-gw"),
        (r#""udp""#, Backend::Udp(Udp { port: 8285 }), ""),
        (
            r#""udp", "Port": null"#,
            Backend::Udp(Udp { port: 8285 }),
            "",
        ),
        (
            r#""Udp", "PORT": 9000"#,
            Backend::Udp(Udp { port: 9000 }),
            "",
        ),
        (r#""alloc", "Port": "x""#, Backend::Alloc, ""),
        (
            r#""extension""#,
            Backend::Extension(extension.clone()),
            "extension",
        ),
        (
            r#""extension", "PreStartupCommand": "", "PostStartupCommand": null, "SubnetAddCommand": " ", "Shell": null"#,
            Backend::Extension(extension.clone()),
            "extension",
        ),
        (
            r#""extension", "prestartupcommand": "a b", "PostStartupCommand": "c", "SubnetAddCommand": "d $SUBNET",
               "SubnetRemoveCommand": "e", "Shell": true, "CommandTimeout": 5"#,
            Backend::Extension(Extension {
                pre_startup: Some("a b".into()),
                post_startup: Some("c".into()),
                subnet_add: Some("d $SUBNET".into()),
                subnet_remove: Some("e".into()),
                shell: Some("/bin/sh".into()),
                timeout: Duration::from_secs(5),
            }),
            "extension",
        ),
        (
            r#""extension", "shell": "/bin/bash""#,
            Backend::Extension(Extension {
                shell: Some("/bin/bash".into()),
                ..extension.clone()
            }),
            "extension",
        ),
        (
            r#""extension", "Shell": false"#,
            Backend::Extension(extension),
            "extension",
        ),
    ];
    for (keys, expected, lease_type) in rows {
        let (config, warnings) = parse(&backend(keys));
        assert_eq!(config.backend, expected, "{keys}");
        assert_eq!(config.backend.lease_type(), lease_type, "{keys}");
        assert!(keys.to_lowercase().contains(config.backend.name()));
        assert_eq!(warnings, Vec::<String>::new(), "{keys}");
    }
}

#[test]
fn options_of_a_wrong_type_are_refused_by_name() {
    let rows = [
        (r#""udp", "Port": 0"#, "Port is 0", "from 1 to 65535"),
        (r#""udp", "Port": "8285""#, "Port is \"8285\"", "a number"),
        (
            r#""extension", "PreStartupCommand": 5"#,
            "PreStartupCommand is 5",
            "a command is expected, in quotes",
        ),
        (
            r#""extension", "SubnetAddCommand": ["ip", "route"]"#,
            "SubnetAddCommand is [",
            "in quotes",
        ),
        (
            r#""extension", "Shell": "sh""#,
            "Shell is \"sh\"",
            "\"/bin/bash\"",
        ),
        (r#""extension", "Shell": 1"#, "Shell is 1", "true, or"),
        (
            r#""extension", "CommandTimeout": 0"#,
            "CommandTimeout is 0",
            "from 1 to 86400",
        ),
        (
            r#""extension", "CommandTimeout": 1.5"#,
            "CommandTimeout is 1.5",
            "a number",
        ),
    ];
    for (keys, named, wanted) in rows {
        let message = error(&backend(keys));
        assert!(message.contains(named), "{keys}: {message}");
        assert!(message.contains(wanted), "{keys}: {message}");
    }
}

#[test]
fn what_flannel_does_silently_with_commands_comes_with_a_hint() {
    let told = |keys: &str| parse(&backend(keys)).1;
    let shutdown = told(r#""extension", "ShutdownCommand": "ip link del x""#);
    assert!(shutdown[0].starts_with("ShutdownCommand is not run"));
    let add = r#""extension", "PreStartupCommand": "cat /x", "SubnetAddCommand": "read A; b $A""#;
    let [hint] = told(add).try_into().unwrap();
    assert!(hint.starts_with("SubnetAddCommand: quotes and operators"));
    assert!(hint.contains(r#""Shell": true"#), "{hint}");
    assert_eq!(told(&format!(r#"{add}, "Shell": true"#)), [""; 0]);
}
