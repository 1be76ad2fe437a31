//! Attaching programs so that they outlive the agent, and replacing them in place.
//!
//! On Linux 6.6 and later a program hangs on a tcx link that is pinned; a later agent opens the pin
//! and swaps the program behind it, so there is no moment without one. Below 6.6 it hangs on the
//! clsact qdisc, under a fixed priority and handle that a later agent replaces likewise. Ours goes
//! behind the programs of others: they see packets first, as if we were the device.

use std::io;
use std::path::Path;

use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use tracing::{debug, info};

use super::pin::Pins;
use crate::cli::TcAttach;

/// Priority of our filters on clsact: behind what `tc` and other agents choose by themselves
/// (49 152 and up from there downwards).
const PRIORITY: u16 = 50_000;

/// How a program hangs on its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// A pinned tcx link, Linux 6.6.
    Tcx,
    /// A filter on the clsact qdisc, Linux 4.5.
    Clsact,
}

impl Mechanism {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// A hook: where a program goes.
#[derive(Debug, Clone, Copy)]
pub struct Hook<'a> {
    /// Name of the program.
    pub program: &'a str,
    /// Name of the pin of its link.
    pub pin: &'a str,
    /// Interface name.
    pub interface: &'a str,
    /// Direction.
    pub direction: TcAttachType,
    /// Handle of the filter on clsact.
    pub handle: u16,
}

/// Why attaching failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the program or the link.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A pin could not be opened or made.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The clsact qdisc could not be used.
    #[error(transparent)]
    Tc(#[from] TcError),
    /// The pin could not be made or removed.
    #[error("pin the link")]
    Pin(#[source] io::Error),
}

/// Attaches a loaded program to its hook, replacing the one that an earlier agent left there.
///
/// # Errors
/// What the kernel said; with `TcAttach::Auto` clsact is tried before giving up.
pub fn attach(
    program: &mut SchedClassifier,
    hook: Hook<'_>,
    how: TcAttach,
    pins: &Pins,
) -> Result<Mechanism, Error> {
    let pin = pins.link(hook.pin);
    let attached = match how {
        TcAttach::Tcx => attach_tcx(program, hook, &pin).map(|()| Mechanism::Tcx),
        TcAttach::Clsact => attach_clsact(program, hook).map(|()| Mechanism::Clsact),
        TcAttach::Auto => match attach_tcx(program, hook, &pin) {
            Ok(()) => Ok(Mechanism::Tcx),
            // Kernels before 6.6, or without NET_XGRESS, do not know the link type.
            Err(error) if errno(&error) == Some(libc::EINVAL) => {
                debug!(
                    program = hook.program,
                    "tcx is not to be had, taking clsact"
                );
                attach_clsact(program, hook).map(|()| Mechanism::Clsact)
            }
            Err(error) => Err(error),
        },
    }?;
    // What the other mechanism left there would see every packet a second time.
    match attached {
        Mechanism::Tcx => drop(detach_clsact(hook)?),
        Mechanism::Clsact => unpin(&pin)?,
    }
    Ok(attached)
}

/// Index of an interface, which one that is made anew does not inherit; 0 if there is none.
#[must_use]
pub fn index(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap_or(0)
}

/// Whether the program with this kernel id hangs on the interface by tcx.
#[must_use]
pub fn attached_tcx(hook: Hook<'_>, program_id: u32) -> bool {
    SchedClassifier::query_tcx(hook.interface, hook.direction)
        .is_ok_and(|(_, programs)| programs.iter().any(|info| info.id() == program_id))
}

fn attach_tcx(program: &mut SchedClassifier, hook: Hook<'_>, pin: &Path) -> Result<(), Error> {
    if let Some(link) = open_pin(pin)? {
        let info = link.info()?;
        if attached_tcx(hook, info.program_id()) {
            let replaced = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
            // The pin holds the link; taking it here keeps aya from detaching it on drop.
            drop(FdLink::try_from(program.take_link(replaced)?)?);
            info!(
                program = hook.program,
                interface = hook.interface,
                "replaced program in place"
            );
            return Ok(());
        }
        // Its device is gone, or the external interface is another one now.
        info!(
            program = hook.program,
            "pinned link is not on {}, making it anew", hook.interface
        );
        unpin(pin)?;
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::last());
    let id = program.attach_with_options(hook.interface, hook.direction, order)?;
    let link = FdLink::try_from(program.take_link(id)?)?;
    link.pin(pin)
        .map_err(|error| Error::Pin(io::Error::other(error)))?;
    info!(
        program = hook.program,
        interface = hook.interface,
        "attached program"
    );
    Ok(())
}

/// The link behind a pin; `None` if there is no pin.
fn open_pin(pin: &Path) -> Result<Option<FdLink>, LinkError> {
    match PinnedLink::from_pin(pin) {
        Ok(pinned) => Ok(Some(FdLink::from(pinned))),
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn unpin(pin: &Path) -> Result<(), Error> {
    match std::fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Pin(error)),
        _ => Ok(()),
    }
}

fn attach_clsact(program: &mut SchedClassifier, hook: Hook<'_>) -> Result<(), Error> {
    match tc::qdisc_add_clsact(hook.interface) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        other => other?,
    }
    let handle = TcHandle::new(0, hook.handle);
    let options = NlOptions {
        priority: PRIORITY,
        handle,
        ..NlOptions::default()
    };
    let created = program.attach_with_options(
        hook.interface,
        hook.direction,
        TcAttachOptions::Netlink(options),
    );
    let id = match created {
        Err(ProgramError::TcError(TcError::NetlinkError(error)))
            if error.raw_os_error() == Some(libc::EEXIST) =>
        {
            let link = SchedClassifierLink::attached(
                hook.interface,
                hook.direction,
                PRIORITY,
                handle,
                None,
            )
            .map_err(TcError::IoError)?;
            program.attach_to_link(link)?
        }
        other => other?,
    };
    // Filters hang on the qdisc and outlive us; dropping aya's link would remove this one.
    std::mem::forget(program.take_link(id)?);
    info!(
        program = hook.program,
        interface = hook.interface,
        "attached program to clsact"
    );
    Ok(())
}

/// Removes our filter from clsact, and says whether there was one; the qdisc stays, others may use
/// it.
///
/// # Errors
/// What the kernel said, an absent filter, qdisc or interface aside.
pub fn detach_clsact(hook: Hook<'_>) -> Result<bool, Error> {
    match tc::qdisc_detach_program(hook.interface, hook.direction, hook.program) {
        Ok(()) => Ok(true),
        Err(TcError::IoError(error))
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ENODEV) =>
        {
            Ok(false)
        }
        // No clsact on the interface: the dump of its filters fails.
        Err(TcError::NetlinkError(error))
            if matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::ENOENT | libc::ENODEV)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// The kernel's error number, if it was a system call that failed.
#[must_use]
pub fn errno(error: &Error) -> Option<i32> {
    match error {
        Error::Program(ProgramError::SyscallError(SyscallError { io_error, .. })) => {
            io_error.raw_os_error()
        }
        _ => None,
    }
}
