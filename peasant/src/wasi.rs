//! The functions that a guest may call: WASI without network, and without files except its own and those in shared
//! directories.
//!
//! Modules get preview 1. `wasmtime-wasi` answers the calls about arguments, environment, clocks and randomness, and, if
//! the module can open files, those on descriptors other than the standard streams (`files`). Calls on the standard
//! streams are always answered here, from bounded memory, which is six times faster for a unit of 100 bytes. A module
//! that cannot open files hears "bad file descriptor" for all others. Sleeping is always answered here, because
//! `wasmtime-wasi` would need a runtime with threads for it.
//!
//! Components get WASI 0.2, all of it answered by `wasmtime-wasi`.

pub mod absent;
mod files;
mod folders;
mod poll;

use wasmtime::{Caller, Engine, Extern, Linker, Module, ModuleExport, Result, Store, Val, component, error::Context};
use wasmtime_wasi::{I32Exit, p1, p2};

use crate::guest::Guest;

pub use files::Descriptors;

/// The module name of WASI preview 1 in imports.
pub const MODULE: &str = "wasi_snapshot_preview1";

/// A function that Emscripten's programs call after their memory has grown, so that JavaScript can look at it anew. It
/// may do nothing.
const MEMORY_HAS_GROWN: (&str, &str) = ("env", "emscripten_notify_memory_growth");

const SUCCESS: i32 = 0;
const BADF: i32 = 8;
const FAULT: i32 = 21;
const INVAL: i32 = 28;
const SPIPE: i32 = 70;

/// Calls on files, for guests that have none.
const ON_FILES: [&str; 21] = [
    "fd_advise",
    "fd_allocate",
    "fd_datasync",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_readdir",
    "fd_renumber",
    "fd_sync",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// Calls about a position in a file. The standard streams are pipes and have none.
const ON_PLACES: [&str; 4] = ["fd_pread", "fd_pwrite", "fd_seek", "fd_tell"];

/// Whether a module can open files: it imports a call that takes a path.
pub fn opens_files(module: &Module) -> bool {
    module.imports().any(|import| import.module() == MODULE && import.name().starts_with("path_"))
}

/// All functions that modules may import. The module's memory is looked up once, by the caller, and not by name at each
/// call.
pub fn linker(engine: &Engine, memory: Option<ModuleExport>, has_files: bool) -> Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_sync(&mut linker, Guest::wasi)?;
    linker.allow_shadowing(true);
    linker.func_wrap(MEMORY_HAS_GROWN.0, MEMORY_HAS_GROWN.1, |_memory: i32| ())?;
    linker.func_wrap(
        MODULE,
        "poll_oneoff",
        move |mut caller: Caller<'_, Guest>, subscriptions: u32, events: u32, count: u32, out: u32| {
            errno(with_memory(&mut caller, memory, |bytes, guest| {
                let world = poll::World { clock: guest.clock(), has_files };
                poll::poll_oneoff(bytes, &world, subscriptions, events, count, out)
            }))
        },
    )?;
    // Any exit status is allowed, not only those below 126.
    linker.func_wrap(MODULE, "proc_exit", |status: i32| -> Result<()> { Err(I32Exit(status).into()) })?;
    match has_files {
        true => files::link(&mut linker, memory)?,
        false => answer_descriptors(&mut linker, memory)?,
    }
    Ok(linker)
}

/// Answers the calls on descriptors for guests without files.
fn answer_descriptors(linker: &mut Linker<Guest>, memory: Option<ModuleExport>) -> Result<()> {
    let mut store = Store::new(linker.engine(), Guest::default());
    for name in ON_FILES {
        shadow(linker, &mut store, name, |_| BADF)?;
    }
    for name in ON_PLACES {
        shadow(linker, &mut store, name, |fd| if (0..=2).contains(&fd) { SPIPE } else { BADF })?;
    }
    shadow(linker, &mut store, "fd_close", |fd| if (0..=2).contains(&fd) { SUCCESS } else { BADF })?;
    linker.func_wrap(
        MODULE,
        "fd_read",
        move |mut caller: Caller<'_, Guest>, fd: i32, iovs: u32, count: u32, out: u32| {
            errno(with_memory(&mut caller, memory, |bytes, guest| fd_read(bytes, guest, fd, iovs, count, out)))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_write",
        move |mut caller: Caller<'_, Guest>, fd: i32, iovs: u32, count: u32, out: u32| {
            errno(with_memory(&mut caller, memory, |bytes, guest| fd_write(bytes, guest, fd, iovs, count, out)))
        },
    )?;
    linker.func_wrap(MODULE, "fd_fdstat_get", move |mut caller: Caller<'_, Guest>, fd: i32, out: u32| {
        errno(with_memory(&mut caller, memory, |bytes, _| fd_fdstat_get(bytes, fd, out)))
    })?;
    linker.func_wrap(MODULE, "fd_filestat_get", move |mut caller: Caller<'_, Guest>, fd: i32, out: u32| {
        errno(with_memory(&mut caller, memory, |bytes, _| fd_filestat_get(bytes, fd, out)))
    })?;
    Ok(())
}

/// All functions that components may import.
pub fn component_linker(engine: &Engine) -> Result<component::Linker<Guest>> {
    let mut linker = component::Linker::new(engine);
    p2::add_to_linker_async(&mut linker)?;
    folders::link(&mut linker)?;
    Ok(linker)
}

