//! The memory of a process: no more than what it counts, and given back to the machine, which others use too.

/// Has all threads take memory from one place. To be called before there are threads.
///
/// By default each has a place of its own, and what one has freed is not there for the next: a king who may hold two
/// files of 256 MiB had up to a gibibyte. One place is no slower here, since little is taken and freed in small pieces.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_together() {
    // SAFETY: the call takes two numbers; what it sets bounds how many places there will be.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Other systems have other allocators.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_together() {}

/// Gives back what was freed. The allocator keeps it otherwise, for as long as the process lives; worth it when a job is
/// over, not more often.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    // SAFETY: the call takes a number, and changes nothing but what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other systems have other allocators.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}
