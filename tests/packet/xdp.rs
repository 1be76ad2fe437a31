//! `xdp_vxlan` and `xdp_udp`: what is left of a tunnel frame, and the note beside it. A frame that
//! is odd in any way goes on as it came, for the program behind to find the reason: the rows are
//! that program's. Nothing is counted here.

use aya::TestRun as _;
use aya::programs::TestRunOptions;
use bytemuck::Zeroable as _;
use flannel_tests::bpf::XDP_PASS;
use flannel_tests::frame::{
    HOP_MAC, Ip, OWN_IP, PEER_IP, Tunnel, ethernet, filled, pod_packet, tunnel, udp, udp_tunnel,
};

use super::flows::{ACK, tcp, to_us};
use super::program::Programs;
use super::{checksum, outer, udp_decap, vxlan_decap};

const VXLAN: &str = "xdp_vxlan";
const UDP: &str = "xdp_udp";

struct Kind {
    program: &'static str,
    load: fn() -> Programs,
    tunnel: fn(&[u8]) -> Tunnel,
    /// Number in the note.
    number: u32,
    /// The frame without its tunnel.
    inside: fn(&Tunnel) -> Vec<u8>,
}

const KINDS: [Kind; 2] = [
    Kind {
        program: VXLAN,
        load: Programs::load,
        tunnel,
        number: 64,
        inside: Tunnel::inner_frame,
    },
    Kind {
        program: UDP,
        load: Programs::load_udp,
        tunnel: udp_tunnel,
        number: 42,
        // With both hops: the program behind takes them off.
        inside: |tunnel| ethernet(tunnel.ethernet_destination, HOP_MAC, 0x0800, &tunnel.inner),
    },
];

impl Kind {
    fn run(&self, frame: &[u8]) -> Vec<u8> {
        run(&mut (self.load)(), self.program, frame)
    }

    fn assert_stripped(&self, name: &str, tunnel: &Tunnel) {
        self.assert_inside(name, tunnel, &(self.inside)(tunnel));
    }

    fn assert_inside(&self, name: &str, tunnel: &Tunnel, inside: &[u8]) {
        let note = [&[0x66, 0x6c, 0xf1, 0x01], &self.number.to_ne_bytes()[..]];
        let expected = [&note.concat(), inside].concat();
        let out = self.run(&tunnel.frame());
        assert_eq!(out, expected, "{} {name}", self.program);
    }

    fn assert_passed(&self, name: &str, frame: &[u8]) {
        assert_eq!(self.run(frame), frame, "{} {name}", self.program);
    }
}

/// What comes out: what is beside the frame, then the frame. Either passes, uncounted.
fn run(programs: &mut Programs, program: &str, frame: &[u8]) -> Vec<u8> {
    let mut out = vec![0; frame.len() + 256];
    let test_run = |programs: &mut flannel_tests::programs::Programs| {
        programs.xdp(program).unwrap().test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        })
    };
    let (result, counted) = programs.programs.counted(test_run).unwrap();
    let result = result.expect("test run");
    assert_eq!(result.return_value as i32, XDP_PASS, "{program}");
    assert!(counted.is_empty(), "{program}: {counted:?}");
    out.truncate(result.data_size_out as usize);
    out
}

#[test]
fn tunnel_frames_are_stripped() {
    let fragment = |fragment| {
        let ip = Ip {
            fragment,
            ..to_us(17)
        };
        ip.packet(&[7; 64])
    };
    let options = Ip {
        options: vec![1; 8],
        ..to_us(6)
    };
    let ttl = |ttl| Ip { ttl, ..to_us(17) }.packet(&[7; 64]);
    let rows = [
        ("udp", pod_packet([10, 5, 1, 2], [10, 5, 2, 2], b"hello")),
        ("udp, empty", to_us(17).packet(&udp(1, 2, b""))),
        ("tcp", filled(&to_us(6).packet(&tcp(ACK, b"hello")), true)),
        ("icmp", to_us(1).packet(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0])),
        ("first fragment", fragment([0x20, 0])),
        ("later fragment", fragment([0x20, 0x10])),
        ("options", options.packet(&[0; 20])),
        ("no payload", to_us(59).packet(&[])),
        ("large", to_us(6).packet(&tcp(ACK, &[0xaa; 1_410]))),
        ("two hops left", ttl(2)),
        ("255 hops left", ttl(255)),
    ];
    for kind in &KINDS {
        for (row, packet) in &rows {
            kind.assert_stripped(row, &(kind.tunnel)(packet));
        }
    }
}

