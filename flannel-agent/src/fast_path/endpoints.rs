//! Which interfaces of the host lead to pods, and whether their packets may go around the stack.
//! Pure.
//!
//! A pod is behind a veth whose other end is in a network namespace of its own, and which is
//! either a port of a bridge with an address in the own subnet (Docker, CNI `bridge`), or has a
//! route into the own subnet itself (CNI `ptp`).

use std::collections::BTreeSet;
use std::fmt;

use ipnetwork::Ipv4Network;

use super::others::on_link;
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
    /// The pod's own XDP program, at its end, wants to see packets.
    #[error("leads to a pod with an XDP program")]
    XdpWithin,
    /// Somebody's TC program or filter wants to see packets.
    #[error("has a TC program of somebody else")]
    Program,
    /// A packet of its may overtake another one on its way through the stack.
    #[error("spreads packets over processors (RPS)")]
    Rps,
    /// Nothing goes through it.
    #[error("is down")]
    Down,
    /// One of these is true of its bridge.
    #[error("is a port of {0}, which {1}")]
    Bridge(String, Box<WhyNot>),
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
    /// Links, of those that matter, with a TC program of somebody else.
    pub programs: BTreeSet<u32>,
    /// Links, of those that matter, whose packets change the processor.
    pub spread: BTreeSet<u32>,
}

impl Host {
    /// The links on the way to pods: their interfaces and bridges.
    pub fn on_the_way(&self, own: Ipv4Network) -> impl Iterator<Item = &Link> {
        let bridges = self.bridges(own);
        let pods = self.pods(own).map(|(link, _)| link);
        let is_bridge = move |link: &&Link| bridges.contains(&link.index);
        pods.chain(self.links.iter().filter(is_bridge))
    }

    /// Bridges with an address in the own subnet.
    fn bridges(&self, own: Ipv4Network) -> BTreeSet<u32> {
        let bridges = self.links.iter().filter(|link| is_bridge(link));
        let has_own = |index: &u32| {
            let mut addresses = self.addresses.iter();
            addresses.any(|(link, address)| link == index && own.contains(address.ip()))
        };
        bridges.map(|link| link.index).filter(has_own).collect()
    }

    /// Pods' interfaces, with their bridge if they have one.
    fn pods(&self, own: Ipv4Network) -> impl Iterator<Item = (&Link, Option<&Link>)> {
        let bridges = self.bridges(own);
        let veths = self.links.iter().filter(|link| is_veth(link));
        veths.filter_map(move |link| match link.controller {
            Some(controller) => {
                let mut links = self.links.iter();
                let bridge = links.find(|link| link.index == controller);
                let bridge = bridge.filter(|link| bridges.contains(&link.index));
                bridge.map(|bridge| (link, Some(bridge)))
            }
            None => self.routed.contains(&link.index).then_some((link, None)),
        })
    }

    fn why_not(&self, link: &Link) -> Option<WhyNot> {
        if !link.is_up {
            return Some(WhyNot::Down);
        }
        if self.programs.contains(&link.index) {
            return Some(WhyNot::Program);
        }
        if has_xdp_within(link) {
            return Some(WhyNot::XdpWithin);
        }
        if self.spread.contains(&link.index) {
            return Some(WhyNot::Rps);
        }
        on_link(link)
    }
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
    let mut found = Found::default();
    for (link, bridge) in host.pods(own) {
        let endpoint = Endpoint {
            index: link.index,
            name: link.name.clone(),
        };
        let of_bridge = || {
            let bridge = bridge?;
            let why = host.why_not(bridge)?;
            Some(WhyNot::Bridge(bridge.name.clone(), Box::new(why)))
        };
        match host.why_not(link).or_else(of_bridge) {
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

/// Whether the driver runs an XDP program at the other end of a veth. It is not seen from here, but as
/// long as it runs no packet may be larger than its buffer, and this end's limit is another (`veth_xdp_set`
/// in `drivers/net/veth.c`, Linux 4.19).
fn has_xdp_within(link: &Link) -> bool {
    const ETH_MAX_MTU: u32 = 65_535;
    is_veth(link) && link.max_mtu.is_some_and(|max| max != ETH_MAX_MTU)
}

fn is_bridge(link: &Link) -> bool {
    link.kind.as_deref() == Some("bridge")
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
            max_mtu: Some(65_535),
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
            ..Host::default()
        };
        assert_eq!(indices(&find(&host, own())), [10]);
    }

    #[test]
    fn a_veth_with_a_route_of_its_own_is_a_pod() {
        let host = Host {
            links: vec![link(10, "veth"), link(11, "veth")],
            routed: [10].into(),
            ..Host::default()
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
                    max_mtu: Some(3_506),
                    ..base()
                },
                WhyNot::XdpWithin,
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
                ..Host::default()
            };
            let found = find(&host, own());
            assert!(found.usable.is_empty());
            assert_eq!(found.unusable[0].1, why);
        }
    }
    #[test]
    fn what_others_have_put_on_the_bridge_is_respected_by_all_its_ports() {
        let shaped = Link {
            qdisc: Some("tbf".into()),
            ..link(2, "bridge")
        };
        let addresses = vec![(2, "10.5.34.1/24".parse().unwrap())];
        let host = Host {
            links: vec![shaped, port(10, 2)],
            addresses: addresses.clone(),
            ..Host::default()
        };
        let why = find(&host, own()).unusable.remove(0).1;
        let text = "is a port of bridge2, which has the queueing discipline tbf";
        assert_eq!(why.to_string(), text);
        let host = Host {
            links: vec![link(2, "bridge"), port(10, 2), port(11, 2)],
            addresses,
            programs: [2].into(),
            ..Host::default()
        };
        let on_the_way: Vec<_> = host.on_the_way(own()).map(|link| link.index).collect();
        assert_eq!(on_the_way, [10, 11, 2]);
        let found = find(&host, own());
        assert_eq!((found.usable.len(), found.unusable.len()), (0, 2));
    }
}
