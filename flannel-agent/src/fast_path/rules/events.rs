//! What nftables says that has changed.
//!
//! A message has the whole rule or element. So a host that adds some all day costs no reading; what
//! is read and told twice is the same in the end, since the last message about a rule counts. Elements that packets add (`dynset`) are no news: the kernel does not tell.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, SocketAddr, TokioSocket};

use super::netlink::messages;
use crate::fast_path::ruleset::{
    Elements, MemberId, Rule, Unreadable, parse_elements, parse_handle, parse_member, parse_rule,
};

/// Multicast group of all changes (`NFNLGRP_NFTABLES`, `include/uapi/linux/netfilter/nfnetlink.h`).
const GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;
/// Messages of nftables (`NFT_MSG_*`); the last one is the number of the generation.
const DELTABLE: u16 = 2;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;
const NEWGEN: u16 = 15;
/// Bytes of messages that the kernel holds for us; it doubles the figure, and caps it at
/// `net.core.rmem_max`. More than that is [`News::everything`].
const RECEIVE_BUFFER: usize = 1 << 20;

/// What has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Which tables, chains, sets and objects there are, and how they are.
    pub(super) structure: bool,
    /// Rules that have come, or gone, in that order: chain, handle, and what they are.
    pub(super) rules: Vec<(MemberId, u64, Option<Rule>)>,
    /// Sets that are no more, or are others under the old name.
    pub(super) sets: BTreeSet<MemberId>,
    /// Elements that sets have got.
    pub(super) elements: BTreeMap<MemberId, Elements>,
    /// Sets that have lost elements.
    pub(super) shrunk: BTreeSet<MemberId>,
    /// More than was told.
    pub(super) everything: bool,
}

impl News {
    /// Takes in the messages of a datagram.
    fn add(&mut self, datagram: &[u8]) {
        for message in messages(datagram) {
            if message.kind >> 8 == NFTABLES
                && self.add_message(message.kind & 0xff, message.body).is_err()
            {
                self.everything = true;
            }
        }
    }

    fn add_message(&mut self, kind: u16, body: &[u8]) -> Result<(), Unreadable> {
        match kind {
            NEWGEN => {}
            NEWRULE | DELRULE => {
                if let Some(chain) = parse_member(body)? {
                    let rule = match kind {
                        NEWRULE => parse_rule(body)?,
                        _ => None,
                    };
                    self.rules.push((chain, parse_handle(body)?, rule));
                }
            }
            NEWSETELEM => {
                if let Some((set, added)) = parse_elements(body)? {
                    self.elements.entry(set).or_default().extend(added);
                }
            }
            DELSETELEM => self.shrunk.extend(parse_member(body)?),
            DELSET => {
                self.structure = true;
                self.sets.extend(parse_member(body)?);
            }
            // With all that is in it. Of a chain the rules have to go first, and are told of.
            DELTABLE => self.everything = true,
            _ => self.structure = true,
        }
        Ok(())
    }
}

/// A subscription, in the network namespace of its opener.
pub(super) struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Events {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        socket.socket_mut().set_rx_buf_sz(RECEIVE_BUFFER as i32)?;
        socket.socket_mut().add_membership(GROUP)?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(1 << 16),
        })
    }

    /// Waits for news and adds them. Dropping the future loses nothing.
    pub(super) async fn next(&mut self, news: &mut News) -> io::Result<()> {
        let Self { socket, buffer } = self;
        buffer.clear();
        match poll_fn(|cx| socket.poll_recv(cx, buffer)).await {
            Ok(()) => news.add(buffer),
            // The kernel had more to tell than the socket holds.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => news.everything = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
