//! The guest's world: the one function that builds the sandboxed store, and what it grants.
//!
//! A guest gets its input, a bounded buffer for its answer, a log, arguments, environment, clocks, randomness, bounded
//! memory and tables, files of its own until the unit ends, and read access to its job's shared directories. Everything
//! else is absent, not forbidden.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use chacha20::rand_core::Rng;
use distwasm_proto::{
    arguments::{Arguments, Filling, INPUT_FOLDER, OUTPUT_FOLDER},
    failure::{Failure, FailureKind},
    guest::GuestError,
    limits::{
        GUEST_DESCRIPTORS_MAX, GUEST_STACK_BYTES, GUEST_TABLE_ELEMENTS_MAX, HOST_STACK_BYTES, HOSTCALL_BYTES_MIN,
        PATH_QUOTED_BYTES_MAX,
    },
    pipe::Description,
    statuses::Statuses,
};
use rustix::fs::{Mode, OFlags, fstat};
use rustix::process::fchdir;
use wasmtime::{Engine, ResourceLimiter, Result, Store, error::Context};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::determinism::{Clock, seeded_random};
use crate::sandbox::{self, Needs, Open};
use crate::stdio::{Shared, Stdio, streams};
use crate::unit_files::UnitFiles;
use crate::verdict::size;
use crate::wasi::Descriptors;

/// A guest's grants, and how it is called.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// The guest's arguments, after its name.
    pub args: Arguments,
    /// Its environment, besides the variables that describe its unit.
    pub env: Vec<(String, String)>,
    /// The directories that it may read.
    pub dirs: Vec<SharedDir>,
    /// The export that is called for each unit; `None` to find it from the program.
    pub call: Option<String>,
    /// Each unit gets an instance of its own.
    pub fresh: bool,
    /// Its name for itself, the first of its arguments.
    pub argv0: Option<String>,
    /// The bound on its stack, if it is not the usual one.
    pub stack_bytes: Option<usize>,
    /// Functions that it imports and that do not exist trap when they are called.
    pub traps_unknown_imports: bool,
    /// The seed of randomness, for deterministic guests. They get a fixed clock, too.
    pub seed: Option<String>,
    /// The job's id, for the guest's environment.
    pub job: Option<String>,
    /// The bound on all linear memories together.
    pub memory_bytes_max: usize,
    /// The bound on its output to stdout for one unit.
    pub output_bytes_max: usize,
    /// The same for an output that goes to a file.
    pub file_bytes_max: u64,
    /// The exit statuses with which it has a result.
    pub ok_statuses: Statuses,
    /// How large its files may be together; 0 for no files.
    pub scratch_bytes: u64,
    /// Its files; `None` if it has none, or this machine cannot give it any.
    pub files: Option<Arc<UnitFiles>>,
}

/// A directory that a guest may read.
#[derive(Clone, Debug)]
pub struct SharedDir {
    /// Its path on the host.
    pub host_path: PathBuf,
    /// Its path in the guest.
    pub guest_path: String,
    /// The directory itself: in the jail it has no path.
    opened: Option<Arc<OwnedFd>>,
}

impl SharedDir {
    /// A directory that is not opened yet.
    pub fn new(host_path: PathBuf, guest_path: String) -> SharedDir {
        SharedDir { host_path, guest_path, opened: None }
    }
}

