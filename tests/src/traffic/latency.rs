//! Request-response time over one TCP connection, one octet each way.
//!
//! Client and server share one core, kept awake by a spinner: across cores of a virtual machine
//! most of the time would be the interrupt that wakes the other core.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

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
/// The connection fails.
pub fn measure(from: &Pod, to: &Pod, core: usize, time: Duration) -> Result<RoundTrips> {
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
    let _spinner = Spinner::start(core);
    thread::scope(|scope| {
        let answering = scope.spawn(move || answer(server, core));
        let asking = scope.spawn(move || ask(client, core, time));
        let times = asking.join().map_err(|_| anyhow!("client panicked"))??;
        answering.join().map_err(|_| anyhow!("server panicked"))??;
        percentiles(times)
    })
}

fn answer(mut socket: TcpStream, core: usize) -> Result<()> {
    cpu::claim(core)?;
    let mut octet = [0];
    loop {
        match socket.read_exact(&mut octet) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        socket.write_all(&octet)?;
    }
}

fn ask(mut socket: TcpStream, core: usize, time: Duration) -> Result<Vec<Duration>> {
    cpu::claim(core)?;
    let mut times = Vec::new();
    let mut octet = [0];
    let start = Instant::now();
    let (end, latest) = (start + time, start + time.max(LONGEST));
    let mut before = start;
    while before < end || (before < latest && times.len() <= WARM_UP + ENOUGH) {
        socket.write_all(&octet)?;
        socket.read_exact(&mut octet)?;
        let after = Instant::now();
        times.push(after - before);
        before = after;
    }
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
