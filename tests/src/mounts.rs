//! A private view of the file system for one bed: bpffs for pins, tmpfs for scratch files.
//!
//! Both are mounted over directories that every Linux has, inside a mount namespace that only file
//! descriptors of this process and the children of the bed hold. Files and pins thus vanish with
//! the last of them, and no path outside is ever written. Children see [`FILES`] and [`BPFFS`];
//! this process stays outside and reaches the same files through [`Mounts::outside`].

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Directory of scratch files, as children of the bed see it.
pub const FILES: &str = "/dev/shm";
/// BPF file system, as children of the bed see it.
pub const BPFFS: &str = "/sys/fs/bpf";

/// The mount namespace of a bed.
#[derive(Debug)]
pub struct Mounts {
    namespace: OwnedFd,
    files: OwnedFd,
    bpffs: OwnedFd,
}

impl Mounts {
    /// Makes the namespace and mounts both file systems in it.
    ///
    /// # Errors
    /// Not root, or the kernel has no bpffs.
    pub fn new() -> Result<Self> {
        // `unshare` moves the calling thread only, and the thread ends here.
        thread::spawn(Self::make)
            .join()
            .map_err(|_| anyhow!("make mount namespace: thread panicked"))?
    }

    fn make() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS).context("unshare mount namespace (needs root)")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("make mounts private")?;
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none)
            .with_context(|| format!("mount bpffs on {BPFFS}"))?;
        mount(Some("bed"), FILES, Some("tmpfs"), MsFlags::empty(), none)
            .with_context(|| format!("mount tmpfs on {FILES}"))?;
        let open = |path: &str| -> Result<OwnedFd> {
            Ok(File::open(path)
                .with_context(|| format!("open {path}"))?
                .into())
        };
        Ok(Self {
            namespace: open("/proc/thread-self/ns/mnt")?,
            files: open(FILES)?,
            bpffs: open(BPFFS)?,
        })
    }

    /// The path by which this process reaches `inside`, a path under [`FILES`] or [`BPFFS`].
    ///
    /// # Errors
    /// `inside` is elsewhere.
    pub fn outside(&self, inside: &Path) -> Result<PathBuf> {
        let Self {
            namespace: _,
            files,
            bpffs,
        } = self;
        for (root, fd) in [(FILES, files), (BPFFS, bpffs)] {
            if let Ok(rest) = inside.strip_prefix(root) {
                let base = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
                return Ok(Path::new(&base).join(rest));
            }
        }
        Err(anyhow!("{} is not on a private mount", inside.display()))
    }
}

impl AsFd for Mounts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}
