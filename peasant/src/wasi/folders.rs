//! Calls on files, of components. `wasmtime-wasi` answers them, except that placeholders are exchanged for what they stand
//! for.

use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, HostDescriptor, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError};

use crate::guest::Guest;
use crate::stdio::streams::{Input, Output};
use crate::unit_files::Stream;

/// The interface, in the version that `wasmtime-wasi` gives. Components that want an older one get this one.
const INTERFACE: &str = "wasi:filesystem/types@0.2.12";

type Opened = (Resource<Descriptor>, PathFlags, String, OpenFlags, DescriptorFlags);

/// Replaces the calls in which this differs from `wasmtime-wasi`.
pub fn link(linker: &mut Linker<Guest>) -> Result<()> {
    linker.allow_shadowing(true);
    let mut interface = linker.instance(INTERFACE)?;
    interface.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: StoreContextMut<'_, Guest>, (folder, links, path, how, flags): Opened| {
            Box::new(async move {
                let guest = store.data_mut();
                if !guest.may_open() {
                    return Ok((Err(ErrorCode::Quota),));
                }
                let name = path.clone().into_bytes();
                let opened = guest.filesystem().open_at(folder, links, path, how, flags).await;
                match &opened {
                    Ok(opened) => exchange(guest, opened)?,
                    Err(error) if matches!(error.downcast_ref(), Some(ErrorCode::NoEntry)) => guest.note_absent(&name),
                    Err(_) => {}
                }
                Ok((answer(opened)?,))
            })
        },
    )?;
    interface.func_wrap(
        "[method]descriptor.read-via-stream",
        |mut store: StoreContextMut<'_, Guest>, (file, place): (Resource<Descriptor>, u64)| {
            let guest = store.data_mut();
            if stream(guest, &file)? == Some(Stream::Stdin) {
                let input: DynInputStream = Box::new(Input(guest.stdio.clone()));
                return Ok((Ok(guest.ctx().table.push(input)?),));
            }
            Ok((answer(guest.filesystem().read_via_stream(file, place))?,))
        },
    )?;
    interface.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: StoreContextMut<'_, Guest>, (file, place): (Resource<Descriptor>, u64)| {
            let guest = store.data_mut();
            match output(guest, &file)? {
                Some(output) => Ok((Ok(guest.ctx().table.push(output)?),)),
                None => Ok((answer(guest.filesystem().write_via_stream(file, place))?,)),
            }
        },
    )?;
    interface.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store: StoreContextMut<'_, Guest>, (file,): (Resource<Descriptor>,)| {
            let guest = store.data_mut();
            match output(guest, &file)? {
                Some(output) => Ok((Ok(guest.ctx().table.push(output)?),)),
                None => Ok((answer(guest.filesystem().append_via_stream(file))?,)),
            }
        },
    )
}

fn exchange(guest: &mut Guest, opened: &Resource<Descriptor>) -> Result<()> {
    let Some(files) = guest.files().cloned() else { return Ok(()) };
    if let Descriptor::File(file) = guest.ctx().table.get_mut(opened)? {
        files.exchange(file)?;
    }
    Ok(())
}

/// The standard stream that a file stands for.
fn stream(guest: &mut Guest, file: &Resource<Descriptor>) -> Result<Option<Stream>> {
    let Some(files) = guest.files().cloned() else { return Ok(None) };
    Ok(match guest.ctx().table.get(file)? {
        Descriptor::File(file) => files.stream(&file.file),
        Descriptor::Dir(_) => None,
    })
}

fn output(guest: &mut Guest, file: &Resource<Descriptor>) -> Result<Option<DynOutputStream>> {
    let stdio = guest.stdio.clone();
    Ok(match stream(guest, file)? {
        Some(Stream::Stdout) => Some(Box::new(Output::Stdout(stdio))),
        Some(Stream::Stderr) => Some(Box::new(Output::Stderr(stdio))),
        Some(Stream::Stdin) | None => None,
    })
}

/// An error of the guest's, or one that ends it.
fn answer<T>(result: std::result::Result<T, FsError>) -> Result<std::result::Result<T, ErrorCode>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => error.downcast().map(Err),
    }
}
