//! The system calls that neither std nor nix has in a form that neither copies nor allocates: TUN
//! control, and many datagrams per call.

#![expect(
    unsafe_code,
    reason = "system calls that take pointers; each block says why they are good"
)]

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::ptr;

/// Datagrams, or aggregates of them, that one call receives.
pub(super) const RECEIVED: usize = 8;
/// Most bytes that a UDP socket gives at once: an aggregate is limited as one packet is.
const MAX_RECEIVED: usize = 65_535;
/// Messages that one call sends.
pub(super) const SENT: usize = 64;

/// Opens a queue of the TUN device `name`, which the kernel makes if there is none. Reading does
/// not wait.
///
/// # Errors
/// `EINVAL` if the name belongs to something else or the flags do not fit, `EBUSY` if it has as
/// many queues as it may, `EPERM`, and those of opening `/dev/net/tun`.
pub(super) fn attach_queue(name: &str, flags: libc::c_int) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            // The flags are of 16 bits in the kernel's structure, too.
            ifru_flags: flags as libc::c_short,
        },
    };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (octet, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *octet = byte as libc::c_char;
    }
    // SAFETY: the request is a live `ifreq`, which is what this call reads and writes.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(file)
}

/// Lets the device outlive its queues.
///
/// # Errors
/// `EBADFD` if the device is gone.
pub(super) fn set_persistent(queue: impl AsFd) -> io::Result<()> {
    let on: libc::c_ulong = 1;
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(queue.as_fd().as_raw_fd(), libc::TUNSETPERSIST, on) })
}

/// Says what the reader of the device does in the kernel's place (`TUN_F_*`).
///
/// # Errors
/// `EINVAL` if the kernel does not know one of them.
pub(super) fn set_offload(queue: impl AsFd, features: libc::c_uint) -> io::Result<()> {
    let features = libc::c_ulong::from(features);
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(queue.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, features) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// One or more datagrams to one peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) to: SocketAddrV4,
    /// The payload, in parts.
    pub(super) parts: &'a [IoSlice<'a>],
    /// Payload of each datagram but the last, bytes (`UDP_SEGMENT`, Linux 4.18); 0 for one
    /// datagram.
    pub(super) segment: u16,
}

/// A control message with one value; with the padding that `CMSG_SPACE` of it has.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control<T> {
    header: libc::cmsghdr,
    value: T,
}

impl<T> Control<T> {
    /// `CMSG_LEN`: without the padding behind.
    const LEN: usize = mem::offset_of!(Self, value) + size_of::<T>();

    fn new(level: libc::c_int, kind: libc::c_int, value: T) -> Self {
        // SAFETY: all its fields are numbers.
        let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
        header.cmsg_len = Self::LEN as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        Self { header, value }
    }

    fn is(&self, level: libc::c_int, kind: libc::c_int) -> bool {
        self.header.cmsg_level == level
            && self.header.cmsg_type == kind
            && self.header.cmsg_len >= Self::LEN as _
    }
}

// The value starts where `CMSG_DATA` says it does.
const _: () = assert!(
    mem::offset_of!(Control<u16>, value) == size_of::<libc::cmsghdr>()
        && size_of::<libc::cmsghdr>().is_multiple_of(align_of::<usize>())
);

/// Space for `sendmmsg`, so that sending allocates nothing.
pub(super) struct Sender {
    headers: Box<[libc::mmsghdr; SENT]>,
    names: Box<[libc::sockaddr_in; SENT]>,
    controls: Box<[Control<u16>; SENT]>,
}

impl Sender {
    pub(super) fn new() -> Self {
        let control = Control::new(libc::SOL_UDP, libc::UDP_SEGMENT, 0);
        Self {
            headers: Box::new([empty_header(); SENT]),
            names: Box::new([internet_address(SocketAddrV4::new([0; 4].into(), 0)); SENT]),
            controls: Box::new([control; SENT]),
        }
    }

