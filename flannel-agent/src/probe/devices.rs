//! What the kernel path is made of, made by the agent's own code in a private network namespace.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

use super::attach::DEVICE;
use super::facts::{Devices, Fact, Isolation};
use crate::backend::udp;
use crate::backend::vxlan::device::{self as vxlan, DEFAULT_PORT, DeviceSpec};
use crate::error::chain;
use crate::netlink::route::Via;
use crate::netlink::{self, Change, MacAddr, Netlink};

/// Payload of a segment, for the trial of the socket option; any would do.
const SEGMENT: i32 = 1400;

/// Tries all of it. The networks of the trials differ, so that none is in another's way.
pub(super) async fn read(isolation: Isolation) -> Devices {
    let netlink = match Netlink::open() {
        Ok(netlink) => netlink,
        Err(error) => {
            let fact = || Fact::no(chain(&error));
            return Devices {
                vxlan: fact(),
                routes: fact(),
                tun: fact(),
                segments: segments(),
            };
        }
    };
    let fact = |tried: Result<String>| match tried {
        Ok(detail) => Fact::yes(detail),
        Err(error) => isolation.refused(reason(&error)),
    };
    Devices {
        vxlan: fact(try_vxlan(&netlink).await),
        routes: fact(try_routes(&netlink).await),
        tun: fact(try_tun(&netlink).await),
        segments: segments(),
    }
}

fn reason(error: &anyhow::Error) -> String {
    let text = chain(error.as_ref());
    let netlink = error.chain().find_map(|e| e.downcast_ref());
    let errno = netlink.and_then(netlink::errno);
    match errno {
        // What rtnetlink says to a kind of link that it does not know.
        Some(libc::EOPNOTSUPP) => {
            format!("not in this kernel, or in a module that is missing: {text}")
        }
        _ => text,
    }
}

/// Index of the device that stands for the external interface, which is set up.
async fn lower(netlink: &Netlink) -> Result<u32> {
    let link = netlink.link_by_name(DEVICE).await?;
    let index = link.with_context(|| format!("find {DEVICE}"))?.index;
    netlink.set_up(index).await?;
    Ok(index)
}

/// The vxlan device, and the neighbour, FDB entry and route of a peer.
async fn try_vxlan(netlink: &Netlink) -> Result<String> {
    let spec = DeviceSpec {
        name: "flannel.1".into(),
        vni: 1,
        lower: lower(netlink).await?,
        local: Ipv4Addr::LOCALHOST,
        port: Some(DEFAULT_PORT),
        mtu: 1450,
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        learning: false,
        gbp: false,
    };
    let (device, _) = vxlan::ensure_device(netlink, &spec, vxlan::KnownAs::Itself).await?;
    let (own, network) = ("10.5.1.0/24".parse()?, "10.5.0.0/16".parse()?);
    vxlan::ensure_address(netlink, &device, own, network).await?;
    let gateway = Ipv4Addr::new(10, 5, 2, 0);
    let mac = MacAddr([2, 0, 0, 0, 0, 2]);
    netlink.change_one(Change::set_neighbour(device.index, gateway, mac))?;
    let remote = Ipv4Addr::new(127, 0, 0, 2);
    netlink.change_one(Change::set_fdb(device.index, mac, remote))?;
    let via = Via {
        oif: device.index,
        gateway,
        is_onlink: true,
    };
    netlink.change_one(Change::set_peer_route("10.5.2.0/24".parse()?, via))?;
    let port = device.port;
    Ok(format!(
        "made a device on UDP port {port}, with the entries of a peer"
    ))
}

/// The route of a peer on the link.
async fn try_routes(netlink: &Netlink) -> Result<String> {
    let via = Via {
        oif: lower(netlink).await?,
        gateway: Ipv4Addr::new(192, 0, 2, 2),
        // The namespace has no route to it: on a real link there is one.
        is_onlink: true,
    };
    netlink.change_one(Change::set_peer_route("10.6.2.0/24".parse()?, via))?;
    Ok("set the route of a peer".into())
}

/// The TUN device of udp, with its queues and offloads, address and route.
async fn try_tun(netlink: &Netlink) -> Result<String> {
    let spec = udp::device::DeviceSpec {
        name: udp::DEVICE_NAME.into(),
        mtu: 1472,
        address: Ipv4Addr::new(10, 7, 1, 0),
        network: "10.7.0.0/16".parse()?,
        queues: udp::device::queue_count(),
    };
    let (device, _) = udp::device::ensure_device(netlink, &spec, None).await?;
    let offloads = match device.cuts_datagrams() {
        true => "TCP and UDP",
        false => "TCP but not UDP (Linux 6.2)",
    };
    let queues = spec.queues;
    Ok(format!(
        "made a device, queues: {queues}, offloads for {offloads}"
    ))
}

/// Several datagrams in one call, each way.
fn segments() -> Fact {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    let socket = match socket {
        Ok(socket) => socket,
        Err(errno) => return Fact::no(format!("open a UDP socket: {errno}")),
    };
    let sent = setsockopt(&socket, sockopt::UdpGsoSegment, &SEGMENT);
    let received = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    match (sent, received) {
        (Ok(()), Ok(())) => Fact::yes("UDP_SEGMENT and UDP_GRO are taken"),
        (Ok(()), Err(errno)) => Fact::yes(format!(
            "UDP_SEGMENT is taken, UDP_GRO (Linux 5.0) is not: {errno}; datagrams come one by one"
        )),
        (Err(errno), _) => Fact::no(format!("UDP_SEGMENT (Linux 4.18): {errno}")),
    }
}
