//! A TUN device, as flannel's udp backend has it: IP packets without anything in front. And a TAP
//! device, whose packets arrive in pieces as from a NIC that splits headers off.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result};

use crate::netns::NetNs;

/// Octets of an interface name, the final zero included.
const NAME_LEN: usize = libc::IFNAMSIZ;

/// The user-space end of a TUN or TAP device, which goes when this does.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Tun {
    /// Makes the device `name` in a namespace, not up yet.
    ///
    /// # Errors
    /// Not root, or the kernel has no TUN devices.
    pub fn open(ns: &NetNs, name: &str) -> Result<Self> {
        ns.enter(|| Self::make(name, libc::IFF_TUN))?
            .with_context(|| format!("make TUN device {name}"))
    }

    /// Makes a TAP device for [`write_parts`](Self::write_parts), not up yet.
    ///
    /// # Errors
    /// As [`open`](Self::open); or the kernel is older than 4.15.
    pub fn open_in_parts(ns: &NetNs, name: &str) -> Result<Self> {
        let flags = libc::IFF_TAP | libc::IFF_NAPI | libc::IFF_NAPI_FRAGS;
        ns.enter(|| Self::make(name, flags))?
            .with_context(|| format!("make TAP device {name}"))
    }

    fn make(name: &str, flags: libc::c_int) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        // SAFETY: all zeros is a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name[..NAME_LEN - 1]
            .iter_mut()
            .zip(name.bytes())
        {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (flags | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the request is a live `ifreq`, which is what this call reads and writes.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { file })
    }

    /// The next packet that the kernel has sent into the device; `None` if none is waiting.
    ///
    /// # Errors
    /// The device is down or gone.
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 1 << 16];
        match (&self.file).read(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                Ok(Some(buffer))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("read from TUN device"),
        }
    }

    /// The next packet, without making room for it; `EAGAIN` if none is waiting.
    ///
    /// # Errors
    /// The device is down or gone.
    pub fn read_into(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Hands a packet to the kernel as if the device had received it.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn write(&self, packet: &[u8]) -> Result<()> {
        let written = (&self.file).write(packet);
        written.map(drop).context("write to TUN device")
    }

    /// The same with a frame of which only `linear` bytes, 14 at least, are where programs can read
    /// them at once.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn write_parts(&self, frame: &[u8], linear: usize) -> Result<()> {
        let (first, second) = frame.split_at(linear);
        let parts = [IoSlice::new(first), IoSlice::new(second)];
        let written = (&self.file).write_vectored(&parts);
        written.map(drop).context("write to TAP device")
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
