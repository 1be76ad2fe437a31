//! What the kernel says was changed in a namespace, with the time: the same ear for every agent.
//!
//! Linux notifies of each route that is set, also of one that was the same before; of neighbours
//! and FDB entries when they change. `rtnetlink(7)` and `include/uapi/linux/rtnetlink.h` have the
//! layouts; all integers are in host order.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::netns::NetNs;

/// Octets of notifications that may wait; one that is lost would make every figure wrong.
const RECEIVE_BUFFER: usize = 64 << 20;
/// Between two looks at whether to end.
const PATIENCE: Duration = Duration::from_millis(50);

/// Octets of `nlmsghdr`, of `rtmsg` and of `ndmsg`; the latter two are the same by chance.
const HEADER: usize = 16;
const BODY: usize = 12;
/// Message types.
const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const NEW_NEIGH: u16 = 28;
/// Attributes.
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// Address families.
const INET: u8 = 2;
const BRIDGE: u8 = 7;
/// Bit of a permanent neighbour (`NUD_PERMANENT`).
const PERMANENT: u16 = 0x80;

/// What was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Change {
    /// A route to a /24 through a gateway is set: a peer's.
    RouteSet(Ipv4Addr),
    /// Such a route is removed.
    RouteRemoved(Ipv4Addr),
    /// A permanent neighbour is set.
    NeighbourSet(Ipv4Addr, [u8; 6]),
    /// A permanent FDB entry is set.
    FdbSet([u8; 6]),
    /// Anything else.
    Other,
}

/// A change and when this process heard of it.
pub(super) type Heard = (Instant, Change);

/// A thread that listens.
#[derive(Debug)]
pub(super) struct Notifications {
    heard: Arc<Mutex<Vec<Heard>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Notifications {
    /// Listens to everything about links, addresses, neighbours, routes and rules.
    pub(super) fn listen(ns: &NetNs) -> Result<Self> {
        let socket = ns.enter(open)??;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (sink, flag) = (Arc::clone(&heard), Arc::clone(&stop));
        let thread = thread::spawn(move || listen(&socket, &sink, &flag));
        Ok(Self {
            heard,
            stop,
            thread: Some(thread),
        })
    }

    /// Calls `look` with what was heard so far.
    pub(super) fn heard<T>(&self, look: impl FnOnce(&[Heard]) -> T) -> T {
        look(&self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends, and gives everything.
    pub(super) fn finish(mut self) -> Result<Vec<Heard>> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join().map_err(|_| anyhow!("listener panicked"))?;
            ended.context("listen to the kernel's notifications")?;
        }
        Ok(self.heard(<[Heard]>::to_vec))
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn open() -> Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    // Groups link, neighbour, IPv4 address, route and rule: bit n-1 of RTNLGRP_* n.
    let groups = [1, 3, 5, 7, 8].map(|group| 1 << (group - 1)).iter().sum();
    setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    setsockopt(
        &fd,
        sockopt::ReceiveTimeout,
        &TimeVal::new(0, i64::from(PATIENCE.subsec_micros())),
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

fn listen(socket: &OwnedFd, heard: &Mutex<Vec<Heard>>, stop: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                let now = Instant::now();
                let changes = messages(&buffer[..length]).map(|message| (now, parse(message)));
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.extend(changes);
            }
            // Everything that came before is read: nothing waits when a receive times out.
            Err(Errno::EAGAIN) if stop.load(Ordering::Relaxed) => return Ok(()),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(Errno::ENOBUFS) => bail!("notifications were lost"),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Messages of one datagram, with their headers.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?) as usize;
        let message = datagram.get(..length).filter(|_| length >= HEADER)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

fn parse(message: &[u8]) -> Change {
    peer_change(message).unwrap_or(Change::Other)
}

fn peer_change(message: &[u8]) -> Option<Change> {
    let kind = u16::from_ne_bytes([message[4], message[5]]);
    let body = message.get(HEADER..HEADER + BODY)?;
    let attributes = &message[HEADER + BODY..];
    let address = |wanted| -> Option<Ipv4Addr> {
        let octets: [u8; 4] = attribute(attributes, wanted)?.try_into().ok()?;
        Some(octets.into())
    };
    let mac = || <[u8; 6]>::try_from(attribute(attributes, NDA_LLADDR)?).ok();
    match (kind, body[0]) {
        (NEW_ROUTE | DEL_ROUTE, INET) if body[1] == 24 => {
            address(RTA_GATEWAY)?;
            let subnet = address(RTA_DST)?;
            Some(if kind == NEW_ROUTE {
                Change::RouteSet(subnet)
            } else {
                Change::RouteRemoved(subnet)
            })
        }
        (NEW_NEIGH, family) if u16::from_ne_bytes([body[8], body[9]]) & PERMANENT != 0 => {
            match family {
                INET => Some(Change::NeighbourSet(address(NDA_DST)?, mac()?)),
                BRIDGE => Some(Change::FdbSet(mac()?)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let [length, kind] = [0, 2].map(|at| {
            let octets = attributes.get(at..at + 2)?;
            Some(u16::from_ne_bytes(octets.try_into().ok()?))
        });
        let length = usize::from(length?);
        if kind? == wanted {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: [u8; BODY], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = vec![0; 4];
        message.extend(kind.to_ne_bytes());
        message.extend([0; HEADER - 6]);
        message.extend(body);
        for (kind, value) in attributes {
            let length = u16::try_from(4 + value.len()).unwrap();
            message.extend(length.to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(*value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        let length = u32::try_from(message.len()).unwrap();
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message
    }

    #[test]
    fn entries_of_peers_are_told_from_other_changes() {
        let subnet = [10, 0, 1, 0];
        let mac = [0x0e, 0, 0, 0, 0, 1];
        let route = [INET, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let neighbour = [INET, 0, 0, 0, 0, 0, 0, 0, PERMANENT as u8, 0, 0, 0];
        let fdb = [BRIDGE, 0, 0, 0, 0, 0, 0, 0, PERMANENT as u8, 0, 0, 0];
        let through: &[(u16, &[u8])] = &[(RTA_DST, &subnet), (RTA_GATEWAY, &subnet)];
        let both: &[(u16, &[u8])] = &[(NDA_DST, &subnet), (NDA_LLADDR, &mac)];
        let datagram = [
            message(NEW_ROUTE, route, through),
            message(NEW_NEIGH, neighbour, both),
            message(NEW_NEIGH, fdb, both),
            message(NEW_ROUTE, route, &through[..1]),
            message(DEL_ROUTE, route, through),
        ]
        .concat();
        let changes: Vec<_> = messages(&datagram).map(parse).collect();
        assert_eq!(
            changes,
            [
                Change::RouteSet(subnet.into()),
                Change::NeighbourSet(subnet.into(), mac),
                Change::FdbSet(mac),
                Change::Other,
                Change::RouteRemoved(subnet.into()),
            ]
        );
    }
}
