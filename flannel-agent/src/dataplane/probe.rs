//! What the dataplane needs of a host, found out by trying, and said in a line that an operator can
//! act on.
//!
//! The agent asks for the first thing that is missing; `flannel-agent probe` makes the same trials
//! one by one and tells them all.

use std::path::{Path, PathBuf};

use aya::maps::{Array, MapError};
use aya::programs::{ProgramError, SchedClassifier, TestRunOptions};
use aya::sys::SyscallError;
use aya::util::KernelVersion;
use aya::{Ebpf, TestRun as _};
use flannel_ebpf::abi::Encap;
use flannel_ebpf::wire::{ETHERTYPE_IPV4, Ethernet, Ipv4, Udp};

use super::object;
use super::pin::Pins;
use crate::error::chain;

/// Type information of the kernel.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The program that tries what helpers accept; it is attached nowhere.
pub const PROGRAM: &str = "probe_helpers";

/// What a program needs of a helper beyond what the verifier checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The program.
    pub program: &'static str,
    /// Flag of `bpf_skb_adjust_room`: of those that it gives, the one that came last.
    pub flag: &'static str,
    /// First release that has it. Only ever said to the operator.
    pub since: &'static str,
    encap: Encap,
}

/// All there are; programs that are not here are known to run once they are loaded.
pub const NEEDS: [Need; 2] = [
    Need {
        program: "vxlan_encap",
        flag: "BPF_F_ADJ_ROOM_ENCAP_L2_ETH",
        since: "5.13",
        encap: Encap::Vxlan,
    },
    Need {
        program: "udp_encap",
        flag: "BPF_F_ADJ_ROOM_NO_CSUM_RESET",
        since: "5.8",
        encap: Encap::Udp,
    },
];

/// Why eBPF cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// The agent was built without its BPF object.
    #[error("this agent was built without its BPF object: build it with `cargo xtask build`")]
    Object,
    /// The kernel refuses bpf(2).
    #[error(
        "the kernel refuses bpf(2): {}; eBPF needs CAP_BPF and CAP_NET_ADMIN (or root), and no lockdown or seccomp filter in its way",
        chain(.0)
    )]
    Bpf(#[source] MapError),
    /// A helper does not take a flag.
    #[error(
        "this kernel ({kernel}) does not know {flag}, which {program} needs; Linux {since} and later do"
    )]
    Flag {
        /// The running kernel.
        kernel: KernelVersion,
        /// The flag.
        flag: &'static str,
        /// The program.
        program: &'static str,
        /// First release that has it.
        since: &'static str,
    },
    /// The kernel could not be asked about helpers.
    #[error("run {PROGRAM}")]
    Run(#[source] ProgramError),
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

impl Missing {
    /// The error number of a refusal of bpf(2) itself.
    #[must_use]
    pub fn bpf_errno(&self) -> Option<i32> {
        match self {
            Self::Bpf(MapError::CreateError { io_error, .. }) => io_error.raw_os_error(),
            Self::Bpf(MapError::SyscallError(SyscallError { io_error, .. })) => {
                io_error.raw_os_error()
            }
            _ => None,
        }
    }
}

/// Checks everything that can be checked before anything is loaded; returns the object. The
/// directories of the pins exist afterwards.
///
/// # Errors
/// The first thing that is missing.
pub fn check(pins: &Pins) -> Result<&'static [u8], Missing> {
    let object = object::embedded().ok_or(Missing::Object)?;
    try_bpf()?;
    try_pin_path(pins)?;
    pins.ensure_dirs().map_err(|error| Missing::PinPath {
        path: pins.root().to_owned(),
        reason: error.to_string(),
    })?;
    Ok(object)
}

/// Whether bpf(2) is allowed at all: one small map tells.
///
/// # Errors
/// [`Missing::Bpf`].
pub fn try_bpf() -> Result<(), Missing> {
    Array::<_, u32>::create(1, 0)
        .map(drop)
        .map_err(Missing::Bpf)
}

/// Whether the pin path is, or would be made, on a BPF file system; makes nothing.
///
/// # Errors
/// [`Missing::Bpffs`].
pub fn try_pin_path(pins: &Pins) -> Result<(), Missing> {
    if pins.is_on_bpffs() {
        return Ok(());
    }
    Err(Missing::Bpffs {
        path: pins.root().to_owned(),
    })
}

/// Whether the kernel tells its types. Nothing in the object depends on it; `bpftool` shows more
/// with it.
#[must_use]
pub fn has_btf() -> bool {
    Path::new(BTF).exists()
}

/// Checks that helpers take the flags that these programs give.
///
/// # Errors
/// The first one that does not.
pub fn check_helpers<'a>(
    ebpf: &mut Ebpf,
    programs: impl IntoIterator<Item = &'a str>,
) -> Result<(), Missing> {
    for need in programs.into_iter().filter_map(need) {
        if !is_met(ebpf, need).map_err(Missing::Run)? {
            return Err(need.missing());
        }
    }
    unload(ebpf);
    Ok(())
}

/// It has served once it was run, while the other programs stay as long as the agent.
fn unload(ebpf: &mut Ebpf) {
    let program = ebpf.program_mut(PROGRAM);
    let program: Option<&mut SchedClassifier> = program.and_then(|program| program.try_into().ok());
    if let Some(program) = program {
        // An error means that it was not loaded: nothing was needed.
        let _ = program.unload();
    }
}

/// What a program needs of a helper, if it needs anything.
#[must_use]
pub fn need(program: &str) -> Option<&'static Need> {
    NEEDS.iter().find(|need| need.program == program)
}

impl Need {
    /// That it is not.
    #[must_use]
    pub fn missing(&self) -> Missing {
        let Self {
            program,
            flag,
            since,
            encap: _,
        } = *self;
        Missing::Flag {
            kernel: KernelVersion::current().unwrap_or(KernelVersion::new(0, 0, 0)),
            flag,
            program,
            since,
        }
    }
}

/// Whether the kernel has what `need` says: runs [`PROGRAM`], which is loaded first if it is not.
///
/// # Errors
/// What the kernel said.
pub fn is_met(ebpf: &mut Ebpf, need: &Need) -> Result<bool, ProgramError> {
    let program = ebpf.program_mut(PROGRAM);
    let program: &mut SchedClassifier = program.ok_or(ProgramError::NotLoaded)?.try_into()?;
    match program.load() {
        Err(ProgramError::AlreadyLoaded) => {}
        other => other?,
    }
    let result = program.test_run(TestRunOptions {
        data_in: Some(&frame(need.encap)),
        ..TestRunOptions::new()
    })?;
    Ok(result.return_value == 1)
}

/// A frame with room enough for headers, of which [`PROGRAM`] and the helpers look at the EtherType
/// and at the first octet, the number of an encapsulation.
fn frame(encap: Encap) -> [u8; Ethernet::LEN + Ipv4::LEN + Udp::LEN] {
    let mut frame = [0; Ethernet::LEN + Ipv4::LEN + Udp::LEN];
    frame[0] = encap as u8;
    frame[Ethernet::LEN - 2..Ethernet::LEN].copy_from_slice(&ETHERTYPE_IPV4);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_is_missing_is_named_with_the_release_that_has_it() {
        let text = NEEDS[0].missing().to_string();
        assert!(text.contains("BPF_F_ADJ_ROOM_ENCAP_L2_ETH"), "{text}");
        assert!(text.contains("vxlan_encap needs; Linux 5.13"), "{text}");
    }

    #[test]
    fn counting_programs_need_nothing_more() {
        assert_eq!(need("direct_egress"), None);
    }
}
