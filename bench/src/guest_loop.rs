//! The references: threads that take inputs from one list, call the guest in this very process, and write the outputs.
//!
//! Engine, guest and streams are those of a peasant. As for a peasant, the program is already compiled. The *tight* loop
//! also treats files as a peasant's duke does: it opens them beneath their folders, lets the guest read and write them
//! without copies, and gives an output without a name its name when it is whole. It is the least that a system with these
//! inputs, this guest and these outputs can cost.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::fd::AsRawFd,
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context, Result, anyhow};
use distwasm_peasant::{
    abi::{self, Abi, Unit},
    guest::Grants,
    program::{CompiledFile, Program},
    stdio::Input,
};
use distwasm_proto::limits::{FILE_OUTPUT_BYTES_MAX, GUEST_MEMORY_BYTES};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open, openat};

use crate::{
    native,
    options::{Kind, Loop, Task},
};

/// Answers all inputs. The exit status is that of a queen: 1 if some failed.
///
/// # Errors
///
/// When files cannot be read or written, or the guest cannot be loaded.
pub fn run(options: &Loop) -> Result<ExitCode> {
    fs::create_dir_all(&options.output)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&options.input)? {
        names.push(entry?.file_name());
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = |number: usize| -> Result<()> {
        let mut callee = Callee::new(options)?;
        let tight = (options.kind == Kind::Tight).then(|| Tight::open(options)).transpose()?;
        let unfinished = options.output.join(format!(".unfinished-{number}"));
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let is_answered = match &tight {
                Some(tight) => tight.answer(name, &mut callee)?,
                None => match callee.answer(fs::read(options.input.join(name))?) {
                    Ok(answer) => {
                        fs::write(&unfinished, answer)?;
                        fs::rename(&unfinished, options.output.join(name))?;
                        true
                    }
                    Err(_failure) => false,
                },
            };
            failed.fetch_add(u64::from(!is_answered), Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..options.threads).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })?;
    Ok(ExitCode::from(u8::from(failed.into_inner() > 0)))
}

/// The folders of the tight loop.
struct Tight {
    input: File,
    output: File,
}

impl Tight {
    fn open(options: &Loop) -> Result<Tight> {
        let folder = |path: &Path| open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map(File::from);
        Ok(Tight { input: folder(&options.input)?, output: folder(&options.output)? })
    }

    /// Answers an input. Returns `false` if the guest fails on it.
    fn answer(&self, name: &OsStr, callee: &mut Callee) -> Result<bool> {
        let Callee::Guest(guest) = callee else { return Err(anyhow!("the tight loop needs a guest")) };
        let input = File::from(openat(&self.input, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
        let bytes = input.metadata()?.len();
        let input = Input::of_file(input, bytes)?;
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let output = File::from(openat(&self.output, ".", flags, Mode::from_raw_mode(0o666))?);
        let unit = Unit { input, output: Some(output.try_clone()?), description: None };
        if guest.answer(unit).is_err() {
            return Ok(false);
        }
        let nameless = format!("/proc/self/fd/{}", output.as_raw_fd());
        linkat(CWD, nameless, &self.output, name, AtFlags::SYMLINK_FOLLOW)?;
        Ok(true)
    }
}

/// The code that answers inputs.
pub enum Callee {
    /// A guest.
    Guest(Box<dyn Abi>),
    /// Native code of this program. Holds its last answer.
    Native(Task, Vec<u8>),
}

impl Callee {
    fn new(options: &Loop) -> Result<Callee> {
        match (options.kind, options.task) {
            (Kind::Native, task) => Ok(Callee::Native(task.context("--kind native needs --task")?, Vec::new())),
            (kind, _) => Callee::guest(options.compiled.as_deref().context("no --compiled")?, kind == Kind::Fresh),
        }
    }

    /// A guest, ready to answer.
    ///
    /// # Errors
    ///
    /// When it cannot be loaded or initialised.
    pub fn guest(compiled: &Path, fresh: bool) -> Result<Callee> {
        let bytes_max = usize::try_from(GUEST_MEMORY_BYTES)?;
        let grants = Grants {
            fresh,
            memory_bytes_max: bytes_max,
            output_bytes_max: bytes_max,
            file_bytes_max: FILE_OUTPUT_BYTES_MAX,
            ..Grants::default()
        };
        // SAFETY: the file was made by `peasant compile` for this very run, and no process changes it.
        let program = unsafe { Program::load(&CompiledFile::open(compiled)?, &grants)? };
        program.make_image()?;
        let runtime = abi::runtime(&program)?;
        let guest = abi::start(program, grants, runtime).map_err(|failure| anyhow!(failure.message))?;
        Ok(Callee::Guest(guest))
    }

    /// Answers one input.
    ///
    /// # Errors
    ///
    /// When the guest fails on the input.
    pub fn answer(&mut self, input: Vec<u8>) -> Result<&[u8]> {
        match self {
            Callee::Guest(guest) => {
                let unit = Unit { input: Input::Bytes(input.into()), output: None, description: None };
                guest.answer(unit).map_err(|failure| anyhow!(failure.message))
            }
            Callee::Native(task, answer) => {
                *answer = native::answer(*task, &input)?;
                Ok(answer)
            }
        }
    }
}
