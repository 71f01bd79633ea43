//! Keeps the memory of a process close to the bytes that it counts, and gives freed memory back to the machine.

/// Has all threads take memory from one arena. To be called before there are threads.
///
/// By default each thread has an arena of its own, and memory freed in one is not available to the next: a king that
/// may hold two files of 256 MiB took up to a gibibyte. One arena is not slower here, since little is taken and freed
/// in small pieces.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_together() {
    // SAFETY: the call takes two numbers; its setting bounds how many arenas there will be.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Other systems have other allocators.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_together() {}

/// Gives freed memory back to the system. The allocator keeps it otherwise, for as long as the process lives. Worth it
/// when a job is over, not more often.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    // SAFETY: the call takes a number, and changes nothing but free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other systems have other allocators.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}
