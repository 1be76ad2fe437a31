//! The leases of nodes that do not exist: a number stands for a subnet, a public IP and a MAC.

use std::net::Ipv4Addr;

use crate::agent::PREFIX;

/// The overlay: half of 10.0.0.0/8, since the management network of a bed is in the other half.
pub(super) const NETWORK: &str = "10.0.0.0/9";
/// First subnet that an agent may choose for itself, above all subnets of peers.
pub(super) const OWN_MIN: &str = "10.120.0.0";
/// Numbers of leases that come and go, above those that stay: subnets from 10.64.0.0.
pub(super) const COMING: u32 = 0x4000;
/// Numbers of leases whose first packet is waited for: subnets from 10.100.0.0.
pub(super) const AWAITED: u32 = 0x6400;
/// Where all public IPs are: 172.16.0.0/12.
const PUBLIC: u32 = 0xac10_0000;

/// The lease of one such node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FakeLease {
    /// From 1; the third and fourth bytes of its addresses.
    pub(super) number: u32,
    /// How often the node was made anew: another one is another MAC.
    pub(super) generation: u8,
}

impl FakeLease {
    pub(super) fn new(number: u32) -> Self {
        Self {
            number,
            generation: 0,
        }
    }

    /// Network address of its subnet, a /24.
    pub(super) fn subnet(self) -> Ipv4Addr {
        Ipv4Addr::from((10 << 24) | (self.number << 8))
    }

    /// An address of a pod there.
    pub(super) fn pod(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet()) | 1)
    }

    pub(super) fn public_ip(self) -> Ipv4Addr {
        Ipv4Addr::from(PUBLIC + self.number)
    }

    /// Link-layer address of its tunnel device.
    pub(super) fn mac(self) -> [u8; 6] {
        let [_, high, middle, low] = self.number.to_be_bytes();
        [0x0e, 0x00, self.generation, high, middle, low]
    }

    pub(super) fn key(self) -> String {
        format!("{PREFIX}/subnets/{}-24", self.subnet())
    }

    /// As flannel writes it.
    pub(super) fn value(self) -> String {
        format!(
            r#"{{"PublicIP":"{}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{}"}}}}"#,
            self.public_ip(),
            format_mac(self.mac())
        )
    }
}

pub(super) fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_do_not_meet() {
        let last = FakeLease::new(10_000);
        assert_eq!(last.subnet(), Ipv4Addr::new(10, 39, 16, 0));
        assert_eq!(last.public_ip(), Ipv4Addr::new(172, 16, 39, 16));
        assert_eq!(FakeLease::new(COMING).subnet(), Ipv4Addr::new(10, 64, 0, 0));
        assert_eq!(FakeLease::new(AWAITED).pod(), Ipv4Addr::new(10, 100, 0, 1));
        let again = FakeLease {
            generation: 1,
            ..last
        };
        assert_ne!(again.mac(), last.mac());
        assert_eq!(last.key(), format!("{PREFIX}/subnets/10.39.16.0-24"));
    }
}