/// Replaces the function `name`, with any signature, by one whose result depends on the first argument alone.
fn shadow(linker: &mut Linker<Guest>, store: &mut Store<Guest>, name: &str, answer: fn(fd: i32) -> i32) -> Result<()> {
    let function = linker.get(&mut *store, MODULE, name)?.into_func();
    let signature = function.with_context(|| format!("{name} is not a function"))?.ty(&*store);
    linker.func_new(MODULE, name, signature, move |_, params, results| {
        let fd = params.first().and_then(Val::i32).unwrap_or(-1);
        results.fill(Val::I32(answer(fd)));
        Ok(())
    })?;
    Ok(())
}

/// How an unsuccessful call ends: with an error number for the guest, or by ending the guest.
enum Stop {
    Errno(i32),
    Now(wasmtime::Error),
}

fn errno(result: Result<(), Stop>) -> Result<i32> {
    match result {
        Ok(()) => Ok(SUCCESS),
        Err(Stop::Errno(number)) => Ok(number),
        Err(Stop::Now(error)) => Err(error),
    }
}

fn with_memory(
    caller: &mut Caller<'_, Guest>,
    memory: Option<ModuleExport>,
    call: impl FnOnce(&mut [u8], &mut Guest) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let memory = memory.as_ref().and_then(|export| caller.get_module_export(export)).and_then(Extern::into_memory);
    let Some(memory) = memory else { return Err(Stop::Errno(FAULT)) };
    let (bytes, guest) = memory.data_and_store_mut(caller);
    call(bytes, guest)
}

fn fd_read(bytes: &mut [u8], guest: &mut Guest, fd: i32, iovs: u32, count: u32, out: u32) -> Result<(), Stop> {
    if fd != 0 {
        return Err(Stop::Errno(BADF));
    }
    let mut stdio = guest.stdio.lock();
    let mut total = 0_u32;
    for index in 0..count {
        let (start, length) = iovec(bytes, iovs, index)?;
        let read = stdio.read(slice_mut(bytes, start, length)?).map_err(|error| Stop::Now(error.into()))?;
        // A guest may list the same bytes again and again; it gets no more than a 32-bit count can say.
        let Some(sum) = u32::try_from(read).ok().and_then(|read| total.checked_add(read)) else { break };
        total = sum;
        if read < length as usize {
            break;
        }
    }
    put(bytes, out, total.to_le_bytes())
}

fn fd_write(bytes: &mut [u8], guest: &mut Guest, fd: i32, iovs: u32, count: u32, out: u32) -> Result<(), Stop> {
    if fd != 1 && fd != 2 {
        return Err(Stop::Errno(BADF));
    }
    let mut stdio = guest.stdio.lock();
    let mut total = 0_u32;
    for index in 0..count {
        let (start, length) = iovec(bytes, iovs, index)?;
        let Some(sum) = total.checked_add(length) else { break };
        let source = slice(bytes, start, length as usize)?;
        if fd == 1 {
            stdio.write_output(source).map_err(|error| Stop::Now(error.into()))?;
        } else {
            stdio.write_stderr(source);
        }
        total = sum;
    }
    put(bytes, out, total.to_le_bytes())
}

/// The standard streams are of unknown type: not terminals, so that guests buffer what they write.
fn fd_fdstat_get(bytes: &mut [u8], fd: i32, out: u32) -> Result<(), Stop> {
    const RIGHT_READ: u64 = 1 << 1;
    const RIGHT_WRITE: u64 = 1 << 6;
    const RIGHT_POLL: u64 = 1 << 27;
    let rights = match fd {
        0 => RIGHT_READ | RIGHT_POLL,
        1 | 2 => RIGHT_WRITE | RIGHT_POLL,
        _ => return Err(Stop::Errno(BADF)),
    };
    put(bytes, out, [0; 24])?;
    put(bytes, out.saturating_add(8), rights.to_le_bytes())
}

fn fd_filestat_get(bytes: &mut [u8], fd: i32, out: u32) -> Result<(), Stop> {
    if !(0..=2).contains(&fd) {
        return Err(Stop::Errno(BADF));
    }
    put(bytes, out, [0; 64])
}

/// Address and length of the `index`th buffer in a list of buffers.
fn iovec(bytes: &[u8], iovs: u32, index: u32) -> Result<(u32, u32), Stop> {
    let at = index.checked_mul(8).and_then(|offset| iovs.checked_add(offset)).ok_or(Stop::Errno(FAULT))?;
    let [a, b, c, d, e, f, g, h] = get(bytes, at)?;
    Ok((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])))
}

fn get<const N: usize>(bytes: &[u8], at: u32) -> Result<[u8; N], Stop> {
    slice(bytes, at, N)?.try_into().map_err(|_| Stop::Errno(FAULT))
}

fn put<const N: usize>(bytes: &mut [u8], at: u32, value: [u8; N]) -> Result<(), Stop> {
    let length = u32::try_from(N).map_err(|_| Stop::Errno(FAULT))?;
    slice_mut(bytes, at, length)?.copy_from_slice(&value);
    Ok(())
}

fn slice(bytes: &[u8], at: u32, length: usize) -> Result<&[u8], Stop> {
    bytes.get(at as usize..).and_then(|rest| rest.get(..length)).ok_or(Stop::Errno(FAULT))
}

fn slice_mut(bytes: &mut [u8], at: u32, length: u32) -> Result<&mut [u8], Stop> {
    bytes.get_mut(at as usize..).and_then(|rest| rest.get_mut(..length as usize)).ok_or(Stop::Errno(FAULT))
}
