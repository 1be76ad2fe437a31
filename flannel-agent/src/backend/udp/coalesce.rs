//! Puts segments that follow each other back together, so that the stack is crossed once for many
//! packets, as GRO does behind a NIC (`tcp_gro_receive` in the kernel).
//!
//! Only what the kernel would cut into the very same packets again is put together: equal headers,
//! consecutive sequence numbers, equal sizes but for the last one, and checksums that are right,
//! since the kernel takes the aggregate's for granted. Everything else is passed on as it is, and
//! packets of a flow keep their order. Flows may overtake each other, as behind a NIC.

use std::io::IoSlice;

use flannel_ebpf::wire::{Ipv4, PROTOCOL_TCP, PROTOCOL_UDP};

use super::checksum::{fold, pseudo_header, sum};
use super::packet::{self, Flow, is_intact};
use super::segment::MAX_HEADERS;
use super::vnet::{Kind, TCP_CHECKSUM, UDP_CHECKSUM, VnetHeader};

/// Flows that are put together at a time; with more, the one that waits longest is passed on.
const FLOWS: usize = 8;
/// Segments of an aggregate: `UDP_MAX_SEGMENTS` before Linux 6.9, and more than fit at MTU 1500.
const SEGMENTS: usize = 64;
/// Longest IPv4 packet.
const MAX_PACKET: usize = 65_535;

/// TCP flags in octet 13 of the header.
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
/// "Don't fragment" in the first octet of flags and fragment offset.
const DONT_FRAGMENT: u8 = 0x40;

/// One write to the device.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    /// Virtio header, packet headers and payload, in as many parts as it takes.
    pub(super) parts: &'a [IoSlice<'a>],
    /// Packets in it.
    pub(super) packets: usize,
    /// Their bytes, each with its own headers.
    pub(super) bytes: usize,
}

/// Whether datagrams are put together, too, which the kernel must know to take apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Datagrams {
    /// Linux 6.2 and later.
    Coalesce,
    /// One by one.
    Pass,
}

/// Packets on their way to the device; borrows the buffers they were received into.
#[derive(Debug)]
pub(super) struct Coalescer<'a> {
    runs: [Option<Run<'a>>; FLOWS],
    /// The place that is cleared next when all are taken.
    oldest: usize,
    datagrams: Datagrams,
}

impl<'a> Coalescer<'a> {
    pub(super) fn new(datagrams: Datagrams) -> Self {
        Self {
            runs: [const { None }; FLOWS],
            oldest: 0,
            datagrams,
        }
    }

    /// Gives what must not be overtaken by this packet to `write`.
    pub(super) fn give_way(&mut self, packet: &[u8], write: &mut impl FnMut(Piece<'_>)) {
        if let Ok((ip, ip_len)) = packet::ipv4(packet) {
            let flow = Flow::of(ip, &packet[ip_len..]);
            self.flush(|run| run.flow.is_related(&flow), write);
        }
    }

    /// Takes the next packet, and gives what cannot wait to `write`.
    pub(super) fn push(&mut self, packet: &'a [u8], write: &mut impl FnMut(Piece<'_>)) {
        let Ok((ip, ip_len)) = packet::ipv4(packet) else {
            return;
        };
        let rest = &packet[ip_len..];
        let flow = Flow::of(ip, rest);
        let Some(segment) = Segment::of(ip, packet, self.datagrams) else {
            self.flush(|run| run.flow.is_related(&flow), write);
            write_single(packet, write);
            return;
        };
        let found = self.runs.iter_mut().find(|run| is_of(run, &flow));
        if let Some(slot) = found {
            let outcome = slot.as_mut().map(|run| run.append(&segment));
            match outcome {
                Some(Appended::Open) => return,
                Some(Appended::Complete) => {
                    write_taken(slot, write);
                    return;
                }
                Some(Appended::Refused) | None => write_taken(slot, write),
            }
        }
        if segment.ends_run {
            write_single(packet, write);
            return;
        }
        let run = Run::start(flow, segment);
        if let Some(slot) = self.runs.iter_mut().find(|run| run.is_none()) {
            *slot = Some(run);
        } else {
            let slot = &mut self.runs[self.oldest];
            self.oldest = (self.oldest + 1) % FLOWS;
            write_taken(slot, write);
            *slot = Some(run);
        }
    }

