//! From peers to the device.
//!
//! Like flannel, it takes packets from anybody: who may send is the firewall's to say, and what
//! comes out of the device is routed and filtered as any other packet.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::fd::OwnedFd;

use super::coalesce::{Coalescer, Datagrams, Piece};
use super::counters::Live;
use super::egress::Turn;
use super::packet::{self, Reject};
use super::sys::Receiver;
use super::unfilled::Unfilled;

/// Bytes of one call from which on there is probably more: a stream, not a request.
const STREAM: usize = 16 << 10;

/// What a turn works on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ingress<'a> {
    pub(super) socket: &'a OwnedFd,
    pub(super) queue: &'a File,
    pub(super) datagrams: Datagrams,
    /// Of the device, bytes.
    pub(super) mtu: usize,
    pub(super) counters: &'a Live,
}

/// Gives the device what the socket has, one call's worth.
pub(super) fn turn(receiver: &mut Receiver, ingress: Ingress<'_>) -> Turn {
    match receiver.receive(ingress.socket) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Turn::Drained,
        // A pending error of the socket: reading it has cleared it.
        Err(_) => return Turn::More,
    }
    let mut bytes = 0;
    let mut write = |piece: Piece<'_>| write(ingress, &piece);
    let mut coalescer = Coalescer::new(ingress.datagrams);
    for (message, segment) in receiver.messages() {
        bytes += message.len();
        if message.is_empty() {
            ingress.counters.reject(Reject::TooShort, 1);
            continue;
        }
        // An aggregate is of datagrams, or it is one packet between pods.
        let is_packet = packet::is_whole(message);
        let datagram = segment.filter(|_| !is_packet).unwrap_or(message.len());
        for datagram in message.chunks_mut(datagram) {
            if let Err(reason) = packet::hop(datagram) {
                ingress.counters.reject(reason, 1);
                continue;
            }
            match Unfilled::of(datagram, segment.filter(|_| is_packet), ingress.mtu) {
                None => coalescer.push(datagram, &mut write),
                Some(unfilled) => {
                    ingress.counters.unfilled.add(1);
                    coalescer.give_way(datagram, &mut write);
                    unfilled.write(datagram, &mut write);
                }
            }
        }
    }
    coalescer.finish(&mut write);
    if bytes >= STREAM {
        Turn::More
    } else {
        Turn::Drained
    }
}

/// To the thread's own queue: the kernel sends packets of a flow to the queue that the other
/// direction was last written to, so that this thread has the answers, too, and need not be woken
/// for those that come at once.
fn write(ingress: Ingress<'_>, piece: &Piece<'_>) {
    let Ingress {
        mut queue,
        counters,
        ..
    } = ingress;
    let written = loop {
        match queue.write_vectored(piece.parts) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            written => break written,
        }
    };
    if written.is_ok() {
        counters.received_packets.add(piece.packets);
        counters.received_bytes.add(piece.bytes);
    } else {
        counters.write_failed.add(piece.packets);
    }
}
