//! Numbered datagrams: what was lost, doubled or overtaken.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use crate::host::Pod;
use crate::wait;

/// Receive buffer: many seconds of traffic, so that a busy machine loses nothing here.
const BUFFER_BYTES: usize = 32 << 20;
/// Most datagrams on their way at full rate: a few milliseconds of them, less than any queue on the
/// way holds.
pub const WINDOW: u64 = 512;
/// How long the last datagrams may be on their way before they count as lost.
const SETTLE: Duration = Duration::from_secs(1);

/// What the receiver saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Datagrams sent.
    pub sent: u64,
    /// Never received.
    pub lost: u64,
    /// Received more than once.
    pub duplicated: u64,
    /// Received after a later one.
    pub reordered: u64,
    /// Received with other bytes than were sent.
    pub damaged: u64,
}

impl Tally {
    /// Whether each datagram came once and whole; order is not part of it.
    #[must_use]
    pub fn is_lossless(&self) -> bool {
        self.sent > 0 && self.lost == 0 && self.duplicated == 0 && self.damaged == 0
    }
}

/// A flow of numbered datagrams between two pods.
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    sender: JoinHandle<Result<()>>,
    receiver: JoinHandle<Tally>,
}

impl Flow {
    /// Starts sending `size` bytes of payload at `per_second`.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn start(from: &Pod, to: &Pod, size: usize, per_second: u32) -> Result<Self> {
        let gap = Duration::from_secs(1) / per_second.max(1);
        Self::open(from, to, move |socket, stop, sent, _| {
            send(socket, size.max(8), gap, stop, sent)
        })
    }

    /// Starts sending as fast as it goes, from one processor, `segments` datagrams of `size` bytes at
    /// a time (up to 64). Not more than [`WINDOW`] are on their way, so that none is lost where
    /// nothing is wrong.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn start_full(
        from: &Pod,
        to: &Pod,
        size: usize,
        segments: usize,
        core: usize,
    ) -> Result<Self> {
        Self::open(from, to, move |socket, stop, sent, received| {
            send_full(socket, size.max(8), segments, core, stop, sent, received)
        })
    }

    fn open(
        from: &Pod,
        to: &Pod,
        send: impl FnOnce(&UdpSocket, &AtomicBool, &AtomicU64, &AtomicU64) -> Result<()>
        + Send
        + 'static,
    ) -> Result<Self> {
        let receiving = bind(to)?;
        let sending = bind(from)?;
        let target = SocketAddr::from((to.address, receiving.local_addr()?.port()));
        sending.connect(target)?;
        receiving.set_read_timeout(Some(Duration::from_millis(50)))?;
        greet(from, to)?;
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let received = Arc::new(AtomicU64::new(0));
        let sender = {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            let received = Arc::clone(&received);
            thread::spawn(move || send(&sending, &stop, &sent, &received))
        };
        let receiver = {
            let (done, received) = (Arc::clone(&done), Arc::clone(&received));
            thread::spawn(move || receive(&receiving, &done, &received))
        };
        Ok(Self {
            stop,
            sent,
            received,
            done,
            sender,
            receiver,
        })
    }

    /// Datagrams sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Datagrams received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Stops sending, waits for what is on its way and counts.
    ///
    /// # Errors
    /// The sender could not send.
    pub fn finish(self) -> Result<Tally> {
        let Self {
            stop,
            sent,
            received,
            done,
            sender,
            receiver,
        } = self;
        stop.store(true, Ordering::Relaxed);
        sender.join().map_err(|_| anyhow!("sender panicked"))??;
        let sent = sent.load(Ordering::Relaxed);
        let all = || Ok((received.load(Ordering::Relaxed) == sent).then_some(()));
        // Running into the limit is not an error here: it is what loss looks like.
        let _ = wait::until("the last datagrams", SETTLE, all);
        done.store(true, Ordering::Relaxed);
        let mut tally = receiver.join().map_err(|_| anyhow!("receiver panicked"))?;
        tally.sent = sent;
        tally.lost = sent.saturating_sub(received.load(Ordering::Relaxed));
        Ok(tally)
    }
}

