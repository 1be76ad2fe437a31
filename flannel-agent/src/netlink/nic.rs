//! What drives an interface, and which programs of others it runs.

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use super::{Error, Netlink, errno};

/// An interface as hardware.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nic {
    /// Bus and name of the device behind it; none for virtual ones, and below Linux 5.14.
    pub parent: Option<(String, String)>,
    /// Programs at XDP: where, and the kernel's id.
    pub xdp: Vec<(XdpMode, u32)>,
}

/// Where an XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
    /// In the hardware.
    Offloaded,
}

/// A filter on a clsact qdisc.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Its kind, for example `bpf` or `flower`.
    pub kind: String,
    /// The name that was given to its BPF program.
    pub name: Option<String>,
    /// The kernel's id of that program; classic BPF has none.
    pub id: Option<u32>,
}

/// Which way packets pass a clsact qdisc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClsactSide {
    /// Received.
    Ingress,
    /// Sent.
    Egress,
}

impl Netlink {
    /// The hardware behind a link.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn nic(&self, index: u32) -> Result<Nic, Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let operation = || format!("read the interface with index {index}");
        let answer = self.get(RouteNetlinkMessage::GetLink(message), operation);
        match answer.await? {
            RouteNetlinkMessage::NewLink(message) => Ok(parse_nic(&message)),
            _ => Err(Error::Unexpected {
                operation: operation(),
            }),
        }
    }

    /// The filters of a link's clsact qdisc; none where it has no such qdisc.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn filters(&self, index: u32, side: ClsactSide) -> Result<Vec<Filter>, Error> {
        let mut message = TcMessage::default();
        message.header.index = index.cast_signed();
        message.header.parent = TcHandle {
            major: TcHandle::CLSACT.major,
            minor: match side {
                ClsactSide::Ingress => TcHandle::MIN_INGRESS,
                ClsactSide::Egress => TcHandle::MIN_EGRESS,
            },
        };
        let found = self.dump(
            RouteNetlinkMessage::GetTrafficFilter(message),
            || format!("list the filters of the interface with index {index}"),
            |object| match object {
                RouteNetlinkMessage::NewTrafficFilter(message) => parse_filter(&message),
                _ => None,
            },
        );
        match found.await {
            // EINVAL, ENOENT: no such qdisc. ENODEV: nor such a link any more.
            Err(error)
                if matches!(
                    errno(&error),
                    Some(libc::EINVAL | libc::ENOENT | libc::ENODEV)
                ) =>
            {
                Ok(Vec::new())
            }
            other => other,
        }
    }
}

fn parse_nic(message: &LinkMessage) -> Nic {
    let mut nic = Nic::default();
    let (mut bus, mut name) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::ParentDevBusName(text) => bus = Some(text.clone()),
            LinkAttribute::ParentDevName(text) => name = Some(text.clone()),
            LinkAttribute::Xdp(xdp) => {
                let programs = xdp.iter().filter_map(|attribute| match attribute {
                    LinkXdp::DrvProgId(id) => Some((XdpMode::Native, *id)),
                    LinkXdp::SkbProgId(id) => Some((XdpMode::Generic, *id)),
                    LinkXdp::HwProgId(id) => Some((XdpMode::Offloaded, *id)),
                    _ => None,
                });
                nic.xdp = programs.collect();
            }
            _ => {}
        }
    }
    nic.parent = bus.zip(name);
    nic
}

/// A filter. Each is several messages: that of its chain has no options.
fn parse_filter(message: &TcMessage) -> Option<Filter> {
    let mut filter = Filter::default();
    let mut is_whole = false;
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
            TcAttribute::Options(options) => {
                is_whole = true;
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => {
                            filter.name = Some(name.clone());
                        }
                        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.id = Some(*id),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    is_whole.then_some(filter)
}
