//! Flows of the fast path, between our pod and one of node A: their packets, and what the maps say
//! of them. Every packet of a test run passes the interface with index 1, so that is the pod's.

use std::time::Duration;

use bytemuck::Zeroable;
use flannel_ebpf::abi::{Candidate, Encap, FastPath, Flow, FlowKey, Peer};
use flannel_ebpf::fast::service;
use flannel_ebpf::wire::Addresses;
use flannel_tests::frame::{Ip, ethernet, filled, udp};

use super::program::{DEVICE, EXTERNAL, Programs, config, peer};
use super::udp_encap::one_hop_less;

/// Our pod.
pub(crate) const POD: [u8; 4] = [10, 5, 2, 2];
/// Node A's.
pub(crate) const REMOTE_POD: [u8; 4] = [10, 5, 1, 2];
/// Link-layer addresses on the pod's interface.
pub(crate) const POD_MAC: [u8; 6] = [0x0a, 0x58, 10, 5, 2, 2];
pub(crate) const BRIDGE_MAC: [u8; 6] = [0x0a, 0x58, 10, 5, 2, 1];
/// The pod's interface, and one that is not.
pub(crate) const INTERFACE: u32 = 1;
pub(crate) const OTHER_INTERFACE: u32 = 2;

/// Admissions last longer than any test.
pub(crate) const FAST: FastPath = FastPath {
    bound: 3_600_000_000_000,
    generation: 7,
    mask: 0,
    seed: 0x0123_4567_89ab_cdef,
};
/// A time that does not come.
pub(crate) const NEVER: u64 = u64::MAX / 2;
/// A time that is over.
pub(crate) const LONG_AGO: u64 = 1;

/// TCP's flags.
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PUSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

impl Programs {
    /// With the vxlan backend and node A as a direct peer.
    pub(crate) fn load_direct() -> Self {
        let mut programs = Self::over(&config(), &direct_peer());
        programs.count_traffic();
        programs
    }

    /// Lets flows leave the standard path.
    pub(crate) fn with_fast_path(mut self) -> Self {
        self.set_fast_path(FAST);
        self
    }

    pub(crate) fn set_fast_path(&mut self, fast: FastPath) {
        self.programs.set_fast_path(&fast).unwrap();
    }

    /// Admits the flow of a packet.
    pub(crate) fn admit(&mut self, packet: &[u8], flow: Flow) {
        let flow = Flow {
            key: key(packet),
            service: service(packet[1]),
            ..flow
        };
        self.programs.set_flow(&flow).unwrap();
    }

    /// The admission of a packet's flow, but for what it has of the packet, and how often the slot was
    /// written.
    pub(crate) fn flow(&self, packet: &[u8]) -> Option<Flow> {
        let flow = self.programs.flow(&key(packet)).unwrap();
        flow.map(|flow| {
            assert_eq!(flow.service, service(packet[1]));
            Flow {
                key: Zeroable::zeroed(),
                service: 0,
                version: 0,
                ..flow
            }
        })
    }

    pub(crate) fn note(&mut self, packet: &[u8], candidate: Candidate) {
        let noted = self.programs.set_candidate(&key(packet), &candidate);
        noted.unwrap();
    }

    /// What is noted of a packet's flow.
    pub(crate) fn noted(&self, packet: &[u8]) -> Option<Candidate> {
        self.programs.candidate(&key(packet)).unwrap()
    }
}

/// The way to node A as next hop.
pub(crate) fn direct_peer() -> Peer {
    Peer::new(peer().headers, Encap::Direct, 1500, EXTERNAL)
}

/// The flow of a packet, octet for octet.
pub(crate) fn key(packet: &[u8]) -> FlowKey {
    FlowKey {
        source: packet[12..16].try_into().unwrap(),
        destination: packet[16..20].try_into().unwrap(),
        ports: packet[20..24].try_into().unwrap(),
        protocol: packet[9].into(),
    }
}

/// The admission of a flow that our pod sends.
pub(crate) fn sent() -> Flow {
    Flow {
        expires: NEVER,
        generation: FAST.generation,
        ifindex: INTERFACE,
        addresses: Addresses::new(BRIDGE_MAC, POD_MAC),
        ..Zeroable::zeroed()
    }
}

/// The admission of a flow that our pod receives.
pub(crate) fn received() -> Flow {
    Flow {
        addresses: Addresses::new(POD_MAC, BRIDGE_MAC),
        is_received: 1,
        ..sent()
    }
}

