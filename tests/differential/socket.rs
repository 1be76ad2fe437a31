//! A packet socket on one device: batches of frames in and out, with what a device would be told of
//! checksums and segmentation beside each.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use bytemuck::{Pod, Zeroable};

/// Frames for which one call has room.
const SLOTS: usize = 64;
/// Octets of the largest frame: an aggregate of 64 KiB, tunnel and link-layer headers.
const LARGEST: usize = (64 << 10) + 256;
/// Octets of what a socket may hold between two looks at it.
const BUFFER: i32 = 256 << 20;
/// `struct tpacket_auxdata` (`include/uapi/linux/if_packet.h`).
const AUXDATA_LEN: usize = 20;
/// There is a VLAN tag beside the frame.
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
/// Octets of a control message with the auxiliary data.
const CONTROL: usize = 64;

/// `struct virtio_net_hdr` (`include/uapi/linux/virtio_net.h`): how much a device has left to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Offload {
    /// [`Self::NEEDS_CHECKSUM`], [`Self::DATA_VALID`].
    pub flags: u8,
    /// Zero, or what the aggregate is made of.
    pub gso_type: u8,
    /// Octets of all headers; a hint.
    pub header_len: u16,
    /// Payload octets of each segment.
    pub gso_size: u16,
    /// Where the sum begins that is still to be made.
    pub checksum_start: u16,
    /// Where it is to be written, from there.
    pub checksum_offset: u16,
}

impl Offload {
    pub(crate) const LEN: usize = size_of::<Self>();
    pub(crate) const NEEDS_CHECKSUM: u8 = 1;
    pub(crate) const DATA_VALID: u8 = 2;
    pub(crate) const GSO_TCPV4: u8 = 1;
    pub(crate) const GSO_UDP_L4: u8 = 5;
}

/// A frame to send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub bytes: Vec<u8>,
    pub offload: Offload,
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            offload: Offload::default(),
        }
    }
}

/// A frame that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub bytes: Vec<u8>,
    pub offload: Offload,
    /// `PACKET_HOST` and so on: whom the frame is for.
    pub kind: u8,
    /// A VLAN tag that the kernel keeps beside the frame.
    pub vlan: Option<u16>,
}

/// A device as seen by a packet socket.
#[derive(Debug)]
pub(crate) struct Port {
    fd: OwnedFd,
    name: String,
}

impl Port {
    /// Opens the device, in the network namespace of the calling thread.
    pub(crate) fn open(device: &str) -> Result<Self> {
        let index = nix::net::if_::if_nametoindex(device)
            .with_context(|| format!("index of device {device}"))?;
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // Nothing comes in before the socket is bound to its device.
        // SAFETY: a plain system call; the result is checked before it is used.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("open a packet socket (needs root)");
        }
        let port = Self {
            // SAFETY: just opened, and owned by nobody else.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
            name: device.to_owned(),
        };
        port.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
        port.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        port.set(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        port.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: index.try_into()?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the address is live and of the length given, and only read.
        let result = unsafe {
            libc::bind(
                port.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        ensure!(
            result == 0,
            "bind to {device}: {}",
            io::Error::last_os_error()
        );
        Ok(port)
    }

    fn set(&self, level: i32, option: i32, value: i32) -> Result<()> {
        // SAFETY: the value is live and of the length given, and only read.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of_val(&value) as u32,
            )
        };
        let error = || format!("{}: set socket option {option}", self.name);
        if result < 0 {
            return Err(io::Error::last_os_error()).with_context(error);
        }
        Ok(())
    }

