//! The few `bpf(2)` calls that tests need beside aya, with instructions to make programs of, and the
//! size of compiled programs.
//!
//! aya loads programs from ELF objects only; forty-odd instructions do not justify one.
//! Layouts are those of `union bpf_attr` in `include/uapi/linux/bpf.h` of Linux 5.18, the first
//! with live frames.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use aya::programs::TcAttachType;

mod instruction;

pub use self::instruction::{
    Instruction, Width, add, call, copy, exit, jump_if_greater, load_word, modulo, set,
    shift_right, store, store_register, swap_half,
};

const BPF_PROG_LOAD: u32 = 5;
const BPF_OBJ_PIN: u32 = 6;
const BPF_PROG_TEST_RUN: u32 = 10;
const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;
const BPF_LINK_CREATE: u32 = 28;
/// Attach type of a link.
const BPF_XDP: u32 = 37;
/// The same, of a program on an interface's ingress.
const BPF_TCX_INGRESS: u32 = 46;
/// Run by the stack, not by the driver (`linux/if_link.h`).
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_TCX_EGRESS: u32 = 47;
/// Verdicts that drop a packet and let it go on (`linux/pkt_cls.h`).
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_UNSPEC: i32 = -1;
/// Number of `bpf_get_prandom_u32`.
pub const GET_PRANDOM_U32: i32 = 7;
/// Number of `bpf_redirect`.
pub const REDIRECT: i32 = 23;
/// Number of `bpf_redirect_peer`.
///
/// # Kernel
/// 5.10
pub const REDIRECT_PEER: i32 = 155;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
/// Verdict that hands a frame to the stack.
pub const XDP_PASS: i32 = 2;
/// Verdict of an XDP program: nobody gets the packet.
pub const XDP_DROP: i32 = 1;

/// Who runs an XDP program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum XdpMode {
    /// The stack (`XDP_FLAGS_SKB_MODE`).
    Generic = 1 << 1,
    /// The driver (`XDP_FLAGS_DRV_MODE`).
    Native = 1 << 2,
}

/// A loaded XDP program.
#[derive(Debug)]
pub struct XdpProgram(OwnedFd);

/// A loaded TC program.
#[derive(Debug)]
pub struct TcProgram(OwnedFd);

#[derive(Default)]
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct TestAttributes {
    program: u32,
    verdict: u32,
    input_size: u32,
    output_size: u32,
    input: u64,
    output: u64,
    repeat: u32,
    duration: u32,
    context_in_size: u32,
    context_out_size: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    _pad: u32,
}

/// `bpf_attr`, as BPF_OBJ_GET_INFO_BY_FD reads it.
#[repr(C)]
struct InfoAttributes {
    fd: u32,
    size: u32,
    info: u64,
}

/// The first fields of `struct bpf_prog_info`.
#[derive(Default)]
#[repr(C)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    translated_len: u32,
}

/// Bytes of machine code of a loaded program; 0 if the kernel interprets it.
///
/// # Errors
/// What the kernel says.
pub fn jited_bytes(program: impl AsFd) -> Result<u32> {
    let mut info = ProgramInfo::default();
    let mut attributes = InfoAttributes {
        fd: u32::try_from(program.as_fd().as_raw_fd())?,
        size: size_of::<ProgramInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the pointer in the attributes is to a live buffer of the size beside it.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }.context("ask for a program")?;
    Ok(info.jited_len)
}

#[derive(Default)]
#[repr(C)]
struct LinkAttributes {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    /// Where among others, and a revision to go by: anywhere, any.
    _order: [u32; 4],
}

