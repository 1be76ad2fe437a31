//! The C library's allocator.

#![expect(unsafe_code, reason = "the C library's settings have no safe wrapper")]

/// Keeps all memory in one heap. Every thread that meets another in the allocator gets a heap of its
/// own otherwise, and what is freed in one is not there for the others: with 10 000 peers the most that
/// an agent ever had was 43 MiB instead of 32.
///
/// To be called before there are threads. Other C libraries than glibc have no such heaps.
pub fn use_one_heap() {
    // It is taken since glibc 2.10, and nothing but memory is lost where it is not.
    #[cfg(target_env = "gnu")]
    // SAFETY: a plain call with numbers; it changes only what later allocations do.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
