//! Attaching, in the way the agent does it, to the loopback device of a private network namespace.

use std::io;

use aya::Ebpf;
use aya::programs::tc::{self, TcError};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;

use super::facts::{Attach, Fact, Isolation, is_denied};
use crate::cli::TcAttach;
use crate::dataplane::attach::{self, Error, Hook, Mechanism};
use crate::dataplane::pin::Pins;
use crate::dataplane::probe::PROGRAM;
use crate::error::chain;

/// Every network namespace is born with it.
pub(super) const DEVICE: &str = "lo";

/// Tries both ways, with pins on a private bpffs.
pub(super) fn read(
    ebpf: Option<&mut Ebpf>,
    pins: &io::Result<Pins>,
    isolation: Isolation,
) -> Attach {
    let program = ebpf.and_then(|ebpf| ebpf.program_mut(PROGRAM));
    let program: Option<&mut SchedClassifier> = program.and_then(|program| program.try_into().ok());
    let Some(program) = program.filter(|program| program.info().is_ok()) else {
        return Attach {
            tcx: Fact::unknown("no program could be loaded to attach"),
            clsact: qdisc(isolation),
        };
    };
    Attach {
        tcx: match pins {
            Ok(pins) => tcx(program, pins, isolation),
            Err(error) => Fact::unknown(format!(
                "no private BPF file system to pin the link on: {error}"
            )),
        },
        // Needs no pin; the path is only looked at for an older one.
        clsact: clsact(program, isolation),
    }
}

fn hook(direction: TcAttachType) -> Hook<'static> {
    Hook {
        program: PROGRAM,
        pin: PROGRAM,
        interface: DEVICE,
        direction,
        handle: 1,
    }
}

fn tcx(program: &mut SchedClassifier, pins: &Pins, isolation: Isolation) -> Fact {
    let hook = hook(TcAttachType::Ingress);
    match attach::attach(program, hook, TcAttach::Tcx, pins) {
        Ok(_) => {
            let is_there = program
                .info()
                .is_ok_and(|info| attach::attached_tcx(hook, info.id()));
            match is_there {
                true => Fact::yes("attached with a pinned link, and found there"),
                false => Fact::no("attached, but the kernel does not show it"),
            }
        }
        // EINVAL: the kernel does not know the attach type.
        Err(error) if attach::errno(&error) == Some(libc::EINVAL) => Fact::no(
            "not in this kernel; Linux 6.6 and later have it, if built with CONFIG_NET_XGRESS",
        ),
        Err(error) => refused(&error, isolation),
    }
}

fn clsact(program: &mut SchedClassifier, isolation: Isolation) -> Fact {
    let nowhere = Pins::new(std::path::Path::new("/nonexistent"));
    let attached = attach::attach(
        program,
        hook(TcAttachType::Egress),
        TcAttach::Clsact,
        &nowhere,
    );
    match attached {
        Ok(Mechanism::Clsact) => Fact::yes("attached as a filter of the qdisc"),
        Ok(Mechanism::Tcx) => Fact::no("asked for a filter, got tcx"),
        Err(error) => refused(&error, isolation),
    }
}

/// The qdisc alone, for want of a program to put on it.
fn qdisc(isolation: Isolation) -> Fact {
    match tc::qdisc_add_clsact(DEVICE) {
        Ok(()) => Fact::unknown("the qdisc can be made; no program could be loaded to put on it"),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::ENOENT) => {
            Fact::no("not in this kernel: it has no CONFIG_NET_SCH_INGRESS")
        }
        Err(error) => isolation.refused(chain(&error)),
    }
}

fn refused(error: &Error, isolation: Isolation) -> Fact {
    let denied = match error {
        Error::Program(ProgramError::SyscallError(SyscallError { io_error, .. })) => {
            is_denied(io_error)
        }
        _ => false,
    };
    match denied {
        true => Fact::unknown(chain(error)),
        false => isolation.refused(chain(error)),
    }
}
