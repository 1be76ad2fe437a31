//! The packet as a traffic-control program meets it: the only place with direct packet access and
//! helper calls.

use aya_ebpf::bindings::{
    __sk_buff, BPF_CSUM_LEVEL_DEC, BPF_CSUM_LEVEL_QUERY, BPF_F_ADJ_ROOM_ENCAP_L2_ETH,
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
    BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_INGRESS, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC,
    bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::helpers::{
    bpf_csum_level, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_redirect, bpf_redirect_peer,
    bpf_skb_change_head, bpf_skb_change_type,
};
use aya_ebpf::programs::TcContext;
use bytemuck::{AnyBitPattern, NoUninit};
use flannel_ebpf::abi::{Encap, Stripped};
use flannel_ebpf::wire::{ETHERTYPE_IPV4, Ethernet};

use crate::bytes::Bytes;

/// What a program answers.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Verdict {
    /// Not ours, or left to the kernel path: later programs and the stack go on with the packet,
    /// which is unchanged. The value means "next" to tcx and "continue" to clsact.
    Kernel = TC_ACT_UNSPEC,
    /// Sent to another device.
    Redirected = TC_ACT_REDIRECT,
    /// Dropped: only ever a packet that could neither be finished nor restored.
    Dropped = TC_ACT_SHOT,
}

/// Where a redirected packet goes on.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(crate) enum Side {
    /// Out of the device.
    Egress = 0,
    /// Into the stack, as if the device had received it.
    Ingress = BPF_F_INGRESS as u64,
}

/// `pkt_type` of a packet for this host (`include/uapi/linux/if_packet.h`).
const PACKET_HOST: u32 = 0;

/// What [`Packet::set_counted`] writes: where IPv4 keeps the length of a packet's options, no more
/// than 40, so no packet from the stack has it (`struct inet_skb_parm` below `struct qdisc_skb_cb`).
const COUNTED: u32 = 0xfffe_fefe;

/// Flags of every room adjustment: the size of an aggregate's segments stays what it is, since it
/// counts inner payload, and what is known of checksums stays known.
const ROOM: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;

/// Flags that describe the room as UDP around an IP packet to segmentation and to NICs.
const ENCAP_UDP: u64 = ROOM | (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP) as u64;

/// Flags that describe the room as VXLAN. The inner link-layer header alone counts as ENCAP_L2:
/// with the VXLAN header in it, segmentation would look for the inner frame at the wrong place.
/// Needs Linux 5.13.
const ENCAP_VXLAN: u64 =
    ENCAP_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH as u64 | (Ethernet::LEN as u64) << 56;

/// A socket buffer.
pub(crate) struct Packet {
    context: TcContext,
}

impl Bytes for Packet {
    #[inline(always)]
    fn start(&self) -> usize {
        self.context.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.context.data_end()
    }
}

impl Packet {
    /// Takes the context of a program's invocation.
    #[inline(always)]
    pub(crate) fn new(context: TcContext) -> Self {
        Self { context }
    }

    #[inline(always)]
    fn skb(&self) -> &__sk_buff {
        // SAFETY: the kernel hands every program a context that lives as long as its invocation.
        unsafe { &*self.context.skb.skb }
    }

