//! Where packets for a pod go: the longest prefix wins.
//!
//! Stock flannel looks through a list, takes the first entry that contains the address and moves
//! it to the front, so that the answer depends on what was asked before wherever subnets overlap.
//! Here the prefixes are cut into ranges that do not overlap, once, when the table is built: a
//! look-up is a binary search whatever lengths there are, and a range can be remembered for the
//! next packet of the same flow.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnetwork::Ipv4Network;

/// Peers by their subnets; immutable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Ranges in order, the first from 0.0.0.0; each ends where the next one starts.
    ranges: Vec<Range>,
    peers: Vec<SocketAddrV4>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    /// First address, host order.
    first: u32,
    /// Index of the peer; none if no prefix contains the range.
    peer: Option<u32>,
}

/// The answer to a look-up, good for all addresses of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    first: u32,
    last: u32,
    /// Index of the peer, below [`Table::len`].
    pub(super) peer: Option<u32>,
}

impl Found {
    /// An answer that is good for nothing.
    pub(super) const NOTHING: Self = Self {
        first: 1,
        last: 0,
        peer: None,
    };

    pub(super) fn holds_for(&self, address: u32) -> bool {
        (self.first..=self.last).contains(&address)
    }
}

impl Table {
    /// A table of `entries`; of two with the same subnet the later one counts.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = (Ipv4Network, SocketAddrV4)>) -> Self {
        // By first address and then by length: what contains a prefix comes right before it.
        let prefixes: BTreeMap<(u32, u8), (u32, SocketAddrV4)> = entries
            .into_iter()
            .map(|(subnet, peer)| {
                let key = (subnet.network().into(), subnet.prefix());
                (key, (subnet.broadcast().into(), peer))
            })
            .collect();
        let mut table = Self::default();
        // Prefixes around the place that has been reached, the shortest first.
        let mut around: Vec<(u32, u32)> = Vec::new();
        table.start_range(0, None);
        for (index, ((first, _), (last, peer))) in (0..).zip(prefixes) {
            table.leave(&mut around, first);
            table.start_range(first, Some(index));
            table.peers.push(peer);
            around.push((last, index));
        }
        table.leave(&mut around, u32::MAX);
        table
    }

    /// Ends the prefixes that do not reach `place`, innermost first.
    fn leave(&mut self, around: &mut Vec<(u32, u32)>, place: u32) {
        while let Some((last, _)) = around.pop_if(|(last, _)| *last < place) {
            // `place` is above, so there is an address after the last one.
            self.start_range(last + 1, around.last().map(|(_, index)| *index));
        }
    }

    fn start_range(&mut self, first: u32, peer: Option<u32>) {
        // A prefix that starts where another one ended, or as its parent does, takes its place.
        self.ranges.pop_if(|range| range.first == first);
        self.ranges.push(Range { first, peer });
    }

    /// Number of subnets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there is no peer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The peer that packets to this address go to.
    #[must_use]
    pub fn get(&self, address: Ipv4Addr) -> Option<SocketAddrV4> {
        self.peer(self.find(address.into()).peer?)
    }

    pub(super) fn peer(&self, index: u32) -> Option<SocketAddrV4> {
        self.peers.get(usize::try_from(index).ok()?).copied()
    }

    pub(super) fn find(&self, address: u32) -> Found {
        let next = self.ranges.partition_point(|range| range.first <= address);
        // A default table has no range at all.
        let Some(range) = next.checked_sub(1).and_then(|index| self.ranges.get(index)) else {
            return Found {
                first: 0,
                last: u32::MAX,
                peer: None,
            };
        };
        Found {
            first: range.first,
            last: self
                .ranges
                .get(next)
                .map_or(u32::MAX, |next| next.first - 1),
            peer: range.peer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, u8)]) -> Table {
        Table::new(entries.iter().map(|(subnet, host)| {
            (
                subnet.parse().unwrap(),
                SocketAddrV4::new([192, 168, 7, *host].into(), 8285),
            )
        }))
    }

    fn host(table: &Table, address: &str) -> Option<u8> {
        let peer = table.get(address.parse().unwrap());
        peer.map(|peer| peer.ip().octets()[3])
    }

    #[test]
    fn an_empty_table_knows_nobody() {
        for table in [Table::default(), Table::new([])] {
            assert_eq!(host(&table, "0.0.0.0"), None);
            assert_eq!(host(&table, "255.255.255.255"), None);
            assert!(table.is_empty());
        }
    }

    #[test]
    fn the_longest_prefix_wins_in_any_order() {
        let mut entries = [
            ("10.5.0.0/16", 1),
            ("10.5.0.0/24", 2),
            ("10.5.0.128/25", 3),
            ("10.5.1.0/24", 4),
            ("10.5.255.255/32", 5),
            ("10.6.0.0/24", 6),
        ];
        for _ in 0..entries.len() {
            entries.rotate_left(1);
            let table = table(&entries);
            assert_eq!(table.len(), 6);
            for (address, expected) in [
                ("10.4.255.255", None),
                ("10.5.0.0", Some(2)),
                ("10.5.0.127", Some(2)),
                ("10.5.0.128", Some(3)),
                ("10.5.0.255", Some(3)),
                ("10.5.1.0", Some(4)),
                ("10.5.2.0", Some(1)),
                ("10.5.255.254", Some(1)),
                ("10.5.255.255", Some(5)),
                ("10.6.0.0", Some(6)),
                ("10.6.0.255", Some(6)),
                ("10.6.1.0", None),
            ] {
                assert_eq!(host(&table, address), expected, "{address}");
            }
        }
    }

    #[test]
    fn the_ends_of_the_address_space_are_no_exception() {
        let table = table(&[
            ("0.0.0.0/0", 1),
            ("255.255.255.255/32", 2),
            ("0.0.0.0/32", 3),
        ]);
        assert_eq!(host(&table, "0.0.0.0"), Some(3));
        assert_eq!(host(&table, "0.0.0.1"), Some(1));
        assert_eq!(host(&table, "255.255.255.254"), Some(1));
        assert_eq!(host(&table, "255.255.255.255"), Some(2));
    }

    #[test]
    fn the_later_of_two_equal_subnets_counts() {
        let table = table(&[("10.5.1.0/24", 1), ("10.5.1.0/24", 2)]);
        assert_eq!(host(&table, "10.5.1.1"), Some(2));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn an_answer_holds_exactly_where_asking_again_gives_the_same_peer() {
        // Prefixes by a generator, compared with a search through all of them.
        let mut state = 7_u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        for _ in 0..200 {
            let entries: Vec<(Ipv4Network, SocketAddrV4)> = (0..next() % 12)
                .map(|number| {
                    let address = Ipv4Addr::from(0x0a05_0000 + next() % 0x400);
                    let prefix = 20 + (next() % 13) as u8;
                    let subnet = Ipv4Network::new(address, prefix).unwrap();
                    (subnet, SocketAddrV4::new(number.into(), 8285))
                })
                .collect();
            let table = Table::new(entries.clone());
            for address in 0x0a04_fff0..0x0a05_1010_u32 {
                // The last of the longest ones.
                let longest = entries
                    .iter()
                    .filter(|(subnet, _)| subnet.contains(address.into()))
                    .max_by_key(|(subnet, _)| subnet.prefix())
                    .map(|(_, peer)| *peer);
                let found = table.find(address);
                assert!(found.holds_for(address));
                assert_eq!(table.get(address.into()), longest, "{entries:?}");
                assert_eq!(table.find(found.first), found);
                assert_eq!(table.find(found.last), found);
            }
        }
        assert!(!Found::NOTHING.holds_for(0) && !Found::NOTHING.holds_for(1));
    }
}
