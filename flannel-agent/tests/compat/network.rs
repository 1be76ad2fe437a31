//! The network config: keys, defaults, lengths and bounds.

use flannel_agent::network::NetworkConfig;

use super::document::Is::{Other, Same};
use super::document::{Is, check};

/// A document with these keys and the vxlan backend.
fn vxlan(keys: &str) -> String {
    format!(r#"{{{keys}, "Backend": {{"Type": "vxlan"}}}}"#)
}

/// Length, first and last subnet.
type Subnets = (u8, &'static str, &'static str);

fn ipv4(keys: &str) -> (u8, String, String, Vec<String>) {
    let (config, warnings) =
        NetworkConfig::parse(&vxlan(keys)).unwrap_or_else(|error| panic!("{keys}: {error}"));
    let range = config.ipv4.unwrap().subnets;
    let (min, max) = (range.min.network(), range.max.network());
    (range.len, min.to_string(), max.to_string(), warnings)
}

#[test]
fn lengths_and_bounds_are_those_of_flannel() {
    const DEFAULT: Subnets = (24, "10.3.1.0", "10.3.255.0");
    let rows: [(&str, Subnets, Is); 15] = [
        (r#""Network": "10.3.0.0/16""#, DEFAULT, Same),
        (r#""Network": "10.3.7.7/16""#, DEFAULT, Same),
        (r#""network": "10.3.0.0/16""#, DEFAULT, Same),
        (
            r#""Network": "10.9.0.0/16", "NETWORK": "10.3.0.0/16""#,
            DEFAULT,
            Same,
        ),
        (
            r#""Network": "10.3.0.0/16", "Unknown": [{}]"#,
            DEFAULT,
            Same,
        ),
        (r#""Network": "10.3.0.0/16", "SubnetLen": 0"#, DEFAULT, Same),
        (
            r#""Network": "10.3.0.0/16", "SubnetLen": null, "EnableIPv4": null, "EnableIPv6": null, "EnableNFTables": null"#,
            DEFAULT,
            Same,
        ),
        (
            r#""Network": "10.3.0.0/16", "SubnetMin": "0.0.0.0", "SubnetMax": "0.0.0.0""#,
            DEFAULT,
            Same,
        ),
        (
            r#""Network": "10.3.0.0/22""#,
            (24, "10.3.1.0", "10.3.3.0"),
            Same,
        ),
        (
            r#""Network": "10.3.0.0/23""#,
            (25, "10.3.0.128", "10.3.1.128"),
            Same,
        ),
        (
            r#""Network": "10.3.0.0/28""#,
            (30, "10.3.0.4", "10.3.0.12"),
            Same,
        ),
        (
            r#""Network": "10.3.0.0/16", "SubnetLen": 18"#,
            (18, "10.3.64.0", "10.3.192.0"),
            Same,
        ),
        (
            r#""Network": "10.3.0.0/16", "SubnetLen": 30"#,
            (30, "10.3.0.4", "10.3.255.252"),
            Same,
        ),
        (
            r#""Network": "10.3.0.0/16", "SubnetMin": "10.3.0.0", "SubnetMax": "10.3.9.0""#,
            (24, "10.3.0.0", "10.3.9.0"),
            Same,
        ),
        (
            r#""Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0""#,
            (20, "10.10.0.0", "10.99.0.0"),
            Same,
        ),
    ];
    for (keys, (len, min, max), is) in rows {
        let found = ipv4(keys);
        assert_eq!(found, (len, min.into(), max.into(), Vec::new()), "{keys}");
        check(is);
    }
}

/// What v0.5 to v0.9 took and v0.10 refuses.
#[test]
fn documents_of_old_versions_are_taken_with_a_warning() {
    let rows: [(&str, Subnets); 5] = [
        (
            r#""Network": "10.3.0.0/16", "SubnetLen": 17"#,
            (17, "10.3.128.0", "10.3.128.0"),
        ),
        (
            r#""Network": "10.3.0.0/16", "SubnetLen": 31"#,
            (31, "10.3.0.2", "10.3.255.254"),
        ),
        (r#""Network": "10.3.0.0/29""#, (30, "10.3.0.4", "10.3.0.4")),
        (r#""Network": "10.3.0.0/30""#, (31, "10.3.0.2", "10.3.0.2")),
        (
            r#""Network": "10.3.0.0/16", "SubnetMin": "10.3.1.1", "SubnetMax": "10.3.9.9""#,
            (24, "10.3.2.0", "10.3.9.0"),
        ),
    ];
    for (keys, (len, min, max)) in rows {
        let (found_len, found_min, found_max, warnings) = ipv4(keys);
        let found = (found_len, found_min.as_str(), found_max.as_str());
        assert_eq!(found, (len, min, max), "{keys}");
        assert!(
            warnings.iter().all(|text| text.contains("v0.9")),
            "{warnings:?}"
        );
        assert!(!warnings.is_empty(), "{keys}");
    }
    check(Other("N1"));
}

#[test]
fn documents_are_refused_where_flannel_refuses_them() {
    let network = |keys: &str| vxlan(&format!(r#""Network": "10.3.0.0/16", {keys}"#));
    let rows = [
        (String::new(), Same),
        ("{".into(), Same),
        ("[]".into(), Same),
        (vxlan(r#""SubnetLen": 24"#), Same),
        (vxlan(r#""Network": null"#), Same),
        (vxlan(r#""Network": """#), Same),
        (vxlan(r#""Network": "10.3.0.0""#), Same),
        (vxlan(r#""Network": "10.3.0.0/33""#), Same),
        (vxlan(r#""Network": "fd00::/48""#), Same),
        (vxlan(r#""Network": 7"#), Same),
        (vxlan(r#""Network": "10.3.0.0/31""#), Same),
        (network(r#""SubnetLen": "24""#), Same),
        (network(r#""SubnetLen": -1"#), Same),
        (network(r#""SubnetLen": 15"#), Same),
        (network(r#""SubnetLen": 32"#), Same),
        (network(r#""SubnetMin": null"#), Same),
        (network(r#""SubnetMin": """#), Same),
        (network(r#""SubnetMax": null"#), Same),
        (network(r#""SubnetMax": """#), Same),
        (network(r#""SubnetMin": "10.4.0.0""#), Same),
        (network(r#""SubnetMax": "10.2.0.0""#), Same),
        (network(r#""EnableIPv4": "true""#), Same),
        (network(r#""EnableIPv4": false"#), Same),
        (
            network(r#""SubnetMin": "10.3.9.0", "SubnetMax": "10.3.8.0""#),
            Other("N2"),
        ),
        // Both families of a document are checked, but for this.
        (
            network(r#""EnableIPv6": true, "IPv6Network": "10.3.0.0/16""#),
            Other("N3"),
        ),
        (network(r#""EnableIPv6": true"#), Same),
        (
            network(r#""EnableIPv6": true, "IPv6Network": "fc00::/125""#),
            Same,
        ),
        (
            network(r#""EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetLen": 49"#),
            Same,
        ),
        (
            network(r#""EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetLen": 127"#),
            Same,
        ),
        (
            network(r#""EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetMin": """#),
            Same,
        ),
        (
            network(
                r#""EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetMax": "fc00::5""#,
            ),
            Same,
        ),
    ];
    for (document, is) in rows {
        assert!(NetworkConfig::parse(&document).is_err(), "{document}");
        check(is);
    }
}

/// Read and checked as in flannel, though the agent goes no further with it.
#[test]
fn ipv6_lengths_and_bounds_are_those_of_flannel() {
    let rows = [
        ("\"fc00::/48\"", (64, "fc00:0:0:1::", "fc00:0:0:ffff::")),
        ("\"fc00::/62\"", (64, "fc00:0:0:1::", "fc00:0:0:3::")),
        (
            "\"fc00::/63\"",
            (65, "fc00::8000:0:0:0", "fc00:0:0:1:8000::"),
        ),
        (
            "\"fc00::/48\", \"IPv6SubnetMin\": null, \"IPv6SubnetMax\": null, \"IPv6SubnetLen\": null",
            (64, "fc00:0:0:1::", "fc00:0:0:ffff::"),
        ),
        (
            "\"fc00::/48\", \"IPv6SubnetLen\": 56, \"IPv6SubnetMin\": \"fc00::\"",
            (56, "fc00::", "fc00:0:0:ff00::"),
        ),
    ];
    for (keys, (len, min, max)) in rows {
        let document = vxlan(&format!(
            r#""EnableIPv4": false, "EnableIPv6": true, "IPv6Network": {keys}"#
        ));
        let (config, _) = NetworkConfig::parse(&document).unwrap();
        assert!(config.ipv4.is_none());
        let range = config.ipv6.unwrap().subnets;
        let found = (range.len, range.min.network(), range.max.network());
        assert_eq!(
            found,
            (len, min.parse().unwrap(), max.parse().unwrap()),
            "{keys}"
        );
    }
    check(Other("N20"));
}