    /// Sends messages, [`SENT`] at most, and gives how many the kernel took; the call stops before
    /// the first that it does not take.
    ///
    /// # Errors
    /// Why it did not take the very first.
    pub(super) fn send(
        &mut self,
        socket: impl AsFd,
        messages: &[Message<'_>],
    ) -> io::Result<usize> {
        let Self {
            headers,
            names,
            controls,
        } = self;
        let count = messages.len().min(SENT);
        let places = headers
            .iter_mut()
            .zip(names.iter_mut())
            .zip(controls.iter_mut());
        for (((header, name), control), message) in places.zip(messages) {
            *name = internet_address(message.to);
            control.value = message.segment;
            let header = &mut header.msg_hdr;
            header.msg_name = ptr::from_mut(name).cast();
            header.msg_namelen = size_of_val(name) as libc::socklen_t;
            // `IoSlice` has the layout of `iovec`, and the kernel only reads through it.
            header.msg_iov = message.parts.as_ptr().cast_mut().cast();
            header.msg_iovlen = message.parts.len() as _;
            (header.msg_control, header.msg_controllen) = if message.segment == 0 {
                (ptr::null_mut(), 0)
            } else {
                (ptr::from_mut(control).cast(), size_of_val(control) as _)
            };
        }
        // SAFETY: the first `count` headers have been set above, to parts that the caller lends
        // and to names and control messages of `self`; all of them outlive the call.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                0,
            )
        };
        // A negative number is the sign of an error.
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Buffers that datagrams are received into.
pub(super) struct Receiver {
    buffers: Box<[u8]>,
    headers: Box<[libc::mmsghdr; RECEIVED]>,
    parts: Box<[libc::iovec; RECEIVED]>,
    controls: Box<[Control<libc::c_int>; RECEIVED]>,
    count: usize,
}

impl Receiver {
    pub(super) fn new() -> Self {
        let empty = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        let control = Control::new(0, 0, 0);
        Self {
            buffers: vec![0; RECEIVED * MAX_RECEIVED].into_boxed_slice(),
            headers: Box::new([empty_header(); RECEIVED]),
            parts: Box::new([empty; RECEIVED]),
            controls: Box::new([control; RECEIVED]),
            count: 0,
        }
    }

    /// Receives what is there, without waiting, and gives the number of messages.
    ///
    /// # Errors
    /// `EAGAIN` if nothing is there.
    pub(super) fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let Self {
            buffers,
            headers,
            parts,
            controls,
            count,
        } = self;
        let places = headers
            .iter_mut()
            .zip(parts.iter_mut())
            .zip(controls.iter_mut());
        for (((header, part), control), buffer) in
            places.zip(buffers.chunks_exact_mut(MAX_RECEIVED))
        {
            part.iov_base = buffer.as_mut_ptr().cast();
            part.iov_len = buffer.len();
            control.header.cmsg_len = 0;
            let header = &mut header.msg_hdr;
            header.msg_iov = ptr::from_mut(part);
            header.msg_iovlen = 1;
            header.msg_control = ptr::from_mut(control).cast();
            header.msg_controllen = size_of_val(control) as _;
        }
        *count = 0;
        // SAFETY: each header points to one part, which is a buffer of its own, and to a control
        // message; all of them belong to `self` and outlive the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                RECEIVED as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        // A negative number is the sign of an error.
        *count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(*count)
    }

    /// The messages of the last call: octets, and how many of them each datagram has, where there
    /// are several (`UDP_GRO`, Linux 5.0).
    pub(super) fn messages(&mut self) -> impl Iterator<Item = (&mut [u8], Option<usize>)> {
        let Self {
            buffers,
            headers,
            controls,
            count,
            ..
        } = self;
        let places = buffers.chunks_exact_mut(MAX_RECEIVED).zip(headers.iter());
        places
            .zip(controls.iter())
            .take(*count)
            .map(|((buffer, header), control)| {
                let length = buffer.len().min(header.msg_len as usize);
                let has_control = header.msg_hdr.msg_controllen >= Control::<i32>::LEN as _;
                let segment = usize::try_from(control.value).ok().filter(|segment| {
                    has_control && control.is(libc::SOL_UDP, libc::UDP_GRO) && *segment > 0
                });
                (&mut buffer[..length], segment)
            })
    }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: its fields are numbers and pointers, which may be null.
    unsafe { mem::zeroed() }
}

fn internet_address(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(address.ip().octets()),
        },
        sin_zero: [0; 8],
    }
}

/// Lets routers on the way fragment what the socket sends. The kernel's default would have them
/// report the path's MTU instead, which costs the packets until then, or all where reports are
/// filtered.
///
/// # Errors
/// None that are known.
pub(super) fn allow_fragments(socket: impl AsFd) -> io::Result<()> {
    let value: libc::c_int = libc::IP_PMTUDISC_DONT;
    // SAFETY: the pointer is to a live number of the length given.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })
}

/// Whether datagrams that the socket sends have a UDP checksum, from the next one on.
///
/// # Errors
/// None that are known.
pub(super) fn set_checksums(socket: impl AsFd, are_sent: bool) -> io::Result<()> {
    let value = libc::c_int::from(!are_sent);
    // SAFETY: the pointer is to a live number of the length given.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })
}

/// Lets the calling thread go before ordinary work, unless it does already. Best effort.
pub(super) fn raise_priority(nice: libc::c_int) {
    // SAFETY: no pointer is involved; 0 is the calling thread.
    let current = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    if current > nice {
        // SAFETY: as above. Without CAP_SYS_NICE it fails, and all is as before.
        let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    }
}
