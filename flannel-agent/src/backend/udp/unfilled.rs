//! Packets whose checksum nobody has filled in.
//!
//! A socket leaves the checksum to the device, and a virtual device leaves it at that: the kernel at
//! the other end is told and takes the packet as it is. So a packet between two pods may come here
//! with nothing but the sum of its pseudo-header in the checksum's place, if a peer's programs have
//! put it into a datagram and ours have not taken it out. The peer's kernel may even have left the
//! cutting to a device: then it is an aggregate, longer than any packet on the wire.
//!
//! It shows by that sum. A packet whose finished checksum happens to be the same number, one of
//! 65 535, loses nothing: finishing it again gives this number again.

use std::io::IoSlice;

use flannel_ebpf::wire::{PROTOCOL_TCP, PROTOCOL_UDP};

use super::checksum::{fold, pseudo_header};
use super::coalesce::Piece;
use super::packet;
use super::segment::{Headers, MAX_HEADERS, Segments};
use super::vnet::{Kind, TCP_CHECKSUM, UDP_CHECKSUM, VnetHeader};

/// Such a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfilled {
    /// What it is to be cut into.
    kind: Kind,
    /// Length of its IP header, bytes.
    ip_len: u16,
    /// Offset of the checksum in its transport header.
    field: usize,
}

impl Unfilled {
    /// The packet as one, if it is. `segment` is the payload of each datagram of an aggregate, which
    /// the kernel tells of; of TCP it does not, where any size will do that `mtu` allows, bytes.
    pub(super) fn of(packet: &[u8], segment: Option<usize>, mtu: usize) -> Option<Self> {
        let (ip, ip_len) = packet::ipv4(packet).ok()?;
        if ip.is_fragment() || usize::from(u16::from_be_bytes(ip.total_len)) != packet.len() {
            return None;
        }
        let transport = &packet[ip_len..];
        let (field, len) = match ip.protocol {
            PROTOCOL_TCP => (TCP_CHECKSUM, usize::from(transport.get(12)? >> 4) * 4),
            PROTOCOL_UDP => (UDP_CHECKSUM, 8),
            _ => return None,
        };
        let found = *transport.get(field..)?.first_chunk::<2>()?;
        let is_none = ip.protocol == PROTOCOL_UDP && found == [0; 2];
        // Both are limited by the packet's own length field.
        let transport_len = transport.len() as u16;
        let pseudo = pseudo_header(ip.source, ip.destination, ip.protocol, transport_len);
        // Equal but for the two ways to write zero.
        let is_pseudo = fold(pseudo + u64::from(!u16::from_ne_bytes(found))) == 0xffff;
        if is_none || !is_pseudo {
            return None;
        }
        let size = if ip.protocol == PROTOCOL_UDP {
            segment
        } else {
            mtu.checked_sub(ip_len + len)
        };
        let payload = transport.len().checked_sub(len)?;
        let size = size.filter(|size| (1..payload).contains(size));
        let kind = match size.and_then(|size| u16::try_from(size).ok()) {
            None => Kind::Single,
            Some(size) if ip.protocol == PROTOCOL_UDP => Kind::Udp(size),
            Some(size) => Kind::Tcp(size),
        };
        Some(Self {
            kind,
            ip_len: ip_len as u16,
            field,
        })
    }

    /// Gives the packet to `write` as something that the kernel understands: with the note that the
    /// checksum is missing, or cut, each piece with a checksum of its own.
    pub(super) fn write(self, packet: &[u8], write: &mut impl FnMut(Piece<'_>)) {
        let Self {
            kind,
            ip_len,
            field,
        } = self;
        if kind == Kind::Single {
            let header = VnetHeader::of_partial(ip_len, field);
            write_one(&header, packet, &[], write);
            return;
        }
        let Ok(mut segments) = Segments::new(packet, kind) else {
            return;
        };
        let mut space: Headers = [0; MAX_HEADERS];
        while segments.remaining() > 0 {
            let payload = segments.payload(segments.number());
            segments.write_headers(&mut space);
            let headers = &space[..segments.headers_len()];
            write_one(&VnetHeader::default(), headers, payload, write);
        }
    }
}

fn write_one(header: &VnetHeader, first: &[u8], rest: &[u8], write: &mut impl FnMut(Piece<'_>)) {
    let parts = [bytemuck::bytes_of(header), first, rest].map(IoSlice::new);
    write(Piece {
        parts: &parts,
        packets: 1,
        bytes: first.len() + rest.len(),
    });
}

#[cfg(test)]
mod tests;
