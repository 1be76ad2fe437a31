//! Running test programs and counting what they say about their tests.

use std::io::{BufRead as _, BufReader, Read};
use std::ops::AddAssign;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// How often a silent test program is asked whether it is still there.
const PERIOD: Duration = Duration::from_millis(200);

/// Runs a test program, shows what it says, and counts. Next to the numbers comes what went wrong
/// besides failed tests: the program died, or left a process behind.
pub(crate) fn run(command: &mut Command, name: &str) -> Result<(Tally, Option<String>)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start the tests of {name}"))?;
    let lines = read_lines(
        child
            .stdout
            .take()
            .context("a test program has no standard output")?,
    );
    let mut tally = Tally::default();
    let mut exited = None;
    let is_left_behind = loop {
        match lines.recv_timeout(PERIOD) {
            Ok(line) => {
                println!("{line}");
                tally += Tally::parse(&line).unwrap_or_default();
            }
            Err(RecvTimeoutError::Disconnected) => break false,
            // Somebody has the output open although the program ended: waiting would be for ever.
            Err(RecvTimeoutError::Timeout) if exited.is_some() => break true,
            Err(RecvTimeoutError::Timeout) => {
                exited = child
                    .try_wait()
                    .with_context(|| format!("wait for {name}"))?;
            }
        }
    };
    let status = match exited {
        Some(status) => status,
        None => child
            .wait()
            .with_context(|| format!("wait for the tests of {name}"))?,
    };
    let trouble = if is_left_behind {
        Some(format!(
            "{name} left a process behind that holds its output"
        ))
    } else {
        // A program that dies leaves no result, or the results of others.
        (!status.success() && tally.failed == 0).then(|| format!("{name}: {status}"))
    };
    Ok((tally, trouble))
}

fn read_lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if sender
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                break;
            }
        }
    });
    lines
}

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

    fn shell(script: &str) -> (Tally, Option<String>) {
        let mut command = Command::new("sh");
        run(command.args(["-c", script]), "shell").unwrap()
    }

    #[test]
    fn failed_tests_are_counted_and_no_other_trouble() {
        let (tally, trouble) = shell("echo 'test result: FAILED. 2 passed; 1 failed;'; exit 101");
        assert_eq!(
            (tally, trouble),
            (
                Tally {
                    passed: 2,
                    failed: 1
                },
                None
            )
        );
    }

    #[test]
    fn program_that_dies_is_trouble() {
        let (tally, trouble) = shell("kill -9 $$");
        assert!(tally.is_empty());
        assert!(trouble.unwrap().contains("signal: 9"));
    }

    #[test]
    fn program_that_leaves_a_process_does_not_hang_us() {
        let (tally, trouble) = shell("sleep 5 & echo 'test result: ok. 1 passed; 0 failed;'");
        assert_eq!(
            tally,
            Tally {
                passed: 1,
                failed: 0
            }
        );
        assert!(trouble.unwrap().contains("left a process behind"));
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
