//! TCP streams: content checked octet by octet, or throughput on one core.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use super::iperf::Placement;
use crate::host::Pod;

/// A stream that makes no progress for this long has failed.
const STALL: Duration = Duration::from_secs(10);
/// Most octets on their way over all streams that are checked, so that they fit into the backlog of
/// a processor, which holds a thousand frames of all tests that run at a time: what it cannot hold
/// would be lost to others, too.
const IN_FLIGHT: usize = 512 * 1_448;
/// Octets per call.
const CHUNK: usize = 64 << 10;

/// Sends `bytes` octets over each of `streams` connections at once and checks what arrives.
///
/// # Errors
/// A connection fails or stalls, or an octet differs.
pub fn check(from: &Pod, to: &Pod, streams: usize, bytes: usize) -> Result<()> {
    let listener = to
        .ns
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    setsockopt(&listener, sockopt::RcvBuf, &(IN_FLIGHT / streams)).context("receive buffer")?;
    let target = (to.address, listener.local_addr()?.port());
    // A connection is complete before it is accepted, so accepting does not wait for a client that
    // has failed.
    let connect = |number| -> Result<(TcpStream, TcpStream)> {
        let client = TcpStream::connect_timeout(&target.into(), STALL)
            .with_context(|| format!("connect stream {number}"))?;
        Ok((client, listener.accept()?.0))
    };
    let pairs: Result<Vec<_>> = from.ns.enter(|| (0..streams).map(connect).collect())?;
    let pairs = pairs?;
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for (client, server) in pairs {
            workers.push(scope.spawn(move || send(client, bytes)));
            workers.push(scope.spawn(move || receive(server, bytes)));
        }
        for worker in workers {
            worker
                .join()
                .map_err(|_| anyhow!("stream thread panicked"))??;
        }
        Ok(())
    })
}

/// Gbit/s of `streams` streams together. On one core their ends, and so all that lies between,
/// share it.
///
/// # Errors
/// A connection fails.
pub fn throughput(
    from: &Pod,
    to: &Pod,
    placement: Placement,
    streams: usize,
    time: Duration,
) -> Result<f64> {
    let listener = to
        .ns
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let target = (to.address, listener.local_addr()?.port());
    let connect = || -> Result<(TcpStream, TcpStream)> {
        let client = TcpStream::connect_timeout(&target.into(), STALL)?;
        let (server, _) = listener.accept()?;
        // Whatever the machine prefers: figures of different machines compare with cubic.
        setsockopt(&client, sockopt::TcpCongestion, &"cubic".into()).context("choose cubic")?;
        client.set_write_timeout(Some(STALL))?;
        server.set_read_timeout(Some(STALL))?;
        Ok((client, server))
    };
    let pairs: Result<Vec<_>> = from
        .ns
        .enter(|| (0..streams).map(|_| connect()).collect())?;
    let pairs = pairs?;
    thread::scope(|scope| {
        let mut workers = Vec::new();
        let end = Instant::now() + time;
        for (client, server) in pairs {
            workers.push((
                scope.spawn(move || pour(client, placement, end)),
                scope.spawn(move || drain(server, placement)),
            ));
        }
        let mut gbps = 0.0;
        for (sending, receiving) in workers {
            sending.join().map_err(|_| anyhow!("sender panicked"))??;
            gbps += receiving
                .join()
                .map_err(|_| anyhow!("receiver panicked"))??;
        }
        Ok(gbps)
    })
}

fn pour(mut client: TcpStream, placement: Placement, end: Instant) -> Result<()> {
    placement.claim()?;
    let buffer = vec![0; 2 * CHUNK];
    while Instant::now() < end {
        client.write_all(&buffer)?;
    }
    Ok(())
}

/// Gbit/s from the first octet to the last.
fn drain(mut server: TcpStream, placement: Placement) -> Result<f64> {
    placement.claim()?;
    let (mut buffer, mut bytes) = (vec![0; 2 * CHUNK], 0_u64);
    let start = Instant::now();
    loop {
        let length = server.read(&mut buffer)?;
        if length == 0 {
            return Ok(bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9);
        }
        bytes += length as u64;
    }
}

/// Octets after which a stream repeats: a prime, so that it shares no factor with any packet size.
const PERIOD: usize = 251;

/// The octets of a stream from `place` on, as many as one call takes. Made once: tests run without
/// optimization, and octet by octet the two ends would cost more than the way between them.
fn octets(place: usize) -> &'static [u8] {
    static PATTERN: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..CHUNK + PERIOD).map(|at| (at % PERIOD) as u8).collect());
    &PATTERN[place % PERIOD..][..CHUNK]
}

fn send(mut stream: TcpStream, bytes: usize) -> Result<()> {
    stream.set_write_timeout(Some(STALL))?;
    let mut place = 0;
    while place < bytes {
        let length = CHUNK.min(bytes - place);
        stream
            .write_all(&octets(place)[..length])
            .with_context(|| format!("send at octet {place}"))?;
        place += length;
    }
    Ok(stream.shutdown(Shutdown::Write)?)
}

fn receive(mut stream: TcpStream, bytes: usize) -> Result<()> {
    stream.set_read_timeout(Some(STALL))?;
    let mut buffer = vec![0; CHUNK];
    let mut place = 0;
    loop {
        let length = stream
            .read(&mut buffer)
            .with_context(|| format!("receive at octet {place}"))?;
        if length == 0 {
            ensure!(place == bytes, "stream ended at octet {place} of {bytes}");
            return Ok(());
        }
        let (got, expected) = (&buffer[..length], &octets(place)[..length]);
        if got != expected {
            let same = got
                .iter()
                .zip(expected)
                .take_while(|(got, expected)| got == expected);
            bail!("octet {} differs", place + same.count());
        }
        place += length;
    }
}
