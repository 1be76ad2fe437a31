//! Paced packets of one protocol between two pods: how many have come, when the last one came, and
//! what the sender has been told meanwhile.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use flannel_ebpf::wire::{checksum, sum};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};

use crate::host::Pod;
use crate::netns::NetNs;

/// Octets of a packet's payload, unless others are asked for.
const SIZE: usize = 64;
/// How long one wait for a packet lasts, until the end is looked for.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Receive buffer: a receiver that does not run for a while loses nothing.
const BUFFER_BYTES: usize = 4 << 20;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// One connection, each piece in a segment of its own.
    Tcp,
    /// Echo requests, of which the answers are counted.
    Icmp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Udp, Self::Tcp, Self::Icmp];

    /// Its name, as firewalls have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Icmp => "icmp",
        }
    }

    /// Time between two packets.
    const fn gap(self) -> Duration {
        match self {
            Self::Udp | Self::Tcp => Duration::from_millis(2),
            Self::Icmp => Duration::from_millis(5),
        }
    }
}

/// What both ends write down.
#[derive(Debug)]
struct Record {
    start: Instant,
    sent: AtomicU64,
    received: AtomicU64,
    /// When the last one was received, microseconds from the start.
    last: AtomicU64,
    errors: Mutex<Vec<Errno>>,
    stop: AtomicBool,
}

impl Record {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note_received(&self, count: u64) {
        let last = self.start.elapsed().as_micros() as u64;
        self.last.store(last, Ordering::Relaxed);
        self.received.fetch_add(count, Ordering::Relaxed);
    }

    fn note_error(&self, error: &io::Error) {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if !errors.contains(&errno) {
            errors.push(errno);
        }
    }
}

/// Packets that go until this is dropped, whatever becomes of them.
#[derive(Debug)]
pub struct Pulse {
    /// What is sent.
    pub protocol: Protocol,
    record: Arc<Record>,
    ends: Vec<JoinHandle<()>>,
}

impl Pulse {
    /// Starts sending from one pod to another one.
    ///
    /// # Errors
    /// A socket cannot be opened, or the connection does not come about.
    pub fn start(from: &Pod, to: &Pod, protocol: Protocol) -> Result<Self> {
        Self::to(from, to, (to.address, 0).into(), protocol)
    }

    /// As [`start`](Self::start), to an address that is rewritten to the pod's on the way; its port,
    /// if it is not 0, is the receiver's.
    ///
    /// # Errors
    /// As there.
    pub fn to(from: &Pod, to: &Pod, target: SocketAddr, protocol: Protocol) -> Result<Self> {
        Self::sized(from, to, target, protocol, SIZE)
    }

    /// As [`to`](Self::to), with packets of `size` octets of payload, 8 at least.
    ///
    /// # Errors
    /// As there.
    pub fn sized(
        from: &Pod,
        to: &Pod,
        target: SocketAddr,
        protocol: Protocol,
        size: usize,
    ) -> Result<Self> {
        let record = Arc::new(Record {
            start: Instant::now(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            last: AtomicU64::new(0),
            errors: Mutex::new(Vec::new()),
            stop: AtomicBool::new(false),
        });
        let ends = match protocol {
            Protocol::Udp => udp(from, to, target, size, &record),
            Protocol::Tcp => tcp(from, to, target, size, &record),
            Protocol::Icmp => icmp(from, target, size, &record),
        };
        let ends = ends.with_context(|| format!("{} to {target}", protocol.name()))?;
        Ok(Self {
            protocol,
            record,
            ends: ends.into(),
        })
    }

    /// Packets sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.record.sent.load(Ordering::Relaxed)
    }

    /// Packets received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.record.received.load(Ordering::Relaxed)
    }

    /// When the last one was received; the start, if none was.
    #[must_use]
    pub fn last(&self) -> Instant {
        self.record.start + Duration::from_micros(self.record.last.load(Ordering::Relaxed))
    }

    /// What the sender has been told since this was asked last.
    #[must_use]
    pub fn errors(&self) -> Vec<Errno> {
        let errors = self.record.errors.lock();
        std::mem::take(&mut *errors.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.record.stop.store(true, Ordering::Relaxed);
        for end in self.ends.drain(..) {
            // Its panic has been printed.
            let _ = end.join();
        }
    }
}

type Ends = [JoinHandle<()>; 2];

