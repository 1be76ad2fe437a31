//! The table of flows. Programs write it at the end of the standard path; whoever it admits stays in
//! its slot for [`LINGER`] after the end of its admission, and then gives way to another. Nobody
//! removes anything.
//!
//! A slot is written under its lock, and read without: the version tells a reader that it met a
//! writer. Only the end of an admission and the counts of the queue are written outside of the lock,
//! each of them whole.

use aya_ebpf::helpers::{bpf_spin_lock, bpf_spin_unlock};
use flannel_ebpf::abi::{FastPath, Flow, FlowKey, set};
use flannel_ebpf::fast::LINGER;
use flannel_ebpf::wire::Addresses;

use crate::maps;
use crate::packet::now;

/// How often a reader that has met a writer tries again. A writer is done within nanoseconds, unless
/// the hypervisor has taken its processor away.
const ATTEMPTS: u32 = 3;

const _: () = assert!(core::mem::offset_of!(Flow, beside).is_multiple_of(align_of::<u32>()));

/// A slot. The memory is the map's as long as the program runs, whosever the slot is by then.
#[derive(Clone, Copy)]
struct Slot(*mut Flow);

/// One field of a slot, read or written whole.
macro_rules! field {
    ($slot:expr, $field:ident) => {{
        // SAFETY: the slot is in the map, see `Slot`, and aligned; any bytes are a value.
        unsafe { (&raw const (*$slot.0).$field).read_volatile() }
    }};
    ($slot:expr, $field:ident = $value:expr) => {{
        let value = $value;
        // SAFETY: as for reading.
        unsafe { (&raw mut (*$slot.0).$field).write_volatile(value) }
    }};
}

impl Slot {
    #[inline(always)]
    fn at(index: u32) -> Option<Self> {
        maps::flows.get_ptr_mut(index).map(Self)
    }

    /// The slot of a flow that is in the table. It nearly always is the first of those that it may be.
    #[inline(always)]
    fn of(table: &FastPath, key: FlowKey) -> Option<Self> {
        let mut slots = key.slots(table);
        let index = slots.next()?;
        let [pods, rest] = key.words();
        let first = Self::at(index)?;
        if first.is_of(pods, rest) {
            return Some(first);
        }
        let slot = elsewhere(index, pods, rest);
        (!slot.is_null()).then_some(Self(slot))
    }

    #[inline(always)]
    fn is_of(self, pods: u64, rest: u64) -> bool {
        self.word(0) == pods && self.word(1) == rest
    }

    /// One of the two words of its key, with which it starts.
    #[inline(always)]
    fn word(self, number: usize) -> u64 {
        // SAFETY: in the slot, as for fields.
        unsafe { self.0.cast::<u64>().wrapping_add(number).read_volatile() }
    }

    #[inline(always)]
    fn set_key(self, key: FlowKey) {
        let [pods, rest] = key.words();
        let words = self.0.cast::<u64>();
        // SAFETY: as above.
        unsafe { words.write_volatile(pods) };
        // SAFETY: as above.
        unsafe { words.wrapping_add(1).write_volatile(rest) };
    }

    /// [`Flow::beside`], as the word that it is: octets would be read one by one.
    #[inline(always)]
    fn beside(self) -> [u8; 4] {
        // SAFETY: in the slot, as for fields, and aligned like a word (asserted above).
        let beside = unsafe { (&raw const (*self.0).beside).cast::<u32>() };
        // SAFETY: as above.
        unsafe { beside.read_volatile() }.to_ne_bytes()
    }

    #[inline(always)]
    fn is_free(self, now: u64) -> bool {
        field!(self, expires) + LINGER < now
    }

    /// What it holds; nothing if that is being written, or another flow's by now.
    #[inline(always)]
    fn read(self, key: FlowKey) -> Option<Admission> {
        let [pods, rest] = key.words();
        let version = field!(self, version);
        if version & 1 != 0 || !self.is_of(pods, rest) {
            return None;
        }
        let admission = Admission {
            slot: self,
            expires: field!(self, expires),
            addresses: field!(self, addresses),
            beside: self.beside(),
            generation: field!(self, generation),
            ifindex: field!(self, ifindex),
            is_received: field!(self, is_received) != 0,
            service: field!(self, service),
        };
        (version == field!(self, version)).then_some(admission)
    }

    #[inline(always)]
    fn lock(self) -> *mut aya_ebpf::bindings::bpf_spin_lock {
        // SAFETY: in the slot.
        let lock = unsafe { &raw mut (*self.0).lock };
        lock.cast()
    }
}

