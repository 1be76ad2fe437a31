//! Which compiler builds the BPF object.
//!
//! `core` for `bpfel-unknown-none` comes either prebuilt in the compiler's sysroot (Debian's
//! `libstd-rust-web-dev-bpf`) or is built from `rust-src` by a nightly cargo. Order: the compiler
//! named by [`RUSTC_VARIABLE`], nightly with `rust-src`, the system's compiler.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

/// Target of the BPF programs: little endian, as every host we support.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// Names a `rustc` for the BPF build; its `cargo` is expected beside it.
pub(crate) const RUSTC_VARIABLE: &str = "FLANNEL_BPF_RUSTC";

/// Where a distribution puts its compiler.
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";

/// LLVM of the compiler that Debian's packages bring.
pub(crate) const DEBIAN_LLVM: u32 = 22;

/// LLVM versions that bpf-linker 0.13 can be built against.
const LINKABLE_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// How to get a compiler, for messages.
pub(crate) const REMEDY: &str = "get one of:\n  \
    Debian:  apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf\n  \
    rustup:  rustup toolchain install nightly --component rust-src\n  \
    another: set FLANNEL_BPF_RUSTC to a rustc that has either";

/// One of the two ways to a compiler, for `--toolchain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// The distribution's compiler with a prebuilt BPF `core`.
    System,
    /// rustup's nightly with `rust-src`.
    Nightly,
}

/// Where `core` for BPF comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// In the sysroot.
    Prebuilt,
    /// Built by cargo (`-Z build-std`), nightly only.
    FromSource,
}

/// What `rustc -vV` says, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// `1.96.0` or `1.97.0-nightly`.
    pub(crate) release: String,
    /// Major version of the LLVM that writes the bitcode.
    pub(crate) llvm: u32,
}

impl Version {
    /// Reads the output of `rustc -vV`.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let llvm = field("LLVM version: ")?
            .split('.')
            .next()?
            .trim()
            .parse()
            .ok()?;
        Some(Self {
            release: field("release: ")?.trim().to_owned(),
            llvm,
        })
    }

    fn is_nightly(&self) -> bool {
        self.release.ends_with("-nightly") || self.release.ends_with("-dev")
    }

    /// Whether the release is at least `minimum`, both read as numbers and dots.
    fn is_at_least(&self, minimum: &str) -> bool {
        numbers(&self.release) >= numbers(minimum)
    }
}

/// The numbers of a version such as `1.96.0+dfsg1-1~deb12u2`, up to the first other character.
pub(crate) fn numbers(version: &str) -> Vec<u32> {
    let end = version
        .find(|c: char| c != '.' && !c.is_ascii_digit())
        .unwrap_or(version.len());
    version[..end]
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

/// A compiler that can build the BPF object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: PathBuf,
    pub(crate) version: Version,
    pub(crate) core: Core,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = match self.core {
            Core::Prebuilt => "prebuilt core",
            Core::FromSource => "core from rust-src",
        };
        let Version { release, llvm } = &self.version;
        write!(
            f,
            "rustc {release} (LLVM {llvm}, {core}) at {}",
            self.rustc.display()
        )
    }
}

/// What was found where a compiler may be.
#[derive(Clone, Debug)]
struct Probe {
    rustc: PathBuf,
    version: Version,
    has_cargo: bool,
    has_bpf_core: bool,
    has_rust_src: bool,
}

