//! From the device to the peers.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use super::counters::Live;
use super::icmp;
use super::packet::{self, Reject};
use super::segment::{Headers, MAX_HEADERS, Segments};
use super::socket::Answers;
use super::sys::{self, Message, SENT, Sender};
use super::table::{Found, Table};
use super::vnet::{Kind, VnetHeader};

/// Most that one read gives: a packet as long as IPv4 allows.
const MAX_READ: usize = VnetHeader::LEN + 65_535;
/// Room for packets that wait to be sent together. Small ones fill a fraction of it.
const ARENA: usize = 2 * MAX_READ;
/// Reads after which the other direction has its turn.
const READS: usize = 64;
/// Most datagrams of one message: `UDP_MAX_SEGMENTS` before Linux 6.9.
const DATAGRAMS: usize = 64;
/// Most bytes of one message: an aggregate is limited as one packet is, outer headers included.
const MAX_MESSAGE: usize = 65_535 - super::OVERHEAD as usize;
/// Segments whose headers are written at a time: all of a packet at the usual sizes.
const SEGMENTS: usize = 64;

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing is left to read.
    Drained,
    /// There may be more.
    More,
    /// The device is gone.
    Gone,
}

/// What a turn works on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Egress<'a> {
    pub(super) queue: &'a File,
    pub(super) socket: &'a OwnedFd,
    pub(super) table: &'a Table,
    /// Where ICMP answers go out.
    pub(super) answers: &'a Answers,
    /// Their source.
    pub(super) address: Ipv4Addr,
    /// Whether peers are to know us for kin, see [`Output::send`].
    pub(super) is_kin: bool,
    pub(super) counters: &'a Live,
}

/// A packet that waits in the arena.
#[derive(Debug, Clone, Copy, Default)]
struct Waiting {
    start: usize,
    len: usize,
    peer: u32,
}

/// Space, and what is remembered from packet to packet.
pub(super) struct Buffers {
    arena: Box<[u8]>,
    used: usize,
    waiting: [Waiting; SENT],
    count: usize,
    headers: Box<[Headers; SEGMENTS]>,
    output: Output,
    found: Found,
}

/// The socket's side.
struct Output {
    sender: Sender,
    /// Peers, by index in the table, that datagrams are sent to one by one since the kernel did
    /// not take an aggregate: their path has a smaller MTU, or a device without checksums.
    one_by_one: Vec<bool>,
    /// Whether the socket fills UDP checksums in.
    has_checksums: bool,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            arena: vec![0; ARENA].into_boxed_slice(),
            used: 0,
            waiting: [Waiting::default(); SENT],
            count: 0,
            headers: Box::new([[0; MAX_HEADERS]; SEGMENTS]),
            output: Output {
                sender: Sender::new(),
                one_by_one: Vec::new(),
                has_checksums: true,
            },
            found: Found::NOTHING,
        }
    }

    /// Forgets what was remembered of the table before this one.
    pub(super) fn use_table(&mut self, table: &Table) {
        self.found = Found::NOTHING;
        self.output.one_by_one.clear();
        self.output.one_by_one.resize(table.len(), false);
    }

    /// Sends what the device has, up to a limit.
    pub(super) fn turn(&mut self, egress: Egress<'_>) -> Turn {
        let mut turn = Turn::More;
        for _ in 0..READS {
            if self.count == SENT || ARENA - self.used < MAX_READ {
                self.flush(egress);
            }
            let space = &mut self.arena[self.used..];
            let mut queue = egress.queue;
            match queue.read(space) {
                Ok(length) => {
                    if let Err(reason) = self.take(egress, length) {
                        egress.counters.reject(reason, 1);
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => {
                        turn = Turn::Drained;
                        break;
                    }
                    _ => {
                        turn = Turn::Gone;
                        break;
                    }
                },
            }
        }
        self.flush(egress);
        turn
    }

    /// Takes what has been read behind that which waits.
    fn take(&mut self, egress: Egress<'_>, length: usize) -> Result<(), Reject> {
        let read = self.used..self.used + length;
        let (vnet, packet) = VnetHeader::split(&mut self.arena[read.clone()])?;
        let (ip, _) = packet::ipv4(packet)?;
        let kind = vnet.kind()?;
        let destination = u32::from_be_bytes(ip.destination);
        if !self.found.holds_for(destination) {
            self.found = egress.table.find(destination);
        }
        let Some(peer) = self.found.peer else {
            refuse(egress, packet, kind);
            return Ok(());
        };
        packet::hop(packet)?;
        if kind == Kind::Single {
            vnet.complete_checksum(packet)?;
            self.waiting[self.count] = Waiting {
                start: read.start + VnetHeader::LEN,
                len: packet.len(),
                peer,
            };
            self.count += 1;
            self.used = read.end;
            return Ok(());
        }
        // What came before goes before.
        self.flush_waiting(egress);
        let packet = &self.arena[read.start + VnetHeader::LEN..read.end];
        let segments = Segments::new(packet, kind)?;
        self.used = 0;
        self.output
            .send_segments(egress, segments, peer, &mut self.headers);
        Ok(())
    }

    /// Sends what waits.
    fn flush(&mut self, egress: Egress<'_>) {
        self.flush_waiting(egress);
        self.used = 0;
    }

    fn flush_waiting(&mut self, egress: Egress<'_>) {
        let waiting = &self.waiting[..self.count];
        self.count = 0;
        if waiting.is_empty() {
            return;
        }
        let mut parts = [IoSlice::new(&[]); SENT];
        for (part, packet) in parts.iter_mut().zip(waiting) {
            *part = IoSlice::new(&self.arena[packet.start..packet.start + packet.len]);
        }
        let mut batch = Batch::new(egress, 1);
        let mut start = 0;
        while let Some(first) = waiting.get(start) {
            let Some(to) = egress.table.peer(first.peer) else {
                break;
            };
            let count = if egress.is_kin || self.output.is_one_by_one(first.peer) {
                1
            } else {
                same_message(&waiting[start..])
            };
            let segment = if count > 1 { first.len } else { 0 };
            batch.push(to, first.peer, &parts[start..start + count], segment);
            start += count;
        }
        self.output.send(&batch);
    }
}

