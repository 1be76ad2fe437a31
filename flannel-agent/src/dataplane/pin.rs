//! Every path in bpffs. Nothing else joins them.
//!
//! ```text
//! /sys/fs/bpf/flannel/links/<program>    attachments: what keeps packets moving without an agent
//! /sys/fs/bpf/flannel/maps-v1/<map>      maps of ABI version 1
//! ```

use std::io;
use std::path::{Path, PathBuf};

use flannel_ebpf::abi;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// The pins below one root, `--bpf-pin-path`.
#[derive(Debug, Clone)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Pins below `root`, which need not exist.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the link of a program is pinned.
    #[must_use]
    pub fn link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// Where a map of this ABI version is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    fn maps(&self) -> PathBuf {
        self.root.join(format!("maps-v{}", abi::VERSION))
    }

    /// Makes the directories.
    ///
    /// # Errors
    /// As `mkdir` does.
    pub fn ensure_dirs(&self) -> io::Result<()> {
        std::fs::create_dir_all(self.links())?;
        std::fs::create_dir_all(self.maps())
    }

    /// Whether the root is, or would be made, on a BPF file system.
    #[must_use]
    pub fn is_on_bpffs(&self) -> bool {
        // The nearest ancestor that exists decides.
        let existing = self.root.ancestors().find(|path| path.exists());
        existing
            .and_then(|path| statfs(path).ok())
            .is_some_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
    }

    /// Removes map pins of other ABI versions, which an earlier agent left.
    ///
    /// # Errors
    /// As the file system does; what could be removed is.
    pub fn remove_other_versions(&self) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with("maps-v") && path != self.maps() {
                std::fs::remove_dir_all(&path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }

    /// Removes every pin below the root, links first so that no program runs on without its maps
    /// being visible; then the directories that are empty. Returns what was removed.
    ///
    /// # Errors
    /// As the file system does, a missing root aside.
    pub fn remove_all(&self) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        let dirs = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .filter(|path| {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    name == "links" || name.starts_with("maps-v")
                })
                .collect::<Vec<_>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
            Err(error) => return Err(error),
        };
        let (links, maps): (Vec<_>, Vec<_>) =
            dirs.into_iter().partition(|dir| *dir == self.links());
        for dir in links.into_iter().chain(maps) {
            for entry in std::fs::read_dir(&dir)? {
                let path = entry?.path();
                std::fs::remove_file(&path)?;
                removed.push(path);
            }
            std::fs::remove_dir(&dir)?;
        }
        match std::fs::remove_dir(&self.root) {
            Ok(()) => removed.push(self.root.clone()),
            // Somebody else's pins live here as well, or the root is the mount point itself.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTEMPTY | libc::EBUSY)) => {}
            Err(error) => return Err(error),
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_on_disk_is_not_bpffs() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Pins::new(&dir.path().join("missing/deeper")).is_on_bpffs());
    }

    #[test]
    fn removing_takes_only_what_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::new(dir.path());
        pins.ensure_dirs().unwrap();
        std::fs::write(pins.link("vxlan_encap"), "").unwrap();
        std::fs::write(pins.map("peers"), "").unwrap();
        std::fs::write(dir.path().join("foreign"), "").unwrap();
        let removed = pins.remove_all().unwrap();
        assert_eq!(removed, [pins.link("vxlan_encap"), pins.map("peers")]);
        assert!(dir.path().join("foreign").exists());
    }

    #[test]
    fn removing_from_nowhere_is_fine() {
        let pins = Pins::new(Path::new("/nonexistent/flannel"));
        assert!(pins.remove_all().unwrap().is_empty());
    }
}
