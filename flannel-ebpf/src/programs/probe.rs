//! Tries what the verifier does not check: it knows the helpers, but not the flags they take. The
//! agent runs this on a frame of its own (`BPF_PROG_TEST_RUN`) and attaches it nowhere.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use flannel_ebpf::abi::Encap;

use crate::packet::Packet;

/// Makes room for the encapsulation whose number ([`Encap`]) is the first octet of the frame, and
/// removes it again. Returns 1 if the kernel does both. One run for each: a packet that has been
/// encapsulated stays marked so, and gets no second tunnel.
#[classifier]
pub(crate) fn probe_helpers(context: TcContext) -> i32 {
    let mut packet = Packet::new(context);
    let encap = match packet.load::<u8>(0).map(u32::from) {
        Some(number) if number == Encap::Udp as u32 => Encap::Udp,
        Some(number) if number == Encap::Vxlan as u32 => Encap::Vxlan,
        _ => return 0,
    };
    i32::from(packet.add_room(encap) && packet.remove_room(encap))
}