    /// Length of the frame, bytes.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        self.skb().len
    }

    /// Payload bytes of each segment of an aggregate; zero for a single packet.
    #[inline(always)]
    pub(crate) fn gso_size(&self) -> u32 {
        self.skb().gso_size
    }

    /// Packets that an aggregate of `len` bytes is on the wire.
    #[inline(always)]
    pub(crate) fn segments(&self, len: u32, gso_size: u32) -> u32 {
        match self.skb().gso_segs {
            // Not computed yet: the kernel does so when it segments.
            0 => len.div_ceil(gso_size),
            segments => segments,
        }
    }

    /// Whether the frame's protocol is IPv4.
    #[inline(always)]
    pub(crate) fn is_ipv4(&self) -> bool {
        self.skb().protocol == u32::from(u16::from_ne_bytes(ETHERTYPE_IPV4))
    }

    /// Whether the frame carries a VLAN tag, which the kernel keeps beside the packet.
    #[inline(always)]
    pub(crate) fn has_vlan_tag(&self) -> bool {
        self.skb().vlan_present != 0
    }

    /// Whether the frame came to this host's own link-layer address.
    #[inline(always)]
    pub(crate) fn is_for_host(&self) -> bool {
        self.skb().pkt_type == PACKET_HOST
    }

    /// The flow hash that a socket or a NIC has given to the packet; zero if none.
    #[inline(always)]
    pub(crate) fn hash(&self) -> u32 {
        self.skb().hash
    }

    /// Brings the first `len` bytes into the linear part.
    #[inline(always)]
    pub(crate) fn pull(&mut self, len: usize) -> bool {
        self.context.skb.pull_data(len as u32).is_ok()
    }

    /// Copies a value out of the packet, wherever in the packet it is.
    #[inline(always)]
    pub(crate) fn load<T: AnyBitPattern>(&self, offset: usize) -> Option<T> {
        self.context.load(offset).ok()
    }

    /// Overwrites bytes at `offset`; the checksums that the kernel keeps beside the packet are not
    /// touched, so this is for bytes outside of them or changes that sum to zero.
    #[inline(always)]
    pub(crate) fn store<T: NoUninit>(&mut self, offset: usize, value: &T) -> bool {
        self.context.store(offset, value, 0).is_ok()
    }

    /// Grows the packet by the headers of a tunnel, behind its link-layer header if it has one.
    /// The packet is unchanged where the kernel refuses.
    #[inline(always)]
    pub(crate) fn add_room(&mut self, encap: Encap) -> bool {
        let flags = match encap {
            Encap::Direct => ROOM,
            Encap::Udp => ENCAP_UDP,
            Encap::Vxlan => ENCAP_VXLAN,
        };
        self.adjust_room(encap.overhead() as i32, flags)
    }

    /// Removes the headers of a tunnel behind the outer link-layer header.
    #[inline(always)]
    pub(crate) fn remove_room(&mut self, encap: Encap) -> bool {
        self.adjust_room(-(encap.overhead() as i32), ROOM)
    }

    #[inline(always)]
    fn adjust_room(&mut self, difference: i32, flags: u64) -> bool {
        let skb = &self.context.skb;
        skb.adjust_room(difference, BPF_ADJ_ROOM_MAC, flags).is_ok()
    }

    /// Makes room for a link-layer header in front of a packet of a device that has none.
    #[inline(always)]
    pub(crate) fn add_link_header(&mut self) -> bool {
        let len = Ethernet::LEN as u32;
        // SAFETY: a plain helper call on a valid context; pointers into the packet are not kept
        // across it, see `write`.
        unsafe { bpf_skb_change_head(self.context.skb.skb, len, 0) == 0 }
    }

    /// Whether the NIC, or GRO, has verified the outermost checksum of the packet.
    #[inline(always)]
    pub(crate) fn is_checksum_verified(&self) -> bool {
        // SAFETY: a plain helper call on a valid context; a query changes nothing.
        unsafe { bpf_csum_level(self.context.skb.skb, u64::from(BPF_CSUM_LEVEL_QUERY)) >= 0 }
    }

    /// Forgets the verification of the outermost checksum: it went with the outer headers, and
    /// must not be taken for that of the inner packet.
    #[inline(always)]
    pub(crate) fn drop_checksum_level(&mut self) {
        // SAFETY: a plain helper call on a valid context; it fails only for unknown levels.
        unsafe { bpf_csum_level(self.context.skb.skb, u64::from(BPF_CSUM_LEVEL_DEC)) };
    }

    /// Sends the packet on to a device.
    #[inline(always)]
    pub(crate) fn redirect(&self, ifindex: u32, side: Side) -> Verdict {
        // SAFETY: a plain helper call; it only records where the packet goes.
        match unsafe { bpf_redirect(ifindex, side as u64) } as i32 {
            TC_ACT_REDIRECT => Verdict::Redirected,
            _ => Verdict::Dropped,
        }
    }

    /// Index of the device that the packet is passing.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        self.skb().ifindex
    }

    /// Index of the device by which the packet came into the stack.
    #[inline(always)]
    pub(crate) fn ingress_ifindex(&self) -> u32 {
        self.skb().ingress_ifindex
    }

    /// Delivers the packet into the network namespace at the other end of a veth. Only where the
    /// host receives (Linux 5.10).
    #[inline(always)]
    pub(crate) fn redirect_peer(&self, ifindex: u32) -> Verdict {
        // SAFETY: a plain helper call; it only records where the packet goes.
        match unsafe { bpf_redirect_peer(ifindex, 0) } as i32 {
            TC_ACT_REDIRECT => Verdict::Redirected,
            _ => Verdict::Dropped,
        }
    }

    /// Whether an XDP program has taken the headers of this kind of tunnel off.
    #[inline(always)]
    pub(crate) fn is_stripped(&self, encap: Encap) -> bool {
        let start = self.skb().data_meta as usize;
        if start + size_of::<Stripped>() > self.context.data() {
            return false;
        }
        // SAFETY: in bounds as just checked; alignment 1, and any bytes are one.
        let note = unsafe { &*(start as *const Stripped) };
        *note == Stripped::new(encap)
    }

    /// Identifier of the VLAN whose tag the kernel keeps beside the packet; zero for none.
    #[inline(always)]
    pub(crate) fn vlan_id(&self) -> u32 {
        self.skb().vlan_tci & 0xfff
    }

    /// Lets the program on the device that it is redirected to know that it is counted.
    #[inline(always)]
    pub(crate) fn set_counted(&mut self) {
        // SAFETY: the context lives as long as the invocation, and the control block is the
        // program's to write.
        unsafe { (*self.context.skb.skb).cb[1] = COUNTED };
    }

    /// Whether another program has counted it on its way to this device.
    #[inline(always)]
    pub(crate) fn is_counted(&self) -> bool {
        self.skb().cb[1] == COUNTED
    }

    /// The mark that the host's rules have given it.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        self.skb().mark
    }

    /// Gives it a mark.
    #[inline(always)]
    pub(crate) fn set_mark(&mut self, mark: u32) {
        // SAFETY: the context lives as long as the invocation, and the field is the program's to
        // write.
        unsafe { (*self.context.skb.skb).mark = mark };
    }

    /// Where queues are to put it.
    #[inline(always)]
    pub(crate) fn set_priority(&mut self, priority: u32) {
        // SAFETY: the context lives as long as the invocation, and the field is the program's to
        // write.
        unsafe { (*self.context.skb.skb).priority = priority };
    }

    /// Makes it a packet for this host, or for the pod that it is delivered into, whatever its
    /// link-layer address.
    #[inline(always)]
    pub(crate) fn set_for_host(&mut self) {
        // SAFETY: a plain helper call on a valid context; it fails only for unknown types.
        unsafe { bpf_skb_change_type(self.context.skb.skb, PACKET_HOST) };
    }

    /// The context, for log statements.
    #[inline(always)]
    pub(crate) fn context(&self) -> &TcContext {
        &self.context
    }
}

/// A random number; not for secrets.
#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: a plain helper call without arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// The kernel's coarse monotonic clock, nanoseconds: right to a tick, and a load to read (Linux
/// 5.11).
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: a plain helper call without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}
