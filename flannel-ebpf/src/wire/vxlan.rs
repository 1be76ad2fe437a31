//! VXLAN header (RFC 7348 section 5).

use bytemuck::{Pod, Zeroable};

/// The I flag: the VNI is valid. Must be set; every other bit must be zero.
pub const VXLAN_FLAG_VNI: u8 = 0x08;

/// VXLAN header, 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Vxlan {
    /// Flags; only [`VXLAN_FLAG_VNI`] is known here.
    pub flags: u8,
    /// Zero. Extensions (group policy, GPE) put bits here and into `flags`.
    pub reserved: [u8; 3],
    /// VXLAN network identifier, 24 bits.
    pub vni: [u8; 3],
    /// Zero.
    pub reserved2: u8,
}

impl Vxlan {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();

    /// The header of every packet of a network; `vni` has 24 bits.
    #[must_use]
    pub fn new(vni: u32) -> Self {
        let [_, high, middle, low] = vni.to_be_bytes();
        Self {
            flags: VXLAN_FLAG_VNI,
            reserved: [0; 3],
            vni: [high, middle, low],
            reserved2: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vni_is_in_network_order() {
        assert_eq!(
            bytemuck::bytes_of(&Vxlan::new(0x0a_0b0c)),
            [8, 0, 0, 0, 0x0a, 0x0b, 0x0c, 0]
        );
    }
}
