//! Random choices, and the seed that they come from.

use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

/// The source of all choices of one batch. A seed means the same as long as `rand` does: what is to
/// last is written down as the packet itself.
pub(crate) struct Dice(SmallRng);

impl Dice {
    /// The dice of one batch of a lane.
    pub(crate) fn new(seed: u64, lane: &str, batch: u64) -> Self {
        // FNV-1a over all three; the generator mixes its seed itself.
        let parts = [
            &seed.to_le_bytes()[..],
            lane.as_bytes(),
            &batch.to_le_bytes(),
        ];
        let hash = parts
            .concat()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        Self(SmallRng::seed_from_u64(hash))
    }

    /// Whether something happens that happens `share` times in a thousand.
    pub(crate) fn in_thousand(&mut self, share: usize) -> bool {
        self.below(1000) < share
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    /// One of these.
    pub(crate) fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }

    /// Any octet.
    pub(crate) fn octet(&mut self) -> u8 {
        self.0.random()
    }

    /// Any two octets.
    pub(crate) fn pair(&mut self) -> [u8; 2] {
        self.0.random()
    }

    /// Octets.
    pub(crate) fn octets(&mut self, count: usize) -> Vec<u8> {
        let mut octets = vec![0; count];
        self.0.fill_bytes(&mut octets);
        octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_repeats_and_differs_from_all_others() {
        let draw = |seed, lane, batch| Dice::new(seed, lane, batch).octets(16);
        assert_eq!(draw(1, "a", 2), draw(1, "a", 2));
        assert_ne!(draw(1, "a", 2), draw(1, "a", 3));
        assert_ne!(draw(1, "a", 2), draw(1, "b", 2));
        assert_ne!(draw(1, "a", 2), draw(2, "a", 2));
    }
}
