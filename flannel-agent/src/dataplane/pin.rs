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

    /// Names of pinned links that belong to interfaces, of these programs: `<program>-<index>`.
    #[must_use]
    pub fn links_named(&self, programs: &[&str]) -> Vec<String> {
        let names = entries(&self.links()).into_iter();
        let names = names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        names
            .filter(|name| of_interface(name).is_some_and(|program| programs.contains(&program)))
            .collect()
    }

    /// Removes the pin of a program's link; says whether there was one.
    ///
    /// # Errors
    /// As the file system does.
    pub fn remove_link(&self, program: &str) -> io::Result<bool> {
        match std::fs::remove_file(self.link(program)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes the pin of a map of this ABI version; one that is not there is fine.
    ///
    /// # Errors
    /// As the file system does.
    pub fn remove_map(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.map(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes map pins of other ABI versions, which an earlier agent left.
    ///
    /// # Errors
    /// As the file system does.
    pub fn remove_other_versions(&self) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for dir in self.dirs() {
            if dir != self.links() && dir != self.maps() {
                removed.extend(remove_dir(&dir)?);
            }
        }
        Ok(removed)
    }

    /// Every pin below the root, links first; none where the root cannot be read.
    #[must_use]
    pub fn list(&self) -> Vec<PathBuf> {
        self.dirs().iter().flat_map(|dir| entries(dir)).collect()
    }

    /// Removes every pin below the root but those of programs on pods' interfaces, and the
    /// directories that are empty then. Returns what was removed.
    ///
    /// # Errors
    /// As the file system does, a missing root aside.
    pub fn remove_all(&self) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for dir in self.dirs() {
            removed.extend(remove_dir(&dir)?);
        }
        match std::fs::remove_dir(&self.root) {
            Ok(()) => removed.push(self.root.clone()),
            // Somebody else's pins live here as well, the root is the mount point itself, or there
            // is none.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOTEMPTY | libc::EBUSY | libc::ENOENT)
                ) => {}
            Err(error) => return Err(error),
        }
        Ok(removed)
    }

    /// Our directories below the root, of all versions; links first, so that whoever removes them
    /// in this order leaves no program running without its maps being visible.
    fn dirs(&self) -> Vec<PathBuf> {
        let (links, mut dirs): (Vec<_>, Vec<_>) = entries(&self.root)
            .into_iter()
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name == "links" || name.starts_with("maps-v")
            })
            .partition(|dir| *dir == self.links());
        dirs.splice(0..0, links);
        dirs
    }
}

/// The program of a pin that belongs to one of many interfaces: `<program>-<index>`.
fn of_interface(name: &str) -> Option<&str> {
    let (program, index) = name.rsplit_once('-')?;
    index.parse::<u32>().is_ok().then_some(program)
}

/// Removes a directory of pins, as far as they do not belong to one of many interfaces; returns what
/// was removed.
fn remove_dir(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let is_kept = |pin: &PathBuf| {
        let name = pin.file_name().unwrap_or_default().to_string_lossy();
        of_interface(&name).is_some()
    };
    let (kept, pins): (Vec<_>, Vec<_>) = entries(dir).into_iter().partition(is_kept);
    for pin in &pins {
        std::fs::remove_file(pin)?;
    }
    if kept.is_empty() {
        std::fs::remove_dir(dir)?;
    }
    Ok(pins)
}

/// Paths in a directory; none if it cannot be read.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(dir);
    read.into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect()
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

    #[test]
    fn the_readme_names_the_maps_of_this_version() {
        let readme = include_str!("../../../README.md");
        let named: Vec<_> = readme.match_indices("/maps-v").collect();
        let own = format!("/maps-v{}/", abi::VERSION);
        assert!(!named.is_empty());
        for (place, _) in named {
            assert!(readme[place..].starts_with(&own), "{own} it is by now");
        }
    }
}
