//! Cuts what the kernel hands over in one piece into the packets that belong on the wire, as a NIC
//! with segmentation offload does (`tcp_gso_segment` and `__udp_gso_segment` in the kernel).
//!
//! Payload is not copied: a segment is a header of its own and a part of the one payload.

use flannel_ebpf::wire::Ipv4;

use super::checksum::{checksum, pseudo_header, sum};
use super::packet::{self, MAX_IP_HEADER, MAX_TCP_HEADER, Reject};
use super::vnet::{Kind, TCP_CHECKSUM, UDP_CHECKSUM};

/// Longest headers of a segment, bytes.
pub(super) const MAX_HEADERS: usize = MAX_IP_HEADER + MAX_TCP_HEADER;

/// Flags in octet 13 of a TCP header (RFC 9293 section 3.1).
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;

/// Space for the headers of one segment.
pub(super) type Headers = [u8; MAX_HEADERS];

/// Segments of one packet, in order.
#[derive(Debug)]
pub(super) struct Segments<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    /// Payload of all but the last segment, bytes.
    size: usize,
    ip: Ipv4,
    ip_len: usize,
    is_tcp: bool,
    /// Number of the next segment.
    number: usize,
}

impl<'a> Segments<'a> {
    /// The segments of `packet`, whose hop count is already that of the segments.
    pub(super) fn new(packet: &'a [u8], kind: Kind) -> Result<Self, Reject> {
        let (ip, ip_len) = packet::ipv4(packet)?;
        let transport = &packet[ip_len..];
        let (size, transport_len, is_tcp) = match kind {
            Kind::Tcp(size) => {
                let offset = transport.get(12).ok_or(Reject::Malformed)? >> 4;
                (size, usize::from(offset) * 4, true)
            }
            Kind::Udp(size) => (size, UDP_HEADER, false),
            Kind::Single => return Err(Reject::Malformed),
        };
        if is_tcp && transport_len < TCP_HEADER || transport_len >= transport.len() {
            return Err(Reject::Malformed);
        }
        let (headers, payload) = packet.split_at(ip_len + transport_len);
        Ok(Self {
            headers,
            payload,
            size: size.into(),
            ip: *ip,
            ip_len,
            is_tcp,
            number: 0,
        })
    }

    /// Length of all segments but the last, bytes.
    pub(super) fn segment_len(&self) -> usize {
        self.headers.len() + self.size.min(self.payload.len())
    }

    /// Number of segments to come.
    pub(super) fn remaining(&self) -> usize {
        self.payload.len().div_ceil(self.size) - self.number
    }

    /// The payload of segment `number`.
    pub(super) fn payload(&self, number: usize) -> &'a [u8] {
        let start = number * self.size;
        &self.payload[start..self.payload.len().min(start + self.size)]
    }

    /// Number of the next segment.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Length of the headers of each segment, bytes.
    pub(super) fn headers_len(&self) -> usize {
        self.headers.len()
    }

    /// Writes the headers of the next segment.
    pub(super) fn write_headers(&mut self, space: &mut Headers) {
        let payload = self.payload(self.number);
        let is_last = self.remaining() == 1;
        let headers = &mut space[..self.headers.len()];
        headers.copy_from_slice(self.headers);
        let (ip, transport) = headers.split_at_mut(self.ip_len);
        // The whole packet is no longer than 65535, so no part of it is; and the identification
        // counts on modulo 2¹⁶.
        let transport_len = (transport.len() + payload.len()) as u16;
        let total_len = self.ip_len as u16 + transport_len;
        let id = u16::from_be_bytes(self.ip.id).wrapping_add(self.number as u16);
        ip[2..4].copy_from_slice(&total_len.to_be_bytes());
        ip[4..6].copy_from_slice(&id.to_be_bytes());
        packet::write_ip_checksum(ip);

        let field = if self.is_tcp {
            let place = (self.number * self.size) as u32;
            let sequence =
                u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
            transport[4..8].copy_from_slice(&sequence.wrapping_add(place).to_be_bytes());
            if !is_last {
                transport[13] &= !(FIN | PSH);
            }
            if self.number > 0 {
                transport[13] &= !CWR;
            }
            TCP_CHECKSUM
        } else {
            transport[4..6].copy_from_slice(&transport_len.to_be_bytes());
            UDP_CHECKSUM
        };
        transport[field..field + 2].fill(0);
        let pseudo = pseudo_header(
            self.ip.source,
            self.ip.destination,
            self.ip.protocol,
            transport_len,
        );
        let value = match checksum(pseudo + sum(transport) + sum(payload)) {
            // "None" to UDP; the same number to TCP.
            [0, 0] => [0xff, 0xff],
            value => value,
        };
        transport[field..field + 2].copy_from_slice(&value);
        self.number += 1;
    }
}
