//! TCP connections one after the other: connect, one octet each way, close.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::cpu;
use crate::host::Pod;

/// A step that takes this long has failed.
const STALL: Duration = Duration::from_secs(5);
/// What the client sends on an ordinary connection, and on the last.
const MORE: u8 = 0;
const LAST: u8 = 1;

/// Connections per second from `from` to `to`, all of it on `core`.
///
/// # Errors
/// A connection fails.
pub fn measure(from: &Pod, to: &Pod, core: usize, time: Duration) -> Result<f64> {
    // The end that closes first keeps the ports for a minute; many samples need many.
    from.ns
        .sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    let listener = to
        .ns
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let target = SocketAddr::from((to.address, listener.local_addr()?.port()));
    thread::scope(|scope| {
        let serving = scope.spawn(move || serve(&listener, core));
        let count = from.ns.enter(|| connect(target, core, time))?;
        serving.join().map_err(|_| anyhow!("server panicked"))??;
        count
    })
}

fn serve(listener: &TcpListener, core: usize) -> Result<()> {
    cpu::claim(core)?;
    let mut octet = [MORE];
    while octet[0] == MORE {
        let (mut socket, _) = listener.accept()?;
        socket.set_read_timeout(Some(STALL))?;
        socket.read_exact(&mut octet)?;
        socket.write_all(&octet)?;
    }
    Ok(())
}

fn connect(target: SocketAddr, core: usize, time: Duration) -> Result<f64> {
    cpu::claim(core)?;
    let (start, mut count) = (Instant::now(), 0_u32);
    loop {
        let word = if start.elapsed() < time { MORE } else { LAST };
        exchange(target, word).with_context(|| format!("connection {count}"))?;
        count += 1;
        if word == LAST {
            return Ok(f64::from(count) / start.elapsed().as_secs_f64());
        }
    }
}

fn exchange(target: SocketAddr, word: u8) -> Result<()> {
    let mut socket = TcpStream::connect_timeout(&target, STALL)?;
    socket.set_read_timeout(Some(STALL))?;
    socket.write_all(&[word])?;
    socket.read_exact(&mut [0])?;
    Ok(())
}
