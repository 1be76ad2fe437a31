//! Running a packet through a program: verdict, bytes, counters.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, PerCpuArray, PerCpuHashMap};
use aya::programs::{SchedClassifier, TcAttachType, TestRunOptions, tc};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, TestRun as _};
use bytemuck::Zeroable as _;
use flannel_agent::dataplane::object;
use flannel_ebpf::abi::{
    Config, Counter, EgressCounters, EgressOutcome, Encap, IngressCounters, IngressOutcome, Peer,
    Remote, Traffic,
};
use flannel_ebpf::wire::{ETHERTYPE_IPV4, Ethernet, Headers, Ipv4, Udp, Vxlan};

use flannel_tests::netns::NetNs;

use flannel_tests::frame::{HOP_MAC, OWN_IP, OWN_MAC, PEER_IP, PEER_MAC, UDP_PORT};

/// "Next program, then the stack": the packet was left to the kernel path.
pub(crate) const KERNEL: i32 = -1;
/// The packet was sent to another device.
pub(crate) const REDIRECT: i32 = 7;

/// All programs of the object.
const PROGRAMS: [&str; 6] = [
    "vxlan_encap",
    "vxlan_decap",
    "udp_encap",
    "udp_decap",
    "direct_egress",
    "direct_ingress",
];

/// Node A's subnet.
pub(crate) const PEER_SUBNET: [u8; 4] = [10, 5, 1, 0];

/// Index of the interface towards the peer; the test run only records it.
const EXTERNAL: u32 = 1;
/// Index of the tunnel device.
const DEVICE: u32 = 1;

/// What the program under test sees beside the bytes.
#[derive(Default, Clone, Copy)]
pub(crate) struct Context {
    pub gso_size: u32,
    pub gso_segs: u32,
    /// Bytes in the linear part; 0: all.
    pub linear: u32,
}

/// What came out.
#[derive(Debug, PartialEq)]
pub(crate) struct Run {
    pub verdict: i32,
    pub frame: Vec<u8>,
    /// Counters that moved: outcome → (packets, bytes).
    pub counted: BTreeMap<&'static str, (u64, u64)>,
}

