//! Spelling of a subnet in the last part of a lease key: `10.5.34.0-24`, and
//! `10.12.13.0-24&fd00:12:13::-56` in a dual-stack network (flannel `pkg/subnet/subnet.go`).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use thiserror::Error;

use crate::lease::Subnet;

/// Why a key does not name a subnet.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// Not of the form `<IPv4>-<length>`, alone or followed by `&<IPv6>-<length>`.
    #[error("not of the form 10.5.34.0-24 or 10.5.34.0-24&fd00:5:22::-64")]
    Form,
    /// The length is no length of a subnet of that family.
    #[error("prefix length {0} out of range")]
    Length(String),
    /// Bits beyond the prefix length are set.
    #[error("host bits are set, the subnet would be {0}")]
    HostBits(String),
}

/// Spells a subnet as flannel does.
#[must_use]
pub fn format_key(subnet: &Subnet) -> String {
    let Subnet { v4, v6 } = subnet;
    let mut key = format!("{}-{}", v4.network(), v4.prefix());
    if let Some(v6) = v6 {
        key.push_str(&format!("&{}-{}", v6.network(), v6.prefix()));
    }
    key
}

/// Reads the part of a key that follows `<prefix>/subnets/`.
///
/// Flannel looks for the pattern at the end of the whole key; here nothing may stand before it,
/// since two keys would then mean one subnet and the end of either would end both.
///
/// # Errors
/// The text is not what [`format_key`] could have written (lengths 0–31 and 0–127, IPv6 in lower
/// case without an IPv4 tail; the IPv6 text need not be in its shortest form).
pub fn parse_key(text: &str) -> Result<Subnet, KeyError> {
    let (v4, v6) = match text.split_once('&') {
        Some((v4, v6)) => (v4, Some(v6)),
        None => (text, None),
    };
    Ok(Subnet {
        v4: parse_v4(v4)?,
        v6: v6.map(parse_v6).transpose()?,
    })
}

fn parse_v4(text: &str) -> Result<Ipv4Network, KeyError> {
    let (address, length) = text.split_once('-').ok_or(KeyError::Form)?;
    let address: Ipv4Addr = address.parse().map_err(|_| KeyError::Form)?;
    let subnet = Ipv4Network::new_checked(address, parse_length(length, 31)?);
    let subnet = subnet.ok_or_else(|| KeyError::Length(length.to_owned()))?;
    if subnet.network() != address {
        return Err(KeyError::HostBits(subnet.network().to_string()));
    }
    Ok(subnet)
}

fn parse_v6(text: &str) -> Result<Ipv6Network, KeyError> {
    let (address, length) = text.split_once('-').ok_or(KeyError::Form)?;
    if !address
        .bytes()
        .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b':'))
    {
        return Err(KeyError::Form);
    }
    let address: Ipv6Addr = address.parse().map_err(|_| KeyError::Form)?;
    let subnet = Ipv6Network::new_checked(address, parse_length(length, 127)?);
    let subnet = subnet.ok_or_else(|| KeyError::Length(length.to_owned()))?;
    if subnet.network() != address {
        return Err(KeyError::HostBits(subnet.network().to_string()));
    }
    Ok(subnet)
}

fn parse_length(text: &str, limit: u8) -> Result<u8, KeyError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(KeyError::Form);
    }
    let length = text.parse().ok().filter(|length| *length <= limit);
    length.ok_or_else(|| KeyError::Length(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same() {
        let mut rng = StdRng::seed_from_u64(7);
        for _ in 0..10_000 {
            let v4 = Ipv4Network::new(rng.random::<u32>().into(), rng.random_range(0..=31));
            let v6 = Ipv6Network::new(rng.random::<u128>().into(), rng.random_range(0..=127));
            let (v4, v6) = (v4.unwrap(), v6.unwrap());
            let subnet = Subnet {
                v4: Ipv4Network::new(v4.network(), v4.prefix()).unwrap(),
                v6: rng
                    .random::<bool>()
                    .then(|| Ipv6Network::new(v6.network(), v6.prefix()).unwrap()),
            };
            let key = format_key(&subnet);
            assert_eq!(parse_key(&key), Ok(subnet), "{key}");
        }
    }

    #[test]
    fn keys_are_spelled_as_flannel_spells_them() {
        for key in ["10.5.34.0-24", "10.12.13.0-24&fd00:12:13::-56", "0.0.0.0-0"] {
            assert_eq!(format_key(&parse_key(key).unwrap()), key);
        }
    }

    #[test]
    fn the_long_spelling_of_an_ipv6_subnet_is_read() {
        let subnet = parse_key("10.5.1.0-24&fd00:0:0:1:0:0:0:0-64").unwrap();
        assert_eq!(format_key(&subnet), "10.5.1.0-24&fd00:0:0:1::-64");
    }

    #[test]
    fn what_flannel_could_not_have_written_is_refused() {
        let form = [
            "",
            "junk",
            "10.5.34.0",
            "10.5.34.0/24",
            "10.5.34.0-",
            "10.5.34.0-+8",
            "10.5.34.0-24-25",
            "10.5.34-24",
            "x10.5.34.0-24",
            "deeper/10.5.34.0-24",
            "10.5.34.0-24 ",
            "10.05.34.0-24",
            "300.5.34.0-24",
            "10.5.34.0-24&",
            "10.5.34.0-24&fd00:12:13::",
            "10.5.34.0-24&FD00:12:13::-56",
            "10.5.34.0-24&::ffff:10.0.0.0-120",
            "fd00:12:13::-56",
        ];
        for key in form {
            assert_eq!(parse_key(key), Err(KeyError::Form), "{key}");
        }
        for key in ["10.5.34.0-32", "10.5.34.0-999", "10.5.34.0-24&fd00::-128"] {
            assert!(matches!(parse_key(key), Err(KeyError::Length(_))), "{key}");
        }
        for key in ["10.5.34.1-24", "10.5.34.0-24&fd00::1-64"] {
            let error = parse_key(key);
            assert!(matches!(error, Err(KeyError::HostBits(_))), "{key}");
        }
    }
}
