//! News that nftables has changed, from the kernel. Legacy iptables tells nobody of its changes.

use std::future::poll_fn;
use std::{fmt, io};

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, SocketAddr, TokioSocket};

/// Multicast group of all changes (`NFNLGRP_NFTABLES`, `include/uapi/linux/netfilter/nfnetlink.h`).
const GROUP: u32 = 7;
/// Octets of messages that the kernel holds for us; it doubles the figure, and caps it at
/// `net.core.rmem_max`.
const RECEIVE_BUFFER: i32 = 1 << 20;

/// A subscription, in the network namespace of its opener.
pub struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// What the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard<'a> {
    /// Messages with what has changed.
    Messages(&'a [u8]),
    /// There was more to tell than the socket holds.
    Overrun,
}

impl Events {
    /// Subscribes.
    ///
    /// # Errors
    /// The kernel has no nftables.
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        socket.socket_mut().set_rx_buf_sz(RECEIVE_BUFFER)?;
        socket.socket_mut().add_membership(GROUP)?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(1 << 16),
        })
    }

    /// Waits for the next datagram. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The socket has failed.
    pub async fn next(&mut self) -> io::Result<Heard<'_>> {
        let Self { socket, buffer } = self;
        buffer.clear();
        match poll_fn(|cx| socket.poll_recv(cx, buffer)).await {
            Ok(()) => Ok(Heard::Messages(buffer)),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Heard::Overrun),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
