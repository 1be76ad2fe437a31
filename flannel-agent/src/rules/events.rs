//! News that nftables has changed, from the kernel.
//!
//! What has changed is not read: whoever hears of it looks again at everything, which costs
//! milliseconds. Legacy iptables tells nobody of its changes.

use std::future::poll_fn;
use std::io;

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, SocketAddr, TokioSocket};

/// Multicast group of all changes (`NFNLGRP_NFTABLES`, `include/uapi/linux/netfilter/nfnetlink.h`).
const GROUP: u32 = 7;

/// A subscription, in the network namespace of its opener.
pub struct Events(TokioSocket);

impl Events {
    /// Subscribes.
    ///
    /// # Errors
    /// The kernel has no nftables.
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        socket.socket_mut().add_membership(GROUP)?;
        Ok(Self(socket))
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// The socket has failed.
    pub async fn next(&mut self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(1 << 16);
        match poll_fn(|cx| self.0.poll_recv(cx, &mut buffer)).await {
            // The kernel had more to tell than the socket holds: a change as well.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            other => other,
        }
    }
}
