//! Every map of the object. The types are the ABI, see [`flannel_ebpf::abi`].
//!
//! `static` names are lower case since they are the maps' names in the kernel and in bpffs.
#![expect(
    non_upper_case_globals,
    reason = "a map's static is its name in the kernel"
)]

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap};
use aya_ebpf::macros::btf_map;
use flannel_ebpf::abi::{
    Candidate, Config, EgressCounters, FastPath, Flow, FlowKey, IngressCounters, MAX_CANDIDATES,
    MAX_FLOWS, MAX_PEERS, Peer, Remote, Traffic,
};

/// The node itself. Written by the agent; the programs are attached after the first write.
#[btf_map]
pub(crate) static config: Array<Config, 1> = Array::new();

/// Peers by the address of their subnet. Written by the agent; a miss is a destination without a
/// lease, or with a subnet of unusual size, and goes to the kernel path.
#[btf_map]
pub(crate) static peers: HashMap<[u8; 4], Peer, MAX_PEERS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Nodes by underlay address. Written by the agent, but for the word [`Remote::is_kin`]; a miss is
/// a sender without a lease, whose packets go to the kernel path.
#[btf_map]
pub(crate) static remotes: HashMap<[u8; 4], Remote, MAX_PEERS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// The node at an underlay address.
#[inline(always)]
pub(crate) fn remote(address: [u8; 4]) -> Option<Sender> {
    remotes.get_ptr_mut(address).map(Sender)
}

/// An entry of `remotes`. One that the agent replaces or removes meanwhile is freed after an RCU
/// grace period (the map is not preallocated), so it is there until the program ends.
#[derive(Clone, Copy)]
pub(crate) struct Sender(*mut Remote);

impl Sender {
    /// [`Remote::is_kin`].
    #[inline(always)]
    pub(crate) fn is_kin(self) -> u32 {
        // SAFETY: the entry is there, see above; any value of the word is one.
        unsafe { self.word().read_volatile() }
    }

    /// Writes the same. What another CPU writes at that moment is as good.
    #[inline(always)]
    pub(crate) fn set_kin(self, is_kin: u32) {
        // SAFETY: as above; an aligned word is written whole.
        unsafe { self.word().write_volatile(is_kin) }
    }

    #[inline(always)]
    fn word(self) -> *mut u32 {
        let offset = core::mem::offset_of!(Remote, is_kin);
        self.0.wrapping_byte_add(offset).cast()
    }
}

/// What became of packets to peers. Written by the egress program.
#[btf_map]
pub(crate) static egress: PerCpuArray<EgressCounters, 1> = PerCpuArray::new();

/// What became of packets from peers. Written by the ingress program.
#[btf_map]
pub(crate) static ingress: PerCpuArray<IngressCounters, 1> = PerCpuArray::new();

/// What went to direct peers and came from them, by the address of their subnet. Entries are the
/// agent's; a miss is no direct peer's packet.
#[btf_map]
pub(crate) static traffic: PerCpuHashMap<
    [u8; 4],
    Traffic,
    MAX_PEERS,
    { BPF_F_NO_PREALLOC as usize },
> = PerCpuHashMap::new();

/// Whether and for how long flows are admitted to the fast path. Written by the agent.
#[btf_map]
pub(crate) static fast_path: Array<FastPath, 1> = Array::new();

/// Admitted flows. Written by the programs at the end of the standard path; the agent removes what
/// has expired. A miss goes the standard path.
#[btf_map]
pub(crate) static flows: HashMap<FlowKey, Flow, MAX_FLOWS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Packets on the standard path that may admit their flow. Written by the programs at its start.
#[btf_map]
pub(crate) static candidates: LruHashMap<FlowKey, Candidate, MAX_CANDIDATES> = LruHashMap::new();
