//! bpf-linker: which one fits, and building it under `target/tools`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::env;

/// The version the flags of [`crate::ebpf`] are written for.
pub(crate) const VERSION: &str = "0.13.0";

/// A bpf-linker of our version whose LLVM can read the bitcode of LLVM `llvm`.
///
/// LLVM reads bitcode of its own and of older versions, so a newer one fits too.
pub(crate) fn find(llvm: u32) -> Option<PathBuf> {
    env::search_path()
        .into_iter()
        .map(|folder| folder.join("bpf-linker"))
        .filter(|file| env::is_executable(file))
        .find(|file| version_of(file).as_deref() == Some(VERSION) && reads_bitcode(file, llvm))
}

fn version_of(file: &Path) -> Option<String> {
    let output = Command::new(file).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().strip_prefix("bpf-linker ").map(str::to_owned)
}

/// A linker that carries its LLVM inside does not tell which; such a one is not taken.
fn reads_bitcode(file: &Path, llvm: u32) -> bool {
    let Ok(output) = Command::new("ldd").arg(file).output() else {
        return false;
    };
    linked_llvm(&String::from_utf8_lossy(&output.stdout)).is_some_and(|linked| linked >= llvm)
}

/// The LLVM major among the libraries that `ldd` lists: `libLLVM.so.22.1` or `libLLVM-21.so.1`.
fn linked_llvm(libraries: &str) -> Option<u32> {
    let line = libraries
        .lines()
        .find(|line| line.trim().starts_with("libLLVM"))?;
    let name = line.split_whitespace().next()?;
    let number = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    number
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// The LLVM that a linker is built against: `LLVM_PREFIX`, or where Debian's packages put it.
fn llvm_prefix(llvm: u32) -> PathBuf {
    std::env::var_os("LLVM_PREFIX").map_or_else(
        || PathBuf::from(format!("/usr/lib/llvm-{llvm}")),
        PathBuf::from,
    )
}

/// Whether LLVM and the libraries it drags along are there to build against.
pub(crate) fn has_llvm(llvm: u32) -> bool {
    let prefix = llvm_prefix(llvm);
    if std::env::var_os("LLVM_PREFIX").is_some() {
        return env::is_executable(&prefix.join("bin/llvm-config"));
    }
    let debian = ["bin/llvm-config", "include/llvm-c/Core.h", "lib/libPolly.a"];
    debian.iter().all(|file| prefix.join(file).exists())
        && ["zstd.h", "zlib.h"]
            .iter()
            .all(|file| Path::new("/usr/include").join(file).exists())
}

/// Debian's packages for [`has_llvm`].
pub(crate) fn llvm_packages(llvm: u32) -> Vec<String> {
    vec![
        format!("llvm-{llvm}-dev"),
        format!("libpolly-{llvm}-dev"),
        "libzstd-dev".to_owned(),
        "zlib1g-dev".to_owned(),
    ]
}

/// Where the linker's object files are until it is built.
pub(crate) fn build_dir() -> PathBuf {
    env::tools_dir().join("build")
}

/// The command that builds a fitting linker into `target/tools/bin`, about 70 s on two cores.
pub(crate) fn install_command(llvm: u32) -> Command {
    let mut command = crate::cargo::host("install");
    command
        .args(["bpf-linker", "--version", VERSION, "--locked", "--force"])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
        ])
        .arg("--root")
        .arg(env::tools_dir())
        // The workspace's own would be locked by the build that waits for us.
        .arg("--target-dir")
        .arg(build_dir())
        .env("LLVM_PREFIX", llvm_prefix(llvm))
        .env_remove("RUSTFLAGS");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_llvm_version_from_either_spelling() {
        let current = "\tlinux-vdso.so.1 (0x0)\n\tlibLLVM.so.22.1 => /usr/lib/x (0x0)\n";
        assert_eq!(linked_llvm(current), Some(22));
        assert_eq!(linked_llvm("\tlibLLVM-21.so.1 => not found\n"), Some(21));
        assert_eq!(linked_llvm("\tstatically linked\n"), None);
    }
}