/// The slot of a flow among those behind the first of its set; null if it is in none. Apart from its
/// callers: it is seldom needed, and would be most of each of them.
#[inline(never)]
fn elsewhere(first: u32, pods: u64, rest: u64) -> *mut Flow {
    let mut slots = set(first).skip(1).map_while(Slot::at);
    let found = slots.find(|slot| slot.is_of(pods, rest));
    found.map_or(core::ptr::null_mut(), |slot| slot.0)
}

/// Room for a flow: its own slot, or one that nobody needs any more.
#[inline(always)]
fn room(table: &FastPath, key: FlowKey, now: u64) -> Option<Slot> {
    Slot::of(table, key).or_else(|| {
        let mut slots = key.slots(table).map_while(Slot::at);
        slots.find(|slot| slot.is_free(now))
    })
}

/// The admission of a flow, over or not.
#[inline(always)]
pub(crate) fn admission(table: &FastPath, key: FlowKey) -> Option<Admission> {
    let slot = Slot::of(table, key)?;
    (0..ATTEMPTS).find_map(|_| slot.read(key))
}

/// Admits a flow, whose queue is empty; false if there is no room, or another processor took it.
#[inline(always)]
pub(crate) fn admit(table: &FastPath, flow: &Flow) -> bool {
    let now = now();
    let Some(slot) = room(table, flow.key, now) else {
        return false;
    };
    let lock = slot.lock();
    // SAFETY: the lock of a slot, which is not held by this program.
    unsafe { bpf_spin_lock(lock) };
    let [pods, rest] = flow.key.words();
    let is_ours = slot.is_of(pods, rest) || slot.is_free(now);
    if is_ours {
        let version = field!(slot, version);
        field!(slot, version = version | 1);
        slot.set_key(flow.key);
        field!(slot, expires = flow.expires);
        field!(slot, addresses = flow.addresses);
        field!(slot, beside = flow.beside);
        field!(slot, generation = flow.generation);
        field!(slot, ifindex = flow.ifindex);
        field!(slot, queued = 0);
        field!(slot, dequeued = 0);
        field!(slot, is_received = flow.is_received);
        field!(slot, service = flow.service);
        field!(slot, version = (version | 1).wrapping_add(1));
    }
    // SAFETY: locked above.
    unsafe { bpf_spin_unlock(lock) };
    is_ours
}

/// What a slot said of a flow when it was looked up.
#[derive(Clone, Copy)]
pub(crate) struct Admission {
    slot: Slot,
    /// [`Flow::expires`].
    pub(crate) expires: u64,
    /// [`Flow::addresses`].
    pub(crate) addresses: Addresses,
    /// [`Flow::beside`].
    pub(crate) beside: [u8; 4],
    /// [`Flow::generation`].
    pub(crate) generation: u32,
    /// [`Flow::ifindex`].
    pub(crate) ifindex: u32,
    /// [`Flow::is_received`].
    pub(crate) is_received: bool,
    /// [`Flow::service`].
    pub(crate) service: u8,
}

impl Admission {
    /// What tells it from the one before of the same flow.
    #[inline(always)]
    pub(crate) fn number(&self) -> u32 {
        self.expires as u32
    }

    /// Whether a packet may go straight into the pod: some have been queued since the admission, and
    /// all of them have come out again.
    #[inline(always)]
    pub(crate) fn is_drained(&self) -> bool {
        let queued = field!(self.slot, queued);
        queued != 0 && queued == field!(self.slot, dequeued)
    }

    /// One more has been queued. What another CPU adds at that moment may be lost, and the flow is
    /// queued until its next admission: a backlog is one CPU's, and flows seldom change.
    #[inline(always)]
    pub(crate) fn count_queued(&self) {
        field!(
            self.slot,
            queued = field!(self.slot, queued).wrapping_add(1)
        );
    }

    /// One more has come out; as [`count_queued`](Self::count_queued).
    #[inline(always)]
    pub(crate) fn count_dequeued(&self) {
        field!(
            self.slot,
            dequeued = field!(self.slot, dequeued).wrapping_add(1)
        );
    }

    /// A packet of the flow goes the standard path: those behind it are queued again. What is in the
    /// queue by now does not count any more, which another number sees to, of a nanosecond less.
    #[inline(always)]
    pub(crate) fn start_over(&self) {
        field!(self.slot, expires = self.expires - 1);
        field!(self.slot, queued = 0);
        field!(self.slot, dequeued = 0);
    }

    /// Ends it. The flow stays in the table, for what is still queued under it.
    #[inline(always)]
    pub(crate) fn end(&self) {
        field!(self.slot, expires = now());
    }
}