/// Sends until something arrives: addresses are resolved on the way, and only few packets are kept
/// until they are. On ports of its own, so that of the flow itself the first datagram counts, too.
fn greet(from: &Pod, to: &Pod) -> Result<()> {
    let (sending, receiving) = (bind(from)?, bind(to)?);
    let target = SocketAddr::from((to.address, receiving.local_addr()?.port()));
    receiving.set_read_timeout(Some(Duration::from_millis(50)))?;
    wait::until("a greeting", Duration::from_secs(10), || {
        sending.send_to(b"hello", target).context("greet")?;
        Ok(receiving.recv(&mut [0; 8]).is_ok().then_some(()))
    })
}

fn bind(pod: &Pod) -> Result<UdpSocket> {
    let socket = pod
        .ns
        .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    let socket = socket.context("open UDP socket in pod")?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).context("receive buffer")?;
    setsockopt(&socket, sockopt::SndBuf, &BUFFER_BYTES).context("send buffer")?;
    Ok(socket)
}

/// Payload: the number, then octets that follow from it.
fn fill(buffer: &mut [u8], number: u64) {
    let (head, tail) = buffer.split_at_mut(8);
    head.copy_from_slice(&number.to_be_bytes());
    for (place, octet) in tail.iter_mut().enumerate() {
        *octet = (number as u8).wrapping_add(place as u8);
    }
}

fn send(
    socket: &UdpSocket,
    size: usize,
    gap: Duration,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    let mut buffer = vec![0; size];
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let number = sent.load(Ordering::Relaxed);
        fill(&mut buffer, number);
        socket
            .send(&buffer)
            .with_context(|| format!("send datagram {number}"))?;
        sent.store(number + 1, Ordering::Relaxed);
        next += gap;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn send_full(
    socket: &UdpSocket,
    size: usize,
    segments: usize,
    core: usize,
    stop: &AtomicBool,
    sent: &AtomicU64,
    received: &AtomicU64,
) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core).context("choose a processor")?;
    sched_setaffinity(Pid::from_raw(0), &cores).context("stay on one processor")?;
    if segments > 1 {
        setsockopt(socket, sockopt::UdpGsoSegment, &i32::try_from(size)?).context("UDP_SEGMENT")?;
    }
    let mut buffer = vec![0; size * segments];
    while !stop.load(Ordering::Relaxed) {
        let number = sent.load(Ordering::Relaxed);
        if number.saturating_sub(received.load(Ordering::Relaxed)) > WINDOW {
            thread::yield_now();
            continue;
        }
        for (number, datagram) in (number..).zip(buffer.chunks_mut(size)) {
            fill(datagram, number);
        }
        socket
            .send(&buffer)
            .with_context(|| format!("send datagram {number}"))?;
        sent.store(number + segments as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Counts all but what was sent and lost; `received` is the number of different datagrams.
fn receive(socket: &UdpSocket, done: &AtomicBool, received: &AtomicU64) -> Tally {
    let mut tally = Tally {
        sent: 0,
        lost: 0,
        duplicated: 0,
        reordered: 0,
        damaged: 0,
    };
    let mut seen: Vec<bool> = Vec::new();
    let (mut buffer, mut expected) = (vec![0; 65536], vec![0; 65536]);
    while !done.load(Ordering::Relaxed) {
        let Ok(length) = socket.recv(&mut buffer) else {
            continue;
        };
        let Some(head) = buffer[..length].first_chunk::<8>() else {
            continue;
        };
        let number = u64::from_be_bytes(*head);
        fill(&mut expected[..length], number);
        let intact = buffer[..length] == expected[..length];
        let Some(index) = usize::try_from(number).ok().filter(|_| intact) else {
            tally.damaged += 1;
            continue;
        };
        if index < seen.len() {
            tally.reordered += u64::from(!seen[index]);
        } else {
            seen.resize(index + 1, false);
        }
        if seen[index] {
            tally.duplicated += 1;
        } else {
            seen[index] = true;
            received.fetch_add(1, Ordering::Relaxed);
        }
    }
    tally
}
