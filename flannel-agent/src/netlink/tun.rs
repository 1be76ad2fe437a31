//! TUN devices, as far as netlink tells about them. They are made by opening `/dev/net/tun`.

use rtnetlink::packet_core::Nla as _;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoTun, LinkAttribute, LinkInfo, LinkMessage,
};

use super::{Error, Netlink, errno};

/// Attributes of the device's parameters (`include/uapi/linux/if_link.h`).
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;

/// Value of the type for a device with IP packets; 2 is TAP, with frames.
const IFF_TUN: u8 = 1;

/// Parameters of a TUN device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tun {
    /// Whether it has IP packets, not Ethernet frames.
    pub is_tun: bool,
    /// Whether it outlives the processes that have it open.
    pub is_persistent: bool,
    /// Whether it may be open several times.
    pub is_multi_queue: bool,
    /// How many times it is open; the kernel says so of multi-queue devices only.
    pub queues: u32,
}

impl Netlink {
    /// Parameters of the link as a TUN device; none if it is something else or is gone.
    ///
    /// # Kernel
    /// Linux 4.16; before, all parameters are zero.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn tun(&self, ifindex: u32) -> Result<Option<Tun>, Error> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let operation = || format!("read the parameters of interface {ifindex}");
        let answer = self
            .get(RouteNetlinkMessage::GetLink(message), operation)
            .await;
        match answer {
            Ok(RouteNetlinkMessage::NewLink(message)) => Ok(parse_tun(&message)),
            Ok(_) => Err(Error::Unexpected {
                operation: operation(),
            }),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets how many packets wait in each queue of the link.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_queue_len(&self, ifindex: u32, packets: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.attributes.push(LinkAttribute::TxQueueLen(packets));
        self.change(RouteNetlinkMessage::NewLink(message), 0, || {
            format!("set the queue length of interface {ifindex} to {packets}")
        })
        .await
    }
}

fn parse_tun(message: &LinkMessage) -> Option<Tun> {
    let infos = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        })?;
    if !infos.contains(&LinkInfo::Kind(InfoKind::Tun)) {
        return None;
    }
    let parameters = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Tun(parameters)) => Some(parameters.as_slice()),
        _ => None,
    });
    let mut tun = Tun::default();
    for parameter in parameters.unwrap_or_default() {
        let mut value = [0; 4];
        let length = parameter.value_len();
        if length > value.len() {
            continue;
        }
        InfoTun::emit_value(parameter, &mut value[..length]);
        let is_set = value != [0; 4];
        match parameter.kind() {
            IFLA_TUN_TYPE => tun.is_tun = value[0] == IFF_TUN,
            IFLA_TUN_PERSIST => tun.is_persistent = is_set,
            IFLA_TUN_MULTI_QUEUE => tun.is_multi_queue = is_set,
            IFLA_TUN_NUM_QUEUES => tun.queues = u32::from_ne_bytes(value),
            _ => {}
        }
    }
    Some(tun)
}