/// The frame in which our pod sends a packet.
pub(crate) fn from_pod(packet: &[u8]) -> Vec<u8> {
    ethernet(BRIDGE_MAC, POD_MAC, 0x0800, packet)
}

/// Header of a packet from our pod to node A's.
pub(crate) fn to_peer(protocol: u8) -> Ip {
    Ip {
        id: [0x12, 0x34],
        fragment: [0x40, 0],
        ..Ip::new(POD, REMOTE_POD, protocol)
    }
}

/// The other direction.
pub(crate) fn to_us(protocol: u8) -> Ip {
    Ip {
        ttl: 63,
        source: REMOTE_POD,
        destination: POD,
        ..to_peer(protocol)
    }
}

/// A TCP segment: sequence number 1 000, these flags, no checksum yet.
pub(crate) fn tcp(flags: u8, payload: &[u8]) -> Vec<u8> {
    let ports = [4_000_u16.to_be_bytes(), 5_000_u16.to_be_bytes()].concat();
    let numbers = [1_000_u32.to_be_bytes(), 2_000_u32.to_be_bytes()].concat();
    let rest = [0x50, flags, 1, 0, 0, 0, 0, 0];
    [&ports[..], &numbers, &rest, payload].concat()
}

/// A packet within a connection.
pub(crate) fn tcp_packet(ip: &Ip) -> Vec<u8> {
    filled(&ip.packet(&tcp(ACK, b"hello")), true)
}

/// A datagram.
pub(crate) fn udp_packet(ip: &Ip) -> Vec<u8> {
    filled(&ip.packet(&udp(4_000, 5_000, b"hello")), true)
}

/// The packet behind so many hosts.
pub(crate) fn hops(packet: &[u8], count: usize) -> Vec<u8> {
    (0..count).fold(packet.to_vec(), |packet, _| one_hop_less(&packet))
}

/// The packet as one that may admit its flow, noted `noted` nanoseconds after the machine's start.
pub(crate) fn candidate(packet: &[u8], noted: u64) -> Candidate {
    Candidate {
        noted,
        ip: bytemuck::pod_read_unaligned(&packet[..20]),
        transport: packet[24..28].try_into().unwrap(),
        addresses: Addresses::new([0; 6], [0; 6]),
        ifindex: 0,
        is_first: 0,
        is_aggregate: 0,
        remote: [0; 4],
        via: DEVICE,
    }
}

/// The same of a packet that our pod sends.
pub(crate) fn sent_candidate(packet: &[u8], noted: u64) -> Candidate {
    Candidate {
        addresses: sent().addresses,
        ifindex: INTERFACE,
        via: 0,
        ..candidate(packet, noted)
    }
}

/// The clock by which admissions end.
pub(crate) fn now() -> u64 {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC_COARSE;
    let now: Duration = clock.now().unwrap().into();
    now.as_nanos() as u64
}

/// What is unfit for the fast path: an edit of a packet's header, and its payload.
pub(crate) type Unfit = (&'static str, fn(&mut Ip) -> Vec<u8>);
pub(crate) const UNFIT: [Unfit; 14] = [
    ("first fragment", |ip| {
        ip.fragment = [0x20, 0];
        tcp(ACK, &[1; 12])
    }),
    ("later fragment", |ip| {
        ip.fragment = [0, 1];
        tcp(ACK, &[1; 12])
    }),
    ("options", |ip| {
        ip.options = vec![1; 4];
        tcp(ACK, b"x")
    }),
    ("four hops left", |ip| {
        ip.ttl = 4;
        tcp(ACK, b"x")
    }),
    ("SYN", |_| tcp(SYN, b"")),
    ("SYN, ACK", |_| tcp(SYN | ACK, b"")),
    ("FIN", |_| tcp(FIN | ACK, b"")),
    ("RST", |_| tcp(RST, b"")),
    ("RST, ACK", |_| tcp(RST | ACK, b"")),
    ("no ACK", |_| tcp(PUSH, b"x")),
    ("no flags", |_| tcp(0, b"")),
    ("ICMP", |ip| {
        ip.protocol = 1;
        vec![8, 0, 0, 0, 1, 2, 3, 4]
    }),
    ("SCTP", |ip| {
        ip.protocol = 132;
        vec![9; 32]
    }),
    ("TCP of 8 octets", |_| tcp(ACK, b"")[..8].to_vec()),
];
