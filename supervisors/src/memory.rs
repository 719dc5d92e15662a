//! The memory of the C library's allocator.
#![expect(unsafe_code, reason = "mallopt(3) has no safe wrapper")]

/// Lets all threads of this process allocate from one arena. With the GNU C library each thread has one of its own otherwise, in which
/// what it has freed stays: a tenth of a supervisor's memory. Threads that do little do not wait for each other in it.
///
/// Must be called before another thread starts.
pub fn use_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call sets a number of the allocator, and no other thread uses the allocator yet. A refusal changes nothing.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}