    /// Gives everything that waits to `write`.
    pub(super) fn finish(mut self, write: &mut impl FnMut(Piece<'_>)) {
        self.flush(|_| true, write);
    }

    fn flush(&mut self, is_due: impl Fn(&Run<'_>) -> bool, write: &mut impl FnMut(Piece<'_>)) {
        for slot in &mut self.runs {
            if slot.as_ref().is_some_and(&is_due) {
                write_taken(slot, write);
            }
        }
    }
}

fn is_of(run: &Option<Run<'_>>, flow: &Flow) -> bool {
    run.as_ref().is_some_and(|run| run.flow == *flow)
}

fn write_taken(slot: &mut Option<Run<'_>>, write: &mut impl FnMut(Piece<'_>)) {
    if let Some(run) = slot {
        run.write(write);
    }
    *slot = None;
}

fn write_single(packet: &[u8], write: &mut impl FnMut(Piece<'_>)) {
    let header = VnetHeader::default();
    let parts = [
        IoSlice::new(bytemuck::bytes_of(&header)),
        IoSlice::new(packet),
    ];
    write(Piece {
        parts: &parts,
        packets: 1,
        bytes: packet.len(),
    });
}

/// A packet that may be part of an aggregate.
#[derive(Debug)]
struct Segment<'a> {
    packet: &'a [u8],
    ip: &'a Ipv4,
    /// Length of IP and transport header, bytes.
    headers_len: usize,
    is_tcp: bool,
    /// Whether nothing may follow it in an aggregate.
    ends_run: bool,
}

impl<'a> Segment<'a> {
    fn of(ip: &'a Ipv4, packet: &'a [u8], datagrams: Datagrams) -> Option<Self> {
        let is_plain = ip.version_ihl == Ipv4::VERSION_IHL
            && !ip.is_fragment()
            && usize::from(u16::from_be_bytes(ip.total_len)) == packet.len();
        if !is_plain {
            return None;
        }
        let transport = &packet[Ipv4::LEN..];
        let (transport_len, is_tcp, ends_run) = match ip.protocol {
            PROTOCOL_TCP => {
                let (&offset, &flags) = (transport.get(12)?, transport.get(13)?);
                let is_known = flags & !(PSH | ECE) == ACK && offset & 0xf == 0;
                let length = usize::from(offset >> 4) * 4;
                (is_known && length >= 20).then_some((length, true, flags & PSH != 0))?
            }
            PROTOCOL_UDP if datagrams == Datagrams::Coalesce => {
                let length = u16::from_be_bytes([*transport.get(4)?, *transport.get(5)?]);
                // Without a checksum the kernel could not cut it into the same again.
                let has_checksum = transport.get(6..8)? != [0, 0];
                let is_whole = usize::from(length) == transport.len();
                (is_whole && has_checksum).then_some((8, false, false))?
            }
            _ => return None,
        };
        let headers_len = Ipv4::LEN + transport_len;
        (headers_len < packet.len()).then_some(Self {
            packet,
            ip,
            headers_len,
            is_tcp,
            ends_run,
        })
    }

    fn transport(&self) -> &'a [u8] {
        &self.packet[Ipv4::LEN..self.headers_len]
    }

    fn payload(&self) -> &'a [u8] {
        &self.packet[self.headers_len..]
    }

    fn sequence(&self) -> u32 {
        let transport = self.transport();
        u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]])
    }

    fn is_intact(&self) -> bool {
        let (header, rest) = self.packet.split_at(Ipv4::LEN);
        fold(sum(header)) == 0xffff && is_intact(self.ip, rest)
    }
}

/// Segments of one flow that follow each other.
#[derive(Debug)]
struct Run<'a> {
    flow: Flow,
    first: Segment<'a>,
    is_first_intact: bool,
    /// Payload of every segment.
    payloads: [IoSlice<'a>; SEGMENTS],
    count: usize,
    /// Sum of the payloads, bytes.
    payload_len: usize,
    has_push: bool,
}

/// What became of a segment that was to be appended.
enum Appended {
    /// It is part of the run, which goes on.
    Open,
    /// It is part of the run and its end.
    Complete,
    /// It does not belong to it.
    Refused,
}

impl<'a> Run<'a> {
    fn start(flow: Flow, first: Segment<'a>) -> Self {
        let mut payloads = [IoSlice::new(&[]); SEGMENTS];
        payloads[0] = IoSlice::new(first.payload());
        Self {
            flow,
            is_first_intact: false,
            payloads,
            count: 1,
            payload_len: first.payload().len(),
            has_push: false,
            first,
        }
    }

