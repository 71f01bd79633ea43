//! Compiled programs in memory: mapped from an open file, so that all peasants of the machine share their bytes. The file
//! is opened before the process enters the jail, and mapped in it, where no file has a name.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use rustix::param::page_size;
use wasmtime::CustomCodeMemory;

/// The bytes of a file. They stay mapped until the process ends, because their code may run until then.
#[derive(Clone, Copy, Debug)]
pub struct Mapped(NonNull<[u8]>);

impl Mapped {
    /// Maps the first bytes of a file to read them.
    pub fn of(file: &File, bytes: usize) -> io::Result<Mapped> {
        let (nowhere, beginning) = (ptr::null_mut(), 0);
        // SAFETY: the system chooses the place, so nothing that is in use is replaced.
        let at = unsafe { libc::mmap(nowhere, bytes, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), beginning) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("it is mapped at address 0"))?;
        Ok(Mapped(NonNull::slice_from_raw_parts(at, bytes)))
    }

    /// The mapped bytes.
    pub fn bytes(self) -> NonNull<[u8]> {
        self.0
    }
}

/// Makes the code in [`Mapped`] files executable.
pub struct Protection;

impl CustomCodeMemory for Protection {
    fn required_alignment(&self) -> usize {
        page_size()
    }

    fn publish_executable(&self, ptr: *const u8, len: usize) -> wasmtime::Result<()> {
        protect(ptr, len, libc::PROT_READ | libc::PROT_EXEC)
    }

    fn unpublish_executable(&self, ptr: *const u8, len: usize) -> wasmtime::Result<()> {
        protect(ptr, len, libc::PROT_READ)
    }
}

fn protect(ptr: *const u8, len: usize, protection: i32) -> wasmtime::Result<()> {
    // SAFETY: the engine names a part of a mapped file that it uses alone, and asks for no right to write.
    let done = unsafe { libc::mprotect(ptr.cast_mut().cast(), len, protection) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}
