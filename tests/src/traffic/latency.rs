//! Request-response time over one TCP connection or between two UDP sockets, one octet each way.
//!
//! Client and server share one core, kept awake by a spinner: across cores of a virtual machine
//! most of the time would be the interrupt that wakes the other core.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::cpu::{self, Spinner};
use crate::host::Pod;

/// Round trips before the first one that counts.
const WARM_UP: usize = 100;
/// Fewer round trips than this make no 99th percentile.
const ENOUGH: usize = 1000;
/// How long a path that is too slow for enough of them is given.
const LONGEST: Duration = Duration::from_secs(2);
/// A round trip that takes this long has failed.
const STALL: Duration = Duration::from_secs(5);

/// What carries requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One connection.
    Tcp,
    /// Datagrams.
    Udp,
}

/// One end of the way.
#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// Percentiles of the round-trip time, microseconds.
#[derive(Debug, Clone, Copy)]
pub struct RoundTrips {
    /// Number of round trips.
    pub count: usize,
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
}

/// Goes back and forth between two pods for `time`, or until there are enough round trips, all on
/// `core`.
///
/// # Errors
/// The connection fails, or a datagram is lost.
pub fn measure(
    from: &Pod,
    to: &Pod,
    transport: Transport,
    core: usize,
    time: Duration,
) -> Result<RoundTrips> {
    let (client, server) = match transport {
        Transport::Tcp => connect(from, to)?,
        Transport::Udp => bind(from, to)?,
    };
    let _spinner = Spinner::start(core);
    thread::scope(|scope| {
        let answering = scope.spawn(move || answer(server, core));
        let asking = scope.spawn(move || ask(client, core, time));
        let times = asking.join().map_err(|_| anyhow!("client panicked"))??;
        answering.join().map_err(|_| anyhow!("server panicked"))??;
        percentiles(times)
    })
}

fn connect(from: &Pod, to: &Pod) -> Result<(Socket, Socket)> {
    let listener = to
        .ns
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let target = (to.address, listener.local_addr()?.port());
    let client = from
        .ns
        .enter(|| TcpStream::connect_timeout(&target.into(), STALL))??;
    let (server, _) = listener.accept()?;
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(STALL))?;
    }
    Ok((Socket::Tcp(client), Socket::Tcp(server)))
}

fn bind(from: &Pod, to: &Pod) -> Result<(Socket, Socket)> {
    let open = |pod: &Pod| -> Result<UdpSocket> {
        let socket = pod
            .ns
            .enter(|| UdpSocket::bind((pod.address, 0)))?
            .context("open UDP socket in pod")?;
        socket.set_read_timeout(Some(STALL))?;
        Ok(socket)
    };
    let (client, server) = (open(from)?, open(to)?);
    client.connect(server.local_addr()?)?;
    server.connect(client.local_addr()?)?;
    Ok((Socket::Udp(client), Socket::Udp(server)))
}

impl Socket {
    fn send(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(&[0]),
            Self::Udp(socket) => socket.send(&[0]).map(drop),
        }
    }

    /// Whether there will be more: TCP's end, or an empty datagram, is the last word.
    fn receive(&mut self) -> io::Result<bool> {
        let mut octet = [0];
        let length = match self {
            Self::Tcp(stream) => stream.read(&mut octet)?,
            Self::Udp(socket) => socket.recv(&mut octet)?,
        };
        Ok(length > 0)
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Tcp(_) => Ok(()),
            Self::Udp(socket) => socket.send(&[]).map(drop),
        }
    }
}

fn answer(mut socket: Socket, core: usize) -> Result<()> {
    cpu::claim(core)?;
    while socket.receive()? {
        socket.send()?;
    }
    Ok(())
}

fn ask(mut socket: Socket, core: usize, time: Duration) -> Result<Vec<Duration>> {
    cpu::claim(core)?;
    let mut times = Vec::new();
    let start = Instant::now();
    let (end, latest) = (start + time, start + time.max(LONGEST));
    let mut before = start;
    while before < end || (before < latest && times.len() <= WARM_UP + ENOUGH) {
        socket.send()?;
        ensure!(socket.receive()?, "the other end went away");
        let after = Instant::now();
        times.push(after - before);
        before = after;
    }
    socket.finish()?;
    Ok(times)
}

fn percentiles(mut times: Vec<Duration>) -> Result<RoundTrips> {
    ensure!(
        times.len() > WARM_UP + ENOUGH,
        "only {} round trips",
        times.len()
    );
    times.drain(..WARM_UP);
    times.sort_unstable();
    let at = |share: f64| {
        let index = (times.len() as f64 * share) as usize;
        times[index.min(times.len() - 1)].as_secs_f64() * 1e6
    };
    Ok(RoundTrips {
        count: times.len(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        p999_us: at(0.999),
    })
}