#[test]
fn congestion_marks_follow_rfc_6040() {
    for (outer, inner, expected) in vxlan_decap::MARKS {
        let packet = |ecn| {
            let ip = Ip {
                tos: 0xb8 | ecn,
                ..to_us(17)
            };
            ip.packet(&udp(1, 2, b"marked"))
        };
        let mut marked = tunnel(&packet(inner));
        marked.ip.tos = outer;
        let name = format!("outer {outer} inner {inner}");
        let inside = tunnel(&packet(expected)).inner_frame();
        KINDS[0].assert_inside(&name, &marked, &inside);
        // Nobody's with the udp backend.
        let mut marked = udp_tunnel(&packet(inner));
        marked.ip.tos = outer;
        KINDS[1].assert_stripped(&name, &marked);
    }
    let mut unmarkable = tunnel(&pod_packet([10, 5, 1, 2], [10, 5, 2, 2], b"hello"));
    unmarkable.ip.tos = 3;
    KINDS[0].assert_passed("CE over Not-ECT", &unmarkable.frame());
}

#[test]
fn every_odd_packet_passes() {
    let inner = pod_packet([10, 5, 1, 2], [10, 5, 2, 2], b"hello");
    let rows = [(&vxlan_decap::ODD[..]), &udp_decap::ODD];
    for (kind, rows) in KINDS.iter().zip(rows) {
        for (row, edit, _) in outer::ODD.iter().chain(rows) {
            let mut odd = (kind.tunnel)(&inner);
            edit(&mut odd);
            kind.assert_passed(row, &odd.frame());
        }
    }
}

#[test]
fn damaged_headers_pass() {
    let inner = pod_packet([10, 5, 1, 2], [10, 5, 2, 2], b"hello");
    let rows = [(&vxlan_decap::DAMAGED[..]), &udp_decap::DAMAGED];
    for (kind, rows) in KINDS.iter().zip(rows) {
        for (row, edit, _) in outer::DAMAGED.iter().chain(rows) {
            let mut frame = (kind.tunnel)(&inner).frame();
            edit(&mut frame);
            kind.assert_passed(row, &frame);
        }
    }
}

#[test]
fn what_is_not_for_the_tunnel_passes() {
    let inner = pod_packet([10, 5, 1, 2], [10, 5, 2, 2], b"hello");
    for kind in &KINDS {
        let good = (kind.tunnel)(&inner);
        let plain = good.frame();
        let other_port = Tunnel {
            port: 4_789,
            ..good.clone()
        };
        let tcp = Tunnel {
            ip: Ip::new(PEER_IP, OWN_IP, 6),
            ..good
        };
        for (row, frame) in [
            ("other port", other_port.frame()),
            ("TCP", tcp.frame()),
            ("IPv6", ethernet([0; 6], HOP_MAC, 0x86dd, &[0x60; 80])),
            (
                "VLAN",
                [&plain[..12], &[0x81, 0, 0, 100], &plain[12..]].concat(),
            ),
            ("short", ethernet([0; 6], HOP_MAC, 0x0806, &[0; 4])),
            ("Ethernet only", ethernet([0; 6], HOP_MAC, 0x88cc, &[])),
        ] {
            kind.assert_passed(row, &frame);
        }
        let mut programs = (kind.load)();
        programs.set_config(&flannel_ebpf::abi::Config::zeroed());
        let out = run(&mut programs, kind.program, &plain);
        assert_eq!(out, plain, "without a configuration");
    }
}

#[test]
fn a_checksum_of_a_stock_peer_is_verified_without_reading_the_payload() {
    for (kind, checksums) in KINDS.iter().zip(checksum::KINDS) {
        for protocol in [1, 6, 17] {
            for payload in [&b""[..], b"odd", &[0xa5; 1_401]] {
                let name = format!("{protocol}, {} bytes", payload.len());
                let mut complete = (kind.tunnel)(&checksum::segment(protocol, payload, true));
                complete.udp_checksum = complete.full_checksum();
                kind.assert_stripped(&name, &complete);
                let mut partial = (kind.tunnel)(&checksum::segment(protocol, payload, false));
                partial.udp_checksum = complete.udp_checksum;
                kind.assert_stripped(&format!("{name}, partial"), &partial);
            }
        }
        let mut good = (kind.tunnel)(&checksum::segment(6, b"payload", true));
        good.udp_checksum = good.full_checksum();
        for at in (checksums.unguarded)() {
            let mut frame = good.frame();
            frame[at] ^= 0x10;
            kind.assert_passed(&format!("octet {at}"), &frame);
        }
    }
}

#[test]
fn a_datagram_tells_whether_its_sender_is_kin() {
    udp_decap::assert_kin(|programs, frame| {
        run(programs, UDP, frame);
    });
}
