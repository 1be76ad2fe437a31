//! IPv4 header (RFC 791) without options.

use bytemuck::{Pod, Zeroable};

/// Protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// Protocol number of SCTP.
pub const PROTOCOL_SCTP: u8 = 132;
/// "More fragments" in the flags and fragment offset field.
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// The fixed part of an IPv4 header, 20 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (high four bits) and header length in 32-bit words (low four).
    pub version_ihl: u8,
    /// DSCP (high six bits) and ECN (low two).
    pub tos: u8,
    /// Length of the packet, header included, bytes.
    pub total_len: [u8; 2],
    /// Identification of a datagram's fragments.
    pub id: [u8; 2],
    /// Flags (high three bits) and fragment offset in 8-byte units.
    pub fragment: [u8; 2],
    /// Hops left.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: [u8; 2],
    /// Sender.
    pub source: [u8; 4],
    /// Receiver.
    pub destination: [u8; 4],
}

impl Ipv4 {
    /// Bytes of a header without options.
    pub const LEN: usize = size_of::<Self>();
    /// `version_ihl` of a header without options.
    pub const VERSION_IHL: u8 = 0x45;

    /// Whether a packet of `len` bytes can hold a header as long as this one says it is.
    #[inline(always)]
    #[must_use]
    pub fn fits(&self, len: u32) -> bool {
        let header_len = u32::from(self.version_ihl & 0xf) * 4;
        (Self::LEN as u32..=len).contains(&header_len)
    }

    /// Whether this is a fragment (the first one included) rather than a whole datagram.
    #[inline(always)]
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        // All but "don't fragment" and the reserved bit.
        self.fragment_bits([0x3f, 0xff])
    }

    /// Whether any of these bits is set beside a fragment's offset. As the processor reads them: a swap
    /// of bytes would be most of the work.
    #[inline(always)]
    fn fragment_bits(&self, bits: [u8; 2]) -> bool {
        u16::from_ne_bytes(self.fragment) & u16::from_ne_bytes(bits) != 0
    }

    /// Whether the payload starts here: a whole datagram, or its first fragment.
    #[inline(always)]
    #[must_use]
    pub fn is_first(&self) -> bool {
        !self.fragment_bits([0x1f, 0xff])
    }
}
