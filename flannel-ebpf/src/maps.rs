//! Every map of the object. The types are the ABI, see [`flannel_ebpf::abi`].
//!
//! `static` names are lower case since they are the maps' names in the kernel and in bpffs.
#![expect(
    non_upper_case_globals,
    reason = "a map's static is its name in the kernel"
)]

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap};
use aya_ebpf::macros::btf_map;
use flannel_ebpf::abi::{
    Candidate, Config, EgressCounters, FastCounters, FastPath, Flow, FlowKey, IngressCounters,
    MAX_CANDIDATES, MAX_FLOWS, MAX_PEERS, Peer, Remote, Traffic,
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
    let remote = remotes.get_ptr_mut(address)?;
    // SAFETY: the entry is there, as below.
    let is_kin = unsafe { &raw mut (*remote).is_kin };
    Some(Sender { is_kin })
}

/// An entry of `remotes`, of which programs use one word. One that the agent replaces or removes
/// meanwhile is freed after an RCU grace period (the map is not preallocated), so it is there until
/// the program ends.
#[derive(Clone, Copy)]
pub(crate) struct Sender {
    is_kin: *mut u32,
}

impl Sender {
    /// [`Remote::is_kin`].
    #[inline(always)]
    pub(crate) fn is_kin(self) -> bool {
        // SAFETY: the entry is there, and any value of the word is one.
        unsafe { self.is_kin.read_volatile() != 0 }
    }

    /// Writes the same. What another CPU writes at that moment is as good.
    #[inline(always)]
    pub(crate) fn set_kin(self, is_kin: bool) {
        // SAFETY: the entry is there; an aligned word is written whole.
        unsafe { self.is_kin.write_volatile(is_kin.into()) }
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

/// What the fast path has made of packets. Written by its programs.
#[btf_map]
pub(crate) static fast: PerCpuArray<FastCounters, 1> = PerCpuArray::new();

/// Whether and for how long flows are admitted to the fast path. Written by the agent.
#[btf_map]
pub(crate) static fast_path: Array<FastPath, 1> = Array::new();

/// The table of flows, see [`table`](crate::table). An array and no hash map: a look-up is in one line
/// of the cache, where the kernel's hash has three and calls. `MMAPABLE` makes it start at a page, and
/// so each slot at such a line.
#[btf_map]
pub(crate) static flows: Array<Flow, MAX_FLOWS, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Packets on the standard path that may admit their flow. Written by the programs at its start.
#[btf_map]
pub(crate) static candidates: LruHashMap<FlowKey, Candidate, MAX_CANDIDATES> = LruHashMap::new();

/// The candidate of a flow.
#[inline(always)]
pub(crate) fn noted(key: FlowKey) -> Option<Noted> {
    candidates.get_ptr_mut(key).map(Noted)
}

/// An entry of `candidates`. One that gives way meanwhile may be another flow's at once: what is
/// read then is not the packet that is compared with it, or if it is, proves the same.
#[derive(Clone, Copy)]
pub(crate) struct Noted(*mut Candidate);

impl Noted {
    /// The entry.
    #[inline(always)]
    pub(crate) fn read(&self) -> &Candidate {
        // SAFETY: the memory is the map's as long as the program runs, and any bytes are a candidate.
        unsafe { &*self.0 }
    }

    /// Its outcome is not waited for any more.
    #[inline(always)]
    pub(crate) fn settle(self) {
        // SAFETY: as above.
        let noted = unsafe { &raw mut (*self.0).noted };
        // SAFETY: an aligned word is written whole; in the place of another flow's it costs that a
        // little time.
        unsafe { noted.write_volatile(0) }
    }
}