/// How many packets from the first on can be datagrams of one message: those to the same peer, all
/// of one length but the last, which may be shorter.
fn same_message(waiting: &[Waiting]) -> usize {
    let Some((first, rest)) = waiting.split_first() else {
        return 0;
    };
    let mut count = 1;
    for next in rest {
        let fits = count < DATAGRAMS && (count + 1) * first.len <= MAX_MESSAGE;
        if !fits || next.peer != first.peer || next.len > first.len {
            break;
        }
        count += 1;
        if next.len < first.len {
            break;
        }
    }
    count
}

/// Says that there is nobody to send it to, unless that must not be said.
fn refuse(egress: Egress<'_>, packet: &mut [u8], kind: Kind) {
    let counters = egress.counters;
    let mut count = 1;
    if kind != Kind::Single
        && let Ok(segments) = Segments::new(packet, kind)
    {
        // One answer for all, to what would have been the first on the wire.
        count = segments.remaining();
        let length = segments.segment_len() as u16;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        let ip_len = usize::from(packet[0] & 0xf) * 4;
        packet::write_ip_checksum(&mut packet[..ip_len]);
    }
    counters.no_peer.add(count);
    let mut space = [0; icmp::MAX_LEN];
    let Some(length) = icmp::net_unreachable(packet, egress.address, &mut space) else {
        return;
    };
    // The answer's destination, as it stands in the answer.
    let to = Ipv4Addr::new(space[16], space[17], space[18], space[19]);
    if egress.answers.send(&space[..length], to) {
        counters.icmp_sent.add(1);
    }
}

/// Messages that one call sends.
struct Batch<'a> {
    egress: Egress<'a>,
    messages: [Message<'a>; SENT],
    peers: [u32; SENT],
    count: usize,
    /// Parts that each datagram consists of.
    parts_each: usize,
}

impl<'a> Batch<'a> {
    fn new(egress: Egress<'a>, parts_each: usize) -> Self {
        let nothing = Message {
            to: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
            parts: &[],
            segment: 0,
        };
        Self {
            egress,
            messages: [nothing; SENT],
            peers: [0; SENT],
            count: 0,
            parts_each,
        }
    }

    fn push(&mut self, to: SocketAddrV4, peer: u32, parts: &'a [IoSlice<'a>], segment: usize) {
        self.messages[self.count] = Message {
            to,
            parts,
            // Datagrams are no longer than packets.
            segment: segment as u16,
        };
        self.peers[self.count] = peer;
        self.count += 1;
    }

    fn packets(&self, message: &Message<'_>) -> usize {
        message.parts.len() / self.parts_each
    }
}

impl Output {
    fn is_one_by_one(&self, peer: u32) -> bool {
        let index = usize::try_from(peer).ok();
        index.is_some_and(|index| self.one_by_one.get(index).copied().unwrap_or(true))
    }

