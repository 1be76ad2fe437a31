//! Running a packet through a program: verdict, bytes, counters.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::{SchedClassifier, TestRunOptions};
use aya::{Ebpf, EbpfLoader, TestRun as _};
use flannel_agent::dataplane::object;
use flannel_ebpf::abi::{
    Config, EgressCounters, EgressOutcome, Encap, IngressCounters, IngressOutcome, Peer, Remote,
};
use flannel_ebpf::wire::{ETHERTYPE_IPV4, Ethernet, Headers, Ipv4, Udp, Vxlan};

use super::frame::{HOP_MAC, OWN_IP, OWN_MAC, PEER_IP, PEER_MAC};

/// "Next program, then the stack": the packet was left to the kernel path.
pub(crate) const KERNEL: i32 = -1;
/// The packet was sent to another device.
pub(crate) const REDIRECT: i32 = 7;

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
    pub(crate) fn load() -> Self {
        let object = object::embedded().expect("built with FLANNEL_EBPF_OBJECT");
        let mut ebpf = EbpfLoader::new()
            .override_global("AYA_LOG_LEVEL", &0_u8, false)
            .load(object)
            .expect("load the object");
        for name in ["vxlan_encap", "vxlan_decap"] {
            let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().expect("pass the verifier");
        }
        let mut programs = Self { ebpf };
        programs.set_config(&config());
        programs.set_peer([10, 5, 1, 0], &peer());
        let mut remotes: HashMap<_, [u8; 4], Remote> = programs
            .ebpf
            .map_mut("remotes")
            .unwrap()
            .try_into()
            .unwrap();
        remotes
            .insert(
                PEER_IP,
                Remote {
                    subnet: [10, 5, 1, 0],
                    prefix_len: 24,
                },
                0,
            )
            .unwrap();
        programs
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
        let before = self.counters();
        let ctx_in = context.bytes();
        let mut out = vec![0; frame.len() + 256];
        let classifier: &mut SchedClassifier =
            self.ebpf.program_mut(program).unwrap().try_into().unwrap();
        let result = classifier.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: ctx_in.as_deref(),
            ..TestRunOptions::new()
        })?;
        out.truncate(result.data_size_out as usize);
        let counted = self
            .counters()
            .into_iter()
            .filter_map(|(name, (packets, bytes))| {
                let (old_packets, old_bytes) = before[name];
                (packets != old_packets)
                    .then_some((name, (packets - old_packets, bytes - old_bytes)))
            })
            .collect();
        Ok(Run {
            verdict: result.return_value as i32,
            frame: out,
            counted,
        })
    }

    pub(crate) fn run(&mut self, program: &str, frame: &[u8], context: Context) -> Run {
        self.try_run(program, frame, context).expect("test run")
    }

    fn counters(&self) -> BTreeMap<&'static str, (u64, u64)> {
        let egress: PerCpuArray<_, EgressCounters> =
            self.ebpf.map("egress").unwrap().try_into().unwrap();
        let ingress: PerCpuArray<_, IngressCounters> =
            self.ebpf.map("ingress").unwrap().try_into().unwrap();
        let (egress, ingress) = (egress.get(&0, 0).unwrap(), ingress.get(&0, 0).unwrap());
        let sum = |values: &mut dyn Iterator<Item = flannel_ebpf::abi::Counter>| {
            values.fold((0, 0), |(p, b), c| (p + c.packets, b + c.bytes))
        };
        let mut all = BTreeMap::new();
        for outcome in EgressOutcome::ALL {
            let name = leak(format!("egress {}", outcome.name()));
            all.insert(name, sum(&mut egress.iter().map(|c| c.get(*outcome))));
        }
        for outcome in IngressOutcome::ALL {
            let name = leak(format!("ingress {}", outcome.name()));
            all.insert(name, sum(&mut ingress.iter().map(|c| c.get(*outcome))));
        }
        all
    }
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

/// Whether this kernel can make test runs with packets beyond the linear part (Linux 6.19).
pub(crate) fn knows_nonlinear() -> bool {
    use aya::util::KernelVersion;
    KernelVersion::current().unwrap() >= KernelVersion::new(6, 19, 0)
}
