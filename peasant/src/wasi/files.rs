//! Calls on files, of modules that may open some. `wasmtime-wasi` answers them, except those on the standard streams, also
//! if these were opened by their names in `/dev`.

use wasmtime::{AsContextMut, Caller, Linker, ModuleExport, Result};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p1::{WasiP1Ctx, wasi_snapshot_preview1 as p1};
use wasmtime_wasi::runtime::in_tokio;
use wiggle::GuestMemory;

use super::{MODULE, SUCCESS, Stop, errno, fd_read, fd_write, get, slice, with_memory};
use crate::guest::Guest;
use crate::unit_files::Stream;

/// Which descriptors of a guest are its standard streams.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// The guest has given the numbers 0 to 2 to something else, or closed them.
    are_moved: bool,
    /// Those that were opened by name, or got another number.
    named: Vec<(i32, Stream)>,
}

impl Descriptors {
    /// The standard stream that this descriptor is.
    fn stream(&self, fd: i32) -> Option<Stream> {
        let named = self.named.iter().find(|(named, _)| *named == fd).map(|(_, stream)| *stream);
        let numbered = || match fd {
            0 => Some(Stream::Stdin),
            1 => Some(Stream::Stdout),
            2 => Some(Stream::Stderr),
            _ => None,
        };
        named.or_else(|| numbered().filter(|_| !self.are_moved))
    }

    fn renumber(&mut self, from: i32, to: i32) {
        let stream = self.stream(from);
        self.forget(from);
        self.forget(to);
        self.named.extend(stream.map(|stream| (to, stream)));
    }

    /// This descriptor is closed, or becomes another.
    fn forget(&mut self, fd: i32) {
        if (0..=2).contains(&fd) && !self.are_moved {
            self.named.extend([(0, Stream::Stdin), (1, Stream::Stdout), (2, Stream::Stderr)]);
            self.are_moved = true;
        }
        self.named.retain(|(named, _)| *named != fd);
    }
}

/// A call of a guest.
struct Call<'a> {
    bytes: &'a mut [u8],
    guest: &'a mut Guest,
    /// What the guest may pass to its host in one call.
    fuel: usize,
}

impl Call<'_> {
    /// For a call that `wasmtime-wasi` answers.
    fn theirs(&mut self) -> (&mut WasiP1Ctx, GuestMemory<'_>) {
        let wasi = self.guest.wasi();
        p1::WasiSnapshotPreview1::set_hostcall_fuel(wasi, self.fuel);
        (wasi, GuestMemory::Unshared(self.bytes))
    }
}

/// Replaces the calls in which this differs from `wasmtime-wasi`.
pub fn link(linker: &mut Linker<Guest>, memory: Option<ModuleExport>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "fd_read",
        move |mut caller: Caller<'_, Guest>, fd: i32, iovs: i32, count: i32, out: i32| {
            called(&mut caller, memory, |call| read(call, fd, iovs, count, out))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_write",
        move |mut caller: Caller<'_, Guest>, fd: i32, iovs: i32, count: i32, out: i32| {
            called(&mut caller, memory, |call| write(call, fd, iovs, count, out))
        },
    )?;
    linker.func_wrap(MODULE, "fd_close", move |mut caller: Caller<'_, Guest>, fd: i32| {
        called(&mut caller, memory, |call| {
            call.guest.streams.forget(fd);
            let (wasi, mut memory) = call.theirs();
            in_tokio(p1::fd_close(wasi, &mut memory, fd))
        })
    })?;
    linker.func_wrap(MODULE, "fd_renumber", move |mut caller: Caller<'_, Guest>, from: i32, to: i32| {
        called(&mut caller, memory, |call| renumber(call, from, to))
    })?;
    linker.func_wrap(
        MODULE,
        "path_open",
        move |mut caller: Caller<'_, Guest>,
              folder: i32,
              links: i32,
              path: i32,
              path_bytes: i32,
              how: i32,
              rights: i64,
              inherited: i64,
              flags: i32,
              out: i32| {
            called(&mut caller, memory, |call| {
                if !call.guest.may_open() {
                    return Ok(MFILE);
                }
                let (wasi, mut memory) = call.theirs();
                let number = in_tokio(p1::path_open(
                    wasi,
                    &mut memory,
                    folder,
                    links,
                    path,
                    path_bytes,
                    how,
                    rights,
                    inherited,
                    flags,
                    out,
                ))?;
                let name = slice(call.bytes, path.cast_unsigned(), path_bytes.cast_unsigned() as usize);
                let name = name.unwrap_or_default();
                match number {
                    SUCCESS => opened(call.guest, get(call.bytes, out.cast_unsigned()).unwrap_or_default())?,
                    NOENT => call.guest.note_absent(name),
                    _ => {}
                }
                Ok(number)
            })
        },
    )?;
    Ok(())
}

const MFILE: i32 = 33;
const NOENT: i32 = 44;

fn read(call: &mut Call<'_>, fd: i32, iovs: i32, count: i32, out: i32) -> Result<i32> {
    if let Some(fd) = call.guest.streams.stream(fd) {
        let [iovs, count, out] = [iovs, count, out].map(i32::cast_unsigned);
        return errno(fd_read(call.bytes, call.guest, fd as i32, iovs, count, out));
    }
    let (wasi, mut memory) = call.theirs();
    in_tokio(p1::fd_read(wasi, &mut memory, fd, iovs, count, out))
}

fn write(call: &mut Call<'_>, fd: i32, iovs: i32, count: i32, out: i32) -> Result<i32> {
    if let Some(fd) = call.guest.streams.stream(fd) {
        let [iovs, count, out] = [iovs, count, out].map(i32::cast_unsigned);
        return errno(fd_write(call.bytes, call.guest, fd as i32, iovs, count, out));
    }
    let (wasi, mut memory) = call.theirs();
    in_tokio(p1::fd_write(wasi, &mut memory, fd, iovs, count, out))
}

/// A stream goes with its number.
fn renumber(call: &mut Call<'_>, from: i32, to: i32) -> Result<i32> {
    let (wasi, mut memory) = call.theirs();
    let number = in_tokio(p1::fd_renumber(wasi, &mut memory, from, to))?;
    if number == SUCCESS && from != to {
        call.guest.streams.renumber(from, to);
    }
    Ok(number)
}

/// Exchanges what was just opened as `fd`, if it is a placeholder.
fn opened(guest: &mut Guest, fd: [u8; 4]) -> Result<()> {
    let Some(files) = guest.files().cloned() else { return Ok(()) };
    let mut found = None;
    for entry in guest.wasi().ctx().table.iter_mut() {
        // One that was exchanged earlier is none any more. So what is found is what was just opened.
        if let Some(Descriptor::File(file)) = entry.downcast_mut::<Descriptor>() {
            found = found.or(files.exchange(file)?);
        }
    }
    guest.streams.named.extend(found.map(|stream| (i32::from_le_bytes(fd), stream)));
    Ok(())
}

fn called(
    caller: &mut Caller<'_, Guest>,
    memory: Option<ModuleExport>,
    answer: impl FnOnce(&mut Call<'_>) -> Result<i32>,
) -> Result<i32> {
    let fuel = caller.as_context_mut().hostcall_fuel();
    let mut number = SUCCESS;
    let done = with_memory(caller, memory, |bytes, guest| {
        number = answer(&mut Call { bytes, guest, fuel }).map_err(Stop::Now)?;
        Ok(())
    });
    errno(done).map(|failed| if failed == SUCCESS { number } else { failed })
}
