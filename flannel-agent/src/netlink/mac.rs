//! Link-layer addresses. Pure.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A 48-bit link-layer address, written in lower case with colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// A text that is no link-layer address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a link-layer address such as 5e:1a:0b:33:9c:02")]
pub struct ParseMacError(pub String);

/// I/G bit of the first octet: group address (IEEE 802, 8.2).
const GROUP: u8 = 0x01;
/// U/L bit of the first octet: locally administered (IEEE 802, 8.2).
const LOCAL: u8 = 0x02;

impl MacAddr {
    /// A random address that no vendor owns and that names a single station.
    #[must_use]
    pub fn random_local(rng: &mut impl Rng) -> Self {
        let mut octets: [u8; 6] = rng.random();
        octets[0] = (octets[0] & !GROUP) | LOCAL;
        Self(octets)
    }

    /// The address in `bytes`, if there are six of them.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Whether this can be the address of a station: neither a group address nor all zero.
    #[must_use]
    pub fn is_station(self) -> bool {
        self.0[0] & GROUP == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    /// Takes upper case and hyphens too.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseMacError(text.to_owned());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut parts = text.split(separator);
        let mut octets = [0; 6];
        for octet in &mut octets {
            let part = parts.next().ok_or_else(error)?;
            // from_str_radix alone would take "+5".
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(error());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(error()),
        }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn text_survives_a_round_trip() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..1000 {
            let mac = MacAddr(rng.random());
            assert_eq!(mac.to_string().parse(), Ok(mac));
            assert_eq!(mac.to_string().to_uppercase().parse(), Ok(mac));
            assert_eq!(mac.to_string().replace(':', "-").parse(), Ok(mac));
        }
    }

    #[test]
    fn garbage_is_refused() {
        for text in [
            "",
            ":",
            "5e:1a:0b:33:9c",
            "5e:1a:0b:33:9c:02:07",
            "5e:1a:0b:33:9c:2",
            "5e:1a:0b:33:9c:+2",
            "5e:1a:0b:33:9c:0g",
            "5e:1a-0b:33:9c:02",
            " 5e:1a:0b:33:9c:02",
            "5é:1a:0b:33:9c:02",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_random_address_is_local_and_names_a_station() {
        let mut rng = StdRng::seed_from_u64(2);
        for _ in 0..1000 {
            let mac = MacAddr::random_local(&mut rng);
            assert_eq!(mac.0[0] & 3, LOCAL);
            assert!(mac.is_station());
        }
    }

    #[test]
    fn groups_and_zero_are_no_stations() {
        for text in [
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
        ] {
            assert!(!text.parse::<MacAddr>().unwrap().is_station());
        }
    }
}
