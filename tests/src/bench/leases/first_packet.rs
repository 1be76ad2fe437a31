//! From a lease in etcd to the first packet on the wire.
//!
//! A pod of the host sends a small datagram every 50 µs to an address that nobody has leased. Then
//! somebody leases it, and the first frame to it in the tunnel ends the measurement. The kernel
//! stamps that frame as it comes out of the wire.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal};

use super::bed::LeaseBed;
use super::lease::{AWAITED, FakeLease};
use super::report::{FirstPacket, percentile};
use super::store::{self, Write};
use crate::netns::NetNs;

/// Between two datagrams: 20 000 per second.
const PERIOD: Duration = Duration::from_micros(50);
/// Between two leases; the removal of the one before is done by then.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a frame may be awaited.
const LIMIT: Duration = Duration::from_secs(5);
/// Port "discard", RFC 863.
const DISCARD: u16 = 9;

/// Puts `puts` leases one after the other, and waits for the first frame to each.
pub(super) fn measure(bed: &LeaseBed, puts: usize) -> Result<FirstPacket> {
    let target = AtomicU32::new(0);
    let stop = AtomicBool::new(false);
    let sender = bed
        .host()
        .ns
        .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let gateway = &bed.gateway().ns;
    let wire = Wire::open(gateway)?;
    thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&sender, &target, &stop));
        let samples = store::connected(gateway, |etcd| {
            let mut samples = Vec::with_capacity(puts);
            for number in (AWAITED..).take(puts) {
                let lease = FakeLease::new(number);
                target.store(lease.pod().into(), Ordering::Relaxed);
                thread::sleep(PAUSE);
                wire.drain()?;
                let asked = now()?;
                etcd.write(Write::Put(lease))?;
                let answered = now()?;
                let arrived = wire
                    .first_to(lease.pod())
                    .with_context(|| format!("packet to {}", lease.pod()))?;
                samples.push((arrived - asked, arrived - answered));
                etcd.write(Write::Delete(lease))?;
            }
            Ok(samples)
        });
        stop.store(true, Ordering::Relaxed);
        flood.join().map_err(|_| anyhow!("sender panicked"))?;
        let samples = samples?;
        let since_put = || samples.iter().map(|(put, _)| put * 1e3).collect();
        let since_answer = || samples.iter().map(|(_, answer)| answer * 1e3).collect();
        Ok(FirstPacket {
            samples: samples.len(),
            p50_ms: percentile(since_answer(), 0.5),
            p99_ms: percentile(since_answer(), 0.99),
            since_put_p50_ms: percentile(since_put(), 0.5),
            since_put_p99_ms: percentile(since_put(), 0.99),
        })
    })
}

/// Sends to `target`, an IPv4 address, until `stop`. Without a route there is nothing to send.
fn flood(socket: &UdpSocket, target: &AtomicU32, stop: &AtomicBool) {
    // Sleeps of 50 µs end up to 50 µs late by default.
    let _ = nix::sys::prctl::set_timerslack(1);
    while !stop.load(Ordering::Relaxed) {
        let address = Ipv4Addr::from(target.load(Ordering::Relaxed));
        let _ = socket.send_to(&[0; 16], (address, DISCARD));
        thread::sleep(PERIOD);
    }
}

/// Seconds since the epoch: the clock of the kernel's stamps.
fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// A socket that sees every frame of a namespace.
struct Wire(OwnedFd);

impl Wire {
    fn open(ns: &NetNs) -> Result<Self> {
        let fd = ns.enter(|| {
            socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
        })??;
        setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
        Ok(Self(fd))
    }

    /// Forgets what came before.
    fn drain(&self) -> Result<()> {
        while self.receive(MsgFlags::MSG_DONTWAIT)?.is_some() {}
        Ok(())
    }

    /// When the first frame to a pod came.
    fn first_to(&self, pod: Ipv4Addr) -> Result<f64> {
        let start = SystemTime::now();
        while start.elapsed()? < LIMIT {
            if let Some((frame, at)) = self.receive(MsgFlags::empty())?
                && tunnelled_to(&frame) == Some(pod)
            {
                return Ok(at);
            }
        }
        bail!("none within {LIMIT:?}")
    }

    /// The beginning of a frame, and its time; nothing if there is none.
    fn receive(&self, flags: MsgFlags) -> Result<Option<([u8; 96], f64)>> {
        let mut frame = [0; 96];
        let mut control = cmsg_space!(TimeSpec);
        let mut parts = [IoSliceMut::new(&mut frame)];
        let message = match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags)
        {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let at = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmTimestampns(at) => Some(at),
            _ => None,
        });
        let at = at.context("a frame without a time")?;
        let seconds = at.tv_sec() as f64 + at.tv_nsec() as f64 / 1e9;
        Ok(Some((frame, seconds)))
    }
}

/// The inner destination of a VXLAN frame: after Ethernet 14, IPv4 20, UDP 8, VXLAN 8 and inner
/// Ethernet 14, at offset 16 of the IPv4 header.
fn tunnelled_to(frame: &[u8; 96]) -> Option<Ipv4Addr> {
    let is_udp = frame[12..14] == [8, 0] && frame[23] == 17;
    let is_vxlan = frame[36..38] == 8472_u16.to_be_bytes();
    let inner: [u8; 4] = frame[80..84].try_into().ok()?;
    (is_udp && is_vxlan).then(|| inner.into())
}
