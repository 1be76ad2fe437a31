//! The system call that neither std nor nix has: reading a socket option that is asked for by a
//! structure, and answered with another.

#![expect(
    unsafe_code,
    reason = "a system call that takes a pointer; the block says why it is good"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Reads an option of level IP into `buffer`, which holds the question; gives the answer's length.
///
/// # Errors
/// The kernel's. `ENOPROTOOPT` if it does not have the option.
pub(super) fn read_ip_option(
    socket: impl AsFd,
    option: libc::c_int,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let too_long = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let mut len = libc::socklen_t::try_from(buffer.len()).map_err(too_long)?;
    // SAFETY: the kernel reads and writes at most `len` octets of the buffer, which is that long,
    // and writes to `len`; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(len as usize)
}
