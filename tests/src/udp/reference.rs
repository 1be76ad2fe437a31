//! What stands for flannel's proxy in comparisons: one thread, and one system call for each packet
//! read and for each packet written.
//!
//! The same calls in the same order as flannel's, by its documented behaviour: a TUN device without
//! offloads, each side in turn until both have nothing, and then `poll`; a blocking send; buffers
//! of the kernel's default size; the first route that contains a destination is taken, and moves to
//! the front; who has none is told so by ICMP.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use flannel_agent::backend::udp::DEVICE_NAME;
use ipnetwork::Ipv4Network;
use nix::poll::{PollFd, PollFlags, poll};

use super::{MTU, PORT, network, subnet};
use crate::frame::{self, Ip};
use crate::host::Host;
use crate::tun::Tun;

/// How often a thread without packets looks whether it is to end, milliseconds.
const LOOK: u16 = 100;
/// Hops of an answer by ICMP.
const ICMP_TTL: u8 = 8;
/// Length of an IP header from which on there is no answer, bytes.
const LONG_HEADER: usize = 60;

/// The proxy of one host; ends when dropped, and the device with it.
#[derive(Debug)]
pub struct Reference {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is told, and what it tells.
#[derive(Debug, Default)]
struct Shared {
    is_ending: AtomicBool,
    packets: AtomicU64,
}

impl Reference {
    /// Makes the device with address and route, and starts the thread.
    ///
    /// # Errors
    /// The port or the name is taken.
    pub fn start(host: &Host, number: u8, peer: &Host) -> Result<Self> {
        let device = Tun::open(&host.ns, DEVICE_NAME)?;
        let socket = host
            .ns
            .enter(|| UdpSocket::bind((host.address, PORT)))?
            .context("bind the reference proxy")?;
        let address = subnet(number).network();
        host.ns.ip(&format!(
            "addr add {address}/32 dev {DEVICE_NAME}\n\
             link set {DEVICE_NAME} mtu {MTU} up\n\
             route add {} dev {DEVICE_NAME}\n",
            network(),
        ))?;
        let shared = Arc::new(Shared::default());
        let mut side = Side {
            device,
            socket,
            address,
            routes: vec![(subnet(1 - number), SocketAddrV4::new(peer.address, PORT))],
            buffer: vec![0; MTU as usize],
            shared: Arc::clone(&shared),
        };
        let thread = thread::spawn(move || side.run());
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Packets that have gone through it.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.shared.packets.load(Ordering::Relaxed)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's own.
struct Side {
    device: Tun,
    socket: UdpSocket,
    /// Of the device: the source of answers.
    address: Ipv4Addr,
    routes: Vec<(Ipv4Network, SocketAddrV4)>,
    /// As long as the device's MTU: what is longer is cut off.
    buffer: Vec<u8>,
    shared: Arc<Shared>,
}

impl Side {
    fn run(&mut self) {
        while !self.shared.is_ending.load(Ordering::Relaxed) {
            let fds = [self.device.as_fd(), self.socket.as_fd()];
            let _ = poll(&mut fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)), LOOK);
            loop {
                let (sent, received) = (self.send(), self.receive());
                if !sent && !received {
                    break;
                }
            }
        }
    }

    /// Whether a packet was read.
    fn send(&mut self) -> bool {
        let Ok(length) = self.device.read_into(&mut self.buffer) else {
            return false;
        };
        let packet = &mut self.buffer[..length];
        if length < 20 {
            return true;
        }
        let destination = [packet[16], packet[17], packet[18], packet[19]].into();
        let contains = |(subnet, _): &(Ipv4Network, _)| subnet.contains(destination);
        let Some(place) = self.routes.iter().position(contains) else {
            if let Some(answer) = net_unreachable(packet, self.address) {
                let _ = self.device.write(&answer);
            }
            return true;
        };
        self.routes[..=place].rotate_right(1);
        if take_hop(packet) {
            self.shared.packets.fetch_add(1, Ordering::Relaxed);
            let _ = self.socket.send_to(packet, self.routes[0].1);
        }
        true
    }

    /// Whether a packet was read.
    fn receive(&mut self) -> bool {
        // SAFETY: the buffer is live and as long as is said.
        let length = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                self.buffer.as_mut_ptr().cast(),
                self.buffer.len(),
                libc::MSG_DONTWAIT,
            )
        };
        let Ok(length) = usize::try_from(length) else {
            return false;
        };
        let packet = &mut self.buffer[..length];
        if length >= 20 && take_hop(packet) {
            self.shared.packets.fetch_add(1, Ordering::Relaxed);
            let _ = self.device.write(packet);
        }
        true
    }
}

/// Takes one from the hop count; false at zero.
fn take_hop(packet: &mut [u8]) -> bool {
    packet[8] = packet[8].wrapping_sub(1);
    // One less in the high octet of a word is one more in the checksum (RFC 1624).
    let sum = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0x100;
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(sum as u16).to_be_bytes());
    packet[8] != 0
}

/// "Network unreachable" (RFC 792), quoting the header and eight octets. None for ICMP, later
/// fragments and long headers.
fn net_unreachable(offender: &[u8], source: Ipv4Addr) -> Option<Vec<u8>> {
    let header_len = usize::from(offender[0] & 0xf) * 4;
    let is_later_fragment = offender[6] & 0x1f | offender[7] != 0;
    if offender[9] == 1 || is_later_fragment || header_len >= LONG_HEADER {
        return None;
    }
    let quote = &offender[..offender.len().min(header_len + 8)];
    let mut icmp = [&[3, 0, 0, 0, 0, 0, 0, 0], quote].concat();
    let sum = frame::checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    let to = [offender[12], offender[13], offender[14], offender[15]];
    let ip = Ip {
        ttl: ICMP_TTL,
        ..Ip::new(source.octets(), to, 1)
    };
    Some(ip.packet(&icmp))
}
