//! From bytes to a compiled program that is known to be runnable here: it is WebAssembly, it exports what some ABI
//! calls, and all that it imports exists.

use std::fmt::Write;
use std::path::Path;

use distwasm_proto::limits::MISSING_IMPORTS_NAMED;
use wasmtime::{CodeBuilder, CodeHint, Engine, ExternType, FuncType, InstancePre, Module, Store, ValType};

use crate::guest::Guest;
use crate::{engine, wasi};
use distwasm_proto::foreign;

/// How the guest wants to be called, found from what it exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Exports `ProcessStdio(i32)`, called for each unit on one instance that lives on.
    ProcessStdio,
    /// Exports `_start`, run for each unit on an instance of its own.
    Command,
}

/// A program that can run here.
pub struct Program {
    /// How it wants to be called.
    pub kind: Kind,
    /// The program with all its imports.
    pub linked: InstancePre<Guest>,
}

/// Why a program cannot run here: a lowercase fragment for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

impl Program {
    /// Compiles and checks a program in binary or text form.
    pub fn compile(bytes: &[u8]) -> Result<Program, Unfit> {
        let engine = engine::plain().map_err(|error| Unfit(format!("no engine: {error:#}")))?;
        Program::check(&compile_module(&engine, bytes)?)
    }

    /// Loads and checks what [`Program::serialize`] gave.
    ///
    /// # Safety
    ///
    /// The file must have been written from [`Program::serialize`] by a peasant (any with another fingerprint is refused),
    /// and must not change while this process lives.
    pub unsafe fn load(path: &Path) -> Result<Program, Unfit> {
        let unfit = |error: wasmtime::Error| Unfit(format!("cannot load {}: {error:#}", path.display()));
        let plain = engine::plain().map_err(unfit)?;
        // SAFETY: the caller's promise.
        let module = unsafe { Module::deserialize_file(&plain, path) }.map_err(unfit)?;
        let program = Program::check(&module)?;
        // SAFETY: the caller's promise.
        program.pooled(|pooled| unsafe { Module::deserialize_file(pooled, path) })
    }

    /// The compiled program as bytes for [`Program::load`].
    pub fn serialize(&self) -> Result<Vec<u8>, Unfit> {
        self.linked.module().serialize().map_err(|error| Unfit(format!("cannot be serialized: {error:#}")))
    }

    /// The same program, just compiled, ready to be run by this process.
    pub fn ready(self) -> Result<Program, Unfit> {
        if self.kind != Kind::Command {
            return Ok(self);
        }
        let compiled = self.serialize()?;
        // SAFETY: the bytes come straight from `serialize`.
        self.pooled(|pooled| unsafe { Module::deserialize(pooled, compiled) })
    }

    /// Makes the image from which each instance's memory starts. It is a file in memory, so this must come before the
    /// size of files is limited.
    pub fn make_image(&self) -> Result<(), Unfit> {
        self.linked.module().initialize_copy_on_write_image().map_err(|error| Unfit(format!("no image: {error:#}")))
    }

    /// A program whose every unit is a new instance moves into a pool. One that does not fit there stays where it is.
    fn pooled(self, load: impl FnOnce(&Engine) -> wasmtime::Result<Module>) -> Result<Program, Unfit> {
        if self.kind != Kind::Command {
            return Ok(self);
        }
        let needs = self.linked.module().resources_required();
        match engine::pooled(&needs).and_then(|engine| load(&engine)) {
            Ok(module) => Program::check(&module),
            Err(_does_not_fit) => Ok(self),
        }
    }

    fn check(module: &Module) -> Result<Program, Unfit> {
        let kind = kind(module)?;
        let linked = link(module)?;
        Ok(Program { kind, linked })
    }
}

fn compile_module(engine: &Engine, bytes: &[u8]) -> Result<Module, Unfit> {
    const COMPONENT: &str = "it is a component; this version runs core modules (wasm32-wasip1)";
    let is_binary = bytes.starts_with(b"\0asm");
    if let Some(why) = foreign::why_no_program(bytes) {
        return Err(Unfit(why));
    }
    let mut builder = CodeBuilder::new(engine);
    if let Err(error) = builder.wasm_binary_or_text(bytes, None) {
        let why = format!("not a WebAssembly program: it is text, but not WebAssembly's text format: {error}");
        return Err(Unfit(why));
    }
    // The header's last two bytes tell modules (0) from components (1).
    if matches!(builder.hint(), Some(CodeHint::Component)) || (is_binary && bytes.get(6) == Some(&1)) {
        return Err(Unfit(COMPONENT.to_owned()));
    }
    builder.compile_module().map_err(|error| Unfit(format!("not valid WebAssembly: {error:#}")))
}

fn kind(module: &Module) -> Result<Kind, Unfit> {
    let unit = (&[][..], "()");
    if let Some(export) = module.get_export("ProcessStdio") {
        check_signature("ProcessStdio", &export, (&[ValType::I32], "(i32)"))?;
        for name in ["_initialize", "_start"] {
            if let Some(export) = module.get_export(name) {
                check_signature(name, &export, unit)?;
            }
        }
        return Ok(Kind::ProcessStdio);
    }
    if let Some(export) = module.get_export("_start") {
        check_signature("_start", &export, unit)?;
        return Ok(Kind::Command);
    }
    let names: Vec<_> =
        module.exports().map(|export| format!("`{}`", export.name())).take(MISSING_IMPORTS_NAMED).collect();
    let found = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    Err(Unfit(format!("exports neither `ProcessStdio` nor `_start`; found: {found}")))
}

fn check_signature(name: &str, export: &ExternType, (params, wanted): (&[ValType], &str)) -> Result<(), Unfit> {
    let ExternType::Func(signature) = export else {
        return Err(Unfit(format!("exports `{name}`, but not as a function")));
    };
    let is_right = signature.results().len() == 0
        && signature.params().len() == params.len()
        && signature.params().zip(params).all(|(found, wanted)| ValType::eq(&found, wanted));
    if is_right {
        return Ok(());
    }
    Err(Unfit(format!("exports `{name}` with the signature {}, which must be {wanted}", show(signature))))
}

fn show(signature: &FuncType) -> String {
    let list = |types: &mut dyn Iterator<Item = ValType>| types.map(|t| t.to_string()).collect::<Vec<_>>().join(", ");
    let mut text = format!("({})", list(&mut signature.params()));
    match signature.results().len() {
        0 => {}
        _ => {
            let _ = write!(text, " -> {}", list(&mut signature.results()));
        }
    }
    text
}

fn link(module: &Module) -> Result<InstancePre<Guest>, Unfit> {
    let engine = module.engine();
    let linker = wasi::linker(engine, module).map_err(|error| Unfit(format!("cannot be linked: {error:#}")))?;
    let mut store = Store::new(engine, Guest::default());
    let mut missing = Vec::new();
    for import in module.imports() {
        if linker.get_by_import(&mut store, &import).is_none() {
            missing.push(format!("`{}.{}`", import.module(), import.name()));
        }
    }
    if !missing.is_empty() {
        let verb = if missing.len() == 1 { "does" } else { "do" };
        let more = missing.len().saturating_sub(MISSING_IMPORTS_NAMED);
        missing.truncate(MISSING_IMPORTS_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Err(Unfit(format!(
            "imports {}{more}, which {verb} not exist here: guests get WASI preview 1 only",
            missing.join(", ")
        )));
    }
    linker.instantiate_pre(module).map_err(|error| Unfit(format!("imports something as what it is not: {error:#}")))
}
