//! The files of a unit: a small file system of its own, in memory, which its guest may write to, and which is emptied
//! after each unit.
//!
//! It has the folders `tmp` (the scratch), `in` (the input as a file), `out` (the result as a file) and `dev`. What is in
//! `in` and `dev` are placeholders: empty files that are exchanged for what they stand for when the guest has opened one.
//! So an input is not copied, and devices need not be made.

mod cleaning;
mod packing;
mod placeholders;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use distwasm_proto::arguments::{Arguments, Filling, INPUT_FOLDER};
use distwasm_proto::failure::{Failure, FailureKind};
use distwasm_proto::limits::{SCRATCH_FILE_BYTES, SCRATCH_FILES_MIN};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, fstatvfs, openat, openat2, unlinkat};

use crate::sandbox;
use crate::stdio::{Input, StdioError};
use crate::verdict::size;
use cleaning::Skeleton;
use placeholders::Placeholders;

pub use packing::PackError;
pub use placeholders::Stream;

/// The file system. There is one for each process.
#[derive(Debug)]
pub struct UnitFiles {
    root: OwnedFd,
    /// How much may be written into it.
    bytes_max: u64,
    placeholders: Placeholders,
    skeleton: Mutex<Skeleton>,
    /// The input of the unit that is running, if its guest wants it as a file.
    input: Mutex<Option<NamedInput>>,
}

/// An input that its guest finds as a file.
#[derive(Debug)]
struct NamedInput {
    name: String,
    /// The inode of its placeholder.
    inode: u64,
    bytes: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Not wanted so far.
    Untouched(Input),
    /// The file that the placeholder is exchanged for.
    Opened(Arc<File>),
    /// The placeholder itself, which the guest has opened for writing.
    Copied,
}

impl UnitFiles {
    /// Makes an empty file system for `bytes_max` bytes. `is_deterministic` leaves out what differs from run to run.
    ///
    /// To be called before the process enters its jail, and while it has one thread.
    pub fn make(bytes_max: u64, is_deterministic: bool) -> io::Result<UnitFiles> {
        let made = sandbox::make_scratch(bytes_max, (bytes_max / SCRATCH_FILE_BYTES).max(SCRATCH_FILES_MIN))?;
        // What is new can only be passed through.
        let root = openat(&made, ".", OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let placeholders = Placeholders::make(root.as_fd(), is_deterministic)?;
        let skeleton = Mutex::new(Skeleton::make(root.as_fd())?);
        Ok(UnitFiles { root, bytes_max, placeholders, skeleton, input: Mutex::new(None) })
    }

    /// The folder in which all of it lies.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// What is written into it at the moment.
    pub fn bytes(&self) -> u64 {
        fstatvfs(&self.root).map_or(0, |found| (found.f_blocks - found.f_bfree).saturating_mul(found.f_frsize))
    }

    /// How much may be written into it, if so much is written that there is no room for another block.
    pub fn full(&self) -> Option<u64> {
        let found = fstatvfs(&self.root).ok()?;
        (found.f_bfree == 0 || found.f_ffree == 0).then_some(self.bytes_max)
    }

    /// Begins a unit: nothing is in the folders but, if the arguments name it, the input, which is not on stdin then.
    pub fn begin(&self, arguments: &Arguments, filling: &Filling, input: Input) -> Result<Input, Failure> {
        self.clean()?;
        if !arguments.name_input() {
            return Ok(input);
        }
        let (name, bytes) = (format!("{INPUT_FOLDER}/{}", filling.name), input.bytes());
        let placeholder = openat(&self.root, &name, NEW, Mode::from_raw_mode(0o666)).and_then(|file| {
            // It has the size of the input, and takes no memory.
            rustix::fs::ftruncate(&file, bytes)?;
            fstat(&file)
        });
        let inode = placeholder.map_err(|error| of_machine("the input cannot be named", &error.into()))?.st_ino;
        let named = NamedInput { name: filling.name.clone(), inode, bytes, content: Content::Untouched(input) };
        *self.input() = Some(named);
        Ok(Input::default())
    }

    /// A file that the guest has left as its result, or as a part of it, by its path in the root.
    pub fn result(&self, name: &str) -> Result<File, Failure> {
        let wrong = |what: String| wrong_result(name, &what);
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        // A pipe would make it wait.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat2(&self.root, name, flags, Mode::empty(), how).map_err(|error| match error {
            rustix::io::Errno::NOENT => wrong("was not written".to_owned()),
            rustix::io::Errno::LOOP => wrong("is a link, and not a file".to_owned()),
            error => wrong(format!("cannot be read: {}", io::Error::from(error))),
        })?;
        let found = fstat(&file).map_err(|error| wrong(format!("cannot be read: {}", io::Error::from(error))))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(wrong("is not a file".to_owned()));
        }
        if let Some(input) = self.input().as_mut().filter(|input| input.inode == found.st_ino) {
            // The guest has moved its input here, or linked it: the placeholder becomes the input.
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let target = openat2(&self.root, name, flags, Mode::empty(), how).map_err(io::Error::from);
            let copied = target.map(File::from).map_err(StdioError::Scratch);
            copied.and_then(|target| input.copy_to(&target, found.st_size == 0))?;
        }
        Ok(File::from(file))
    }

    /// Fails if there is no more room: a result in a file may be cut, although the guest says nothing of it.
    pub fn check_room(&self) -> Result<(), Failure> {
        match self.full() {
            Some(_) => Err(self.explain(Failure::new(FailureKind::Answer, "its result may be cut"))),
            None => Ok(()),
        }
    }

    /// Adds to the reason of a failure that the files had no more room, if so.
    pub fn explain(&self, mut failure: Failure) -> Failure {
        if let Some(bytes) = self.full() {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            failure.add(&format!("its scratch of {} was full (--scratch SIZE gives more)", size(bytes)));
        }
        failure
    }

    /// Ends a unit: empties the folders. What is left of an earlier unit is emptied at the beginning of the next.
    pub fn end(&self) {
        if let Some(input) = self.input().take() {
            // Mostly nothing else is there.
            let _removed = unlinkat(&self.root, format!("{INPUT_FOLDER}/{}", input.name), AtFlags::empty());
        }
        // If it fails, the next unit hears of it.
        let _emptied = self.clean();
    }

    fn clean(&self) -> Result<(), Failure> {
        let mut skeleton = self.skeleton.lock().unwrap_or_else(PoisonError::into_inner);
        skeleton.clean(self.root.as_fd()).map_err(|error| of_machine("the scratch cannot be emptied", &error))
    }

    fn input(&self) -> MutexGuard<'_, Option<NamedInput>> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new file that replaces nothing.
const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);

/// What the guest has left under this name, a path in the root, is not a result.
fn wrong_result(name: &str, what: &str) -> Failure {
    Failure::new(FailureKind::Answer, format!("/{name}, its result by the arguments, {what}"))
}

/// If the file system does not work, the machine is to blame.
fn of_machine(what: &str, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Other, format!("{what}: {error}"))
}
