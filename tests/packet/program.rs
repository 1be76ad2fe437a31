//! Running a packet through a program: verdict, bytes, counters; on node B, which knows node A.

use std::collections::BTreeMap;

use aya::TestRun as _;
use aya::programs::{ProgramError, TcAttachType, TestRunOptions};
use bytemuck::Zeroable as _;
use flannel_ebpf::abi::{Config, Encap, MAX_FLOWS, Peer, Remote};
use flannel_ebpf::wire::{ETHERTYPE_IPV4, Ethernet, Headers, Ipv4, Udp, Vxlan};
use flannel_tests::frame::{HOP_MAC, OWN_IP, OWN_MAC, PEER_IP, PEER_MAC, UDP_PORT};
use flannel_tests::netns::NetNs;
use flannel_tests::programs::{self, Counted};

/// "Next program, then the stack": the packet was left to the kernel path.
pub(crate) const KERNEL: i32 = -1;
/// The packet was sent to another device.
pub(crate) const REDIRECT: i32 = 7;

/// Node A's subnet.
pub(crate) const PEER_SUBNET: [u8; 4] = [10, 5, 1, 0];

/// Index of the interface towards the peer; the test run only records it.
pub(crate) const EXTERNAL: u32 = 1;
/// Index of the tunnel device.
pub(crate) const DEVICE: u32 = 1;

/// What the program under test sees beside the bytes.
#[derive(Default, Clone, Copy)]
pub(crate) struct Context {
    pub gso_size: u32,
    pub gso_segs: u32,
    /// What programs before have left in the second word of the control block.
    pub note: u32,
    /// Index of the device by which it came into the stack.
    pub via: u32,
    /// The mark that the host's rules have given it.
    pub mark: u32,
}

/// What came out.
#[derive(Debug, PartialEq)]
pub(crate) struct Run {
    pub verdict: i32,
    pub frame: Vec<u8>,
    /// Counters that moved: outcome → (packets, bytes).
    pub counted: Counted,
    /// Second word of the control block.
    pub note: u32,
    /// Where queues are to put it.
    pub priority: u32,
    /// The mark.
    pub mark: u32,
}

/// The programs of node B.
pub(crate) struct Programs {
    pub(super) programs: programs::Programs,
}

impl Programs {
    /// With the vxlan backend.
    pub(crate) fn load() -> Self {
        Self::over(&config(), &peer())
    }

    /// With the udp backend.
    pub(crate) fn load_udp() -> Self {
        Self::over(&udp_config(), &udp_peer())
    }

    pub(crate) fn over(config: &Config, peer: &Peer) -> Self {
        Self::load_for_flows(config, peer, MAX_FLOWS as u32)
    }

    /// With room for so many flows on the fast path.
    pub(crate) fn load_for_flows(config: &Config, peer: &Peer, flows: u32) -> Self {
        let mut programs = programs::Programs::load_for(config, flows).unwrap();
        programs.set_peer(PEER_SUBNET, peer).unwrap();
        programs.set_remote(PEER_IP, sender()).unwrap();
        Self { programs }
    }

    /// Makes node A kin, or not.
    pub(crate) fn set_kin(&mut self, is_kin: bool) {
        let sender = Remote {
            is_kin: is_kin.into(),
            ..sender()
        };
        self.programs.set_remote(PEER_IP, sender).unwrap();
    }

    /// What the programs know of node A as a sender.
    pub(crate) fn sender(&self) -> Remote {
        self.programs.remote(PEER_IP).unwrap()
    }

    pub(crate) fn attach(
        &mut self,
        program: &str,
        ns: &NetNs,
        interface: &str,
        direction: TcAttachType,
    ) {
        let attached = self.programs.attach(program, ns, interface, direction);
        attached.unwrap();
    }

    pub(crate) fn attach_xdp(&mut self, program: &str, ns: &NetNs, interface: &str) {
        let attached = self.programs.attach_xdp(program, ns, interface);
        attached.unwrap();
    }

    pub(crate) fn set_config(&mut self, config: &Config) {
        self.programs.set_config(config).unwrap();
    }

    pub(crate) fn set_peer(&mut self, peer: &Peer) {
        self.programs.set_peer(PEER_SUBNET, peer).unwrap();
    }

    /// Makes node A a direct peer as well.
    pub(crate) fn count_traffic(&mut self) {
        self.programs.count_traffic(PEER_SUBNET).unwrap();
    }

    /// What has been counted for node A: sent, received; each packets and bytes.
    pub(crate) fn traffic(&self) -> [(u64, u64); 2] {
        self.programs.traffic(PEER_SUBNET).unwrap()
    }

    /// Runs `work` and tells which counters it moves.
    pub(crate) fn counted<T>(&mut self, work: impl FnOnce() -> T) -> (T, Counted) {
        self.programs.counted(|_| work()).unwrap()
    }

