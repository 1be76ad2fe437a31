//! The header that the kernel puts before each packet of a TUN device with `IFF_VNET_HDR`: what it
//! leaves for the reader to do, or what the writer leaves to it.
//!
//! It is the header of virtio 0.9 (`struct virtio_net_hdr`, `include/uapi/linux/virtio_net.h`), in
//! the host's byte order.

use bytemuck::{Pod, Zeroable};

use super::checksum::{fold, sum};
use super::packet::Reject;

/// The checksum is the sum of the pseudo-header so far (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
const NEEDS_CSUM: u8 = 1;
/// TCP over IPv4, to be cut at `gso_size` (`VIRTIO_NET_HDR_GSO_TCPV4`).
const GSO_TCPV4: u8 = 1;
/// UDP, to be cut into datagrams (`VIRTIO_NET_HDR_GSO_UDP_L4`).
const GSO_UDP_L4: u8 = 5;
/// TCP with CWR set, which is of the first segment alone (`VIRTIO_NET_HDR_GSO_ECN`).
const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr`, 10 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct VnetHeader {
    flags: u8,
    gso_type: u8,
    header_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

/// What a packet from the device consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One packet.
    Single,
    /// Segments of a TCP stream, each with this many bytes of payload.
    Tcp(u16),
    /// UDP datagrams, each with this many bytes of payload.
    Udp(u16),
}

impl VnetHeader {
    /// Bytes of the header.
    pub(super) const LEN: usize = size_of::<Self>();

    /// Parts the header from the packet behind it.
    pub(super) fn split(bytes: &mut [u8]) -> Result<(Self, &mut [u8]), Reject> {
        let (header, packet) = bytes
            .split_at_mut_checked(Self::LEN)
            .ok_or(Reject::TooShort)?;
        Ok((bytemuck::pod_read_unaligned(header), packet))
    }

    pub(super) fn kind(&self) -> Result<Kind, Reject> {
        match (self.gso_type & !GSO_ECN, self.gso_size) {
            (0, _) => Ok(Kind::Single),
            (GSO_TCPV4, size @ 1..) => Ok(Kind::Tcp(size)),
            (GSO_UDP_L4, size @ 1..) => Ok(Kind::Udp(size)),
            // Nothing else was offered to the kernel.
            _ => Err(Reject::Malformed),
        }
    }

    /// For a packet that the kernel is to cut again where it has to: `ip_len` and `header_len` are
    /// of the IP header and of all headers, bytes.
    pub(super) fn of_aggregate(kind: Kind, ip_len: u16, header_len: u16) -> Self {
        let (gso_type, gso_size, csum_offset) = match kind {
            Kind::Single => return Self::default(),
            Kind::Tcp(size) => (GSO_TCPV4, size, TCP_CHECKSUM),
            Kind::Udp(size) => (GSO_UDP_L4, size, UDP_CHECKSUM),
        };
        Self {
            flags: NEEDS_CSUM,
            gso_type,
            header_len,
            gso_size,
            csum_start: ip_len,
            csum_offset: csum_offset as u16,
        }
    }

    /// For a packet whose checksum is still the sum of its pseudo-header: `ip_len` is the length of
    /// its IP header, `field` the offset of the checksum behind that, bytes.
    pub(super) fn of_partial(ip_len: u16, field: usize) -> Self {
        Self {
            flags: NEEDS_CSUM,
            csum_start: ip_len,
            csum_offset: field as u16,
            ..Self::default()
        }
    }

    /// Finishes the checksum of a single packet, where the kernel has left that to the device.
    pub(super) fn complete_checksum(&self, packet: &mut [u8]) -> Result<(), Reject> {
        if self.flags & NEEDS_CSUM == 0 {
            return Ok(());
        }
        let start = usize::from(self.csum_start);
        let rest = packet.get_mut(start..).ok_or(Reject::Malformed)?;
        // With the pseudo-header's sum in the field that it goes to.
        let value = match !fold(sum(rest)) {
            // Zero would mean "no checksum" to UDP, and is the same number to all others.
            0 => 0xffff,
            value => value,
        };
        let field = usize::from(self.csum_offset);
        let field = rest.get_mut(field..field + 2).ok_or(Reject::Malformed)?;
        field.copy_from_slice(&value.to_ne_bytes());
        Ok(())
    }
}

/// Offset of the checksum in a TCP header.
pub(super) const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header.
pub(super) const UDP_CHECKSUM: usize = 6;

#[cfg(test)]
mod tests {
    use super::super::checksum::pseudo_header;
    use super::super::packet::{ipv4, is_intact, write_ip_checksum};
    use super::*;

    fn udp(payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![
            0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 5, 1, 2, 10, 5, 2, 3,
        ];
        packet.extend([0x10, 0, 0, 9, 0, 8 + payload.len() as u8, 0, 0]);
        packet.extend(payload);
        packet[3] = packet.len() as u8;
        write_ip_checksum(&mut packet);
        let len = (packet.len() - 20) as u16;
        let pseudo = fold(pseudo_header([10, 5, 1, 2], [10, 5, 2, 3], 17, len));
        packet[26..28].copy_from_slice(&pseudo.to_ne_bytes());
        packet
    }

    fn partial() -> VnetHeader {
        VnetHeader {
            flags: NEEDS_CSUM,
            csum_start: 20,
            csum_offset: 6,
            ..VnetHeader::default()
        }
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        for length in 0..9 {
            let mut packet = udp(&vec![0xa5; length]);
            partial().complete_checksum(&mut packet).unwrap();
            let (ip, _) = ipv4(&packet).unwrap();
            assert!(is_intact(ip, &packet[20..]), "{length}");
        }
    }

    #[test]
    fn a_sum_of_ones_is_not_written_as_no_checksum() {
        let mut packet = udp(&[0, 0]);
        // What is missing to a checksum of zero goes into the payload.
        let missing = !fold(sum(&packet[20..]));
        packet[28..30].copy_from_slice(&missing.to_ne_bytes());
        partial().complete_checksum(&mut packet).unwrap();
        assert_eq!(packet[26..28], [0xff, 0xff]);
        assert!(is_intact(ipv4(&packet).unwrap().0, &packet[20..]));
    }

    #[test]
    fn what_the_kernel_would_not_write_is_refused() {
        let mut packet = udp(&[0, 0]);
        let outside = [
            VnetHeader {
                csum_start: 31,
                ..partial()
            },
            VnetHeader {
                csum_offset: 9,
                ..partial()
            },
            VnetHeader {
                csum_offset: u16::MAX,
                ..partial()
            },
        ];
        for header in outside {
            assert_eq!(
                header.complete_checksum(&mut packet),
                Err(Reject::Malformed)
            );
        }
        for (gso_type, gso_size) in [(GSO_TCPV4, 0), (3, 1400), (4, 1400)] {
            let header = VnetHeader {
                gso_type,
                gso_size,
                ..VnetHeader::default()
            };
            assert_eq!(header.kind(), Err(Reject::Malformed));
        }
        assert_eq!(VnetHeader::split(&mut [0; 9]), Err(Reject::TooShort));
    }
}
