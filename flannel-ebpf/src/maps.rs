//! Every map of the object. The types are the ABI, see [`flannel_ebpf::abi`].
//!
//! `static` names are lower case since they are the maps' names in the kernel and in bpffs.
#![expect(
    non_upper_case_globals,
    reason = "a map's static is its name in the kernel"
)]

use core::cell::Cell;
use core::mem::offset_of;

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap};
use aya_ebpf::macros::btf_map;
use flannel_ebpf::abi::{
    Candidate, Config, EgressCounters, FastCounters, FastPath, Flow, FlowKey, IngressCounters,
    MAX_CANDIDATES, MAX_FLOWS, MAX_PEERS, Peer, Remote, Traffic,
};
use flannel_ebpf::wire::Addresses;

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

/// Admitted flows. Written by the programs at the end of the standard path; the agent removes what
/// has expired. A miss goes the standard path.
#[btf_map]
pub(crate) static flows: HashMap<FlowKey, Flow, MAX_FLOWS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// The admission of a flow, over or not.
#[inline(always)]
pub(crate) fn admission(key: FlowKey) -> Option<&'static Admission> {
    let flow = flows.get_ptr_mut(key)?;
    // SAFETY: the layout is the same, as asserted below. An entry that is replaced or removed
    // meanwhile is freed after an RCU grace period (the map is not preallocated), so it is there
    // until the program ends. What is written in place is, each, one aligned word (the target has
    // no atomic load).
    unsafe { flow.cast::<Admission>().as_ref() }
}

/// An entry of `flows`: a [`Flow`] of which the end and the counts are written in place, by any CPU.
#[repr(C)]
pub(crate) struct Admission {
    expires: Cell<u64>,
    queued: Cell<u64>,
    dequeued: Cell<u64>,
    generation: u32,
    ifindex: u32,
    addresses: Addresses,
    is_received: u32,
    remote: [u8; 4],
}

const _: () = assert!(size_of::<Admission>() == size_of::<Flow>());
const _: () = assert!(offset_of!(Admission, generation) == offset_of!(Flow, generation));
const _: () = assert!(offset_of!(Admission, ifindex) == offset_of!(Flow, ifindex));
const _: () = assert!(offset_of!(Admission, addresses) == offset_of!(Flow, addresses));
const _: () = assert!(offset_of!(Admission, is_received) == offset_of!(Flow, is_received));
const _: () = assert!(offset_of!(Admission, queued) == offset_of!(Flow, queued));

impl Admission {
    /// [`Flow::expires`].
    #[inline(always)]
    pub(crate) fn expires(&self) -> u64 {
        self.expires.get()
    }

    /// What tells it from the one before of the same flow.
    #[inline(always)]
    pub(crate) fn number(&self) -> u32 {
        self.expires() as u32
    }

    /// [`Flow::generation`].
    #[inline(always)]
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// [`Flow::ifindex`].
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// [`Flow::addresses`].
    #[inline(always)]
    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// [`Flow::is_received`].
    #[inline(always)]
    pub(crate) fn is_received(&self) -> bool {
        self.is_received != 0
    }

    /// [`Flow::remote`].
    #[inline(always)]
    pub(crate) fn remote(&self) -> [u8; 4] {
        self.remote
    }

    /// Whether a packet may go straight into the pod: some have been queued since the admission, and
    /// all of them have come out again.
    #[inline(always)]
    pub(crate) fn is_drained(&self) -> bool {
        let queued = self.queued.get();
        queued != 0 && queued == self.dequeued.get()
    }

    /// One more has been queued. What another CPU adds at that moment may be lost, and the flow is
    /// queued until its next admission: a backlog is one CPU's, and flows seldom change.
    #[inline(always)]
    pub(crate) fn count_queued(&self) {
        self.queued.set(self.queued.get() + 1);
    }

    /// One more has come out; as [`count_queued`](Self::count_queued).
    #[inline(always)]
    pub(crate) fn count_dequeued(&self) {
        self.dequeued.set(self.dequeued.get() + 1);
    }

    /// A packet of the flow goes the standard path: those behind it are queued again. What is in the
    /// queue by now does not count any more, which another number sees to, of a nanosecond less.
    #[inline(always)]
    pub(crate) fn start_over(&self) {
        self.expires.set(self.expires() - 1);
        self.queued.set(0);
        self.dequeued.set(0);
    }
}

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
