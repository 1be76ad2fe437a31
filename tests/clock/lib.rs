//! A monotonic clock that a test moves.
//!
//! Preloaded into a process (`LD_PRELOAD`), it stands before libc's `clock_gettime`, which the
//! standard library and so tokio ask, and adds the seconds in the file that `MOVED_CLOCK` names to
//! `CLOCK_MONOTONIC`. The process itself is what it always is; time namespaces cannot do this,
//! since their offset is fixed once a process is inside. A process that waits in the kernel notices
//! a move when it next wakes up.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

/// libc's function, with the move.
///
/// # Safety
/// As of libc's: `time` points to a `timespec`, or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    // SAFETY: the kernel checks the pointer.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if result == 0 && clock == libc::CLOCK_MONOTONIC {
        // SAFETY: the kernel has just written there.
        let time = unsafe { &mut *time };
        time.tv_sec += moved_secs().load(Ordering::Relaxed);
    }
    if result == 0 { 0 } else { -1 }
}

fn moved_secs() -> &'static AtomicI64 {
    static UNMOVED: AtomicI64 = AtomicI64::new(0);
    static MOVED: OnceLock<&AtomicI64> = OnceLock::new();
    MOVED.get_or_init(|| map().unwrap_or(&UNMOVED))
}

/// The number in the file, as the test last wrote it.
fn map() -> io::Result<&'static AtomicI64> {
    let path = std::env::var_os("MOVED_CLOCK").ok_or(io::ErrorKind::NotFound)?;
    let file = File::options().read(true).write(true).open(path)?;
    let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
    // SAFETY: a fresh mapping touches nothing that exists.
    let mapped = unsafe { libc::mmap(ptr::null_mut(), 8, access, libc::MAP_SHARED, fd, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a page of its own, aligned and never unmapped; the file has the eight bytes.
    Ok(unsafe { AtomicI64::from_ptr(mapped.cast()) })
}
