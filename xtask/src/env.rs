//! Where things of this workspace are, and how a program is found on the host.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Administration programs live here, and the `PATH` of an ordinary Debian user lacks them.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The folder that holds the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    // `cargo run` tells; without cargo (`sudo target/debug/xtask`) the place of compilation holds.
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Cargo's target directory, absolute.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Root of the tools that are built or unpacked for this workspace alone.
pub(crate) fn tools_dir() -> PathBuf {
    target_dir().join("tools")
}

/// The BPF object that the agent embeds and the tests load.
pub(crate) fn ebpf_object() -> PathBuf {
    target_dir().join("ebpf/dataplane.o")
}

/// Folders searched for programs: our tools, then `PATH`, then the sbin folders.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let tools = tools_dir();
    let ours = [
        "bin",
        "etcd/usr/bin",
        "docker/usr/bin",
        "docker/usr/sbin",
        "busybox/bin",
    ];
    let mut folders: Vec<PathBuf> = ours.iter().map(|folder| tools.join(folder)).collect();
    let inherited = env::var_os("PATH").unwrap_or_default();
    let sbin = SBIN.iter().map(PathBuf::from);
    for folder in env::split_paths(&inherited).chain(sbin) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// [`search_path`] as a value for `PATH`.
pub(crate) fn path_variable() -> OsString {
    // Joining fails only for a folder with a colon in its name; then what was inherited must do.
    env::join_paths(search_path()).unwrap_or_else(|_| env::var_os("PATH").unwrap_or_default())
}

/// First executable file called `name` on the [`search_path`].
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    search_path()
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

/// Whether we run as root.
pub(crate) fn is_root() -> bool {
    Path::new("/proc/self")
        .metadata()
        .is_ok_and(|meta| meta.uid() == 0)
}

/// Whether `file` is a regular file that somebody may execute.
pub(crate) fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_holds_the_workspace_manifest() {
        assert!(root().join("Cargo.lock").is_file());
    }

    #[test]
    fn finds_programs_and_only_programs() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-here"), None);
        assert!(!is_executable(Path::new("/etc")));
        assert!(!is_executable(Path::new("/etc/passwd")));
    }

    #[test]
    fn own_tools_come_first_and_sbin_is_never_missing() {
        let folders = search_path();
        assert!(folders[0].ends_with("tools/bin"));
        assert!(folders.contains(&PathBuf::from("/usr/sbin")));
    }
}
