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

/// Where Debian's `llvm-N-dev` puts the LLVM that a linker is built against.
pub(crate) fn llvm_prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

/// The command that builds a fitting linker into `target/tools/bin`, about 70 s on two cores.
pub(crate) fn install_command(llvm: u32) -> Command {
    let tools = env::tools_dir();
    let mut command = crate::cargo::host("install");
    command
        .args(["bpf-linker", "--version", VERSION, "--locked", "--force"])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
        ])
        .arg("--root")
        .arg(&tools)
        .env("LLVM_PREFIX", llvm_prefix(llvm))
        // A target directory of the caller's would lock out the build that waits for us.
        .env("CARGO_TARGET_DIR", tools.join("build"))
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
