//! The proxy: a thread per queue that carries packets between the device and the peers.
//!
//! Each thread has a queue of the device, a socket, buffers and counters of its own, and does both
//! directions in turns. Nothing is shared in the way of a packet but the table of peers, which is
//! immutable: a new one takes the place of the old one between two turns, however busy the thread
//! is, and no packet waits for it.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::counters::{Counters, Live};
use super::device::{Device, Queues};
use super::egress::{self, Egress, Turn};
use super::ingress::{self, Ingress};
use super::socket::{Answers, Sockets};
use super::sys::{self, Receiver};
use super::table::Table;

/// Priority of the threads. The kernel carries packets before it lets any thread run; a thread that
/// does so should at least not wait behind those that compute, since its queues are short.
const NICE: i32 = -10;

/// Why the proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No more file descriptors.
    #[error("make an event descriptor for the proxy")]
    Event(#[source] io::Error),
    /// No more threads.
    #[error("start a thread of the proxy")]
    Thread(#[source] io::Error),
}

/// What a proxy starts with.
#[derive(Debug)]
pub struct ProxySpec<'a> {
    /// Where packets are sent from and received; as many as the device has queues.
    pub sockets: Sockets,
    /// The device.
    pub device: &'a Device,
    /// Network address of the own subnet, the source of ICMP answers.
    pub address: Ipv4Addr,
    /// The peers.
    pub peers: Table,
}

/// A running proxy; dropping it ends its threads and closes the sockets. The device stays.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What threads are told, and what they tell.
#[derive(Debug)]
struct Shared {
    settings: Mutex<Settings>,
    answers: Answers,
    /// Counts changes of the settings, so that threads need not look at them for every packet.
    version: AtomicU64,
    is_ending: AtomicBool,
    threads: Vec<PerThread>,
}

#[derive(Debug)]
struct PerThread {
    wake: EventFd,
    counters: Live,
}

#[derive(Debug, Clone)]
struct Settings {
    peers: Arc<Table>,
    queues: Arc<Queues>,
    /// Of the device, bytes.
    mtu: u32,
    address: Ipv4Addr,
    is_kin: bool,
}

impl Proxy {
    /// Starts carrying packets.
    ///
    /// # Errors
    /// See [`ProxyError`].
    pub fn start(spec: ProxySpec<'_>) -> Result<Self, ProxyError> {
        let ProxySpec {
            sockets,
            device,
            address,
            peers,
        } = spec;
        // A queue that nobody reads would swallow packets, a socket too.
        let count = device.queues.each.len();
        debug_assert_eq!(sockets.each.len(), count);
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let per_thread = || {
            let wake = EventFd::from_value_and_flags(0, flags)?;
            let counters = Live::default();
            Ok(PerThread { wake, counters })
        };
        let threads: Result<_, Errno> = (0..count).map(|_| per_thread()).collect();
        let Sockets { each, answers, .. } = sockets;
        let shared = Shared {
            answers,
            settings: Mutex::new(Settings {
                peers: Arc::new(peers),
                queues: Arc::clone(&device.queues),
                mtu: device.mtu,
                address,
                is_kin: false,
            }),
            version: AtomicU64::new(1),
            is_ending: AtomicBool::new(false),
            threads: threads.map_err(|errno| ProxyError::Event(errno.into()))?,
        };
        let mut proxy = Self {
            shared: Arc::new(shared),
            threads: Vec::new(),
        };
        for (number, socket) in each.into_iter().enumerate() {
            let shared = Arc::clone(&proxy.shared);
            let thread = thread::Builder::new()
                .name(format!("udp-proxy-{number}"))
                .spawn(move || Worker::new(&shared, number, socket).run());
            // Those that run are ended with `proxy`.
            proxy.threads.push(thread.map_err(ProxyError::Thread)?);
        }
        Ok(proxy)
    }

    /// Sends by another table from the next packet on.
    pub fn set_peers(&self, peers: Table) {
        let peers = Arc::new(peers);
        self.change(|settings| settings.peers = peers);
    }

    /// Moves to the queues of `device`, which [`super::device::ensure_device`] has made or opened
    /// again, and to another source of ICMP answers. Without a difference nothing happens.
    pub fn set_device(&self, device: &Device, address: Ipv4Addr) {
        let is_same = {
            let settings = self.shared.lock();
            Arc::ptr_eq(&settings.queues, &device.queues)
                && settings.mtu == device.mtu
                && settings.address == address
        };
        if !is_same {
            let queues = Arc::clone(&device.queues);
            self.change(|settings| {
                settings.queues = queues;
                settings.mtu = device.mtu;
                settings.address = address;
            });
        }
    }

