//! Links: reading them, and making and changing a vxlan device.

use std::net::Ipv4Addr;

use rtnetlink::LinkUnspec;
use rtnetlink::LinkVxlan;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
};

use super::{Error, MacAddr, Netlink, errno, tolerate};

/// A link, as far as the agent looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// What that could be set to at most, bytes; none where the driver sets no limit.
    pub max_mtu: Option<u32>,
    /// Link-layer address, if it has one of six octets.
    pub mac: Option<MacAddr>,
    /// Kind such as `vxlan` or `veth`; hardware has none.
    pub kind: Option<String>,
    /// Bus of the hardware, such as `pci` or `virtio`. The kernel says it since Linux 5.14.
    pub bus: Option<String>,
    /// Whether it is administratively up.
    pub is_up: bool,
    /// Index of the link that it belongs to or is the peer of.
    pub lower: Option<u32>,
    /// Index of the bridge, or other controller, whose port it is.
    pub controller: Option<u32>,
    /// Whether its other end, or lower link, is in another network namespace.
    pub has_end_elsewhere: bool,
    /// Kind of its root queueing discipline.
    pub qdisc: Option<String>,
    /// Kernel id of the XDP program that is attached.
    pub xdp_id: Option<u32>,
    /// Parameters of a vxlan device.
    pub vxlan: Option<Vxlan>,
}

/// Parameters of a vxlan device as the kernel reports them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier.
    pub vni: u32,
    /// Index of the lower link; absent if routing alone decides.
    pub lower: Option<u32>,
    /// Source of outer packets; absent if routing decides.
    pub local: Option<Ipv4Addr>,
    /// UDP port.
    pub port: u16,
    /// Whether the FDB learns from received frames.
    pub learning: bool,
    /// Whether group policy ids are carried.
    pub gbp: bool,
    /// Whether it has what flannel never sets and what changes the path of packets: a default
    /// remote or multicast group, an IPv6 underlay, metadata mode, ARP proxying, route short
    /// circuit, or miss notifications.
    pub has_extras: bool,
}

/// What a vxlan device is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanSpec {
    /// Name.
    pub name: String,
    /// VXLAN network identifier.
    pub vni: u32,
    /// Index of the lower link.
    pub lower: u32,
    /// Source of outer packets: an address of the lower link. The public address would do only
    /// where it is local; the kernel sends from no other (flannel v0.27.4 and later do not work
    /// behind NAT for that reason).
    pub local: Ipv4Addr,
    /// UDP port; the kernel's default is 8472.
    pub port: Option<u16>,
    /// Largest inner packet, bytes.
    pub mtu: u32,
    /// Link-layer address.
    pub mac: MacAddr,
    /// Whether the FDB learns from received frames.
    pub learning: bool,
    /// Whether group policy ids are carried.
    pub gbp: bool,
}

impl Link {
    /// Whether it completes the checksums that sockets leave to devices, also those of packets in a
    /// tunnel, before a packet leaves the host.
    ///
    /// A NIC does, or has the kernel do it. A virtual link hands the packet over as it is, with the
    /// note that something is missing. So does virtio where it has been told to take tunnels for
    /// what they are (Linux 6.17 and what is backported from it): whether it has cannot be read from
    /// rtnetlink, so virtio never counts. Nor do those on top of a NIC (VLAN, bond, bridge): what is
    /// below may change any time.
    #[must_use]
    pub fn completes_checksums(&self) -> bool {
        self.kind.is_none() && self.bus.as_deref() != Some("virtio")
    }
}