impl Probe {
    /// Asks the compiler `rustc` for its version and looks into its sysroot.
    fn of(rustc: &Path) -> Result<Self> {
        let output = Command::new(rustc)
            .args(["-vV", "--print", "sysroot"])
            .env_remove("LD_LIBRARY_PATH")
            .output()
            .with_context(|| format!("run {}", rustc.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = Version::parse(&text)
            .with_context(|| format!("{} -vV told no version", rustc.display()))?;
        // With `-vV` the sysroot is not printed by every version; ask again if need be.
        let sysroot = text
            .lines()
            .find(|line| line.starts_with('/'))
            .map(PathBuf::from);
        let sysroot = match sysroot {
            Some(sysroot) => sysroot,
            None => sysroot_of(rustc)?,
        };
        let rustlib = sysroot.join("lib/rustlib");
        let bpf = rustlib.join(BPF_TARGET).join("lib");
        Ok(Self {
            has_cargo: crate::env::is_executable(&rustc.with_file_name("cargo")),
            rustc: rustc.to_owned(),
            version,
            has_bpf_core: contains_core(&bpf),
            has_rust_src: rustlib.join("src/rust/library/core").is_dir(),
        })
    }

    /// The toolchain, or what it lacks.
    fn judge(self) -> Result<Toolchain, String> {
        let minimum = env!("CARGO_PKG_RUST_VERSION");
        let Self {
            rustc,
            version,
            has_cargo,
            has_bpf_core,
            has_rust_src,
        } = self;
        let release = &version.release;
        if !version.is_at_least(minimum) {
            return Err(format!("is {release}, and {minimum} is needed"));
        }
        if !LINKABLE_LLVM.contains(&version.llvm) {
            return Err(format!(
                "has LLVM {}, which bpf-linker does not know",
                version.llvm
            ));
        }
        if !has_cargo {
            return Err("has no cargo beside it".to_owned());
        }
        let core = match (has_bpf_core, version.is_nightly() && has_rust_src) {
            (true, _) => Core::Prebuilt,
            (false, true) => Core::FromSource,
            (false, false) if version.is_nightly() => return Err("has no rust-src".to_owned()),
            (false, false) => return Err(format!("has no core for {BPF_TARGET}")),
        };
        Ok(Toolchain {
            cargo: rustc.with_file_name("cargo"),
            rustc,
            version,
            core,
        })
    }
}

fn sysroot_of(rustc: &Path) -> Result<PathBuf> {
    let output = Command::new(rustc).args(["--print", "sysroot"]).output()?;
    Ok(PathBuf::from(
        String::from_utf8_lossy(&output.stdout).trim(),
    ))
}

/// Whether `folder` holds a compiled `core`.
fn contains_core(folder: &Path) -> bool {
    let Ok(entries) = folder.read_dir() else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    })
}

/// rustup's nightly compiler itself, not the proxy: the proxy would obey variables of the caller.
fn nightly_rustc() -> Result<PathBuf> {
    let output = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .env_remove("RUSTUP_TOOLCHAIN")
        .output()
        .context("rustup is not installed")?;
    if !output.status.success() {
        bail!("rustup has no nightly");
    }
    Ok(Path::new(String::from_utf8_lossy(&output.stdout).trim()).join("bin/rustc"))
}

/// Finds the compiler for the BPF build, `way` alone if given.
///
/// # Errors
///
/// Where none fits, one message says what each candidate lacks and how to get a fitting one.
pub(crate) fn find(way: Option<Way>) -> Result<Toolchain> {
    let named = env::var_os(RUSTC_VARIABLE)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    choose(way, named, |candidate| match candidate {
        Candidate::Named(rustc) => Probe::of(rustc),
        Candidate::Nightly => Probe::of(&nightly_rustc()?),
        Candidate::System if Path::new(SYSTEM_RUSTC).exists() => Probe::of(SYSTEM_RUSTC.as_ref()),
        Candidate::System => bail!("there is no {SYSTEM_RUSTC}"),
    })
}

/// Whether the caller insists on a compiler that Debian's packages do not bring.
pub(crate) fn is_chosen_by_caller(way: Option<Way>) -> bool {
    way == Some(Way::Nightly) || (way.is_none() && named_rustc().is_some())
}

fn named_rustc() -> Option<PathBuf> {
    env::var_os(RUSTC_VARIABLE)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

enum Candidate {
    Named(PathBuf),
    Nightly,
    System,
}

/// The order of [`find`], apart from the looking.
fn choose(
    way: Option<Way>,
    named: Option<PathBuf>,
    probe: impl Fn(&Candidate) -> Result<Probe>,
) -> Result<Toolchain> {
    // Somebody who names a compiler does not want another one taken in silence.
    let candidates = match (way, named) {
        (Some(Way::System), _) => vec![Candidate::System],
        (Some(Way::Nightly), _) => vec![Candidate::Nightly],
        (None, Some(rustc)) => vec![Candidate::Named(rustc)],
        (None, None) => vec![Candidate::Nightly, Candidate::System],
    };
    let mut reasons = String::new();
    for candidate in candidates {
        let why_not = match probe(&candidate) {
            Ok(probe) => match probe.judge() {
                Ok(toolchain) => return Ok(toolchain),
                Err(why_not) => why_not,
            },
            Err(error) => format!("{error:#}"),
        };
        let name = match candidate {
            Candidate::Named(rustc) => format!("{RUSTC_VARIABLE}={}", rustc.display()),
            Candidate::Nightly => "nightly".to_owned(),
            Candidate::System => format!("system ({SYSTEM_RUSTC})"),
        };
        reasons.push_str(&format!("\n  {name}: {why_not}"));
    }
    bail!("no compiler for the BPF programs:{reasons}\n{REMEDY}")
}

#[cfg(test)]
mod tests;