    /// Whether peers are to know from now on that this node takes what their programs send, also
    /// packets whose checksums are left to a device: so it is while our own programs are attached.
    /// At the start it is not, and the proxy sends as stock's.
    pub fn set_kin(&self, is_kin: bool) {
        if self.shared.lock().is_kin != is_kin {
            self.change(|settings| settings.is_kin = is_kin);
        }
    }

    /// Counters of all threads since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for thread in &self.shared.threads {
            sum.add(&thread.counters);
        }
        sum
    }

    /// Whether all threads run, as they do unless there is a bug in them.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.shared.lock());
        self.shared.version.fetch_add(1, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        for thread in &self.shared.threads {
            // It fails only if the thread has 2⁶⁴ calls waiting.
            let _ = thread.wake.write(1);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::Release);
        self.wake();
        for thread in self.threads.drain(..) {
            // Its panic has been reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Settings> {
        // Settings are replaced whole, so they are good even if somebody panicked.
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread.
struct Worker<'a> {
    shared: &'a Shared,
    own: &'a PerThread,
    number: usize,
    socket: OwnedFd,
    settings: Settings,
    version: u64,
    /// Whether the device is there.
    has_device: bool,
    buffers: egress::Buffers,
    receiver: Receiver,
}

/// Which sides may have packets.
#[derive(Debug, Clone, Copy)]
struct Ready {
    device: bool,
    socket: bool,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, number: usize, socket: OwnedFd) -> Self {
        let settings = shared.lock().clone();
        Self {
            shared,
            own: &shared.threads[number],
            number,
            socket,
            settings,
            // Of no settings: the first look takes them.
            version: 0,
            has_device: true,
            buffers: egress::Buffers::new(),
            receiver: Receiver::new(),
        }
    }

    fn run(mut self) {
        sys::raise_priority(NICE);
        let mut ready = Ready {
            device: true,
            socket: true,
        };
        while !self.shared.is_ending.load(Ordering::Acquire) {
            self.look_at_settings();
            if !ready.device && !ready.socket {
                ready = self.wait();
                continue;
            }
            // What is received may be answered before the call returns, so the device is looked at
            // after the socket and before sleeping.
            if ready.socket {
                ready.socket = self.receive();
                ready.device = true;
            }
            if ready.device {
                ready.device = self.send();
            }
        }
    }

    fn look_at_settings(&mut self) {
        let version = self.shared.version.load(Ordering::Acquire);
        if version == self.version {
            return;
        }
        let settings = self.shared.lock().clone();
        self.has_device |=
            self.version == 0 || !Arc::ptr_eq(&settings.queues, &self.settings.queues);
        self.buffers.use_table(&settings.peers);
        self.settings = settings;
        self.version = version;
    }

    fn queue(&self) -> Option<&File> {
        let queue = self.settings.queues.each.get(self.number);
        queue.filter(|_| self.has_device)
    }

    /// Whether there may be more.
    fn send(&mut self) -> bool {
        let queue = self.settings.queues.each.get(self.number);
        let Some(queue) = queue.filter(|_| self.has_device) else {
            return false;
        };
        let turn = self.buffers.turn(Egress {
            queue,
            socket: &self.socket,
            table: &self.settings.peers,
            answers: &self.shared.answers,
            address: self.settings.address,
            is_kin: self.settings.is_kin,
            counters: &self.own.counters,
        });
        self.has_device = turn != Turn::Gone;
        turn == Turn::More
    }

    /// Whether there may be more.
    fn receive(&mut self) -> bool {
        let Queues { each, datagrams } = &*self.settings.queues;
        let Some(queue) = each.get(self.number) else {
            return false;
        };
        let ingress = Ingress {
            socket: &self.socket,
            queue,
            datagrams: *datagrams,
            mtu: self.settings.mtu as usize,
            counters: &self.own.counters,
        };
        ingress::turn(&mut self.receiver, ingress) == Turn::More
    }

    fn wait(&self) -> Ready {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let wake = self.own.wake.as_fd();
        let queue = self.queue().map(|queue| queue.as_fd());
        let mut fds = [
            readable(wake),
            readable(self.socket.as_fd()),
            // A place for no device: poll has none.
            readable(queue.unwrap_or(wake)),
        ];
        // It is interrupted at most.
        let _ = poll(&mut fds, PollTimeout::NONE);
        let is_ready = |place: usize| fds[place].any() == Some(true);
        if is_ready(0) {
            // Only its being readable matters.
            let _ = self.own.wake.read();
        }
        Ready {
            device: queue.is_some() && is_ready(2),
            socket: is_ready(1),
        }
    }
}
