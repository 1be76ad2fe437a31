//! Options of the udp backend.

use crate::network::{Document, NetworkError};

/// Options of the udp backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Udp {
    /// UDP port, of this node and of all others: leases carry none.
    pub port: u16,
}

impl Default for Udp {
    fn default() -> Self {
        // The one that flannel's documents name.
        Self { port: 8285 }
    }
}

impl Udp {
    pub(super) fn parse(backend: &Document<'_>) -> Result<Self, NetworkError> {
        // flannel takes a port of 0, and then no node knows the port of another.
        let port = backend.number("Port", 1..=u16::MAX.into())?;
        let port = port.and_then(|port| u16::try_from(port).ok());
        Ok(port.map_or_else(Self::default, |port| Self { port }))
    }
}
