//! Choice of a free subnet, uniformly at random. Pure.
//!
//! Leases are turned into ranges of candidate numbers, sorted and merged; the n-th free candidate
//! is then found by walking the gaps. The cost is that of sorting the leases, however many
//! candidates there are, and a lease of another length blocks every candidate that it overlaps.

use ipnetwork::{Ipv4Network, Ipv6Network};
use rand::Rng;

use crate::network::SubnetRange;

/// A free IPv4 subnet of the range; `None` when every one of them is taken.
pub fn choose_ipv4(
    range: &SubnetRange<Ipv4Network>,
    taken: impl IntoIterator<Item = Ipv4Network>,
    rng: &mut impl Rng,
) -> Option<Ipv4Network> {
    let candidates = Candidates {
        first: u32::from(range.min.network()).into(),
        last: u32::from(range.max.network()).into(),
        host_bits: 32_u8.checked_sub(range.len)?,
    };
    let taken = taken.into_iter().map(|subnet| {
        let (first, last) = (subnet.network(), subnet.broadcast());
        (u32::from(first).into(), u32::from(last).into())
    });
    let address = candidates.choose(taken, rng)?;
    Ipv4Network::new_checked(u32::try_from(address).ok()?.into(), range.len)
}

/// A free IPv6 subnet of the range; `None` when every one of them is taken.
pub fn choose_ipv6(
    range: &SubnetRange<Ipv6Network>,
    taken: impl IntoIterator<Item = Ipv6Network>,
    rng: &mut impl Rng,
) -> Option<Ipv6Network> {
    let candidates = Candidates {
        first: range.min.network().into(),
        last: range.max.network().into(),
        host_bits: 128_u8.checked_sub(range.len)?,
    };
    let taken = taken
        .into_iter()
        .map(|subnet| (subnet.network().into(), subnet.broadcast().into()));
    Ipv6Network::new_checked(candidates.choose(taken, rng)?.into(), range.len)
}

/// Subnets of one size, named by their network addresses.
struct Candidates {
    first: u128,
    last: u128,
    host_bits: u8,
}

impl Candidates {
    /// Network address of a candidate that overlaps none of `taken` (first and last address each).
    fn choose(
        &self,
        taken: impl Iterator<Item = (u128, u128)>,
        rng: &mut impl Rng,
    ) -> Option<u128> {
        let Self {
            first,
            last,
            host_bits,
        } = *self;
        if first > last || host_bits > 127 {
            return None;
        }
        // Candidates are numbered from 0; `end` is the last number.
        let end = (last - first) >> host_bits;
        let beyond = last | ((1_u128 << host_bits) - 1);
        let mut blocked: Vec<(u128, u128)> = taken
            .filter(|(from, to)| *to >= first && *from <= beyond)
            .map(|(from, to)| {
                let from = from.saturating_sub(first) >> host_bits;
                (from, ((to.min(beyond) - first) >> host_bits).min(end))
            })
            .collect();
        blocked.sort_unstable();

        let mut gaps = Vec::new();
        let mut next = 0;
        for (from, to) in blocked {
            if from > next {
                gaps.push((next, from - next));
            }
            next = next.max(to.saturating_add(1));
        }
        if next <= end {
            gaps.push((next, (end - next).saturating_add(1)));
        }

        let free = gaps
            .iter()
            .fold(0_u128, |sum, (_, count)| sum.saturating_add(*count));
        let mut wanted = (free > 0).then(|| rng.random_range(0..free))?;
        for (start, count) in gaps {
            if wanted < count {
                return Some(first + ((start + wanted) << host_bits));
            }
            wanted -= count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    fn range(min: &str, max: &str, len: u8) -> SubnetRange<Ipv4Network> {
        let net = |text: &str| Ipv4Network::new(text.parse().unwrap(), len).unwrap();
        SubnetRange {
            min: net(min),
            max: net(max),
            len,
        }
    }

    #[test]
    fn agrees_with_the_obvious_way_of_finding_free_subnets() {
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..2_000 {
            let len = rng.random_range(20..=30);
            let size = 1_u32 << (32 - len);
            let base = 0x0a05_0000_u32;
            let (low, count) = (rng.random_range(0..8), rng.random_range(1..24));
            let subnet = |n: u32| Ipv4Network::new((base + n * size).into(), len).unwrap();
            let range = SubnetRange {
                min: subnet(low),
                max: subnet(low + count - 1),
                len,
            };
            let taken: Vec<Ipv4Network> = (0..rng.random_range(0..30))
                .map(|_| {
                    let address = base + rng.random_range(0..40) * (size / 2);
                    Ipv4Network::new(address.into(), rng.random_range(len - 2..=32)).unwrap()
                })
                .collect();
            let free: BTreeSet<Ipv4Network> = (low..low + count)
                .map(subnet)
                .filter(|candidate| !taken.iter().any(|lease| candidate.overlaps(*lease)))
                .collect();
            match choose_ipv4(&range, taken.iter().copied(), &mut rng) {
                Some(chosen) => assert!(free.contains(&chosen), "{chosen} of {free:?}"),
                None => assert!(free.is_empty(), "{free:?} free"),
            }
        }
    }

    #[test]
    fn every_free_subnet_is_equally_likely() {
        let mut rng = StdRng::seed_from_u64(5);
        let range = range("10.5.1.0", "10.5.10.0", 24);
        let taken = || ["10.5.3.0/24", "10.5.4.128/25"].map(|text| text.parse().unwrap());
        let mut seen = BTreeMap::new();
        for _ in 0..8_000 {
            let chosen = choose_ipv4(&range, taken(), &mut rng).unwrap();
            *seen.entry(chosen).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 8);
        assert!(seen.values().all(|n| (800..1200).contains(n)), "{seen:?}");
    }

    #[test]
    fn an_exhausted_pool_gives_nothing() {
        let mut rng = StdRng::seed_from_u64(5);
        let small = range("10.5.1.0", "10.5.2.0", 24);
        let whole = ["10.5.0.0/16".parse().unwrap()];
        assert_eq!(choose_ipv4(&small, whole, &mut rng), None);
        let inverted = range("10.5.2.0", "10.5.1.0", 24);
        assert_eq!(choose_ipv4(&inverted, [], &mut rng), None);
    }

    #[test]
    fn ipv6_subnets_are_chosen_alike() {
        let mut rng = StdRng::seed_from_u64(5);
        let net = |text: &str| text.parse().unwrap();
        let range = SubnetRange {
            min: net("fd00:5:0:1::/64"),
            max: net("fd00:5:0:3::/64"),
            len: 64,
        };
        let taken = [net("fd00:5:0:2::/63")];
        let chosen = choose_ipv6(&range, taken, &mut rng);
        assert_eq!(chosen, Some(net("fd00:5:0:1::/64")));
    }
}