impl Netlink {
    /// The link of that name, if there is one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>, Error> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.link(message, || format!("read the interface {name}"))
            .await
    }

    /// The link of that index, if there is one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn link_by_index(&self, index: u32) -> Result<Option<Link>, Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.link(message, || format!("read the interface with index {index}"))
            .await
    }

    async fn link(
        &self,
        message: LinkMessage,
        operation: impl Fn() -> String,
    ) -> Result<Option<Link>, Error> {
        match self
            .get(RouteNetlinkMessage::GetLink(message), &operation)
            .await
        {
            Ok(RouteNetlinkMessage::NewLink(message)) => Ok(parse_link(&message)),
            Ok(_) => Err(Error::Unexpected {
                operation: operation(),
            }),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        self.dump(
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            || "list interfaces".into(),
            |object| match object {
                RouteNetlinkMessage::NewLink(message) => parse_link(&message),
                _ => None,
            },
        )
        .await
    }

    /// Creates a vxlan device, down. All it is made of is in the one request, so that there is no
    /// moment in which somebody sees it half made, and so that udev, which picks addresses for
    /// devices without one, leaves its MAC alone.
    ///
    /// # Errors
    /// See [`Error`]; `EEXIST` if the name is taken or if a device with this VNI and port exists.
    pub async fn create_vxlan(&self, spec: &VxlanSpec) -> Result<(), Error> {
        self.change(
            RouteNetlinkMessage::NewLink(vxlan_message(spec)),
            NLM_F_CREATE | NLM_F_EXCL,
            || format!("create the vxlan device {}", spec.name),
        )
        .await
    }

    /// Sets the MTU.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), Error> {
        self.set_link(LinkUnspec::new_with_index(index).mtu(mtu).build(), || {
            format!("set the MTU of interface {index} to {mtu}")
        })
        .await
    }

    /// Sets the link-layer address.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_mac(&self, index: u32, mac: MacAddr) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index)
            .address(mac.0.to_vec())
            .build();
        self.set_link(message, || {
            format!("set the link-layer address of interface {index} to {mac}")
        })
        .await
    }

    /// Sets the link up.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_up(&self, index: u32) -> Result<(), Error> {
        self.set_link(LinkUnspec::new_with_index(index).up().build(), || {
            format!("set interface {index} up")
        })
        .await
    }

    /// Turns learning of a vxlan device on or off.
    ///
    /// # Errors
    /// See [`Error`]; `EOPNOTSUPP` from kernels that fix it at creation.
    pub async fn set_learning(&self, index: u32, learning: bool) -> Result<(), Error> {
        // A request for an existing device says its kind, and of the parameters only what changes.
        let mut message = LinkUnspec::new_with_index(index).build();
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vec![InfoVxlan::Learning(learning)])),
        ]));
        self.set_link(message, || {
            format!("set learning of interface {index} to {learning}")
        })
        .await
    }

    /// Deletes the link.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove_link(&self, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let removed = self
            .change(RouteNetlinkMessage::DelLink(message), 0, || {
                format!("delete interface {index}")
            })
            .await;
        // ENODEV: it is gone.
        tolerate(removed, &[libc::ENODEV])
    }

    async fn set_link(
        &self,
        message: LinkMessage,
        operation: impl Fn() -> String,
    ) -> Result<(), Error> {
        self.change(RouteNetlinkMessage::NewLink(message), 0, operation)
            .await
    }
}

/// The attributes that flannel sends, and no others: group and UDP checksum are left to the
/// kernel's defaults (none, on).
fn vxlan_message(spec: &VxlanSpec) -> LinkMessage {
    let VxlanSpec {
        name,
        vni,
        lower,
        local,
        port,
        mtu,
        mac,
        learning,
        gbp,
    } = spec;
    let mut builder = LinkVxlan::new(name, *vni)
        .dev(*lower)
        .local(*local)
        .ttl(0)
        .tos(0)
        .learning(*learning)
        .proxy(false)
        .rsc(false)
        .l2miss(false)
        .l3miss(false)
        .mtu(*mtu)
        .txqueuelen(0)
        .address(mac.0.to_vec());
    if let Some(port) = port {
        builder = builder.port(*port);
    }
    if *gbp {
        builder = builder.gbp();
    }
    builder.build()
}

