//! What stands for flannel's proxy in comparisons: one thread, and one system call for each packet
//! read and for each packet written.
//!
//! The same calls in the same order as flannel's, by its documented behaviour: a TUN device without
//! offloads, each side in turn until both have nothing, and then `poll`; a blocking send; buffers
//! of the kernel's default size.

use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use flannel_agent::backend::udp::DEVICE_NAME;
use ipnetwork::Ipv4Network;
use nix::poll::{PollFd, PollFlags, poll};

use super::{MTU, PORT, network, subnet};
use crate::host::Host;
use crate::tun::Tun;

/// How often a thread without packets looks whether it is to end, milliseconds.
const LOOK: u16 = 100;

/// The proxy of one host; ends when dropped, and the device with it.
#[derive(Debug)]
pub struct Reference {
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
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
        host.ns.ip(&format!(
            "addr add {}/32 dev {DEVICE_NAME}\n\
             link set {DEVICE_NAME} mtu {MTU} up\n\
             route add {} dev {DEVICE_NAME}\n",
            subnet(number).network(),
            network(),
        ))?;
        let routes = vec![(subnet(1 - number), SocketAddrV4::new(peer.address, PORT))];
        let is_ending = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_ending);
        let thread = thread::spawn(move || run(&device, &socket, &routes, &flag));
        Ok(Self {
            is_ending,
            thread: Some(thread),
        })
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    device: &Tun,
    socket: &UdpSocket,
    routes: &[(Ipv4Network, SocketAddrV4)],
    is_ending: &AtomicBool,
) {
    let mut buffer = vec![0; MTU as usize];
    while !is_ending.load(Ordering::Relaxed) {
        let mut fds = [device.as_fd(), socket.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let _ = poll(&mut fds, LOOK);
        loop {
            let sent = send(device, socket, routes, &mut buffer);
            let received = receive(device, socket, &mut buffer);
            if !sent && !received {
                break;
            }
        }
    }
}

/// Whether a packet was read.
fn send(
    device: &Tun,
    socket: &UdpSocket,
    routes: &[(Ipv4Network, SocketAddrV4)],
    buffer: &mut [u8],
) -> bool {
    let Ok(length @ 20..) = device.read_into(buffer) else {
        return false;
    };
    let packet = &mut buffer[..length];
    let destination = [packet[16], packet[17], packet[18], packet[19]].into();
    let route = routes
        .iter()
        .find(|(subnet, _)| subnet.contains(destination));
    if let Some((_, peer)) = route
        && hop(packet)
    {
        let _ = socket.send_to(packet, peer);
    }
    true
}

/// Whether a packet was read.
fn receive(device: &Tun, socket: &UdpSocket, buffer: &mut [u8]) -> bool {
    // SAFETY: the buffer is live and as long as is said.
    let length = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
        )
    };
    let Some(length @ 20..) = usize::try_from(length).ok() else {
        return false;
    };
    let packet = &mut buffer[..length];
    if hop(packet) {
        let _ = device.write(packet);
    }
    true
}

/// Takes one from the hop count; false at zero.
fn hop(packet: &mut [u8]) -> bool {
    packet[8] = packet[8].wrapping_sub(1);
    // One less in the high octet of a word is one more in the checksum (RFC 1624).
    let sum = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0x100;
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(sum as u16).to_be_bytes());
    packet[8] != 0
}
