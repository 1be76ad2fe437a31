//! Running `nft` and the iptables binaries.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Longest run of a program; above the 5 s for which iptables is told to wait for its lock.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why rules could not be read or written.
#[derive(Debug, Error)]
pub enum Error {
    /// The program is not on this host.
    #[error("{program} is not installed (package {package})")]
    Missing {
        /// The program.
        program: &'static str,
        /// The package that has it, in most distributions.
        package: &'static str,
    },
    /// The program could not be run.
    #[error("run {program}")]
    Run {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program did not end in time.
    #[error("{program} did not end within {} s", DEADLINE.as_secs())]
    Timeout {
        /// The program.
        program: &'static str,
    },
    /// The program refused.
    #[error("{command}: {words}")]
    Refused {
        /// The command.
        command: String,
        /// What it said.
        words: String,
    },
    /// What the program printed is not what it should be.
    #[error("{program} printed something unexpected")]
    Output {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The blackhole route could not be read or written.
    #[error(transparent)]
    Netlink(#[from] crate::netlink::Error),
}

/// A program and the package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tool {
    pub(super) program: &'static str,
    pub(super) package: &'static str,
}

impl Tool {
    /// Runs the program with `input` on its standard input; returns its standard output.
    pub(super) async fn run(self, args: &[&str], input: &str) -> Result<String, Error> {
        let Self { program, package } = self;
        let failed = |source| Error::Run { program, source };
        let mut child = Command::new(program)
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => Error::Missing { program, package },
                _ => failed(source),
            })?;
        let mut stdin = child.stdin.take();
        let all = async {
            if let Some(mut stdin) = stdin.take() {
                match stdin.write_all(input.as_bytes()).await {
                    // EPIPE: it has ended already, and says itself why.
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                    _ => drop(stdin),
                }
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(DEADLINE, all)
            .await
            .map_err(|_| Error::Timeout { program })?
            .map_err(failed)?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(Error::Refused {
                command: format!("{program} {}", args.join(" ")),
                words: words.lines().map(str::trim).collect::<Vec<_>>().join(" "),
            });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_program_is_named_with_its_package() {
        let nft = Tool {
            program: "nft-that-is-not-here",
            package: "nftables",
        };
        let error = nft.run(&["list", "tables"], "").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "nft-that-is-not-here is not installed (package nftables)"
        );
    }

    #[tokio::test]
    async fn what_a_program_says_when_it_refuses_is_kept() {
        let shell = Tool {
            program: "sh",
            package: "dash",
        };
        let error = shell.run(&["-s"], "echo no >&2; exit 1").await.unwrap_err();
        assert_eq!(error.to_string(), "sh -s: no");
        // One that does not read its input is no failure.
        let long = " ".repeat(1 << 20);
        let output = shell.run(&["-c", "exec <&-; echo yes"], &long).await;
        assert_eq!(output.unwrap(), "yes\n");
    }
}
