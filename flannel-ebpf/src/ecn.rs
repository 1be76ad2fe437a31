//! Congestion marks across the tunnel (RFC 6040), with the kernel's choices
//! (`include/net/inet_ecn.h`, Linux 6.12).

/// Not ECN-capable.
pub const NOT_ECT: u8 = 0;
/// ECN-capable, codepoint 1.
pub const ECT_1: u8 = 1;
/// ECN-capable, codepoint 0.
pub const ECT_0: u8 = 2;
/// Congestion experienced.
pub const CE: u8 = 3;

/// The ECN bits of a type-of-service octet.
const MASK: u8 = 3;

/// The outer type-of-service octet for an inner one: DSCP zero, ECN copied, except that a mark
/// which the packet already carries stays inside and starts as ECT(0) outside.
#[inline(always)]
#[must_use]
pub const fn encapsulate(inner_tos: u8) -> u8 {
    match inner_tos & MASK {
        CE => ECT_0,
        ecn => ecn,
    }
}

/// What becomes of the inner type-of-service octet when the outer header goes.
///
/// `None`: the tunnel was marked and the inner packet cannot carry the mark; RFC 6040 section 4.2
/// says drop, which is left to the kernel.
#[inline(always)]
#[must_use]
pub const fn decapsulate(outer_tos: u8, inner_tos: u8) -> Option<u8> {
    match (outer_tos & MASK, inner_tos & MASK) {
        (CE, NOT_ECT) => None,
        (CE, _) => Some(inner_tos | CE),
        (ECT_1, ECT_0) => Some((inner_tos & !MASK) | ECT_1),
        _ => Some(inner_tos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encapsulation_keeps_dscp_inside() {
        assert_eq!(encapsulate(0xb8), NOT_ECT);
        assert_eq!(encapsulate(0xb8 | ECT_0), ECT_0);
        assert_eq!(encapsulate(0xb8 | ECT_1), ECT_1);
        assert_eq!(encapsulate(0xb8 | CE), ECT_0);
    }

    #[test]
    fn decapsulation_is_the_table_of_rfc_6040_figure_4() {
        // Rows: inner; columns: outer Not-ECT, ECT(0), ECT(1), CE. The two entries that RFC 6040
        // calls unused (Not-ECT inside an ECT tunnel) forward the packet unchanged.
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                let dscp = 0xb8;
                let got = decapsulate(0x20 | outer, dscp | inner);
                assert_eq!(
                    got,
                    expected.map(|ecn| dscp | ecn),
                    "inner {inner} outer {outer}"
                );
            }
        }
    }
}
