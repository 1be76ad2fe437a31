//! Outer UDP checksums, which stock flannel's senders fill in: both tunnels verify them from the
//! headers alone, or leave the packet to the kernel.

use flannel_tests::frame::{Ip, Tunnel, filled, pod_packet, tunnel, udp, udp_tunnel};

use super::program::{Context, KERNEL, Programs, REDIRECT, assert_left};

/// A tunnel, and how to see what comes out of it.
pub(crate) struct Kind {
    program: &'static str,
    load: fn() -> Programs,
    tunnel: fn(&[u8]) -> Tunnel,
    /// The frame that enters the device.
    delivered: fn(&Tunnel) -> Vec<u8>,
    /// Octets that the outer checksum covers and no other check looks at: the source port, the
    /// inner addresses of the link layer, the inner IP header but its length.
    pub(crate) unguarded: fn() -> Vec<usize>,
}

pub(crate) const KINDS: [Kind; 2] = [
    Kind {
        program: "vxlan_decap",
        load: Programs::load,
        tunnel,
        delivered: Tunnel::inner_frame,
        unguarded: || (34..36).chain(56..62).chain(64..66).chain(68..84).collect(),
    },
    Kind {
        program: "udp_decap",
        load: Programs::load_udp,
        tunnel: udp_tunnel,
        delivered: super::udp_decap::delivered,
        unguarded: || (34..36).chain(46..62).collect(),
    },
];

/// An inner segment with its checksum: filled in, or left to a device as virtual links do.
pub(crate) fn segment(protocol: u8, payload: &[u8], is_filled: bool) -> Vec<u8> {
    let segment = match protocol {
        6 => [&[0; 12][..], &[0x50], &[0; 7], payload].concat(),
        17 => udp(4_000, 5_000, payload),
        _ => [&[8, 0, 0, 0, 1, 2, 3, 4][..], payload].concat(),
    };
    let ip = Ip {
        ttl: 63,
        ..Ip::new([10, 5, 1, 2], [10, 5, 2, 2], protocol)
    };
    filled(&ip.packet(&segment), is_filled)
}

#[test]
fn a_checksum_of_a_stock_peer_is_verified_without_reading_the_payload() {
    for kind in KINDS {
        let mut programs = (kind.load)();
        let mut run = |frame: &[u8]| programs.run(kind.program, frame, Context::default());
        for protocol in [1, 6, 17] {
            for payload in [&b""[..], b"x", b"odd", &[0xff; 1_000], &[0xa5; 1_401]] {
                let name = format!("{} {protocol}, {} bytes", kind.program, payload.len());
                let mut complete = (kind.tunnel)(&segment(protocol, payload, true));
                complete.udp_checksum = complete.full_checksum();
                let taken = run(&complete.frame());
                assert_eq!(taken.verdict, REDIRECT, "{name}: {:?}", taken.counted);
                assert_eq!(taken.frame, (kind.delivered)(&complete), "{name}");
                // What a virtual link delivers: the outer checksum is that of the complete packet,
                // the inner one is left to a device.
                let mut partial = (kind.tunnel)(&segment(protocol, payload, false));
                partial.udp_checksum = complete.udp_checksum;
                let taken = run(&partial.frame());
                assert_eq!(taken.verdict, REDIRECT, "{name}, partial");
            }
        }
    }
}

#[test]
fn a_damaged_header_under_a_checksum_is_left() {
    for kind in KINDS {
        let mut programs = (kind.load)();
        let mut run = |frame: &[u8]| programs.run(kind.program, frame, Context::default());
        let mut good = (kind.tunnel)(&segment(6, b"payload", true));
        good.udp_checksum = good.full_checksum();
        let frame = good.frame();
        for at in (kind.unguarded)() {
            let mut frame = frame.clone();
            frame[at] ^= 0x10;
            let run = run(&frame);
            let name = format!("{} octet {at}", kind.program);
            assert_eq!(run.verdict, KERNEL, "{name}: {:?}", run.counted);
            assert_eq!(run.frame, frame, "{name}");
        }
    }
}

#[test]
fn a_payload_without_a_checksum_of_its_own_is_the_kernels_to_verify() {
    for kind in KINDS {
        let mut programs = (kind.load)();
        let mut run = |frame: &[u8]| programs.run(kind.program, frame, Context::default());
        let mut unguarded = (kind.tunnel)(&pod_packet([10, 5, 1, 2], [10, 5, 2, 2], b"hello"));
        unguarded.udp_checksum = unguarded.full_checksum();
        let frame = unguarded.frame();
        let run = run(&frame);
        assert_left(kind.program, &run, &frame, "ingress udp_checksum", 1);
    }
}
