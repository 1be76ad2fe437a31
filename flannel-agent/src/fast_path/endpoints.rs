//! Which interfaces of the host lead to pods, and whether their packets may go around the stack.
//! Pure.
//!
//! A pod is behind a veth whose other end is in a network namespace of its own, and which is
//! either a port of a bridge with an address in the own subnet (Docker, CNI `bridge`), or has a
//! route into the own subnet itself (CNI `ptp`).

use std::collections::BTreeSet;
use std::fmt;

use ipnetwork::Ipv4Network;

use crate::netlink::link::Link;

/// A pod's interface, its end on the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: String,
}

/// Why packets of a pod stay on the standard path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhyNot {
    /// A queueing discipline limits or shapes, and would be gone around.
    #[error("has the queueing discipline {0}")]
    Qdisc(String),
    /// Somebody's XDP program wants to see packets.
    #[error("has an XDP program")]
    Xdp,
    /// Somebody's TC program wants to see packets.
    #[error("has a TC program of somebody else")]
    Program,
    /// The port of a bridge that tells VLANs apart, or something else about the bridge, is not
    /// looked at by the fast path.
    #[error("is down")]
    Down,
}

/// What the host has.
#[derive(Debug, Default)]
pub struct Host {
    /// All links.
    pub links: Vec<Link>,
    /// All addresses, with the index of their link.
    pub addresses: Vec<(u32, Ipv4Network)>,
    /// Links with a route of their own into the own subnet.
    pub routed: BTreeSet<u32>,
}

/// The pods' interfaces, and those among them that are left alone, with the reason.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    /// Those that may be used.
    pub usable: BTreeSet<Endpoint>,
    /// Those that may not.
    pub unusable: Vec<(Endpoint, WhyNot)>,
}

/// Links whose other end is elsewhere and which are no port: one may have a pod behind it, if a
/// route leads there.
pub fn unbridged(links: &[Link]) -> impl Iterator<Item = &Link> {
    links
        .iter()
        .filter(|link| is_veth(link) && link.controller.is_none())
}

/// Finds the pods' interfaces.
#[must_use]
pub fn find(host: &Host, own: Ipv4Network) -> Found {
    let bridges: BTreeSet<u32> = host
        .links
        .iter()
        .filter(|link| link.kind.as_deref() == Some("bridge"))
        .map(|link| link.index)
        .filter(|index| {
            let mut addresses = host.addresses.iter();
            addresses.any(|(link, address)| link == index && own.contains(address.ip()))
        })
        .collect();
    let mut found = Found::default();
    for link in host.links.iter().filter(|link| is_veth(link)) {
        let is_pod = match link.controller {
            Some(controller) => bridges.contains(&controller),
            None => host.routed.contains(&link.index),
        };
        if !is_pod {
            continue;
        }
        let endpoint = Endpoint {
            index: link.index,
            name: link.name.clone(),
        };
        match why_not(link) {
            None => {
                found.usable.insert(endpoint);
            }
            Some(why) => found.unusable.push((endpoint, why)),
        }
    }
    found
}

fn is_veth(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth") && link.has_end_elsewhere
}

fn why_not(link: &Link) -> Option<WhyNot> {
    if !link.is_up {
        return Some(WhyNot::Down);
    }
    if link.xdp_id.is_some() {
        return Some(WhyNot::Xdp);
    }
    let qdisc = link.qdisc.as_deref().unwrap_or("noqueue");
    (qdisc != "noqueue").then(|| WhyNot::Qdisc(qdisc.to_owned()))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, kind: &str) -> Link {
        Link {
            index,
            name: format!("{kind}{index}"),
            mtu: 1450,
            mac: None,
            kind: Some(kind.into()),
            bus: None,
            is_up: true,
            lower: None,
            controller: None,
            has_end_elsewhere: kind == "veth",
            qdisc: Some("noqueue".into()),
            xdp_id: None,
            vxlan: None,
        }
    }

    fn port(index: u32, bridge: u32) -> Link {
        Link {
            controller: Some(bridge),
            ..link(index, "veth")
        }
    }

    fn indices(found: &Found) -> Vec<u32> {
        found.usable.iter().map(|endpoint| endpoint.index).collect()
    }

    fn own() -> Ipv4Network {
        "10.5.34.0/24".parse().unwrap()
    }

    #[test]
    fn ports_of_a_bridge_with_an_own_address_are_pods() {
        let host = Host {
            links: vec![
                link(2, "bridge"),
                link(3, "bridge"),
                port(10, 2),
                port(11, 3),
                Link {
                    has_end_elsewhere: false,
                    ..port(12, 2)
                },
                link(13, "veth"),
            ],
            addresses: vec![
                (2, "10.5.34.1/24".parse().unwrap()),
                (3, "172.17.0.1/16".parse().unwrap()),
            ],
            routed: BTreeSet::new(),
        };
        assert_eq!(indices(&find(&host, own())), [10]);
    }

    #[test]
    fn a_veth_with_a_route_of_its_own_is_a_pod() {
        let host = Host {
            links: vec![link(10, "veth"), link(11, "veth")],
            addresses: Vec::new(),
            routed: [10].into(),
        };
        assert_eq!(indices(&find(&host, own())), [10]);
    }

    #[test]
    fn what_others_have_put_there_is_respected() {
        let base = || port(10, 2);
        let rows = [
            (
                Link {
                    qdisc: Some("tbf".into()),
                    ..base()
                },
                WhyNot::Qdisc("tbf".into()),
            ),
            (
                Link {
                    xdp_id: Some(1),
                    ..base()
                },
                WhyNot::Xdp,
            ),
            (
                Link {
                    is_up: false,
                    ..base()
                },
                WhyNot::Down,
            ),
        ];
        for (link_of_pod, why) in rows {
            let host = Host {
                links: vec![link(2, "bridge"), link_of_pod],
                addresses: vec![(2, "10.5.34.1/24".parse().unwrap())],
                routed: BTreeSet::new(),
            };
            let found = find(&host, own());
            assert!(found.usable.is_empty());
            assert_eq!(found.unusable[0].1, why);
        }
    }
}
