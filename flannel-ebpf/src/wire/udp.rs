//! UDP header (RFC 768).

use bytemuck::{Pod, Zeroable};

/// UDP header, 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Udp {
    /// Sender's port; for tunnels entropy of the inner flow (RFC 7348 section 5).
    pub source: [u8; 2],
    /// Receiver's port.
    pub destination: [u8; 2],
    /// Length of header and payload, bytes.
    pub len: [u8; 2],
    /// Checksum; zero means that there is none, which IPv4 allows.
    pub checksum: [u8; 2],
}

impl Udp {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();
}
