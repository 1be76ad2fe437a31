use serde_json::value::RawValue;

use super::*;
use crate::lease::{LeaseAttrs, Subnet};

fn lease(backend_type: &str, data: Option<&str>) -> Lease {
    Lease {
        subnet: Subnet {
            v4: "10.5.1.0/24".parse().unwrap(),
            v6: None,
        },
        attrs: LeaseAttrs {
            public_ip: [192, 168, 7, 11].into(),
            public_ipv6: None,
            backend_type: backend_type.into(),
            backend_data: data.map(|data| RawValue::from_string(data.into()).unwrap()),
            backend_v6_data: None,
        },
    }
}

#[test]
fn only_leases_that_this_backend_writes_are_peers() {
    let options = network::Extension {
        pre_startup: None,
        post_startup: None,
        subnet_add: None,
        subnet_remove: None,
        shell: None,
        timeout: std::time::Duration::from_secs(1),
    };
    let backend = Extension::new(options, []);
    let refusal = |backend_type, data| {
        let accepted = backend.accept(&lease(backend_type, data));
        accepted.map_err(|reason| reason.to_string()).err()
    };
    assert_eq!(refusal("extension", None), None);
    assert_eq!(refusal("extension", Some(r#""a\u003cb""#)), None);
    let other = refusal("vxlan", Some(r#""a""#));
    assert_eq!(other.unwrap(), r#"backend is "vxlan", not extension"#);
    let object = refusal("extension", Some(r#"{"VtepMAC":"x"}"#)).unwrap();
    assert!(
        object.starts_with("BackendData is not a string: "),
        "{object}"
    );
}
