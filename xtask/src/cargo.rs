//! Running cargo from inside cargo, without what the outer one leaves in the environment.
//!
//! `cargo run` exports the package it runs (`CARGO_PKG_*`, `CARGO_MANIFEST_DIR`, …). Build scripts
//! that watch such variables (ring's does) would otherwise run again at every change between plain
//! cargo and `cargo xtask`.

use std::env;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::env as places;
use crate::toolchain::Toolchain;

/// Set by cargo for the program it runs; settings of the user begin otherwise.
const OUTER_CARGO: [&str; 7] = [
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_BIN_",
    "CARGO_CRATE_NAME",
    "CARGO_PRIMARY_PACKAGE",
    "OUT_DIR",
    "RUST_RECURSION_COUNT",
];

/// Chosen for the host's compiler, and wrong for another compiler or another target.
const HOST_ONLY: [&str; 10] = [
    "RUSTUP_TOOLCHAIN",
    "RUSTC",
    "RUSTDOC",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_",
    "CARGO_TARGET_",
    "CARGO_PROFILE_",
    "CARGO_INCREMENTAL",
    "LD_LIBRARY_PATH",
];

/// Whether `name` belongs to the outer cargo.
fn is_outer(name: &str) -> bool {
    name == "CARGO" || OUTER_CARGO.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether `name` must not reach a compiler other than the host's.
fn is_host_only(name: &str) -> bool {
    HOST_ONLY.iter().any(|prefix| name.starts_with(prefix))
}

fn remove_variables(command: &mut Command, unwanted: impl Fn(&str) -> bool) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(&unwanted) {
            command.env_remove(name);
        }
    }
}

/// Hides the outer cargo from a program that is not cargo.
pub(crate) fn leave(command: &mut Command) {
    remove_variables(command, is_outer);
}

/// The cargo that the user called, in the workspace's root.
pub(crate) fn host(subcommand: &str) -> Command {
    let mut command = Command::new("cargo");
    command.arg(subcommand).current_dir(places::root());
    remove_variables(&mut command, is_outer);
    command
}

/// The cargo of another toolchain, in the workspace's root.
pub(crate) fn of(toolchain: &Toolchain, subcommand: &str) -> Command {
    let mut command = Command::new(&toolchain.cargo);
    command.arg(subcommand).current_dir(places::root());
    remove_variables(&mut command, |name| is_outer(name) || is_host_only(name));
    command.env("RUSTC", &toolchain.rustc);
    // Empty switches off a wrapper that the user's cargo configuration names.
    command
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "");
    command
}

/// Runs `command` with our standard streams; a failure names `what`.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("start {:?} for: {what}", command.get_program()))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// A program that cargo built.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Executable {
    pub(crate) target: Target,
    /// The package's `Cargo.toml`.
    pub(crate) manifest_path: PathBuf,
    pub(crate) executable: PathBuf,
    pub(crate) profile: BuiltFor,
}

/// What a program was built for.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct BuiltFor {
    /// It runs tests, rather than being a program that tests run.
    pub(crate) test: bool,
}

/// The target a program was built from.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// `bin`, `lib`, `test`, …
    pub(crate) kind: Vec<String>,
}

/// Runs a build and returns the programs it made. Diagnostics are shown as cargo would, but for
/// those whose text `is_silent` accepts.
pub(crate) fn executables(
    command: &mut Command,
    what: &str,
    is_silent: impl Fn(&str) -> bool,
) -> Result<Vec<Executable>> {
    let format = if io::stderr().is_terminal() {
        "json,json-diagnostic-rendered-ansi"
    } else {
        "json"
    };
    let mut child = command
        .args(["--message-format", format])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {:?} for: {what}", command.get_program()))?;
    let mut executables = Vec::new();
    let messages = child
        .stdout
        .take()
        .context("cargo has no standard output")?;
    for line in BufReader::new(messages).lines() {
        match Message::parse(&line.context("read what cargo says")?) {
            Message::Diagnostic(text) if !is_silent(&text) => eprint!("{text}"),
            Message::Executable(executable) => executables.push(executable),
            Message::Diagnostic(_) | Message::Other => {}
        }
    }
    let status = child.wait().with_context(|| format!("wait for: {what}"))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(executables)
}

/// One line of `--message-format json`.
#[derive(Debug)]
enum Message {
    Diagnostic(String),
    Executable(Executable),
    Other,
}

impl Message {
    fn parse(line: &str) -> Self {
        let Ok(value) = serde_json::from_str::<Value>(line) else {
            return Self::Other;
        };
        if let Some(text) = value.pointer("/message/rendered").and_then(Value::as_str) {
            return Self::Diagnostic(text.to_owned());
        }
        serde_json::from_value(value).map_or(Self::Other, Self::Executable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_the_outer_package_and_keeps_the_users_settings() {
        for name in ["CARGO", "CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "OUT_DIR"] {
            assert!(is_outer(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_TERM_COLOR",
            "CARGO_NET_OFFLINE",
        ] {
            assert!(!is_outer(name), "{name}");
        }
    }

    #[test]
    fn tells_cargos_messages_apart() {
        let artifact = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/w/agent/Cargo.toml","#,
            r#""target":{"name":"flannel-agent","kind":["bin"]},"profile":{"test":false},"executable":"/w/t/flannel-agent"}"#,
        );
        let Message::Executable(found) = Message::parse(artifact) else {
            panic!("{artifact}")
        };
        assert_eq!(found.target.name, "flannel-agent");
        assert_eq!(found.executable, PathBuf::from("/w/t/flannel-agent"));

        let library = artifact.replace(r#""/w/t/flannel-agent""#, "null");
        assert!(matches!(Message::parse(&library), Message::Other));

        let warning = r#"{"reason":"compiler-message","message":{"rendered":"warning: x\n"}}"#;
        let Message::Diagnostic(text) = Message::parse(warning) else {
            panic!("{warning}")
        };
        assert_eq!(text, "warning: x\n");

        assert!(matches!(Message::parse("not JSON"), Message::Other));
    }

    #[test]
    fn keeps_host_flags_from_the_bpf_compiler() {
        for name in [
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "RUSTC_WRAPPER",
            "CARGO_PROFILE_DEV_DEBUG",
        ] {
            assert!(is_host_only(name), "{name}");
        }
        for name in ["CARGO_HOME", "RUSTUP_HOME", "PATH", "CARGO_HTTP_PROXY"] {
            assert!(!is_host_only(name), "{name}");
        }
    }
}