    fn send_segments(
        &mut self,
        egress: Egress<'_>,
        mut segments: Segments<'_>,
        peer: u32,
        headers: &mut [Headers; SEGMENTS],
    ) {
        let Some(to) = egress.table.peer(peer) else {
            return;
        };
        let segment_len = segments.segment_len();
        let per_message = (MAX_MESSAGE / segment_len).min(DATAGRAMS);
        let is_one_by_one = self.is_one_by_one(peer);
        while segments.remaining() > 0 {
            let first = segments.number();
            let count = segments.remaining().min(SEGMENTS);
            for space in &mut headers[..count] {
                segments.write_headers(space);
            }
            let mut parts = [IoSlice::new(&[]); 2 * SEGMENTS];
            let (pairs, _) = parts.as_chunks_mut::<2>();
            for ((pair, space), number) in pairs.iter_mut().zip(&headers[..count]).zip(first..) {
                *pair = [
                    IoSlice::new(&space[..segments.headers_len()]),
                    IoSlice::new(segments.payload(number)),
                ];
            }
            let parts = &parts[..2 * count];
            let mut batch = Batch::new(egress, 2);
            if is_one_by_one {
                for datagram in parts.chunks(2) {
                    batch.push(to, peer, datagram, 0);
                }
            } else {
                for message in parts.chunks(2 * per_message) {
                    let segment = if message.len() > 2 { segment_len } else { 0 };
                    batch.push(to, peer, message, segment);
                }
            }
            self.send(&batch);
        }
    }

    /// Sends a batch.
    ///
    /// Kin know each other by datagrams without UDP checksum (`abi::Remote::is_kin`). The kernel
    /// does not cut a message into such (`EINVAL`), so they are those that go alone: for kin, all but
    /// what came as an aggregate.
    fn send(&mut self, batch: &Batch<'_>) {
        let Egress {
            socket, counters, ..
        } = batch.egress;
        let mut start = 0;
        while start < batch.count {
            let messages = &batch.messages[start..batch.count];
            let messages = self.set_checksums(batch.egress, messages);
            match self.sender.send(socket, messages) {
                Ok(sent) => {
                    for message in &messages[..sent] {
                        counters.sent_packets.add(batch.packets(message));
                        let bytes: usize = message.parts.iter().map(|part| part.len()).sum();
                        counters.sent_bytes.add(bytes);
                    }
                    start += sent;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let message = &messages[0];
                    if message.segment != 0 && error.kind() != ErrorKind::WouldBlock {
                        self.send_one_by_one(batch, start);
                    } else {
                        counters.send_failed.add(batch.packets(message));
                    }
                    start += 1;
                }
            }
        }
    }

    /// Prepares the socket for the first of these messages, and gives those that it is right for.
    fn set_checksums<'m, 'a>(
        &mut self,
        egress: Egress<'_>,
        messages: &'m [Message<'a>],
    ) -> &'m [Message<'a>] {
        let needs = |message: &Message<'_>| !egress.is_kin || message.segment != 0;
        let needs_first = messages.first().is_none_or(needs);
        if self.has_checksums != needs_first
            && sys::set_checksums(egress.socket, needs_first).is_ok()
        {
            self.has_checksums = needs_first;
        }
        let count = messages.iter().take_while(|it| needs(it) == needs_first);
        &messages[..count.count()]
    }

    /// Sends what the kernel does not take as an aggregate.
    fn send_one_by_one(&mut self, batch: &Batch<'_>, place: usize) {
        let Message { to, parts, .. } = batch.messages[place];
        let peer = batch.peers[place];
        if let Ok(index) = usize::try_from(peer)
            && let Some(is_one_by_one) = self.one_by_one.get_mut(index)
        {
            *is_one_by_one = true;
        }
        let mut single = Batch::new(batch.egress, batch.parts_each);
        for datagram in parts.chunks(batch.parts_each) {
            single.push(to, peer, datagram, 0);
        }
        // No message of it is an aggregate, so this does not come here again.
        self.send(&single);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_one_length_to_one_peer_are_one_message() {
        let count = |packets: &[(usize, u32)]| {
            let waiting: Vec<_> = packets
                .iter()
                .map(|&(len, peer)| Waiting {
                    start: 0,
                    len,
                    peer,
                })
                .collect();
            same_message(&waiting)
        };
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[(60, 1)]), 1);
        assert_eq!(count(&[(60, 1), (60, 1), (60, 2)]), 2);
        assert_eq!(count(&[(60, 1), (61, 1)]), 1);
        // A shorter one is the last.
        assert_eq!(count(&[(60, 1), (60, 1), (40, 1), (40, 1)]), 3);
        assert_eq!(count(&[(60, 1); 70]), 64);
        // 65507 bytes are 44 of these.
        assert_eq!(count(&[(1472, 1); 60]), 44);
        assert_eq!(count(&[(65_000, 1); 2]), 1);
    }
}
