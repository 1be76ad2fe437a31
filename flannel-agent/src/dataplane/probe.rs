//! What the dataplane needs of a host, found out by trying, and said in a line that an operator can
//! act on.

use std::path::{Path, PathBuf};

use aya::maps::Array;
use aya::util::KernelVersion;

use super::object;
use super::pin::Pins;

/// First kernel that describes VXLAN room to segmentation (`BPF_F_ADJ_ROOM_ENCAP_L2_ETH`).
const MINIMUM: KernelVersion = KernelVersion::new(5, 13, 0);

/// Why eBPF cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// The agent was built without its BPF object.
    #[error("this agent was built without its BPF object: build it with `cargo xtask build`")]
    Object,
    /// The kernel is too old.
    #[error("the kernel is {found}, eBPF needs Linux {MINIMUM} or later")]
    Kernel {
        /// The running kernel.
        found: KernelVersion,
    },
    /// No type information of the kernel.
    #[error(
        "the kernel has no BTF (/sys/kernel/btf/vmlinux): it was built without CONFIG_DEBUG_INFO_BTF"
    )]
    Btf,
    /// The kernel refuses bpf(2).
    #[error(
        "the kernel refuses bpf(2): {reason}; eBPF needs CAP_BPF and CAP_NET_ADMIN (or root), and no lockdown or seccomp filter in its way"
    )]
    Bpf {
        /// What it said.
        reason: String,
    },
    /// The pin path is not on a BPF file system.
    #[error(
        "--bpf-pin-path {path} is not on a BPF file system; mount one with `mount -t bpf bpf /sys/fs/bpf`, or name a path on one"
    )]
    Bpffs {
        /// The pin path.
        path: PathBuf,
    },
    /// The pin path cannot be used.
    #[error("make --bpf-pin-path {path}: {reason}")]
    PinPath {
        /// The pin path.
        path: PathBuf,
        /// What the file system said.
        reason: String,
    },
}

/// Checks everything that can be checked without touching an interface; returns the object.
///
/// # Errors
/// The first thing that is missing.
pub fn check(pins: &Pins) -> Result<&'static [u8], Missing> {
    let object = object::embedded().ok_or(Missing::Object)?;
    if let Ok(found) = KernelVersion::current()
        && found < MINIMUM
    {
        return Err(Missing::Kernel { found });
    }
    // One small map tells whether bpf(2) is allowed at all.
    Array::<_, u32>::create(1, 0).map_err(|error| Missing::Bpf {
        reason: crate::error::chain(&error),
    })?;
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(Missing::Btf);
    }
    if !pins.is_on_bpffs() {
        return Err(Missing::Bpffs {
            path: pins.root().to_owned(),
        });
    }
    pins.ensure_dirs().map_err(|error| Missing::PinPath {
        path: pins.root().to_owned(),
        reason: error.to_string(),
    })?;
    Ok(object)
}
