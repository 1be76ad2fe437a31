//! The value of a lease key: JSON, written by [`LeaseAttrs`]'s serializer, read leniently here.
//!
//! Other nodes run other versions, and operators write values by hand: names match in any case,
//! unknown members are ignored, only `PublicIP` is needed.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::json::Members;
use crate::lease::LeaseAttrs;

/// Why a value does not describe a lease.
#[derive(Debug, Error)]
pub enum ValueError {
    /// Not UTF-8.
    #[error("the value is not UTF-8")]
    NotText,
    /// Not a JSON object.
    #[error("the value is not a JSON object")]
    Json(#[source] serde_json::Error),
    /// `PublicIP` is missing or `null`.
    #[error("PublicIP is missing")]
    NoPublicIp,
    /// A member is there but is not what it should be.
    #[error("{name} is {value}, which is not {wanted}")]
    Member {
        /// Name of the member.
        name: &'static str,
        /// Its JSON text.
        value: String,
        /// What would be right.
        wanted: &'static str,
    },
}

/// Reads the value of a lease key.
///
/// # Errors
/// The value cannot be used; that costs this one lease.
pub fn parse_value(bytes: &[u8]) -> Result<LeaseAttrs, ValueError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ValueError::NotText)?;
    let members = Members::parse(text).map_err(ValueError::Json)?;
    let public_ip = members
        .get_non_null("PublicIP")
        .ok_or(ValueError::NoPublicIp)?;
    let public_ip: Ipv4Addr = typed("PublicIP", "an IPv4 address", public_ip)?;
    let public_ipv6 = members
        .get_non_null("PublicIPv6")
        .filter(|value| value.get() != r#""""#)
        .map(|value| typed::<Ipv6Addr>("PublicIPv6", "an IPv6 address", value))
        .transpose()?;
    let backend_type = members
        .get_non_null("BackendType")
        .map(|value| typed("BackendType", "a string", value))
        .transpose()?;
    Ok(LeaseAttrs {
        public_ip,
        public_ipv6,
        backend_type: backend_type.unwrap_or_default(),
        backend_data: members.get_non_null("BackendData").map(RawValue::to_owned),
        backend_v6_data: members
            .get_non_null("BackendV6Data")
            .map(RawValue::to_owned),
    })
}

/// Writes a value exactly as flannel does: this order of members, no white space.
///
/// # Errors
/// Never in practice: all members are text or JSON already.
pub fn format_value(attrs: &LeaseAttrs) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(attrs)
}

fn typed<'de, T: Deserialize<'de>>(
    name: &'static str,
    wanted: &'static str,
    value: &'de RawValue,
) -> Result<T, ValueError> {
    serde_json::from_str(value.get()).map_err(|_| ValueError::Member {
        name,
        value: value.get().to_owned(),
        wanted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_and_writing_keeps_every_byte_of_a_flannel_value() {
        let values = [
            r#"{"PublicIP":"192.168.7.11","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:02"}}"#,
            r#"{"PublicIP":"192.168.7.11","PublicIPv6":"fd00::7","BackendType":"host-gw"}"#,
            r#"{"PublicIP":"192.168.7.11","PublicIPv6":null}"#,
            r#"{"PublicIP":"0.0.0.0","PublicIPv6":null,"BackendType":"extension","BackendData":"a\u003cb"}"#,
        ];
        for value in values {
            let attrs = parse_value(value.as_bytes()).unwrap();
            assert_eq!(
                String::from_utf8(format_value(&attrs).unwrap()).unwrap(),
                value
            );
        }
    }

    #[test]
    fn values_of_old_versions_and_of_people_are_read() {
        let old = parse_value(
            br#"{"PublicIP":"10.1.1.1","BackendType":"vxlan","BackendData":{"VtepMAC":"aa:bb:cc:dd:ee:ff"}}"#,
        );
        assert_eq!(old.unwrap().public_ipv6, None);
        let by_hand = br#" { "publicip" : "10.1.1.2", "More": [1], "PUBLICIPV6": "" }"#;
        let by_hand = parse_value(by_hand).unwrap();
        assert_eq!(by_hand.public_ip, Ipv4Addr::new(10, 1, 1, 2));
        assert_eq!(by_hand.backend_type, "");
        assert!(by_hand.backend_data.is_none());
    }

    #[test]
    fn unusable_values_are_refused_with_the_reason() {
        let cases: [(&[u8], &str); 8] = [
            (b"", "not a JSON object"),
            (b"[]", "not a JSON object"),
            (b"{\"PublicIP\":\"10.1.1.1\"", "not a JSON object"),
            (b"\xff", "not UTF-8"),
            (b"{}", "PublicIP is missing"),
            (br#"{"PublicIP":null}"#, "PublicIP is missing"),
            (br#"{"PublicIP":""}"#, "not an IPv4 address"),
            (
                br#"{"PublicIP":"10.1.1.1","PublicIPv6":"x"}"#,
                "not an IPv6 address",
            ),
        ];
        for (value, reason) in cases {
            let error = parse_value(value).unwrap_err().to_string();
            assert!(error.contains(reason), "{error} for {value:?}");
        }
    }
}
