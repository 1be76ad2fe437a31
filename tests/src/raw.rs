//! Frames put on an interface, and taken from it, as they are.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

use crate::netns::NetNs;

/// Ethernet type of IPv4; the protocol of packets that have no link-layer header to tell it.
pub const IPV4: u16 = 0x0800;

/// How a packet that is longer than the wire allows is to be cut, and where its checksum goes: a
/// `struct virtio_net_hdr` (uapi/linux/virtio_net.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Offload {
    /// 1: a checksum has to be filled in.
    pub flags: u8,
    /// 0: one packet, 1: TCP over IPv4, 5: UDP datagrams of one flow.
    pub kind: u8,
    /// Bytes of all headers.
    pub header_len: u16,
    /// Payload bytes of each piece.
    pub size: u16,
    /// Where the checksum starts, bytes.
    pub checksum_start: u16,
    /// Where it is stored from there, bytes.
    pub checksum_offset: u16,
}

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Raw {
    socket: OwnedFd,
    ifindex: i32,
}

impl Raw {
    /// Opens the interface of a namespace for sending and receiving.
    ///
    /// # Errors
    /// There is no such interface, or not root.
    pub fn open(ns: &NetNs, interface: &str) -> Result<Self> {
        let open = || {
            let ifindex = nix::net::if_::if_nametoindex(interface)?;
            Self::on(ifindex as i32)
        };
        ns.enter(open)?
            .with_context(|| format!("packet socket on {interface}"))
    }

    fn on(ifindex: i32) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Nothing is received before the interface is chosen.
        // SAFETY: a plain system call; the result is checked before it is used.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let raw = Self { socket, ifindex };
        let on: libc::c_int = 1;
        // SAFETY: the option's value is valid for its length, and only read.
        check(unsafe {
            libc::setsockopt(
                fd,
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                (&raw const on).cast(),
                size_of_val(&on) as u32,
            )
        })?;
        let address = raw.address(libc::ETH_P_ALL as u16);
        // SAFETY: the address is valid for its length, and only read.
        check(unsafe {
            libc::bind(
                fd,
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        })?;
        Ok(raw)
    }

    fn address(&self, protocol: u16) -> libc::sockaddr_ll {
        // SAFETY: all zeros is a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = self.ifindex;
        address
    }

    /// Sends one packet out of the interface: a frame, or an IPv4 packet where the device has no
    /// link-layer header.
    ///
    /// # Errors
    /// The device does not take it.
    pub fn send(&self, packet: &[u8], offload: Offload) -> Result<()> {
        self.send_as(IPV4, packet, offload)
    }

    /// As [`send`](Self::send), a packet of another protocol.
    ///
    /// # Errors
    /// As there.
    pub fn send_as(&self, protocol: u16, packet: &[u8], offload: Offload) -> Result<()> {
        let bytes = [bytemuck::bytes_of(&offload), packet].concat();
        let address = self.address(protocol);
        // SAFETY: buffer and address are valid for the lengths given, and only read.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        check(sent as i32).context("send a packet").map(drop)
    }

    /// The next packet that came in by the interface; `None` if none is waiting. What goes out is
    /// not shown.
    ///
    /// # Errors
    /// The interface is down or gone.
    pub fn receive(&self) -> Result<Option<(Vec<u8>, Offload)>> {
        const HEADER: usize = size_of::<Offload>();
        let mut buffer = vec![0; HEADER + (1 << 17)];
        loop {
            // SAFETY: all zeros is a valid `sockaddr_ll`.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut from_len = size_of_val(&from) as u32;
            // SAFETY: both buffers are valid for the lengths given.
            let len = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut from_len,
                )
            };
            let Ok(len) = usize::try_from(len) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::WouldBlock {
                    return Ok(None);
                }
                return Err(error).context("receive a packet");
            };
            if from.sll_pkttype == libc::PACKET_OUTGOING {
                continue;
            }
            let offload = bytemuck::pod_read_unaligned(&buffer[..HEADER]);
            return Ok(Some((buffer[HEADER..len].to_vec(), offload)));
        }
    }
}

impl AsFd for Raw {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
