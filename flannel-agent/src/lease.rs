//! Leases: who holds which subnet, and the table of all of them. Pure data.
//!
//! A lease is one key under `<prefix>/subnets` with its JSON value. The subnet manager turns what
//! the store says into [`LeaseChange`]s; [`LeaseTable`] folds them; everything that is programmed
//! on the host is derived from the table as a whole, never from a single change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The subnet of one node: IPv4, and IPv6 beside it in a dual-stack network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    /// IPv4 subnet; host bits are zero.
    pub v4: Ipv4Network,
    /// IPv6 subnet of the same node, host bits zero.
    pub v6: Option<Ipv6Network>,
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.v4)?;
        self.v6.map_or(Ok(()), |v6| write!(f, " and {v6}"))
    }
}

/// The value of a lease key.
///
/// Written exactly as flannel writes it: this field order, these names, no white space.
/// Reading is more lenient and lives in `subnet::value`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaseAttrs {
    /// Underlay address that peers send to.
    #[serde(rename = "PublicIP")]
    pub public_ip: Ipv4Addr,
    /// IPv6 underlay address; written as `null` when absent.
    #[serde(rename = "PublicIPv6")]
    pub public_ipv6: Option<Ipv6Addr>,
    /// Backend name, empty for backends that write none (udp, alloc).
    #[serde(
        rename = "BackendType",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub backend_type: String,
    /// What the backend of that node wants its peers to know, for the IPv4 overlay.
    #[serde(
        rename = "BackendData",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub backend_data: Option<Box<RawValue>>,
    /// The same for the IPv6 overlay.
    #[serde(
        rename = "BackendV6Data",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub backend_v6_data: Option<Box<RawValue>>,
}

impl PartialEq for LeaseAttrs {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            public_ip,
            public_ipv6,
            backend_type,
            backend_data,
            backend_v6_data,
        } = self;
        let text = |raw: &Option<Box<RawValue>>| raw.as_ref().map(|r| r.get().to_owned());
        *public_ip == other.public_ip
            && *public_ipv6 == other.public_ipv6
            && *backend_type == other.backend_type
            && text(backend_data) == text(&other.backend_data)
            && text(backend_v6_data) == text(&other.backend_v6_data)
    }
}

/// One node's claim on a subnet.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// What is leased.
    pub subnet: Subnet,
    /// Who holds it, and how it is reached.
    pub attrs: LeaseAttrs,
}

/// What the store reports about all leases, the own one included.
#[derive(Debug, Clone, PartialEq)]
pub enum LeaseChange {
    /// The whole truth at one revision: what is not in it is gone.
    Snapshot(Vec<Lease>),
    /// A lease was written (new, changed, or only renewed).
    Put(Lease),
    /// A lease was deleted or ran out.
    Removed(Subnet),
}

/// Which leases differ from what they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Those of these subnets: written, or gone.
    Some(BTreeSet<Ipv4Network>),
    /// Any.
    All,
}

impl Default for Changed {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

impl Changed {
    fn note(&mut self, subnet: Ipv4Network) {
        if let Self::Some(subnets) = self {
            subnets.insert(subnet);
        }
    }
}

/// All leases of the network, keyed by their IPv4 subnet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LeaseTable {
    leases: BTreeMap<Ipv4Network, Lease>,
    changed: Changed,
}

impl LeaseTable {
    /// Folds a change in; says whether the table differs from before.
    pub fn apply(&mut self, change: LeaseChange) -> bool {
        match change {
            LeaseChange::Snapshot(leases) => {
                let next = leases
                    .into_iter()
                    .map(|lease| (lease.subnet.v4, lease))
                    .collect();
                let changed = self.leases != next;
                self.leases = next;
                if changed {
                    self.changed = Changed::All;
                }
                changed
            }
            LeaseChange::Put(lease) => {
                let subnet = lease.subnet.v4;
                let changed = self.leases.get(&subnet) != Some(&lease);
                if changed {
                    self.changed.note(subnet);
                    self.leases.insert(subnet, lease);
                }
                changed
            }
            LeaseChange::Removed(subnet) => {
                let changed = self.leases.remove(&subnet.v4).is_some();
                if changed {
                    self.changed.note(subnet.v4);
                }
                changed
            }
        }
    }

    /// What has changed since this was last asked.
    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// All leases but the one of `own`, in the order of their subnets.
    pub fn peers(&self, own: Ipv4Network) -> impl Iterator<Item = &Lease> {
        self.leases
            .values()
            .filter(move |lease| lease.subnet.v4 != own)
    }

    /// The lease of a subnet.
    #[must_use]
    pub fn get(&self, subnet: Ipv4Network) -> Option<&Lease> {
        self.leases.get(&subnet)
    }

    /// Number of leases, the own one included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether no lease is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(subnet: &str, public_ip: [u8; 4]) -> Lease {
        Lease {
            subnet: Subnet {
                v4: subnet.parse().unwrap(),
                v6: None,
            },
            attrs: LeaseAttrs {
                public_ip: public_ip.into(),
                public_ipv6: None,
                backend_type: "vxlan".into(),
                backend_data: None,
                backend_v6_data: None,
            },
        }
    }

    #[test]
    fn value_is_written_as_flannel_writes_it() {
        let mut one = lease("10.5.34.0/24", [192, 168, 7, 11]).attrs;
        one.backend_data = Some(
            RawValue::from_string(r#"{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:02"}"#.into()).unwrap(),
        );
        assert_eq!(
            serde_json::to_string(&one).unwrap(),
            r#"{"PublicIP":"192.168.7.11","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"5e:1a:0b:33:9c:02"}}"#
        );
    }

    #[test]
    fn a_snapshot_removes_what_it_does_not_name() {
        let mut table = LeaseTable::default();
        assert!(table.apply(LeaseChange::Put(lease("10.5.1.0/24", [1, 1, 1, 1]))));
        assert!(!table.apply(LeaseChange::Put(lease("10.5.1.0/24", [1, 1, 1, 1]))));
        assert!(table.apply(LeaseChange::Snapshot(vec![lease(
            "10.5.2.0/24",
            [1, 1, 1, 2]
        )])));
        assert_eq!(table.take_changed(), Changed::All);
        let own = "10.5.9.0/24".parse().unwrap();
        let subnets: Vec<_> = table
            .peers(own)
            .map(|lease| lease.subnet.v4.to_string())
            .collect();
        assert_eq!(subnets, ["10.5.2.0/24"]);
    }

    #[test]
    fn changes_are_told_once_and_renewals_are_none() {
        let mut table = LeaseTable::default();
        let one = lease("10.5.1.0/24", [1, 1, 1, 1]);
        let subnets = |subnets: &[&Lease]| {
            Changed::Some(subnets.iter().map(|lease| lease.subnet.v4).collect())
        };
        table.apply(LeaseChange::Put(one.clone()));
        assert_eq!(table.take_changed(), subnets(&[&one]));
        table.apply(LeaseChange::Put(one.clone()));
        assert_eq!(table.take_changed(), subnets(&[]));
        table.apply(LeaseChange::Removed(one.subnet));
        assert_eq!(table.take_changed(), subnets(&[&one]));
        assert_eq!(table.get(one.subnet.v4), None);
    }

    #[test]
    fn removing_an_unknown_subnet_changes_nothing() {
        let mut table = LeaseTable::default();
        let subnet = Subnet {
            v4: "10.5.1.0/24".parse().unwrap(),
            v6: None,
        };
        assert!(!table.apply(LeaseChange::Removed(subnet)));
    }
}
