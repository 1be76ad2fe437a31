//! Writing map entries while the kernel has no memory at hand.
//!
//! Elements of maps that are not preallocated come from a small cache of the CPU. The kernel fills
//! it again behind the writer's back, and without waiting for memory: who comes too early gets
//! `ENOMEM` although plenty may be free (`unit_alloc` in kernel/bpf/memalloc.c, since Linux 6.1).
//! A moment later it is there. A map that is full says `E2BIG`, which no patience helps.

use std::thread;
use std::time::{Duration, Instant};

use aya::maps::MapError;
use aya::sys::SyscallError;

/// How long all writes of one pass may wait together. What is not there by then is left to the next
/// pass.
const LIMIT: Duration = Duration::from_millis(200);

/// What is left of the limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    end: Instant,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            end: Instant::now() + LIMIT,
        }
    }

    /// Writes, again and again as long as it is for memory.
    pub(super) fn write(
        self,
        mut write: impl FnMut() -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        loop {
            match write() {
                Err(error) if is_out_of_memory(&error) && Instant::now() < self.end => {
                    thread::yield_now();
                }
                result => return result,
            }
        }
    }
}

fn is_out_of_memory(error: &MapError) -> bool {
    matches!(
        error,
        MapError::SyscallError(SyscallError { io_error, .. })
            if io_error.raw_os_error() == Some(libc::ENOMEM)
    )
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn refused(errno: i32) -> Result<(), MapError> {
        Err(MapError::SyscallError(SyscallError {
            call: "bpf_map_update_elem",
            io_error: io::Error::from_raw_os_error(errno),
        }))
    }

    #[test]
    fn memory_is_waited_for() {
        let mut tries = 0;
        let written = Patience::new().write(|| {
            tries += 1;
            if tries < 4 {
                refused(libc::ENOMEM)
            } else {
                Ok(())
            }
        });
        assert!(written.is_ok());
        assert_eq!(tries, 4);
    }

    #[test]
    fn a_full_map_is_not_waited_for() {
        let mut tries = 0;
        let written = Patience::new().write(|| {
            tries += 1;
            refused(libc::E2BIG)
        });
        assert!(written.is_err());
        assert_eq!(tries, 1);
    }

    #[test]
    fn all_writes_of_a_pass_share_one_limit() {
        let start = Instant::now();
        let patience = Patience::new();
        for _ in 0..10 {
            assert!(patience.write(|| refused(libc::ENOMEM)).is_err());
        }
        assert!(start.elapsed() >= LIMIT);
        assert!(start.elapsed() < 10 * LIMIT);
    }
}
