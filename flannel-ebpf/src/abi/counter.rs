//! Counters: what became of every tunnel packet.
//!
//! Each direction has one per-CPU value, a struct with a named [`Counter`] for each outcome, so a
//! program looks its counters up once and `bpftool map dump` prints the names. The enum of
//! outcomes and the struct come from one list and cannot disagree.

use bytemuck::{Pod, Zeroable};

/// Packets and bytes of one outcome on one CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Counter {
    /// Packets as the wire sees them: an aggregate counts as its segments.
    pub packets: u64,
    /// Bytes of the frame as the program met it, link-layer header included.
    pub bytes: u64,
}

/// Declares the outcomes of one kind of decision: those that mean "carried by eBPF" are listed, all
/// others name the reason why a packet was left to the kernel.
macro_rules! outcomes {
    ($(#[$meta:meta])* $outcome:ident, $counters:ident, carried: $($handled:ident)|+ {
        $($(#[$doc:meta])* $variant:ident $field:ident,)+
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $outcome { $($(#[$doc])* $variant,)+ }

        impl $outcome {
            /// All outcomes, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The outcome's name: the field of its counter.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($field),)+ }
            }

            /// Whether eBPF carried the packet.
            #[must_use]
            pub const fn is_handled(self) -> bool {
                matches!(self, $(Self::$handled)|+)
            }
        }

        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
        #[repr(C)]
        pub struct $counters { $($(#[$doc])* pub $field: Counter,)+ }

        impl $counters {
            /// Number of counters.
            pub const LEN: usize = $outcome::ALL.len();

            /// The counter of an outcome.
            #[must_use]
            pub const fn get(&self, outcome: $outcome) -> Counter {
                match outcome { $($outcome::$variant => self.$field,)+ }
            }
        }

        const _: () = assert!(size_of::<$counters>() == $counters::LEN * size_of::<Counter>());

        #[cfg(feature = "user")]
        #[expect(unsafe_code, reason = "aya's own Pod trait cannot be derived")]
        // SAFETY: `repr(C)` without padding, valid for any bytes: checked by bytemuck's derive.
        unsafe impl aya::Pod for $counters {}
    };
}

outcomes! {
    /// Outcomes of packets that leave through the tunnel device.
    EgressOutcome, EgressCounters, carried: Encapsulated {
        /// Sent to the peer by eBPF.
        Encapsulated encapsulated,
        /// Inner packet is not IPv4.
        NotIpv4 not_ipv4,
        /// Frame carries a VLAN tag.
        Vlan vlan,
        /// Headers are not in the linear part of the packet.
        NotLinear not_linear,
        /// No lease for the destination.
        UnknownPeer unknown_peer,
        /// The peer is reached in another way than by this tunnel.
        OtherEncap other_encap,
        /// Frame is for another link-layer address than the peer's, or not from our own.
        OtherMac other_mac,
        /// Time to live ends at the tunnel, where the tunnel counts as a hop.
        Ttl ttl,
        /// The agent has no plain, resolved next hop for the peer.
        Unresolved unresolved,
        /// Larger than the way to the peer; the kernel answers or fragments.
        TooBig too_big,
        /// Its checksum may be left to a device that is not there (the way to the peer starts with a
        /// virtual interface), and the peer has not shown that it knows to read that.
        Unproven unproven,
        /// The kernel refused room for the headers (for one, the packet is a tunnel packet already).
        NoRoom no_room,
        /// Lost after the header was made room for. Never seen; counted so that it would be.
        Failed failed,
        /// Routed by the kernel to a direct peer; eBPF only counts it.
        Direct direct,
    }
}

outcomes! {
    /// Outcomes of packets that arrive on the external interface for the tunnel's port.
    IngressOutcome, IngressCounters, carried: Decapsulated | Stripped {
        /// Delivered into the tunnel device by eBPF.
        Decapsulated decapsulated,
        /// Several packets merged by GRO or never split; the kernel's device knows how to unwrap those.
        Aggregate aggregate,
        /// Outer frame carries a VLAN tag that no VLAN device took off.
        Vlan vlan,
        /// Not addressed to this host's link-layer address.
        OtherHost other_host,
        /// Outer IPv4 header has options.
        IpOptions ip_options,
        /// First fragment of an outer datagram (the others carry no port and are not counted).
        Fragment fragment,
        /// Too short for all headers.
        Truncated truncated,
        /// Outer IPv4 header checksum is wrong.
        IpChecksum ip_checksum,
        /// Lengths of frame, IPv4 and UDP do not agree.
        Length length,
        /// Outer destination is not the tunnel's address.
        OtherAddress other_address,
        /// VXLAN flags or reserved bits that we do not know.
        VxlanFlags vxlan_flags,
        /// VXLAN network identifier of another network.
        OtherVni other_vni,
        /// Inner packet is not IPv4.
        InnerNotIpv4 inner_not_ipv4,
        /// Inner packet is shorter or longer than the datagram around it.
        InnerLength inner_length,
        /// Inner frame is not for our link-layer address, or claims to come from it.
        InnerMac inner_mac,
        /// Sender is not in the lease table.
        UnknownSender unknown_sender,
        /// UDP checksum that no device has verified and that does not agree with the headers, or whose
        /// packet has no inner checksum to go by.
        UdpChecksum udp_checksum,
        /// Congestion mark that the inner packet cannot carry.
        Ecn ecn,
        /// Time to live ends at the tunnel, where the tunnel counts as a hop.
        Ttl ttl,
        /// The kernel refused to take the headers off.
        NoRoom no_room,
        /// Lost after the headers were taken off. Never seen; counted so that it would be.
        Failed failed,
        /// Came straight from a direct peer; eBPF only counts it.
        Direct direct,
        /// Delivered into the tunnel device by eBPF, XDP having taken the headers off.
        Stripped stripped,
    }
}

outcomes! {
    /// What the fast path has made of packets between pods, in both directions. Those that it
    /// carries are counted here alone; the others take the standard path, and are counted there, too.
    FastOutcome, FastCounters, carried: Sent | Delivered | Queued {
        /// Sent from the pod's interface to the wire.
        Sent sent,
        /// Delivered into the pod at once.
        Delivered delivered,
        /// Delivered into the pod behind the packets of its flow that were still on the standard path.
        Queued queued,
        /// Of no admitted flow: its first packets, one in a while that asks the rules again, and all
        /// of flows that the rules do not let through unchanged.
        NotAdmitted not_admitted,
        /// Of a kind that is not admitted: fragments, options, TCP's SYN, FIN and RST, other protocols,
        /// hops that end on the way, lengths that disagree.
        Unfit unfit,
        /// A congestion mark is to be carried over to the inner packet (RFC 6040).
        Mark mark,
        /// Came from another interface, or with other link-layer addresses, than the flow's.
        OtherPlace other_place,
        /// No plain, resolved next hop to the peer.
        Unresolved unresolved,
        /// Larger than the way to the peer.
        TooBig too_big,
        /// The peer has not shown yet that it reads what this interface leaves unfinished.
        Unproven unproven,
        /// The kernel refused room for the headers.
        NoRoom no_room,
        /// Came out of the standard path as it went in, and so admitted its flow. Counted beside what
        /// was said of it at the start of that way, and once, an aggregate or not.
        Admitted admitted,
        /// The same, but the table has no room for the flow.
        TableFull table_full,
        /// Lost after it was changed. Never seen; counted so that it would be.
        Failed failed,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    #[test]
    fn an_outcome_is_the_index_of_its_counter() {
        let mut counters = IngressCounters::default();
        counters.vxlan_flags.packets = 7;
        let as_array: &[Counter; IngressCounters::LEN] = bytemuck::cast_ref(&counters);
        assert_eq!(as_array[IngressOutcome::VxlanFlags as usize].packets, 7);
        assert_eq!(counters.get(IngressOutcome::VxlanFlags).packets, 7);
    }

    #[test]
    fn what_ebpf_carries_is_handled() {
        use {EgressOutcome as E, IngressOutcome as I};
        let sent: Vec<_> = E::ALL.iter().filter(|o| o.is_handled()).collect();
        assert_eq!(sent, [&E::Encapsulated]);
        let received: Vec<_> = I::ALL.iter().filter(|o| o.is_handled()).collect();
        assert_eq!(received, [&I::Decapsulated, &I::Stripped]);
    }
}