impl Grants {
    /// Opens the directories that the guest may read.
    pub fn open_dirs(&mut self) -> Result<(), Failure> {
        for dir in &mut self.dirs {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&dir.host_path, flags, Mode::empty());
            let opened = opened.map_err(|error| no_directory(dir, &io::Error::from(error)))?;
            if sandbox::leaves_root() && !is_for_everybody(&opened) {
                return Err(no_directory(dir, &"peasants of root run as nobody, who may not read it (chmod o+rx)"));
            }
            dir.opened = Some(Arc::new(opened));
        }
        Ok(())
    }

    /// Makes the guest's files, if this machine can. To be called while the process has one thread.
    ///
    /// # Errors
    ///
    /// When it cannot, and the arguments name some.
    pub fn make_files(&mut self) -> Result<(), Failure> {
        if self.scratch_bytes == 0 {
            let is_named = self.args.name_input() || self.args.name_output();
            return if is_named {
                Err(Failure::new(FailureKind::Program, GuestError::NoPlace.to_string()))
            } else {
                Ok(())
            };
        }
        match UnitFiles::make(self.scratch_bytes, self.seed.is_some()) {
            Ok(files) => self.files = Some(Arc::new(files)),
            Err(error) if self.args.name_input() || self.args.name_output() => {
                let message = format!("cannot give the program its input or output as a file here: {error}");
                return Err(Failure::new(FailureKind::Other, message));
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// The folders that stay open in the jail.
    pub fn open_folders(&self) -> Open<'_> {
        let shares = self.dirs.iter().filter_map(|dir| dir.opened.as_ref()).map(|opened| opened.as_fd()).collect();
        Open { shares, scratch: self.files.as_ref().map(|files| files.root()) }
    }

    /// Whether the guest may open files.
    pub fn has_files(&self) -> bool {
        self.files.is_some() || !self.dirs.is_empty()
    }

    /// What the process must be able to do in its jail.
    pub fn needs(&self) -> Needs {
        let writes_files = self.files.is_some();
        Needs { reads_files: !self.dirs.is_empty(), writes_files, takes_files: false }
    }

    /// Makes room for a stack that is not the usual one. Must come before the jail.
    pub fn claim_stack(&self) -> Result<(), Failure> {
        let Some(bytes) = self.stack_bytes else { return Ok(()) };
        let claimed = sandbox::let_stack_grow(bytes.saturating_add(HOST_STACK_BYTES) as u64);
        claimed.map_err(|error| {
            let message = format!("the program cannot have a stack of {} (--stack): {error}", size(bytes));
            Failure::new(FailureKind::Other, message)
        })
    }
}

/// Whether any user may list and enter a directory.
fn is_for_everybody(dir: &OwnedFd) -> bool {
    fstat(dir).is_ok_and(|found| found.st_mode & 0o005 == 0o005)
}

fn no_directory(dir: &SharedDir, error: &dyn Display) -> Failure {
    let message = format!("cannot open the shared directory {}: {error}", dir.host_path.display());
    Failure::new(FailureKind::Other, message)
}

/// The state of one guest, in its store.
pub struct Guest {
    /// Its standard streams.
    pub stdio: Shared,
    /// Its memory and tables.
    pub bounds: Bounds,
    grants: Arc<Grants>,
    /// The [`Description`] of its unit, if the instance lives for one only.
    description: Option<Bytes>,
    clock: Clock,
    /// Which of its descriptors are its standard streams.
    pub streams: Descriptors,
    /// The path that it last wanted to open, and that was not there.
    pub absent: Option<String>,
    /// Made at the first call that needs it. Most units of most programs do not need it.
    wasi: Option<WasiP1Ctx>,
}

/// Builds the store in which an instance lives. There is no other way to make one.
///
/// `description` is that of the unit, if the instance lives for one only.
pub fn store(engine: &Engine, grants: &Arc<Grants>, description: Option<Bytes>) -> Result<Store<Guest>> {
    let mut guest = Guest {
        stdio: Shared::new(Stdio::new(grants.output_bytes_max, grants.file_bytes_max)),
        bounds: Bounds { memory_bytes_max: grants.memory_bytes_max, files: grants.files.clone(), ..Bounds::default() },
        grants: Arc::clone(grants),
        description,
        clock: if grants.seed.is_some() { Clock::fixed() } else { Clock::Real },
        streams: Descriptors::default(),
        absent: None,
        wasi: None,
    };
    if grants.args.name_output() {
        guest.stdio.lock().log_output();
    }
    if !grants.dirs.is_empty() {
        // Done here because it can fail, and the guest's first call could not report that.
        let mut builder = wasi_builder(grants, guest.description.as_ref(), &guest.clock, &guest.stdio);
        share(&mut builder, &grants.dirs)?;
        guest.wasi = Some(with_files(builder, grants));
    }
    let mut store = Store::new(engine, guest);
    store.limiter(|guest| &mut guest.bounds);
    // Bounds what a guest passes to its host in one call: a list may name the same bytes again and again. A guest may pass
    // all of its memory, which can be longer than an answer through the pipe.
    let passed_bytes_max = grants.output_bytes_max.max(grants.memory_bytes_max);
    store.set_hostcall_fuel(passed_bytes_max.max(HOSTCALL_BYTES_MIN));
    Ok(store)
}

impl Guest {
    /// The part of WASI that is answered by `wasmtime-wasi`.
    pub fn wasi(&mut self) -> &mut WasiP1Ctx {
        let (grants, description, clock, stdio) = (&self.grants, &self.description, &self.clock, &self.stdio);
        self.wasi.get_or_insert_with(|| {
            let builder = wasi_builder(grants, description.as_ref(), clock, stdio);
            with_files(builder, grants)
        })
    }

    /// Its files, if it has any.
    pub fn files(&self) -> Option<&Arc<UnitFiles>> {
        self.grants.files.as_ref()
    }

    /// Whether it may open another file. The process needs some descriptors itself.
    pub fn may_open(&mut self) -> bool {
        self.wasi().ctx().table.iter_mut().count() < GUEST_DESCRIPTORS_MAX
    }

    /// Notes a path that it wanted to open, and that is not there.
    pub fn note_absent(&mut self, path: &[u8]) {
        let path = String::from_utf8_lossy(path);
        let end = path.floor_char_boundary(PATH_QUOTED_BYTES_MAX);
        self.absent = path.get(..end).map(str::to_owned);
    }

    /// What its job grants it.
    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    /// The bound on its stack.
    pub fn stack_bytes(&self) -> usize {
        self.grants.stack_bytes.unwrap_or(GUEST_STACK_BYTES)
    }

    /// Its clocks.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

/// The name of a guest that was not given one.
const DEFAULT_ARGV0: &str = "program";

/// The part of WASI that `wasmtime-wasi` answers, without directories.
fn wasi_builder(grants: &Grants, description: Option<&Bytes>, clock: &Clock, stdio: &Shared) -> WasiCtxBuilder {
    let description = description.and_then(|bytes| Description::parse(bytes));
    let unit = description.map_or(&[][..], |description| description.name);
    let mut builder = WasiCtxBuilder::new();
    builder
        .arg(grants.argv0.as_deref().unwrap_or(DEFAULT_ARGV0))
        .args(&grants.args.fill_in(&filling(description)))
        .envs(&environment(grants, description));
    builder.wall_clock(clock.clone()).monotonic_clock(clock.clone());
    if let Some(seed) = &grants.seed {
        let random = |purpose| seeded_random(seed, unit, purpose);
        let mut seeds = random("seeds");
        builder.secure_random(random("secure")).insecure_random(random("insecure"));
        builder.insecure_random_seed(u128::from(seeds.next_u64()) << 64 | u128::from(seeds.next_u64()));
    }
    builder.stdin(streams::Input(stdio.clone()));
    builder.stdout(streams::Output::Stdout(stdio.clone())).stderr(streams::Output::Stderr(stdio.clone()));
    builder.allow_tcp(false).allow_udp(false);
    // There are no threads in a peasant, so a guest that reads a file blocks.
    builder.allow_blocking_current_thread(true);
    builder
}

/// What fills the placeholders of a unit. Without a description it has no name.
pub fn filling(description: Option<Description<'_>>) -> Filling {
    description.map_or_else(|| Filling::of(b"", 0), |description| Filling::of(description.name, description.unit.0))
}

/// Gives the guest its files, as the root of all paths. If a shared directory is the root, their folders stand beside it.
fn with_files(mut builder: WasiCtxBuilder, grants: &Grants) -> WasiP1Ctx {
    if let Some(files) = &grants.files {
        let is_root_shared = grants.dirs.iter().any(|dir| matches!(&*dir.guest_path, "/" | "."));
        let folders: &[(&str, &str)] = match is_root_shared {
            true => &[("tmp", "/tmp"), (INPUT_FOLDER, "/in"), (OUTPUT_FOLDER, "/out"), ("dev", "/dev")],
            false => &[(".", "/")],
        };
        for (path, guest_path) in folders {
            // It can only fail without descriptors; then the guest finds nothing.
            let _there = fchdir(files.root())
                .map_err(wasmtime::Error::from)
                .and_then(|()| builder.preopened_dir(path, guest_path, FsPerms::ReadWrite).map(drop));
        }
    }
    builder.build_p1()
}

/// Gives the guest directories to read.
fn share(builder: &mut WasiCtxBuilder, dirs: &[SharedDir]) -> Result<()> {
    for dir in dirs {
        let cannot_open = || format!("cannot open the shared directory {}", dir.host_path.display());
        let opened = dir.opened.as_ref().with_context(cannot_open)?;
        // The engine takes a path. The root is empty, so it gets that of the current directory.
        fchdir(opened).with_context(cannot_open)?;
        builder.preopened_dir(".", &dir.guest_path, FsPerms::ReadOnly).with_context(cannot_open)?;
    }
    Ok(())
}

/// The guest's environment. For deterministic guests it leaves out variables that differ from run to run.
fn environment(grants: &Grants, description: Option<Description<'_>>) -> Vec<(String, String)> {
    let mut env = grants.env.clone();
    let mut tell = |key: &str, value: String| env.push((format!("DISTWASM_{key}"), value));
    let is_same_everywhere = grants.seed.is_some();
    if let Some(job) = grants.job.as_ref().filter(|_| !is_same_everywhere) {
        tell("JOB", job.clone());
    }
    if let Some(description) = description {
        tell("INPUT", String::from_utf8_lossy(description.name).into_owned());
        if !is_same_everywhere {
            tell("UNIT", description.unit.0.to_string());
            tell("ATTEMPT", description.attempt.to_string());
        }
    }
    env
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi().ctx()
    }
}

impl Default for Guest {
    /// A guest without any grant.
    fn default() -> Guest {
        Guest {
            stdio: Shared::new(Stdio::new(0, 0)),
            bounds: Bounds::default(),
            grants: Arc::default(),
            description: None,
            clock: Clock::Real,
            streams: Descriptors::default(),
            absent: None,
            wasi: None,
        }
    }
}

/// A guest's bounds of memory and tables, and whether it was denied more memory.
#[derive(Debug, Default)]
pub struct Bounds {
    memory_bytes: usize,
    /// What is in them is in memory, too.
    files: Option<Arc<UnitFiles>>,
    memory_bytes_max: usize,
    is_memory_denied: bool,
    table_elements: usize,
}

impl Bounds {
    /// Begins a unit: forgets that an earlier one was denied memory.
    pub fn begin(&mut self) {
        self.is_memory_denied = false;
    }

    /// The bound, if the guest has run into it since the unit began.
    pub fn denied(&self) -> Option<usize> {
        self.is_memory_denied.then_some(self.memory_bytes_max)
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        let in_files = || self.files.as_ref().map_or(0, |files| usize::try_from(files.bytes()).unwrap_or(usize::MAX));
        if total > self.memory_bytes_max || total.saturating_add(in_files()) > self.memory_bytes_max {
            self.is_memory_denied = true;
            return Ok(false);
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let total = self.table_elements.saturating_add(desired.saturating_sub(current));
        if total > GUEST_TABLE_ELEMENTS_MAX {
            return Ok(false);
        }
        self.table_elements = total;
        Ok(true)
    }
}