#[derive(Default)]
#[repr(C)]
struct PinAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `struct xdp_md`.
#[derive(Default)]
#[repr(C)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// Loads a program of a kind.
fn load(kind: u32, instructions: &[Instruction]) -> Result<OwnedFd> {
    let mut log = vec![0_u8; 64 << 10];
    let mut attributes = LoadAttributes {
        program_type: kind,
        instruction_count: u32::try_from(instructions.len())?,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: u32::try_from(log.len())?,
        log: log.as_mut_ptr() as u64,
        ..LoadAttributes::default()
    };
    // SAFETY: every pointer in the attributes is to a live buffer of the size beside it.
    let result = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) };
    let fd = result.map_err(|error| {
        let text = String::from_utf8_lossy(&log);
        anyhow!("load a program: {error}\n{}", text.trim_end_matches('\0'))
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program to a device of the calling thread's namespace.
fn link(program: &OwnedFd, ifindex: u32, attach_type: u32, flags: u32) -> Result<OwnedFd> {
    let mut attributes = LinkAttributes {
        program: u32::try_from(program.as_raw_fd())?,
        ifindex,
        attach_type,
        flags,
        ..LinkAttributes::default()
    };
    // SAFETY: the attributes hold no pointer.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl TcProgram {
    /// Loads a program.
    ///
    /// # Errors
    /// The verifier refuses it; the message has the log.
    pub fn load(instructions: &[Instruction]) -> Result<Self> {
        load(BPF_PROG_TYPE_SCHED_CLS, instructions).map(Self)
    }

    /// Lets the program see what comes in on a device of the calling thread's namespace, for as
    /// long as the descriptor is open.
    ///
    /// # Errors
    /// There is no such device.
    ///
    /// # Kernel
    /// 6.6
    pub fn attach(&self, ifindex: u32) -> Result<OwnedFd> {
        link(&self.0, ifindex, BPF_TCX_INGRESS, 0).context("attach to tcx (needs Linux 6.6)")
    }

    /// A program that drops every packet.
    ///
    /// # Errors
    /// Not root.
    pub fn drop_all() -> Result<Self> {
        Self::load(&[set(0, TC_ACT_SHOT), exit()])
    }

    /// A program that lets every packet go on.
    ///
    /// # Errors
    /// Not root.
    pub fn pass_all() -> Result<Self> {
        Self::load(&[set(0, TC_ACT_UNSPEC), exit()])
    }

    /// As [`attach`](Self::attach), to what comes in or goes out.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Kernel
    /// 6.6
    pub fn attach_to(&self, ifindex: u32, direction: TcAttachType) -> Result<OwnedFd> {
        let attach_type = match direction {
            TcAttachType::Ingress => BPF_TCX_INGRESS,
            _ => BPF_TCX_EGRESS,
        };
        link(&self.0, ifindex, attach_type, 0).context("attach to tcx (needs Linux 6.6)")
    }

    /// Pins it, so that `tc` can attach it.
    ///
    /// # Errors
    /// The path is not on a bpffs, or is taken.
    pub fn pin(&self, path: &Path) -> Result<()> {
        let path = CString::new(path.as_os_str().as_encoded_bytes())?;
        let mut attributes = PinAttributes {
            path: path.as_ptr() as u64,
            fd: u32::try_from(self.0.as_raw_fd())?,
            flags: 0,
        };
        // SAFETY: the path is alive, and ends with a zero.
        let result = unsafe { bpf(BPF_OBJ_PIN, &mut attributes) };
        result.context("pin a TC program").map(drop)
    }
}

impl XdpProgram {
    /// Loads a program.
    ///
    /// # Errors
    /// The verifier refuses it; the message has the log.
    pub fn load(instructions: &[Instruction]) -> Result<Self> {
        load(BPF_PROG_TYPE_XDP, instructions).map(Self)
    }

    /// The kernel's id of the program.
    ///
    /// # Errors
    /// `/proc` does not tell.
    pub fn id(&self) -> Result<u32> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let text = std::fs::read_to_string(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        Ok(line.context("no program")?.trim().parse()?)
    }

    /// Attaches the program to a device of the calling thread's namespace for as long as the descriptor
    /// is open.
    ///
    /// # Errors
    /// There is no such device, or a program is on it.
    ///
    /// # Kernel
    /// 5.9
    pub fn attach(&self, ifindex: u32, mode: XdpMode) -> Result<OwnedFd> {
        link(&self.0, ifindex, BPF_XDP, mode as u32)
            .context("attach an XDP program (needs Linux 5.9)")
    }

    /// Runs the program `repeat` times on copies of `frame`, as received on a device of the
    /// calling thread's namespace. Frames that it passes go up the stack.
    ///
    /// # Errors
    /// The kernel is older than 5.18, there is no such device, or a signal came.
    ///
    /// # Kernel
    /// 5.18
    pub fn inject(&self, frame: &[u8], ingress_ifindex: u32, repeat: u32) -> Result<()> {
        let length = u32::try_from(frame.len())?;
        let context = XdpContext {
            data_end: length,
            ingress_ifindex,
            ..XdpContext::default()
        };
        let mut attributes = TestAttributes {
            program: u32::try_from(self.0.as_raw_fd())?,
            input_size: length,
            input: frame.as_ptr() as u64,
            repeat,
            context_in_size: size_of::<XdpContext>() as u32,
            context_in: (&raw const context) as u64,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            ..TestAttributes::default()
        };
        // SAFETY: every pointer in the attributes is to a live buffer of the size beside it.
        let result = unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) };
        result
            .map(drop)
            .context("run XDP program with live frames (needs Linux 5.18)")
    }
}

/// The system call.
///
/// # Safety
/// Pointers in `attributes` must be valid for what `command` does with them.
unsafe fn bpf<T>(command: u32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: pointer and size are those of a live structure; the rest is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
