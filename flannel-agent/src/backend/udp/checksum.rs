//! The Internet checksum (RFC 1071) over whole packets.
//!
//! `flannel_ebpf::wire` has the same for headers; this one is for payloads, where every byte of a
//! stream is added once on its way out and once on its way in, so speed is all it is about. As
//! there, byte order does not matter and sums can be split, at even offsets.

/// Adds the 16-bit words of `bytes`, folded to 32 bits at most; an odd last byte counts as if a
/// zero followed. For up to 64 KiB.
#[must_use]
pub(super) fn sum(bytes: &[u8]) -> u64 {
    // 32-bit words in 64-bit lanes: no carry is lost, none has to be looked at, and the loop is
    // one that compilers turn into vector instructions.
    let mut lanes = [0_u64; 8];
    let (chunks, rest) = bytes.as_chunks::<32>();
    for chunk in chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut sum: u64 = lanes.iter().sum();
    let (words, last) = rest.as_chunks::<2>();
    for word in words {
        sum += u64::from(u16::from_ne_bytes(*word));
    }
    if let [byte] = last {
        sum += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    sum
}

/// Folds a sum into 16 bits.
#[must_use]
pub(super) const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    // At most 0x2_fffe before the last fold but one, so no carry is left.
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum field for a sum over everything else.
#[must_use]
pub(super) const fn checksum(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// Sum of the pseudo-header of TCP and UDP: addresses, protocol, and the length of header and
/// payload (RFC 9293 section 3.1).
#[must_use]
pub(super) fn pseudo_header(source: [u8; 4], destination: [u8; 4], protocol: u8, len: u16) -> u64 {
    let rest = u16::from_ne_bytes([0, protocol]);
    sum(&source)
        + sum(&destination)
        + u64::from(rest)
        + u64::from(u16::from_ne_bytes(len.to_be_bytes()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// RFC 1071 read literally, in network order.
    pub(in super::super) fn oracle(bytes: &[u8]) -> u16 {
        let mut sum = 0_u64;
        for word in bytes.chunks(2) {
            let low = word.get(1).copied().unwrap_or(0);
            sum += (u64::from(word[0]) << 8) | u64::from(low);
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn agrees_with_the_rfc_at_every_length() {
        let mut state = 1_u32;
        for (length, fill) in (0..600)
            .chain([65_535])
            .flat_map(|l| [(l, None), (l, Some(0xff))])
        {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    fill.unwrap_or((state >> 24) as u8)
                })
                .collect();
            let found = u16::from_be_bytes(checksum(sum(&bytes)));
            assert_eq!(found, oracle(&bytes), "{length} bytes of {fill:?}");
        }
    }

    #[test]
    fn folding_loses_no_carry() {
        for sum in [
            0,
            0xffff,
            0x1_0000,
            0xffff_ffff,
            0x1_ffff_ffff,
            u64::MAX,
            u64::MAX - 1,
        ] {
            let mut expected = sum;
            while expected > 0xffff {
                expected = (expected & 0xffff) + (expected >> 16);
            }
            assert_eq!(u64::from(fold(sum)), expected, "{sum:#x}");
        }
    }

    #[test]
    fn a_pseudo_header_is_its_twelve_octets() {
        let octets = [10, 5, 1, 2, 10, 5, 2, 3, 0, 6, 0x12, 0x34];
        let found = pseudo_header([10, 5, 1, 2], [10, 5, 2, 3], 6, 0x1234);
        assert_eq!(fold(found), fold(sum(&octets)));
    }
}