/// The link in a message; also used for events.
pub(super) fn parse_link(message: &LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        max_mtu: None,
        mac: None,
        kind: None,
        bus: None,
        is_up: message.header.flags.contains(LinkFlags::Up),
        lower: None,
        controller: None,
        has_end_elsewhere: false,
        qdisc: None,
        xdp_id: None,
        vxlan: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::MaxMtu(mtu) => link.max_mtu = Some(*mtu).filter(|mtu| *mtu != 0),
            LinkAttribute::Address(bytes) => link.mac = MacAddr::from_slice(bytes),
            LinkAttribute::Link(index) => link.lower = Some(*index),
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::LinkNetNsId(_) => link.has_end_elsewhere = true,
            LinkAttribute::Qdisc(kind) => link.qdisc = Some(kind.clone()),
            LinkAttribute::Xdp(facts) => {
                link.xdp_id = facts.iter().find_map(|fact| match fact {
                    LinkXdp::ProgId(id) => Some(*id),
                    _ => None,
                });
            }
            LinkAttribute::ParentDevBusName(bus) => link.bus = Some(bus.clone()),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vxlan(infos)) => {
                            link.vxlan = Some(parse_vxlan(infos));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn parse_vxlan(infos: &[InfoVxlan]) -> Vxlan {
    let mut vxlan = Vxlan::default();
    for info in infos {
        match info {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Link(index) => vxlan.lower = (*index != 0).then_some(*index),
            InfoVxlan::Local(ip) => vxlan.local = (!ip.is_unspecified()).then_some(*ip),
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Learning(on) => vxlan.learning = *on,
            InfoVxlan::Gbp => vxlan.gbp = true,
            InfoVxlan::Group(ip) => vxlan.has_extras |= !ip.is_unspecified(),
            InfoVxlan::Group6(ip) | InfoVxlan::Local6(ip) => {
                vxlan.has_extras |= !ip.is_unspecified();
            }
            InfoVxlan::CollectMetadata(on)
            | InfoVxlan::Proxy(on)
            | InfoVxlan::Rsc(on)
            | InfoVxlan::L2Miss(on)
            | InfoVxlan::L3Miss(on) => vxlan.has_extras |= on,
            InfoVxlan::Gpe => vxlan.has_extras = true,
            _ => {}
        }
    }
    vxlan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> VxlanSpec {
        VxlanSpec {
            name: "flannel.1".into(),
            vni: 1,
            lower: 7,
            local: [192, 168, 7, 11].into(),
            port: None,
            mtu: 1450,
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            learning: false,
            gbp: false,
        }
    }

    #[test]
    fn what_is_asked_for_is_what_is_read() {
        let asked = parse_link(&vxlan_message(&spec())).unwrap();
        assert_eq!(asked.name, "flannel.1");
        assert_eq!(asked.mtu, 1450);
        assert_eq!(asked.mac, Some(MacAddr([2, 0, 0, 0, 0, 1])));
        assert_eq!(asked.kind.as_deref(), Some("vxlan"));
        let vxlan = asked.vxlan.unwrap();
        assert_eq!(vxlan.lower, Some(7));
        assert!(!vxlan.has_extras && !vxlan.gbp);
    }

    #[test]
    fn only_hardware_that_is_none_of_a_hypervisors_completes_checksums() {
        let link = |bus: Option<&str>, kind: Option<InfoKind>| {
            let mut message = LinkMessage::default();
            let attributes = &mut message.attributes;
            attributes.push(LinkAttribute::IfName("eth0".into()));
            attributes.extend(bus.map(|bus| LinkAttribute::ParentDevBusName(bus.into())));
            let kind = kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
            attributes.extend(kind);
            parse_link(&message).unwrap()
        };
        for (bus, kind, expected) in [
            (Some("pci"), None, true),
            (Some("vmbus"), None, true),
            // As before Linux 5.14.
            (None, None, true),
            (Some("virtio"), None, false),
            (None, Some(InfoKind::Veth), false),
            (None, Some(InfoKind::Vlan), false),
        ] {
            let link = link(bus, kind);
            assert_eq!(link.completes_checksums(), expected, "{link:?}");
        }
    }

    #[test]
    fn a_port_is_sent_only_when_one_is_asked_for() {
        let port = |port| {
            let message = vxlan_message(&VxlanSpec { port, ..spec() });
            parse_link(&message).unwrap().vxlan.unwrap().port
        };
        assert_eq!(port(None), 0);
        assert_eq!(port(Some(4789)), 4789);
    }
}