fn udp(
    from: &Pod,
    to: &Pod,
    mut target: SocketAddr,
    size: usize,
    record: &Arc<Record>,
) -> Result<Ends> {
    let receiving = bind(&to.ns, target.port())?;
    target.set_port(receiving.local_addr()?.port());
    let sending = bind(&from.ns, 0)?;
    sending.connect(target)?;
    let send = move |number: u64| sending.send(&piece(number, size)).map(drop);
    let sender = pace(record, Protocol::Udp, send);
    Ok([sender, count(record, receiving, |_| true)])
}

fn tcp(
    from: &Pod,
    to: &Pod,
    mut target: SocketAddr,
    size: usize,
    record: &Arc<Record>,
) -> Result<Ends> {
    let any = (Ipv4Addr::UNSPECIFIED, target.port());
    let listener = to.ns.enter(|| TcpListener::bind(any))??;
    target.set_port(listener.local_addr()?.port());
    let connect = || TcpStream::connect_timeout(&target, CONNECT);
    let mut sending = from.ns.enter(connect)??;
    sending.set_nodelay(true)?;
    // What cannot be sent now waits in the socket; when that is full, pieces are left out.
    sending.set_nonblocking(true)?;
    let (mut receiving, _) = listener.accept()?;
    receiving.set_read_timeout(Some(PATIENCE))?;
    let send = move |number: u64| sending.write_all(&piece(number, size));
    let sender = pace(record, Protocol::Tcp, send);
    let record = Arc::clone(record);
    let receiver = thread::spawn(move || {
        let mut buffer = vec![0; size << 8];
        while !record.is_over() {
            match receiving.read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => record.note_received(len.div_ceil(size) as u64),
                Err(_) => {}
            }
        }
    });
    Ok([sender, receiver])
}

fn icmp(from: &Pod, target: SocketAddr, size: usize, record: &Arc<Record>) -> Result<Ends> {
    static LAST: AtomicU16 = AtomicU16::new(0);
    let id = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let open = || {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::Icmp;
        socket(AddressFamily::Inet, SockType::Raw, flags, protocol)
    };
    // The calls are the same as for datagrams.
    let sending = UdpSocket::from(from.ns.enter(open)??);
    sending.set_read_timeout(Some(PATIENCE))?;
    sending.connect((target.ip(), 0))?;
    let receiving = sending.try_clone()?;
    let send = move |number: u64| sending.send(&echo_request(id, number, size)).map(drop);
    let sender = pace(record, Protocol::Icmp, send);
    // Type 0 behind an IPv4 header of 20 octets, and the number of the sender.
    let is_answer =
        move |packet: &[u8]| packet.get(20) == Some(&0) && packet.get(24..26) == Some(&id);
    Ok([sender, count(record, receiving, is_answer)])
}

fn bind(ns: &NetNs, port: u16) -> Result<UdpSocket> {
    let socket = ns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).context("receive buffer")?;
    Ok(socket)
}

/// Payload: the number, then zeros.
fn piece(number: u64, size: usize) -> Vec<u8> {
    let mut piece = vec![0; size];
    piece[..8].copy_from_slice(&number.to_be_bytes());
    piece
}

/// An echo request (RFC 792) with the number as its sequence number.
fn echo_request([high, low]: [u8; 2], number: u64, size: usize) -> Vec<u8> {
    let [.., first, second] = number.to_be_bytes();
    let mut packet = vec![0; size];
    packet[..8].copy_from_slice(&[8, 0, 0, 0, high, low, first, second]);
    let checksum = checksum(sum(&packet));
    packet[2..4].copy_from_slice(&checksum);
    packet
}

/// Counts what `is_ours` of what a socket receives.
fn count(
    record: &Arc<Record>,
    socket: UdpSocket,
    is_ours: impl Fn(&[u8]) -> bool + Send + 'static,
) -> JoinHandle<()> {
    let record = Arc::clone(record);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while !record.is_over() {
            match socket.recv(&mut buffer) {
                Ok(len) if is_ours(&buffer[..len]) => record.note_received(1),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => record.note_error(&error),
            }
        }
    })
}

/// Sends a packet in every gap of the protocol. What the sender is told by an error is noted, and
/// the same number is sent in the next gap.
fn pace(
    record: &Arc<Record>,
    protocol: Protocol,
    mut send: impl FnMut(u64) -> io::Result<()> + Send + 'static,
) -> JoinHandle<()> {
    let record = Arc::clone(record);
    thread::spawn(move || {
        let mut next = Instant::now();
        while !record.is_over() {
            let number = record.sent.load(Ordering::Relaxed);
            match send(number) {
                Ok(()) => record.sent.store(number + 1, Ordering::Relaxed),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => record.note_error(&error),
            }
            next = (next + protocol.gap()).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    })
}
