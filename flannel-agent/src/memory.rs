//! The C library's allocator.

#![expect(unsafe_code, reason = "the C library's settings have no safe wrapper")]

/// Keeps all memory in one heap. Every thread that meets another in the allocator gets a heap of its
/// own otherwise, and what is freed in one is not there for the others: loading programs and reading
/// leases, which happen at the same time on threads that nothing is left to do for, made the most
/// memory that an agent with 10 000 peers ever has 43 MiB instead of 32.
///
/// To be called before there are threads. Other C libraries than glibc have no such heaps.
pub fn use_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a plain call with numbers; it changes only what later allocations do.
    let is_set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) } == 1;
    #[cfg(target_env = "gnu")]
    debug_assert!(is_set, "glibc takes it since 2.10");
}
