//! A TUN device, as flannel's udp backend has it: IP packets without anything in front.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result};

use crate::netns::NetNs;

/// Octets of an interface name, the final zero included.
const NAME_LEN: usize = libc::IFNAMSIZ;

/// The user-space end of a TUN device, which goes when this does.
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
        ns.enter(|| Self::make(name))?
            .with_context(|| format!("make TUN device {name}"))
    }

    fn make(name: &str) -> io::Result<Self> {
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
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
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

    /// Hands a packet to the kernel as if the device had received it.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn write(&self, packet: &[u8]) -> Result<()> {
        let written = (&self.file).write(packet);
        written.map(drop).context("write to TUN device")
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
