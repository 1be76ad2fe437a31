//! The sockets that packets are sent from and received by: one per queue, all on one port.
//!
//! Peers may be of stock flannel, for which a firewall expects its port on both sides, so all
//! sockets share it (`SO_REUSEPORT`). The kernel chooses one by addresses and ports, that is: by
//! peer. So all packets of a peer come in order to one thread, while peers spread over all of
//! them.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// Buffer of each socket and direction, bytes. A burst that arrives while the thread is off the
/// CPU has to fit: this is 5 ms of 10 Gbit/s, where the kernel's default is 0.2 ms.
const BUFFER: usize = 8 << 20;

/// Longest wait for room in the send buffer. Beyond it a packet is lost, as behind a full queue.
const SEND_TIMEOUT_MS: i64 = 50;

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody has the port.
    #[error(
        "UDP port {port} of {ip} is in use: end its holder (`ss -lunp 'sport = :{port}'` names it; \
         stock flanneld must not run beside this agent), or set another Port in the network config",
        port = .0.port(),
        ip = .0.ip()
    )]
    PortTaken(SocketAddrV4),
    /// The address is not there.
    #[error("cannot listen on {0}: no interface has this address")]
    NoAddress(SocketAddrV4),
    /// Another refusal.
    #[error("listen on UDP {address}: {operation}")]
    Refused {
        /// Address and port.
        address: SocketAddrV4,
        /// What the kernel refused.
        operation: &'static str,
        /// Its reason.
        #[source]
        source: io::Error,
    },
}

/// Sockets on one port.
#[derive(Debug)]
pub struct Sockets {
    pub(super) each: Vec<OwnedFd>,
    pub(super) answers: Answers,
    address: SocketAddrV4,
}

impl Sockets {
    /// Binds `count` sockets to the address of the external interface and flannel's port. From
    /// then on packets of peers are queued.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(address: SocketAddrV4, count: usize) -> Result<Self, SocketError> {
        let mut each = Vec::new();
        for number in 0..count.max(1) {
            each.push(open(address, number == 0)?);
        }
        Ok(Self {
            each,
            answers: Answers::open(),
            address,
        })
    }

    /// What they are bound to.
    #[must_use]
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }
}

fn open(address: SocketAddrV4, is_first: bool) -> Result<OwnedFd, SocketError> {
    let refused = |operation: &'static str| {
        move |errno: Errno| SocketError::Refused {
            address,
            operation,
            source: errno.into(),
        }
    };
    let fd = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Udp,
    )
    .map_err(refused("open a socket"))?;
    let share = || setsockopt(&fd, sockopt::ReusePort, &true).map_err(refused("share the port"));
    // Who asks to share before binding gets a port that another agent of this user shares, too,
    // and every other packet with it. So the first one binds alone and shares afterwards.
    if !is_first {
        share()?;
    }
    let result = bind(fd.as_raw_fd(), &SockaddrIn::from(address));
    result.map_err(|errno| match errno {
        Errno::EADDRINUSE => SocketError::PortTaken(address),
        Errno::EADDRNOTAVAIL => SocketError::NoAddress(address),
        errno => refused("bind")(errno),
    })?;
    if is_first {
        share()?;
    }
    configure(&fd).map_err(refused("set socket options"))?;
    Ok(fd)
}

fn configure(fd: &OwnedFd) -> nix::Result<()> {
    // Beyond the limits of net.core, which needs CAP_NET_ADMIN as all else here does.
    setsockopt(fd, sockopt::RcvBufForce, &BUFFER)?;
    setsockopt(fd, sockopt::SndBufForce, &BUFFER)?;
    let timeout = TimeVal::milliseconds(SEND_TIMEOUT_MS);
    setsockopt(fd, sockopt::SendTimeout, &timeout)?;
    super::sys::allow_fragments(fd.as_fd())
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL)))?;
    // Several datagrams of a peer in one piece (Linux 5.0); without it they come one by one.
    match setsockopt(fd, sockopt::UdpGroSegment, &true) {
        Err(Errno::ENOPROTOOPT) => Ok(()),
        other => other,
    }
}

/// Where the proxy's own packets to local pods go out.
///
/// flannel writes them into the device. There they come in with a source that is an address of
/// this host, which Linux drops as a martian, so that nobody has ever seen one. From a raw socket
/// they are routed as what they are: packets of this host.
#[derive(Debug)]
pub(super) struct Answers(Option<OwnedFd>);

impl Answers {
    fn open() -> Self {
        let opened = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::Raw,
        );
        // Without CAP_NET_RAW nobody is answered, which is no worse.
        if let Err(errno) = &opened {
            tracing::warn!(%errno, "cannot answer packets to nobody: no raw socket");
        }
        Self(opened.ok())
    }

    /// Sends a packet with its IP header, and says whether the kernel took it.
    pub(super) fn send(&self, packet: &[u8], to: Ipv4Addr) -> bool {
        let Some(socket) = &self.0 else {
            return false;
        };
        let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
        sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty()).is_ok()
    }
}
