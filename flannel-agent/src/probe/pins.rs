//! Where pins go: whether `--bpf-pin-path` is good for them, and a bpffs of our own to try pins on.
//!
//! No pin is made on the host, not even for a moment: one that a killed process leaves would stay.

use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, eaccess};

use super::facts::{Fact, is_denied};
use crate::dataplane::pin::Pins;
use crate::dataplane::probe;

/// Where a bpffs belongs; the kernel makes the directory if it has bpf(2).
const USUAL: &str = "/sys/fs/bpf";

/// Looks at the pin path, and makes nothing.
pub(super) fn read(pins: &Pins) -> Fact {
    let path = pins.root().display();
    if probe::try_pin_path(pins).is_err() {
        return Fact::no(format!("{path} is not on a BPF file system"));
    }
    let existing = pins.root().ancestors().find(|path| path.exists());
    let existing = existing.unwrap_or(Path::new("/"));
    let is_read_only =
        statvfs(existing).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY));
    if is_read_only {
        let shown = existing.display();
        return Fact::no(format!("{shown} is mounted read-only"));
    }
    match eaccess(existing, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from) {
        Ok(()) => Fact::yes(format!("{path} is on a BPF file system")),
        Err(error) if is_denied(&error) => Fact::unknown(format!(
            "{path} is on a BPF file system, in which this user may not write"
        )),
        Err(error) => Fact::no(format!("{}: {error}", existing.display())),
    }
}

/// Mounts a bpffs in the mount namespace of this process, which must be its own.
///
/// # Errors
/// The kernel has none, or does not let this process mount it.
pub(super) fn mount_private() -> io::Result<Pins> {
    mount(
        Some("bpf"),
        USUAL,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    let pins = Pins::new(&Path::new(USUAL).join("flannel"));
    pins.ensure_dirs()?;
    Ok(pins)
}
