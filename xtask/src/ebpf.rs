//! `build-ebpf`: compiles the BPF programs into `target/ebpf/dataplane.o`.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::toolchain::{BPF_TARGET, Core, Toolchain, Way};
use crate::tools::{self, Need, Tools};
use crate::{cargo, env};

/// LLVM's name for the leave to load and store at any address.
const MISALIGNED: &str = "allows-misaligned-mem-access";

/// Compile the BPF programs.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Optimise less, so that the code is easier to follow
    #[arg(long)]
    debug: bool,
    /// Take this compiler and no other [default: FLANNEL_BPF_RUSTC, nightly with rust-src, system]
    #[arg(long, value_enum)]
    toolchain: Option<Way>,
}

/// How much the compiler is to optimise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Profile {
    /// From a `--debug` switch.
    pub(crate) fn from_debug(debug: bool) -> Self {
        if debug { Self::Dev } else { Self::Release }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { debug, toolchain } = *options;
    let tools = tools::ensure_with(&[Need::BpfBuild], toolchain)?;
    let object = build(&tools, Profile::from_debug(debug))?;
    println!("{}", object.display());
    Ok(())
}

/// Builds the object and returns its path, which is the same for both profiles.
///
/// The file is touched only if its bytes change, so that the agent is not built anew for nothing.
pub(crate) fn build(tools: &Tools, profile: Profile) -> Result<PathBuf> {
    let (toolchain, linker) = tools.bpf()?;
    eprintln!("BPF programs: {toolchain}");
    let built = compile(profile, toolchain, linker)?;
    let object = env::ebpf_object();
    replace_if_changed(&built, &object)?;
    Ok(object)
}

fn compile(profile: Profile, toolchain: &Toolchain, linker: &Path) -> Result<PathBuf> {
    let mut command = cargo::of(toolchain, "build");
    command
        .args([
            "--package",
            "flannel-ebpf",
            "--bin",
            "dataplane",
            "--locked",
        ])
        .args(["--target", BPF_TARGET, "--release"])
        .arg("--target-dir")
        .arg(env::target_dir().join("ebpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags(linker).join("\x1f"));
    for setting in profile_settings(profile) {
        command.args(["--config", &setting]);
    }
    match toolchain.core {
        // aya-ebpf uses `asm_experimental_arch`; the leave is for that crate alone, because cargo
        // itself would act as a nightly with `1`.
        Core::Prebuilt => command.env("RUSTC_BOOTSTRAP", "aya_ebpf"),
        Core::FromSource => command.args(["-Z", "build-std=core"]),
    };
    // Whether the feature is stable does not matter to us, and no flag silences only that.
    let is_known = |text: &str| text.contains("unstable feature") && text.contains(MISALIGNED);
    let built = cargo::executables(&mut command, "build of the BPF programs", is_known)?;
    let object = built
        .into_iter()
        .find(|built| built.target.name == "dataplane");
    Ok(object
        .context("cargo named no object for dataplane")?
        .executable)
}

/// Compiler flags of the BPF target.
///
/// CPU v3 (Linux 5.1) brings 32-bit registers and jumps. Packet headers are structs of alignment
/// one: without leave for misaligned access LLVM reads them byte by byte, which the kernel never
/// needs on the hosts we support. Nor do copies heed that leave where bpf-linker lets LLVM expand
/// them in the order of their bytes, for tools that look for single bytes in the code. (The stack is
/// the exception: what is on it the verifier wants aligned.)
fn flags(linker: &Path) -> Vec<String> {
    vec![
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        // rustc hands CPU and features on to bpf-linker, which refuses to be told twice.
        "-Ctarget-cpu=v3".to_owned(),
        format!("-Ctarget-feature=+{MISALIGNED}"),
        // aya-ebpf chooses register layouts by it.
        format!("--cfg=bpf_target_arch=\"{ARCH}\""),
    ]
}

/// What cargo's release profile is changed to, for both of ours.
///
/// Cargo's dev profile is left out of it: the workspace optimises all dependencies there, which
/// for this build means the tools of the macros (142 s instead of 46 s).
fn profile_settings(profile: Profile) -> Vec<String> {
    // Types in BTF come from debug information. Without optimisation nothing passes the verifier.
    let common = [
        "panic=\"abort\"",
        "debug=2",
        "strip=\"none\"",
        "codegen-units=1",
    ];
    let own = match profile {
        Profile::Dev => ["opt-level=2", "lto=false"],
        Profile::Release => ["opt-level=3", "lto=true"],
    };
    common
        .iter()
        .chain(&own)
        .map(|setting| format!("profile.release.{setting}"))
        .collect()
}

/// Copies `from` over `to` in one step, unless both are equal already.
fn replace_if_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let partial = to.with_extension(format!("o.{}", std::process::id()));
    fs::write(&partial, &bytes).with_context(|| format!("write {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("rename to {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_leave_the_object_alone() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (from, to) = (
            folder.path().join("built"),
            folder.path().join("dataplane.o"),
        );
        fs::write(&from, "one")?;
        replace_if_changed(&from, &to)?;
        let first = to.metadata()?.modified()?;
        replace_if_changed(&from, &to)?;
        assert_eq!(to.metadata()?.modified()?, first);
        fs::write(&from, "two")?;
        replace_if_changed(&from, &to)?;
        assert_eq!(fs::read_to_string(&to)?, "two");
        assert_eq!(
            folder.path().read_dir()?.count(),
            2,
            "no partial file stays"
        );
        Ok(())
    }
}
