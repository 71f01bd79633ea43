//! Turns bytes into a compiled program that can run here: it is WebAssembly, it exports something that can be called,
//! and all its imports exist.

mod component;
mod hints;
mod mapped;
mod module;
mod outline;

use std::{
    borrow::Cow,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use distwasm_process::{beneath, files};
use distwasm_proto::{file_type, limits::MISSING_IMPORTS_NAMED};
use wasmparser::Parser;
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use crate::engine::{self, Kind};
use crate::guest::Grants;

pub use component::{ComponentEntry, ComponentProgram};
pub use mapped::{Mapped, Protection};
pub use module::{ModuleEntry, ModuleProgram};
use outline::Outline;

/// A program that can run here.
pub enum Program {
    /// A core module.
    Module(ModuleProgram),
    /// A component.
    Component(ComponentProgram),
}

/// Why a program cannot run here, as a lowercase fragment for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// Why a compiled program cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The file is at fault.
    #[error("{0}")]
    File(String),
    /// The program is at fault.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// Compiled code.
enum Code {
    Module(Module),
    Component(Component),
}

impl Program {
    /// Compiles and checks a program in binary or text form.
    pub fn compile(bytes: &[u8], grants: &Grants) -> Result<Program, Unfit> {
        let engine = engine::plain(kind(grants)).map_err(|error| Unfit(format!("no engine: {error:#}")))?;
        let binary = binary(bytes)?;
        // What is not read here, the compiler refuses, and says where it is wrong.
        match Outline::read(&binary) {
            Ok(Outline::Module(outline)) => module::check_ahead(&engine, &outline, grants)?,
            Ok(Outline::Component(outline)) => component::check_ahead(&outline, grants)?,
            Err(_) => {}
        }
        Program::check(&Code::compile(&engine, &binary)?, grants)
    }

    /// Loads and checks a program that [`Program::serialize`] wrote, and maps it.
    ///
    /// # Safety
    ///
    /// The file must have been written from [`Program::serialize`] by a peasant (a file from one with another
    /// fingerprint is refused), and must not change while this process lives.
    pub unsafe fn load(compiled: &CompiledFile, grants: &Grants) -> Result<Program, LoadError> {
        let kind = Kind { mapped: true, ..kind(grants) };
        let plain = engine::plain(kind).map_err(|error| compiled.broken(&error))?;
        let load = |engine: &Engine| {
            // Each engine knows its code by the address.
            let mapped = Mapped::of(&compiled.file, compiled.bytes)?;
            // SAFETY: the caller's promise; the bytes stay mapped.
            let module = unsafe { Module::deserialize_raw(engine, mapped.bytes()) };
            module.map(Code::Module).or_else(|module| {
                // SAFETY: the caller's promise; the bytes stay mapped.
                let component = unsafe { Component::deserialize_raw(engine, mapped.bytes()) };
                component.map(Code::Component).map_err(|component| {
                    wasmtime::Error::msg(format!("as a module: {module:#}; as a component: {component:#}"))
                })
            })
        };
        let program = Program::check(&load(&plain).map_err(|error| compiled.broken(&error))?, grants)?;
        Ok(program.pooled(grants, kind, load)?)
    }

    /// The compiled program as bytes for [`Program::load`].
    pub fn serialize(&self) -> Result<Vec<u8>, Unfit> {
        let serialized = match self {
            Program::Module(program) => program.linked.module().serialize(),
            Program::Component(program) => program.linked.component().serialize(),
        };
        serialized.map_err(|error| Unfit(format!("cannot be serialized: {error:#}")))
    }

    /// Makes a program that was just compiled ready to be run by this process.
    pub fn ready(self, grants: &Grants) -> Result<Program, Unfit> {
        if self.lives_on(grants) {
            return Ok(self);
        }
        let compiled = self.serialize()?;
        let is_module = matches!(self, Program::Module(_));
        // SAFETY: the bytes come straight from `serialize`.
        self.pooled(grants, kind(grants), |pooled| unsafe {
            Ok(if is_module {
                Code::Module(Module::deserialize(pooled, compiled)?)
            } else {
                Code::Component(Component::deserialize(pooled, compiled)?)
            })
        })
    }

    /// Makes the image from which each instance's memory starts. It is a file in memory, so it must be made before the
    /// size of files is limited.
    pub fn make_image(&self) -> Result<(), Unfit> {
        let made = match self {
            Program::Module(program) => program.linked.module().initialize_copy_on_write_image(),
            Program::Component(program) => program.linked.component().initialize_copy_on_write_image(),
        };
        made.map_err(|error| Unfit(format!("no image: {error:#}")))
    }

    /// Whether it is called once for each unit, and answers on its stdout.
    pub fn is_command(&self) -> bool {
        match self {
            Program::Module(program) => program.entry == ModuleEntry::Command,
            Program::Component(program) => matches!(program.entry, ComponentEntry::Command(_)),
        }
    }

    /// Whether it can open files, and may. Components are not asked.
    pub fn opens_files(&self) -> bool {
        match self {
            Program::Module(program) => program.opens_files,
            Program::Component(_) => true,
        }
    }

    /// Whether its instance lives on from unit to unit.
    pub fn lives_on(&self, grants: &Grants) -> bool {
        matches!(self, Program::Module(program) if program.entry == ModuleEntry::ProcessStdio) && !grants.fresh
    }

    /// Moves a program that gets a new instance for each unit into a pool. One that does not fit there stays as it is.
    fn pooled(
        self,
        grants: &Grants,
        kind: Kind,
        load: impl FnOnce(&Engine) -> wasmtime::Result<Code>,
    ) -> Result<Program, Unfit> {
        if self.lives_on(grants) {
            return Ok(self);
        }
        let needs = match &self {
            Program::Module(program) => Some(program.linked.module().resources_required()),
            Program::Component(program) => program.linked.component().resources_required(),
        };
        let Some(needs) = needs else { return Ok(self) };
        match engine::pooled(&needs, kind).and_then(|engine| load(&engine)) {
            Ok(code) => Program::check(&code, grants),
            Err(_does_not_fit) => Ok(self),
        }
    }

    fn check(code: &Code, grants: &Grants) -> Result<Program, Unfit> {
        Ok(match code {
            Code::Module(module) => Program::Module(ModuleProgram::check(module, grants)?),
            Code::Component(component) => Program::Component(ComponentProgram::check(component, grants)?),
        })
    }
}

impl Code {
    fn compile(engine: &Engine, binary: &[u8]) -> Result<Code, Unfit> {
        let compiled = if Parser::is_component(binary) {
            Component::from_binary(engine, binary).map(Code::Component)
        } else {
            Module::from_binary(engine, binary).map(Code::Module)
        };
        compiled.map_err(|error| Unfit(hints::invalid(&error)))
    }
}

/// A program in binary form.
fn binary(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Unfit> {
    if let Some(why) = file_type::why_no_program(bytes) {
        return Err(Unfit(why));
    }
    wat::parse_bytes(bytes).map_err(|error| {
        Unfit(format!("not a WebAssembly program: it is text, but not WebAssembly's text format: {error}"))
    })
}

/// A compiled program that was opened and not yet looked into.
#[derive(Debug)]
pub struct CompiledFile {
    path: PathBuf,
    file: File,
    bytes: usize,
}

impl CompiledFile {
    /// Opens a compiled program. It must belong to this user alone: a user who can write to it could have any code run
    /// here.
    pub fn open(path: &Path) -> Result<CompiledFile, LoadError> {
        let opened = beneath::open_file(path).and_then(|file| {
            let found = file.metadata()?;
            if files::is_private(&found) {
                let bytes = usize::try_from(found.len()).map_err(io::Error::other)?;
                return Ok(CompiledFile { path: path.to_owned(), file, bytes });
            }
            Err(io::Error::other("it belongs to another user, or others may write to it, so it may hold any code"))
        });
        opened.map_err(|error| LoadError::File(format!("cannot load {}: {error}", path.display())))
    }

    fn broken(&self, error: &wasmtime::Error) -> LoadError {
        LoadError::File(format!("cannot load {}: {error:#}", self.path.display()))
    }
}

fn kind(grants: &Grants) -> Kind {
    Kind { deterministic: grants.seed.is_some(), mapped: false, stack_bytes: grants.stack_bytes }
}

/// Lists the first names, and the number of further ones.
fn list(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut names: Vec<String> = names.into_iter().map(|name| format!("`{}`", name.as_ref().escape_debug())).collect();
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let more = names.len().saturating_sub(MISSING_IMPORTS_NAMED);
    names.truncate(MISSING_IMPORTS_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
}
