//! The udp backend's proxy as stock flannel has it, in a few lines: what eBPF's packets must not be
//! told from, and what carries those that eBPF leaves.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};

use crate::frame;
use crate::host::Host;
use crate::tun::Tun;

/// Milliseconds after which a proxy that should end looks whether it should.
const TURN_MS: i32 = 20;

/// The /24 subnets of the network, and who has them.
pub type Routes = Vec<([u8; 4], Ipv4Addr)>;

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    tun: Tun,
    socket: UdpSocket,
    port: u16,
    routes: Routes,
    is_over: AtomicBool,
    packets: AtomicU64,
}

impl Proxy {
    /// Starts passing packets between a host's TUN device and a socket on its address.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(host: &Host, tun: Tun, port: u16, routes: Routes) -> Result<Self> {
        let address = SocketAddrV4::new(host.address, port);
        let socket = host.ns.enter(|| UdpSocket::bind(address))??;
        socket.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            tun,
            socket,
            port,
            routes,
            is_over: AtomicBool::new(false),
            packets: AtomicU64::new(0),
        });
        let directions: [fn(&Shared) -> Result<()>; 2] = [Shared::send, Shared::receive];
        let run = |direction: fn(&Shared) -> Result<()>| {
            let shared = Arc::clone(&shared);
            // An error ends the proxy's direction, and the test finds that nothing gets through.
            thread::spawn(move || drop(direction(&shared)))
        };
        let threads = directions.into_iter().map(run).collect();
        Ok(Self { shared, threads })
    }

    /// Packets that have gone through it.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.shared.packets.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn send(&self) -> Result<()> {
        while self.wait_for(&self.tun)? {
            while let Some(mut packet) = self.tun.read()? {
                let Some(peer) = self.peer_of(&packet) else {
                    continue;
                };
                if take_hop(&mut packet) {
                    self.packets.fetch_add(1, Ordering::Relaxed);
                    // A full queue loses the packet, as everywhere.
                    let _ = self.socket.send_to(&packet, (peer, self.port));
                }
            }
        }
        Ok(())
    }

    fn receive(&self) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        while self.wait_for(&self.socket)? {
            while let Ok(len) = self.socket.recv(&mut buffer) {
                let packet = &mut buffer[..len];
                if len >= 20 && take_hop(packet) {
                    self.packets.fetch_add(1, Ordering::Relaxed);
                    self.tun.write(packet)?;
                }
            }
        }
        Ok(())
    }

    /// Waits until there is something to read; false: the proxy is to end.
    fn wait_for(&self, source: &impl AsFd) -> Result<bool> {
        loop {
            if self.is_over.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let mut poll = libc::pollfd {
                fd: source.as_fd().as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one live structure, as said.
            let ready = unsafe { libc::poll(&raw mut poll, 1, TURN_MS) };
            if ready < 0 {
                return Err(io::Error::last_os_error()).context("poll");
            }
            if ready > 0 {
                return Ok(true);
            }
        }
    }

    fn peer_of(&self, packet: &[u8]) -> Option<Ipv4Addr> {
        let destination = packet.get(16..19)?;
        let route = self.routes.iter().find(|(net, _)| net[..3] == *destination);
        route.map(|(_, peer)| *peer)
    }
}

/// Takes one hop off; false: the packet ends here.
fn take_hop(packet: &mut [u8]) -> bool {
    packet[8] = packet[8].wrapping_sub(1);
    let header_len = usize::from(packet[0] & 0xf) * 4;
    packet[10..12].fill(0);
    let sum = frame::checksum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum);
    packet[8] > 0
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It panics only if the test does.
            let _ = thread.join();
        }
    }
}
