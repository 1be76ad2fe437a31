//! What a libtest binary says about its tests.

use std::ops::AddAssign;

/// Numbers of tests by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    /// Reads a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    ///
    /// The words may stand behind something else: a test that writes past the harness leaves its
    /// line unfinished.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (_, result) = line.split_once("test result: ")?;
        let (_, counts) = result.split_once(". ")?;
        let count = |outcome: &str| {
            counts
                .split(';')
                .find_map(|part| part.trim().strip_suffix(outcome)?.trim().parse().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
        })
    }

    /// Whether nothing ran.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        let Self { passed, failed } = other;
        self.passed += passed;
        self.failed += failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_results() {
        let good = "test result: ok. 16 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; \
                    finished in 0.00s";
        assert_eq!(
            Tally::parse(good),
            Some(Tally {
                passed: 16,
                failed: 0
            })
        );
        let bad = "test result: FAILED. 1 passed; 21 failed; 0 ignored; 0 measured; 3 filtered out";
        assert_eq!(
            Tally::parse(bad),
            Some(Tally {
                passed: 1,
                failed: 21
            })
        );
    }

    #[test]
    fn reads_a_result_behind_an_unfinished_line() {
        let line = "agent: stopped.test result: ok. 1 passed; 0 failed; 0 ignored";
        assert_eq!(
            Tally::parse(line),
            Some(Tally {
                passed: 1,
                failed: 0
            })
        );
    }

    #[test]
    fn other_lines_are_no_result() {
        for line in [
            "",
            "running 3 tests",
            "test a ... ok",
            "test result: ok",
            "test result: x. y",
        ] {
            assert_eq!(Tally::parse(line), None, "{line}");
        }
    }

    #[test]
    fn sums_up() {
        let mut sum = Tally::default();
        assert!(sum.is_empty());
        sum += Tally {
            passed: 2,
            failed: 1,
        };
        sum += Tally {
            passed: 3,
            failed: 0,
        };
        assert_eq!(
            sum,
            Tally {
                passed: 5,
                failed: 1
            }
        );
    }
}
