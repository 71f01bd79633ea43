//! Placeholders: files that are exchanged for what they stand for when a guest has opened them.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use distwasm_proto::limits::FILE_BUFFER_BYTES;
use rustix::fs::{MemfdFlags, Mode, OFlags, fchmod, fstat, memfd_create, mkdirat, openat};
use wasmtime_wasi::filesystem::{self, OpenMode};

use super::{Content, NEW, NamedInput, UnitFiles};
use crate::stdio::{Input, StdioError};

/// A standard stream that has been opened by its name in `/dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// `/dev/stdin`
    Stdin = 0,
    /// `/dev/stdout`
    Stdout = 1,
    /// `/dev/stderr`
    Stderr = 2,
}

/// The placeholders of devices and streams.
#[derive(Debug)]
pub struct Placeholders {
    /// The number of the file system.
    file_system: u64,
    all: Vec<Placeholder>,
}

#[derive(Debug)]
struct Placeholder {
    inode: u64,
    /// What the guest gets instead.
    file: Arc<File>,
    /// It stands for a stream, and the file only marks it.
    stream: Option<Stream>,
}

const ALL: [(&str, &str, Option<Stream>); 6] = [
    ("null", "/dev/null", None),
    ("zero", "/dev/zero", None),
    (RANDOM, "/dev/urandom", None),
    ("stdin", "/dev/null", Some(Stream::Stdin)),
    ("stdout", "/dev/null", Some(Stream::Stdout)),
    ("stderr", "/dev/null", Some(Stream::Stderr)),
];

/// The one that gives other bytes each time.
const RANDOM: &str = "urandom";

impl Placeholders {
    /// Makes them, in a folder that the guest cannot change.
    pub fn make(root: BorrowedFd<'_>, is_deterministic: bool) -> io::Result<Placeholders> {
        mkdirat(root, "dev", Mode::from_raw_mode(0o755))?;
        let folder = openat(root, "dev", OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let there = ALL.iter().filter(|(name, ..)| !is_deterministic || *name != RANDOM);
        let all = there.map(|(name, device, stream)| {
            let placeholder = openat(&folder, *name, NEW, Mode::from_raw_mode(0o666))?;
            // Whatever the user's mask is.
            fchmod(&placeholder, Mode::from_raw_mode(0o666))?;
            let file = Arc::new(File::options().read(true).write(*name != RANDOM).open(device)?);
            Ok(Placeholder { inode: fstat(&placeholder)?.st_ino, file, stream: *stream })
        });
        let all = all.collect::<io::Result<_>>()?;
        fchmod(&folder, Mode::from_raw_mode(0o555))?;
        Ok(Placeholders { file_system: fstat(root)?.st_dev, all })
    }

    fn find(&self, inode: u64) -> Option<&Placeholder> {
        self.all.iter().find(|placeholder| placeholder.inode == inode)
    }
}

impl UnitFiles {
    /// Exchanges a file that was just opened, if it is a placeholder. Returns the stream that it stands for.
    ///
    /// # Errors
    ///
    /// When the input cannot be given as a file.
    pub fn exchange(&self, opened: &mut filesystem::File) -> Result<Option<Stream>, StdioError> {
        let Ok(found) = fstat(&*opened.file) else { return Ok(None) };
        if found.st_dev != self.placeholders.file_system {
            return Ok(None);
        }
        if let Some(placeholder) = self.placeholders.find(found.st_ino) {
            opened.file = Arc::clone(&placeholder.file);
            return Ok(placeholder.stream);
        }
        let mut input = self.input();
        let Some(input) = input.as_mut().filter(|input| input.inode == found.st_ino) else { return Ok(None) };
        if opened.open_mode.contains(OpenMode::WRITE) {
            let is_emptied = found.st_size == 0;
            input.copy_to(&opened.file, is_emptied)?;
        } else if let Some(file) = input.open().map_err(StdioError::Input)? {
            opened.file = file;
        }
        Ok(None)
    }

    /// The stream that this file marks.
    pub fn stream(&self, file: &Arc<File>) -> Option<Stream> {
        let marked = self.placeholders.all.iter().find(|placeholder| Arc::ptr_eq(&placeholder.file, file));
        marked.and_then(|placeholder| placeholder.stream)
    }
}

impl NamedInput {
    /// The file that stands for the placeholder; `None` if the placeholder has become the input itself.
    fn open(&mut self) -> io::Result<Option<Arc<File>>> {
        let file = match std::mem::replace(&mut self.content, Content::Copied) {
            Content::Copied => return Ok(None),
            Content::Opened(file) => file,
            Content::Untouched(Input::File(file)) => Arc::new(file.into_file()),
            Content::Untouched(Input::Bytes(bytes)) => {
                let mut file = File::from(memfd_create("input", MemfdFlags::CLOEXEC)?);
                file.write_all(&bytes)?;
                Arc::new(file)
            }
        };
        self.content = Content::Opened(Arc::clone(&file));
        Ok(Some(file))
    }

    /// Makes the placeholder a copy of the input, because the guest may change it.
    ///
    /// # Errors
    ///
    /// When the input cannot be read, or has no room in the scratch.
    pub(super) fn copy_to(&mut self, placeholder: &File, is_emptied: bool) -> Result<(), StdioError> {
        if let Some(input) = self.open().map_err(StdioError::Input)?.filter(|_| !is_emptied) {
            let mut buffer = vec![0; FILE_BUFFER_BYTES];
            let mut place = 0;
            while place < self.bytes {
                let most = usize::try_from(self.bytes - place).unwrap_or(usize::MAX).min(buffer.len());
                let part = buffer.get_mut(..most).unwrap_or_default();
                let count = input.read_at(part, place).map_err(StdioError::Input)?;
                if count == 0 {
                    break;
                }
                let written = placeholder.write_all_at(part.get(..count).unwrap_or_default(), place);
                written.map_err(StdioError::Scratch)?;
                place += count as u64;
            }
        }
        self.content = Content::Copied;
        Ok(())
    }
}
