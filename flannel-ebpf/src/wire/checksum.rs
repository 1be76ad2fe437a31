//! The Internet checksum (RFC 1071): the one's complement sum of 16-bit words.
//!
//! Two facts keep this short. The sum does not depend on byte order: adding the words as the CPU
//! reads them gives the same octets as adding them in network order, so nothing here swaps bytes.
//! And it can be split: a sum of the fixed words, kept with a peer's template, plus the words that
//! differ per packet, folded at the end, equals the sum over the finished header.

/// Adds the 16-bit words of `bytes`, two at a time, and folds only as far as 32 bits need it: some
/// sums can be added before [`fold`]. The length must be even, else the last byte is left out, and
/// below 64 KiB.
#[inline(always)]
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<4>();
    let pairs = pairs
        .iter()
        .map(|pair| u64::from(u32::from_ne_bytes(*pair)));
    let sum: u64 = pairs.sum();
    let last = rest
        .first_chunk()
        .map_or(0, |word| u16::from_ne_bytes(*word));
    let folded = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    folded as u32 + u32::from(last)
}

/// Folds the carries of a sum back into 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    // The first fold leaves at most 0x1fffe; the second has no carry left.
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The checksum field for a sum over everything else.
#[inline(always)]
#[must_use]
pub const fn checksum(sum: u32) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 read literally, in network order.
    fn oracle(bytes: &[u8]) -> u16 {
        let mut sum = 0_u64;
        for word in bytes.chunks(2) {
            sum += (u64::from(word[0]) << 8) | u64::from(word[1]);
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn agrees_with_the_rfc_in_any_byte_order() {
        let mut bytes = [0_u8; 64];
        let mut state = 1_u32;
        for round in 0..2_000 {
            for byte in &mut bytes {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Sparse and dense words, so that both zero and many carries occur.
                *byte = if round % 3 == 0 {
                    0xff
                } else {
                    (state >> 24) as u8
                };
            }
            let part = &bytes[..2 * (1 + round % 32)];
            assert_eq!(
                u16::from_be_bytes(checksum(sum(part))),
                oracle(part),
                "{part:?}"
            );
        }
    }

    #[test]
    fn a_header_with_its_checksum_folds_to_ones() {
        // The example of many textbooks: 4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7.
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8,
            0, 0xc7,
        ];
        assert_eq!(fold(sum(&header)), 0xffff);
    }
}
