//! Options of the vxlan backend.

use flannel_agent::backend::vxlan::{device_mtu, device_name};
use flannel_agent::network::{Backend, NetworkConfig, Vxlan};

use super::document::Is::{Other, Same};
use super::document::check;

fn document(backend: &str) -> String {
    format!(r#"{{"Network": "10.3.0.0/16"{backend}}}"#)
}

const DEFAULT: Vxlan = Vxlan {
    vni: 1,
    port: None,
    mtu: None,
    gbp: false,
    learning: false,
    direct_routing: false,
};

#[test]
fn options_of_vxlan_are_those_of_flannel() {
    let rows = [
        ("", DEFAULT, Same),
        (
            r#", "VNI": 42, "Port": 4789, "MTU": 1400, "GBP": true, "Learning": true"#,
            Vxlan {
                vni: 42,
                port: Some(4789),
                mtu: Some(1400),
                gbp: true,
                learning: true,
                ..DEFAULT
            },
            Same,
        ),
        (
            r#", "vni": 42, "PORT": 4789, "Unknown": {}"#,
            Vxlan {
                vni: 42,
                port: Some(4789),
                ..DEFAULT
            },
            Same,
        ),
        (r#", "VNI": 0"#, Vxlan { vni: 0, ..DEFAULT }, Same),
        (r#", "Port": 0, "MTU": 0"#, DEFAULT, Same),
        (
            r#", "VNI": null, "Port": null, "MTU": null, "GBP": null"#,
            DEFAULT,
            Same,
        ),
        (
            r#", "DirectRouting": true"#,
            Vxlan {
                direct_routing: true,
                ..DEFAULT
            },
            Same,
        ),
    ];
    for (options, expected, is) in rows {
        for name in ["vxlan", "VXLAN", "Vxlan"] {
            let text = document(&format!(r#", "Backend": {{"Type": "{name}"{options}}}"#));
            let (config, warnings) = NetworkConfig::parse(&text).unwrap();
            assert_eq!(config.backend, Backend::Vxlan(expected.clone()), "{text}");
            assert!(warnings.is_empty(), "{warnings:?}");
        }
        check(is);
    }
}

#[test]
fn values_that_the_kernel_would_refuse_are_refused_at_once() {
    for option in [
        r#""VNI": 16777216"#,
        r#""Port": 65536"#,
        r#""Port": -1"#,
        r#""MTU": 60"#,
    ] {
        let text = document(&format!(r#", "Backend": {{"Type": "vxlan", {option}}}"#));
        assert!(NetworkConfig::parse(&text).is_err(), "{text}");
    }
    check(Other("B1"));
}

#[test]
fn pods_get_the_mtu_of_the_interface_less_the_headers() {
    let rows = [
        (None, 1500, Some(1450), Same),
        (None, 9000, Some(8950), Same),
        (Some(1400), 1500, Some(1350), Same),
        (Some(9000), 1500, Some(1450), Other("B2")),
        (None, 100, None, Other("B2")),
    ];
    for (mtu, external, expected, is) in rows {
        assert_eq!(device_mtu(mtu, external), expected, "{mtu:?} {external}");
        check(is);
    }
    assert_eq!(device_name(42), "flannel.42");
}