    fn append(&mut self, next: &Segment<'a>) -> Appended {
        let size = self.first.payload().len();
        let length = next.payload().len();
        let fits =
            length <= size && self.first.headers_len + self.payload_len + length <= MAX_PACKET;
        if !fits || !self.continues(next) {
            return Appended::Refused;
        }
        self.is_first_intact = self.is_first_intact || self.first.is_intact();
        if !self.is_first_intact || !next.is_intact() {
            return Appended::Refused;
        }
        self.payloads[self.count] = IoSlice::new(next.payload());
        self.count += 1;
        self.payload_len += length;
        self.has_push = next.ends_run;
        if next.ends_run || length < size || self.count == SEGMENTS {
            Appended::Complete
        } else {
            Appended::Open
        }
    }

    /// Whether the aggregate, when cut, gives `next` the headers that it has.
    fn continues(&self, next: &Segment<'_>) -> bool {
        let first = &self.first;
        let (a, b) = (first.ip, next.ip);
        // Identifications count up; of a packet that must not be fragmented nobody may care for it
        // (RFC 6864 section 4.1).
        let id = u16::from_be_bytes(a.id).wrapping_add(self.count as u16);
        let is_atomic = a.fragment[0] & DONT_FRAGMENT != 0;
        let has_same_ip = a.tos == b.tos
            && a.ttl == b.ttl
            && a.fragment == b.fragment
            && (is_atomic || u16::from_be_bytes(b.id) == id);
        if !has_same_ip || first.headers_len != next.headers_len {
            return false;
        }
        if !first.is_tcp {
            return true;
        }
        let (a, b) = (first.transport(), next.transport());
        let sequence = first.sequence().wrapping_add(self.payload_len as u32);
        next.sequence() == sequence
            // Acknowledgement and offset; flags; window; urgent pointer and options.
            && a[8..13] == b[8..13]
            && a[13] | PSH == b[13] | PSH
            && a[14..16] == b[14..16]
            && a[18..] == b[18..]
    }

    fn write(&self, write: &mut impl FnMut(Piece<'_>)) {
        let Self {
            first,
            payloads,
            count,
            payload_len,
            ..
        } = self;
        if *count == 1 {
            write_single(first.packet, write);
            return;
        }
        let headers_len = first.headers_len;
        let mut space = [0; VnetHeader::LEN + MAX_HEADERS];
        let head = &mut space[..VnetHeader::LEN + headers_len];
        let (vnet, headers) = head.split_at_mut(VnetHeader::LEN);
        self.write_headers(vnet, headers);
        let mut parts = [IoSlice::new(&[]); 1 + SEGMENTS];
        parts[0] = IoSlice::new(head);
        parts[1..=*count].copy_from_slice(&payloads[..*count]);
        write(Piece {
            parts: &parts[..=*count],
            packets: *count,
            bytes: payload_len + count * headers_len,
        });
    }

    fn write_headers(&self, vnet: &mut [u8], headers: &mut [u8]) {
        let first = &self.first;
        // Segments and sums of them are limited to 65535 above.
        let size = first.payload().len() as u16;
        let total_len = (headers.len() + self.payload_len) as u16;
        let transport_len = total_len - Ipv4::LEN as u16;
        headers.copy_from_slice(&first.packet[..headers.len()]);
        let (ip, transport) = headers.split_at_mut(Ipv4::LEN);
        ip[2..4].copy_from_slice(&total_len.to_be_bytes());
        packet::write_ip_checksum(ip);
        let (kind, field) = if first.is_tcp {
            // The kernel gives it to the last segment.
            transport[13] |= if self.has_push { PSH } else { 0 };
            (Kind::Tcp(size), TCP_CHECKSUM)
        } else {
            transport[4..6].copy_from_slice(&transport_len.to_be_bytes());
            (Kind::Udp(size), UDP_CHECKSUM)
        };
        // The sum of the pseudo-header, to be completed by whoever cuts it or checks it.
        let [source, destination] = self.flow.addresses;
        let pseudo = pseudo_header(source, destination, self.flow.protocol, transport_len);
        transport[field..field + 2].copy_from_slice(&fold(pseudo).to_ne_bytes());
        let header = VnetHeader::of_aggregate(kind, Ipv4::LEN as u16, first.headers_len as u16);
        vnet.copy_from_slice(bytemuck::bytes_of(&header));
    }
}

#[cfg(test)]
mod tests;