/// Both programs, loaded without pins, over maps that know node A.
pub(crate) struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// Over maps of the vxlan backend.
    pub(crate) fn load() -> Self {
        Self::over(&config(), &peer())
    }

    /// Over maps of the udp backend.
    pub(crate) fn load_udp() -> Self {
        Self::over(&udp_config(), &udp_peer())
    }

    fn over(config: &Config, peer: &Peer) -> Self {
        let object = object::embedded().expect("built with FLANNEL_EBPF_OBJECT");
        let mut ebpf = EbpfLoader::new()
            .override_global("AYA_LOG_LEVEL", &0_u8, false)
            .load(object)
            .expect("load the object");
        for name in PROGRAMS {
            let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().expect("pass the verifier");
        }
        let mut programs = Self { ebpf };
        programs.set_config(config);
        programs.set_peer(PEER_SUBNET, peer);
        let remote = Remote {
            subnet: PEER_SUBNET,
            prefix_len: 24,
        };
        let mut remotes: HashMap<_, [u8; 4], Remote> = programs
            .ebpf
            .map_mut("remotes")
            .unwrap()
            .try_into()
            .unwrap();
        remotes.insert(PEER_IP, remote, 0).unwrap();
        programs
    }

    /// Lets a program see the packets of an interface, for as long as this lives.
    pub(crate) fn attach(
        &mut self,
        program: &str,
        ns: &NetNs,
        interface: &str,
        direction: TcAttachType,
    ) {
        let classifier: &mut SchedClassifier =
            self.ebpf.program_mut(program).unwrap().try_into().unwrap();
        let attach = || {
            // Where there is no tcx (Linux 6.6), aya takes this.
            tc::qdisc_add_clsact(interface).unwrap();
            classifier.attach(interface, direction).unwrap();
        };
        ns.enter(attach).unwrap();
    }

    /// Makes a subnet that of a direct peer.
    pub(crate) fn count_traffic(&mut self, subnet: [u8; 4]) {
        let zeros = vec![Traffic::default(); nr_cpus().unwrap()];
        let mut map: PerCpuHashMap<_, [u8; 4], Traffic> =
            self.ebpf.map_mut("traffic").unwrap().try_into().unwrap();
        map.insert(subnet, zeros.try_into().unwrap(), 0).unwrap();
    }

    /// What has been counted for a direct peer: sent, received; each packets and bytes.
    pub(crate) fn traffic(&self, subnet: [u8; 4]) -> [(u64, u64); 2] {
        let map: PerCpuHashMap<_, [u8; 4], Traffic> =
            self.ebpf.map("traffic").unwrap().try_into().unwrap();
        let values = map.get(&subnet, 0).unwrap();
        [
            sum(values.iter().map(|cpu| cpu.sent)),
            sum(values.iter().map(|cpu| cpu.received)),
        ]
    }

    pub(crate) fn set_config(&mut self, config: &Config) {
        let mut map: Array<_, Config> = self.ebpf.map_mut("config").unwrap().try_into().unwrap();
        map.set(0, config, 0).unwrap();
    }

    pub(crate) fn set_peer(&mut self, subnet: [u8; 4], peer: &Peer) {
        let mut map: HashMap<_, [u8; 4], Peer> =
            self.ebpf.map_mut("peers").unwrap().try_into().unwrap();
        map.insert(subnet, peer, 0).unwrap();
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
    ) -> Result<Run, aya::programs::ProgramError> {
        let ctx_in = context.bytes();
        let mut out = vec![0; frame.len() + 256];
        let (result, counted) = self.counted(|programs| {
            let classifier: &mut SchedClassifier = programs
                .ebpf
                .program_mut(program)
                .unwrap()
                .try_into()
                .unwrap();
            classifier.test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: ctx_in.as_deref(),
                ..TestRunOptions::new()
            })
        });
        let result = result?;
        out.truncate(result.data_size_out as usize);
        Ok(Run {
            verdict: result.return_value as i32,
            frame: out,
            counted,
        })
    }

    pub(crate) fn run(&mut self, program: &str, frame: &[u8], context: Context) -> Run {
        self.try_run(program, frame, context).expect("test run")
    }

    /// Runs `work` and tells which counters it moves.
    pub(crate) fn counted<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> T,
    ) -> (T, BTreeMap<&'static str, (u64, u64)>) {
        let before = self.counters();
        let result = work(self);
        let counted = self
            .counters()
            .into_iter()
            .filter_map(|(name, (packets, bytes))| {
                let (old_packets, old_bytes) = before[name];
                (packets != old_packets)
                    .then_some((name, (packets - old_packets, bytes - old_bytes)))
            })
            .collect();
        (result, counted)
    }

    fn counters(&self) -> BTreeMap<&'static str, (u64, u64)> {
        let egress: PerCpuArray<_, EgressCounters> =
            self.ebpf.map("egress").unwrap().try_into().unwrap();
        let ingress: PerCpuArray<_, IngressCounters> =
            self.ebpf.map("ingress").unwrap().try_into().unwrap();
        let (egress, ingress) = (egress.get(&0, 0).unwrap(), ingress.get(&0, 0).unwrap());
        let mut all = BTreeMap::new();
        for outcome in EgressOutcome::ALL {
            let name = leak(format!("egress {}", outcome.name()));
            all.insert(name, sum(egress.iter().map(|cpu| cpu.get(*outcome))));
        }
        for outcome in IngressOutcome::ALL {
            let name = leak(format!("ingress {}", outcome.name()));
            all.insert(name, sum(ingress.iter().map(|cpu| cpu.get(*outcome))));
        }
        all
    }
}

/// Packets and bytes over all CPUs.
fn sum(values: impl Iterator<Item = Counter>) -> (u64, u64) {
    values.fold((0, 0), |(packets, bytes), cpu| {
        (packets + cpu.packets, bytes + cpu.bytes)
    })
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
    let expected = BTreeMap::from([(outcome, (packets, frame.len() as u64))]);
    assert_eq!(run.counted, expected, "{name}: counters");
}

/// Names live as long as the test process.
fn leak(name: String) -> &'static str {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap();
    if let Some(known) = names.get(name.as_str()) {
        return known;
    }
    let name: &'static str = Box::leak(name.into_boxed_str());
    names.insert(name);
    name
}

impl Context {
    /// The kernel's `struct __sk_buff` (uapi/linux/bpf.h), as far as a test run may set it.
    fn bytes(self) -> Option<Vec<u8>> {
        const LEN: usize = 192;
        const DATA_END: usize = 80;
        const GSO_SEGS: usize = 164;
        const GSO_SIZE: usize = 176;
        let Self {
            gso_size,
            gso_segs,
            linear,
        } = self;
        if (gso_size, gso_segs, linear) == (0, 0, 0) {
            return None;
        }
        let mut bytes = vec![0; LEN];
        let mut put =
            |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        put(DATA_END, linear);
        put(GSO_SEGS, gso_segs);
        put(GSO_SIZE, gso_size);
        Some(bytes)
    }
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
        reserved: 0,
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

/// Whether this kernel can make test runs with packets beyond the linear part (Linux 6.19).
pub(crate) fn knows_nonlinear() -> bool {
    use aya::util::KernelVersion;
    KernelVersion::current().unwrap() >= KernelVersion::new(6, 19, 0)
}
