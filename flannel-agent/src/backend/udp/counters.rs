//! What became of packets.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::packet::Reject;

/// Defines a counter per name, for the threads that count and for those who look.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one thread.
        #[derive(Debug, Default)]
        pub(super) struct Live { $(pub(super) $name: Count,)* }

        /// Counters since the proxy started, of all its threads. Packets are those on the wire: an
        /// aggregate counts as what it is cut into. Part of the status document: names stay.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// Every counter with its name.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            pub(super) fn add(&mut self, live: &Live) {
                $(self.$name += live.$name.get();)*
            }
        }
    };
}

counters! {
    /// Packets sent to peers.
    sent_packets,
    /// Their bytes, from the inner IP header on.
    sent_bytes,
    /// Packets received and given to the device.
    received_packets,
    /// Their bytes, from the inner IP header on.
    received_bytes,
    /// Packets received whose checksum was still to be filled in; an aggregate of them counts as one.
    unfilled,
    /// Packets from the device for which there is no peer.
    no_peer,
    /// Answers to those that said so.
    icmp_sent,
    /// Packets, either way, that are shorter than an IPv4 header.
    too_short,
    /// Packets, either way, of another version of IP. The kernel itself sends some: it looks for
    /// IPv6 routers and neighbours on every device.
    not_ipv4,
    /// Packets, either way, whose last hop this was.
    ttl_expired,
    /// Packets, either way, whose headers contradict each other.
    malformed,
    /// Packets that the socket did not take: no route, no neighbour, a firewall, a full queue.
    send_failed,
    /// Packets that the device did not take: it is down, or gone.
    write_failed,
}

/// One counter, written by one thread.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, count: usize) {
        // One writer: cheaper than an atomic addition.
        let value = self.get().wrapping_add(count as u64);
        self.0.store(value, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Live {
    pub(super) fn reject(&self, reason: Reject, packets: usize) {
        let counter = match reason {
            Reject::TooShort => &self.too_short,
            Reject::NotIpv4 => &self.not_ipv4,
            Reject::Ttl => &self.ttl_expired,
            Reject::Malformed => &self.malformed,
        };
        counter.add(packets);
    }
}