    /// Sends frames in order, and gives the places of those that the socket refused: longer than
    /// the device takes, shorter than a header, or an offload that makes no sense.
    pub(crate) fn send(&self, frames: &[Frame]) -> Result<Vec<usize>> {
        let mut refused = Vec::new();
        let mut next = 0;
        while next < frames.len() {
            let sent = self.send_some(&frames[next..]);
            match sent {
                Ok(count) => next += count,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINVAL | libc::EMSGSIZE | libc::ENXIO) => {
                        refused.push(next);
                        next += 1;
                    }
                    // It was taken and then dropped, or could not be segmented (`__dev_queue_xmit`
                    // says "no memory" then): what comes out tells the rest.
                    Some(libc::ENOBUFS | libc::ENOMEM) => next += 1,
                    _ => return Err(error).with_context(|| format!("send to {}", self.name)),
                },
            }
        }
        Ok(refused)
    }

    /// One call: gives how many frames went before the first that did not, which is an error only
    /// for the first of all.
    fn send_some(&self, frames: &[Frame]) -> io::Result<usize> {
        let frames = &frames[..frames.len().min(SLOTS)];
        let mut parts: Vec<[libc::iovec; 2]> = frames
            .iter()
            .map(|Frame { bytes, offload }| {
                [
                    part((&raw const *offload).cast_mut().cast(), Offload::LEN),
                    part(bytes.as_ptr().cast_mut().cast(), bytes.len()),
                ]
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts.iter_mut().map(|p| message(p)).collect();
        // SAFETY: every message points to parts, and these to frames, all of which are live; a
        // send only reads them.
        let sent = unsafe {
            libc::sendmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                0,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Takes what has come in since the last call.
    pub(crate) fn receive(&self, slots: &mut Slots, seen: &mut Vec<Seen>) -> Result<()> {
        loop {
            let error = match slots.fill(&self.fd) {
                Ok(count) => {
                    seen.extend((0..count).map(|slot| slots.read(slot)));
                    if count == SLOTS {
                        continue;
                    }
                    return Ok(());
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(()),
                // An aggregate of a kind that the offload cannot express. It is gone, but it was.
                Some(libc::EINVAL) => seen.push(Seen {
                    bytes: b"an aggregate without a name".to_vec(),
                    offload: Offload::default(),
                    kind: 0,
                    vlan: None,
                }),
                _ => return Err(error).with_context(|| format!("receive from {}", self.name)),
            }
        }
    }

    /// Frames that the socket had no room for since the last call.
    pub(crate) fn overflowed(&self) -> Result<u32> {
        // `struct tpacket_stats`: packets and drops; reading it sets both to zero.
        let mut counts = [0_u32; 2];
        let mut len = size_of_val(&counts) as libc::socklen_t;
        // SAFETY: both pointers are to live values of the lengths given.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut counts).cast(),
                &raw mut len,
            )
        };
        ensure!(
            result == 0,
            "statistics of {}: {}",
            self.name,
            io::Error::last_os_error()
        );
        Ok(counts[1])
    }
}

/// Room for what one call receives; shared by all sockets of a thread.
pub(crate) struct Slots {
    bytes: Vec<u8>,
    addresses: Vec<libc::sockaddr_ll>,
    controls: Vec<[u64; CONTROL / 8]>,
    lengths: Vec<usize>,
}

impl Slots {
    pub(crate) fn new() -> Self {
        // SAFETY: all zeros is a valid `sockaddr_ll`.
        let address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        Self {
            bytes: vec![0; SLOTS * LARGEST],
            addresses: vec![address; SLOTS],
            controls: vec![[0; CONTROL / 8]; SLOTS],
            lengths: vec![0; SLOTS],
        }
    }

    fn fill(&mut self, fd: &OwnedFd) -> io::Result<usize> {
        let mut parts: Vec<[libc::iovec; 1]> = self
            .bytes
            .chunks_exact_mut(LARGEST)
            .map(|slot| [part(slot.as_mut_ptr().cast(), LARGEST)])
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .zip(&mut self.addresses)
            .zip(&mut self.controls)
            .map(|((part, address), control)| {
                *control = [0; CONTROL / 8];
                let mut message = message(part);
                message.msg_hdr.msg_name = (&raw mut *address).cast();
                message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as u32;
                message.msg_hdr.msg_control = control.as_mut_ptr().cast();
                message.msg_hdr.msg_controllen = CONTROL as _;
                message
            })
            .collect();
        // SAFETY: every pointer in the messages is to a live buffer of the length beside it, and
        // the kernel keeps none.
        let received = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                SLOTS as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (length, message) in self.lengths.iter_mut().zip(&messages[..count]) {
            *length = message.msg_len as usize;
        }
        Ok(count)
    }

    fn read(&self, slot: usize) -> Seen {
        let start = slot * LARGEST;
        let message = &self.bytes[start..start + self.lengths[slot].max(Offload::LEN)];
        let (offload, bytes) = message.split_at(Offload::LEN);
        Seen {
            bytes: bytes.to_vec(),
            offload: bytemuck::pod_read_unaligned(offload),
            kind: self.addresses[slot].sll_pkttype,
            vlan: vlan_tag(&self.controls[slot]),
        }
    }
}

/// The tag in a control message: `struct cmsghdr`, then `struct tpacket_auxdata`.
fn vlan_tag(control: &[u64; CONTROL / 8]) -> Option<u16> {
    let bytes: &[u8] = bytemuck::cast_slice(control);
    let auxdata = &bytes[size_of::<libc::cmsghdr>()..][..AUXDATA_LEN];
    let status = u32::from_ne_bytes([auxdata[0], auxdata[1], auxdata[2], auxdata[3]]);
    let tag = u16::from_ne_bytes([auxdata[16], auxdata[17]]);
    (status & TP_STATUS_VLAN_VALID != 0).then_some(tag)
}

fn part(base: *mut libc::c_void, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base,
        iov_len: len,
    }
}

/// A message of these parts, which must outlive it.
fn message(parts: &mut [libc::iovec]) -> libc::mmsghdr {
    // SAFETY: all zeros is a valid `mmsghdr`: null pointers with lengths of zero.
    let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
    message.msg_hdr.msg_iov = parts.as_mut_ptr();
    message.msg_hdr.msg_iovlen = parts.len() as _;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_where_the_kernel_puts_it() {
        let mut control = [0_u64; CONTROL / 8];
        assert_eq!(vlan_tag(&control), None);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut control);
        bytes[16] = TP_STATUS_VLAN_VALID as u8;
        bytes[32..34].copy_from_slice(&0x2064_u16.to_ne_bytes());
        assert_eq!(vlan_tag(&control), Some(0x2064));
    }
}
