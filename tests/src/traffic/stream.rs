//! TCP streams whose content is checked octet by octet.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::host::Pod;

/// A stream that makes no progress for this long has failed.
const STALL: Duration = Duration::from_secs(10);
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
    let target = (to.address, listener.local_addr()?.port());
    thread::scope(|scope| {
        let accepting = scope.spawn(|| -> Result<Vec<TcpStream>> {
            (0..streams).map(|_| Ok(listener.accept()?.0)).collect()
        });
        let clients: Vec<TcpStream> = from.ns.enter(|| {
            (0..streams)
                .map(|number| {
                    TcpStream::connect_timeout(&target.into(), STALL)
                        .with_context(|| format!("connect stream {number}"))
                })
                .collect::<Result<_>>()
        })??;
        let servers = accepting
            .join()
            .map_err(|_| anyhow!("accepting thread panicked"))??;
        let mut workers = Vec::new();
        for client in clients {
            workers.push(scope.spawn(move || send(client, bytes)));
        }
        for server in servers {
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

/// The octet at a place of the stream: a period of 251 shares no factor with any packet size.
fn octet(place: usize) -> u8 {
    (place % 251) as u8
}

fn send(mut stream: TcpStream, bytes: usize) -> Result<()> {
    stream.set_write_timeout(Some(STALL))?;
    let mut place = 0;
    while place < bytes {
        let end = bytes.min(place + CHUNK);
        let chunk: Vec<u8> = (place..end).map(octet).collect();
        stream
            .write_all(&chunk)
            .with_context(|| format!("send at octet {place}"))?;
        place = end;
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
        let wrong = (0..length).find(|&index| buffer[index] != octet(place + index));
        ensure!(
            wrong.is_none(),
            "octet {} differs",
            place + wrong.unwrap_or(0)
        );
        place += length;
    }
}
