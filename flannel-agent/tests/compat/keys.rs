//! Keys and values of leases: read, and written byte for byte.

use flannel_agent::backend::vxlan::{BackendData, vtep_mac};
use flannel_agent::subnet::key::{format_key, parse_key};
use flannel_agent::subnet::value::{format_value, parse_value};

use super::document::Is::{Other, Same};
use super::document::{Is, check};

/// Last part of a key → the spelling that is written, or nothing where it is no lease.
#[test]
fn keys_are_read_and_written_as_flannel_does() {
    let rows = [
        ("10.5.34.0-24", Some("10.5.34.0-24"), Same),
        (
            "10.12.13.0-24&fd00:12:13::-56",
            Some("10.12.13.0-24&fd00:12:13::-56"),
            Same,
        ),
        (
            "10.12.13.0-24&fd00:12:13:0:0::-56",
            Some("10.12.13.0-24&fd00:12:13::-56"),
            Same,
        ),
        ("0.0.0.0-0", Some("0.0.0.0-0"), Same),
        ("10.5.34.0-31", Some("10.5.34.0-31"), Same),
        ("10.5.34.0-32", None, Same),
        ("10.12.13.0-24&fd00::-128", None, Same),
        (
            "10.12.13.0-24&fd00::-127",
            Some("10.12.13.0-24&fd00::-127"),
            Same,
        ),
        ("10.12.13.0-24&FD00::-56", None, Same),
        ("10.12.13.0-24&::ffff:10.0.0.0-120", None, Same),
        ("fd00:12:13::-56", None, Same),
        ("10.5.34.0", None, Same),
        ("10.5.34.0/24", None, Same),
        ("10.5.34.0-24 ", None, Same),
        ("junk", None, Same),
        ("", None, Same),
        // Flannel looks for the pattern at the end of the key alone.
        ("x10.5.34.0-24", None, Other("K1")),
        ("deeper/10.5.34.0-24", None, Other("K1")),
        ("10.5.34.7-24", None, Other("K2")),
        ("10.12.13.0-24&fd00::7-56", None, Other("K2")),
    ];
    for (text, written, is) in rows {
        let read = parse_key(text).ok();
        assert_eq!(read.as_ref().map(format_key).as_deref(), written, "{text}");
        check(is);
    }
}

/// Values as flannel writes them, of every backend and version: what is read is written again byte
/// for byte.
#[test]
fn values_of_flannel_come_out_as_they_went_in() {
    for value in [
        r#"{"PublicIP":"192.168.7.11","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:02"}}"#,
        r#"{"PublicIP":"192.168.7.11","PublicIPv6":"fd00::7","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:02"},"BackendV6Data":{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:03"}}"#,
        r#"{"PublicIP":"0.0.0.0","PublicIPv6":null,"BackendType":"host-gw"}"#,
        r#"{"PublicIP":"192.168.7.11","PublicIPv6":null,"BackendType":"wireguard","BackendData":{"PublicKey":"k=","Port":51820}}"#,
        r#"{"PublicIP":"192.168.7.11","PublicIPv6":null,"BackendType":"extension","BackendData":"a \u003c b \u0026 c"}"#,
        r#"{"PublicIP":"192.168.7.11","PublicIPv6":null}"#,
    ] {
        let attrs = parse_value(value.as_bytes()).unwrap();
        let written = String::from_utf8(format_value(&attrs).unwrap()).unwrap();
        assert_eq!(written, value);
    }
}

/// A value → public IP, backend and VTEP MAC, or nothing where the lease is skipped.
#[test]
fn values_of_others_are_read_leniently() {
    const MAC: &str = "5e:1a:0b:33:9c:02";
    type Read = (&'static str, &'static str, Option<&'static str>);
    let rows: [(&str, Option<Read>, Is); 16] = [
        // Up to v0.13 there was no VNI, up to v0.14 no PublicIPv6.
        (
            r#"{"PublicIP":"10.1.1.1","BackendType":"vxlan","BackendData":{"VtepMAC":"5e:1a:0b:33:9c:02"}}"#,
            Some(("10.1.1.1", "vxlan", Some(MAC))),
            Same,
        ),
        // A reservation as the documentation has it, and one by hand.
        (
            r#"{"PublicIP":"10.1.1.1"}"#,
            Some(("10.1.1.1", "", None)),
            Same,
        ),
        (
            " {\n \"publicip\" : \"10.1.1.1\", \"BACKENDTYPE\": \"vxlan\", \"backenddata\": {\"vni\": 7, \"vtepmac\": \"5E:1A:0B:33:9C:02\"} }\n",
            Some(("10.1.1.1", "vxlan", Some(MAC))),
            Same,
        ),
        (
            r#"{"PublicIP":"10.1.1.1","New":{"a":[1]},"BackendType":null}"#,
            Some(("10.1.1.1", "", None)),
            Same,
        ),
        (
            r#"{"PublicIP":"10.1.1.1","PublicIP":"10.1.1.2"}"#,
            Some(("10.1.1.2", "", None)),
            Same,
        ),
        (
            r#"{"PublicIP":"10.1.1.1","BackendType":"vxlan","BackendData":{"VtepMAC":"none"}}"#,
            Some(("10.1.1.1", "vxlan", None)),
            Same,
        ),
        (
            r#"{"PublicIP":"10.1.1.1","PublicIPv6":""}"#,
            Some(("10.1.1.1", "", None)),
            Other("K4"),
        ),
        (r#"{"PublicIP":null}"#, None, Same),
        (r#"{"PublicIP":""}"#, None, Same),
        (r#"{"PublicIP":"nowhere"}"#, None, Same),
        (r#"{"PublicIP":"fd00::1"}"#, None, Same),
        (
            r#"{"PublicIP":"10.1.1.1","PublicIPv6":"10.1.1.1x"}"#,
            None,
            Same,
        ),
        (r#"{"PublicIP":"10.1.1.1","BackendType":7}"#, None, Same),
        ("{}", None, Same),
        ("[]", None, Same),
        ("", None, Same),
    ];
    for (value, expected, is) in rows {
        let read = parse_value(value.as_bytes()).ok().map(|attrs| {
            let mac = vtep_mac(attrs.backend_data.as_deref()).ok();
            (
                attrs.public_ip.to_string(),
                attrs.backend_type.clone(),
                mac.map(|mac| mac.to_string()),
            )
        });
        let expected = expected
            .map(|(ip, backend, mac)| (ip.to_owned(), backend.to_owned(), mac.map(str::to_owned)));
        assert_eq!(read, expected, "{value}");
        check(is);
    }
}

#[test]
fn backend_data_is_written_as_flannel_writes_it() {
    let data = BackendData {
        vni: 1,
        vtep_mac: "5E:1A:0B:33:9C:02".parse().unwrap(),
    };
    let written = data.to_json().unwrap();
    assert_eq!(written.get(), r#"{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:02"}"#);
}
