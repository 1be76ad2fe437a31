//! `lint`: format, clippy for the host's code and for the BPF programs, length of files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::tools::{self, Need};
use crate::{cargo, env, progress};

/// Lines above which a file is asked to be split; tests do not count.
const MAX_LINES: usize = 600;

/// Folders of the workspace that hold sources.
const SOURCES: [&str; 4] = ["flannel-agent", "flannel-ebpf", "tests", "xtask"];

/// Check format and style of all sources.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {}

pub(crate) fn run(_: &Options) -> Result<()> {
    let tools = tools::ensure(&[Need::AgentBuild])?;
    let mut format = cargo::host("fmt");
    format.args(["--all", "--check"]);
    // `--locked` makes a `Cargo.lock` that is not up to date an error.
    let mut host = cargo::host("clippy");
    host.args([
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]);
    tools.for_build(&mut host);
    let checks = [
        ("format (`cargo fmt --all` mends it)", format),
        ("clippy for the host", host),
        ("clippy for the BPF programs", bpf_clippy()),
    ];

    // All of them, so that one round of mending is enough.
    let mut failed = Vec::new();
    for (title, mut command) in checks {
        if let Err(error) = progress::timed(title, || cargo::run(&mut command, title)) {
            eprintln!("{error:#}");
            failed.push(title);
        }
    }
    warn_of_long_files()?;
    if !failed.is_empty() {
        bail!("lint: {}", failed.join(", "));
    }
    Ok(())
}

/// Clippy is not there for the BPF target; `ebpf_lint` makes the programs compile for the host.
fn bpf_clippy() -> Command {
    let mut command = cargo::host("clippy");
    command
        .args(["--package", "flannel-ebpf", "--bins", "--locked"])
        // The workspace optimises dependencies; here they are macros and their tools only.
        .args(["--config", "profile.dev.package.\"*\".opt-level=0"])
        .arg("--target-dir")
        .arg(env::target_dir().join("lint"))
        .args(["--", "-D", "warnings"])
        // The programs bring a panic handler, and the host's would unwind.
        .env("RUSTFLAGS", "--cfg ebpf_lint -C panic=abort")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

/// Names files that grew too long. It is a question to the author, not an error.
fn warn_of_long_files() -> Result<()> {
    for folder in SOURCES {
        for file in rust_files(&env::root().join(folder))? {
            let text =
                fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            let lines = lines_without_tests(&text);
            if lines > MAX_LINES && !is_test_file(&file) {
                let name = file.strip_prefix(env::root()).unwrap_or(&file).display();
                eprintln!("warning: {name} has {lines} lines; split it at {MAX_LINES}");
            }
        }
    }
    Ok(())
}

/// Lines before the module of tests, which by custom is the last item of a file.
fn lines_without_tests(text: &str) -> usize {
    text.lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .count()
}

fn is_test_file(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == "tests.rs")
}

/// All Rust files below `folder`.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = folder
            .read_dir()
            .with_context(|| format!("list {}", folder.display()))?;
        for entry in entries {
            let path = entry
                .with_context(|| format!("list {}", folder.display()))?
                .path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_do_not_count() {
        assert_eq!(lines_without_tests("a\nb\n#[cfg(test)]\nmod tests {}\n"), 2);
        assert_eq!(lines_without_tests("a\n    #[cfg(test)]\nb\n"), 3);
    }

    #[test]
    fn every_source_folder_has_files() -> Result<()> {
        for folder in SOURCES {
            assert!(
                !rust_files(&env::root().join(folder))?.is_empty(),
                "{folder}"
            );
        }
        Ok(())
    }
}