    /// Runs one frame through a program.
    ///
    /// # Errors
    /// What the kernel says to a test run that it cannot make.
    pub(crate) fn try_run(
        &mut self,
        program: &str,
        frame: &[u8],
        context: Context,
    ) -> Result<Run, ProgramError> {
        let ctx_in = context.bytes();
        let mut out = vec![0; frame.len() + 256];
        let mut ctx_out = [0; Context::LEN];
        let test_run = |programs: &mut programs::Programs| {
            programs.program(program).unwrap().test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: ctx_in.as_deref(),
                ctx_out: Some(&mut ctx_out),
                ..TestRunOptions::new()
            })
        };
        let (result, counted) = self.programs.counted(test_run).unwrap();
        let result = result?;
        out.truncate(result.data_size_out as usize);
        Ok(Run {
            verdict: result.return_value as i32,
            frame: out,
            counted,
            note: Context::word(&ctx_out, Context::CB_1),
            priority: Context::word(&ctx_out, Context::PRIORITY),
            mark: Context::word(&ctx_out, Context::MARK),
        })
    }

    pub(crate) fn run(&mut self, program: &str, frame: &[u8], context: Context) -> Run {
        self.try_run(program, frame, context).expect("test run")
    }
}

/// Checks that a packet was left to the kernel unchanged, for this one reason.
pub(crate) fn assert_left(
    name: &str,
    run: &Run,
    frame: &[u8],
    outcome: &'static str,
    packets: u64,
) {
    assert_eq!(run.verdict, KERNEL, "{name}: verdict");
    assert_eq!(run.frame, frame, "{name}: must be unchanged");
    assert_eq!(run.priority, 0, "{name}: must be unchanged");
    let expected = BTreeMap::from([(outcome, (packets, frame.len() as u64))]);
    assert_eq!(run.counted, expected, "{name}: counters");
}

/// The kernel's `struct __sk_buff` (uapi/linux/bpf.h), as far as a test run may set it.
impl Context {
    const LEN: usize = 192;
    const MARK: usize = 8;
    const PRIORITY: usize = 32;
    const INGRESS_IFINDEX: usize = 36;
    const CB_1: usize = 52;
    const GSO_SEGS: usize = 164;
    const GSO_SIZE: usize = 176;

    fn bytes(self) -> Option<Vec<u8>> {
        let Self {
            gso_size,
            gso_segs,
            note,
            via,
            mark,
        } = self;
        if [gso_size, gso_segs, note, via, mark] == [0; 5] {
            return None;
        }
        let mut bytes = vec![0; Self::LEN];
        let mut put =
            |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put(Self::MARK, mark);
        put(Self::INGRESS_IFINDEX, via);
        put(Self::CB_1, note);
        put(Self::GSO_SEGS, gso_segs);
        put(Self::GSO_SIZE, gso_size);
        Some(bytes)
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        bytemuck::pod_read_unaligned(&bytes[at..at + 4])
    }
}

/// Node A as a sender of which nothing has been received.
pub(crate) fn sender() -> Remote {
    Remote::new(PEER_SUBNET, 24)
}

/// Our node.
pub(crate) fn config() -> Config {
    Config {
        vxlan: Vxlan::new(1),
        subnet_mask: [255, 255, 255, 0],
        local_ip: OWN_IP,
        vtep_mac: OWN_MAC,
        udp_port: 8_472_u16.to_be_bytes(),
        device_ifindex: DEVICE,
        external_mac: [0; 6],
        reserved: [0; 6],
    }
}

/// The way to node A.
pub(crate) fn peer() -> Peer {
    let headers = Headers {
        outer: Ethernet {
            destination: HOP_MAC,
            source: [2, 0, 0, 0, 0, 12],
            ethertype: ETHERTYPE_IPV4,
        },
        ip: Ipv4 {
            version_ihl: Ipv4::VERSION_IHL,
            tos: 0,
            total_len: [0; 2],
            id: [0; 2],
            fragment: [0; 2],
            ttl: 64,
            protocol: 17,
            checksum: [0; 2],
            source: OWN_IP,
            destination: PEER_IP,
        },
        udp: Udp {
            source: [0; 2],
            destination: 8_472_u16.to_be_bytes(),
            len: [0; 2],
            checksum: [0; 2],
        },
        vxlan: Vxlan::new(1),
        inner: Ethernet {
            destination: PEER_MAC,
            source: OWN_MAC,
            ethertype: ETHERTYPE_IPV4,
        },
    };
    Peer::new(headers, Encap::Vxlan, 1450, EXTERNAL)
}

/// Our node with the udp backend.
pub(crate) fn udp_config() -> Config {
    Config {
        vxlan: Vxlan::zeroed(),
        vtep_mac: [0; 6],
        udp_port: UDP_PORT.to_be_bytes(),
        ..config()
    }
}

/// The way to node A with the udp backend: as the proxy's socket sends, one port at both ends and
/// "don't fragment".
pub(crate) fn udp_peer() -> Peer {
    let mut headers = peer().headers;
    headers.ip.fragment = [0x40, 0];
    headers.udp.source = UDP_PORT.to_be_bytes();
    headers.udp.destination = UDP_PORT.to_be_bytes();
    (headers.vxlan, headers.inner) = (Vxlan::zeroed(), Ethernet::zeroed());
    Peer::new(headers, Encap::Udp, 1472, EXTERNAL)
}
