//! Core modules: checks their exports and imports.

use std::fmt::Write;

use wasmtime::{ExternType, FuncType, InstancePre, Module, Store, ValType};

use super::{Unfit, hints, list};
use crate::guest::{Grants, Guest};
use crate::wasi;

/// How a module is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleEntry {
    /// It exports `ProcessStdio(i32)`.
    ProcessStdio,
    /// It exports `_start`.
    Command,
    /// It exports this function, which takes and returns numbers.
    Call(String),
}

/// A module that can run here.
pub struct ModuleProgram {
    /// How it is called.
    pub entry: ModuleEntry,
    /// The module with all its imports.
    pub linked: InstancePre<Guest>,
    /// It can open files, and may.
    pub opens_files: bool,
}

impl ModuleProgram {
    pub(super) fn check(module: &Module, grants: &Grants) -> Result<ModuleProgram, Unfit> {
        // Imports are checked first: for a program of another world, missing imports say more than missing exports.
        let opens_files = grants.has_files() && wasi::opens_files(module);
        let linked = link(module, opens_files)?;
        let entry = match &grants.call {
            Some(name) => called(module, name)?,
            None => found(module)?,
        };
        Ok(ModuleProgram { entry, linked, opens_files })
    }
}

fn found(module: &Module) -> Result<ModuleEntry, Unfit> {
    if let Some(export) = module.get_export("ProcessStdio") {
        check_signature("ProcessStdio", &export, &[ValType::I32], "(i32)")?;
        check_initialisers(module)?;
        return Ok(ModuleEntry::ProcessStdio);
    }
    if let Some(export) = module.get_export("_start") {
        check_signature("_start", &export, &[], "()")?;
        return Ok(ModuleEntry::Command);
    }
    let found = list(module.exports().map(|export| export.name().to_owned()));
    let functions = module.exports().filter(|export| matches!(export.ty(), ExternType::Func(_))).count();
    let way_out = if functions > 0 { "; --call NAME calls any function of numbers" } else { "" };
    Err(Unfit(format!("exports neither `ProcessStdio` nor `_start`; found: {found}{way_out}")))
}

fn called(module: &Module, name: &str) -> Result<ModuleEntry, Unfit> {
    let Some(export) = module.get_export(name) else {
        let functions = module.exports().filter(|export| matches!(export.ty(), ExternType::Func(_)));
        let found = list(functions.map(|export| export.name().to_owned()));
        return Err(Unfit(format!("exports no `{name}` to call; functions that it exports: {found}")));
    };
    let ExternType::Func(signature) = &export else {
        return Err(Unfit(format!("exports `{name}`, but not as a function")));
    };
    if !signature.params().chain(signature.results()).all(|value| is_number(&value)) {
        return Err(Unfit(format!(
            "exports `{name}` with the signature {}; only i32, i64, f32 and f64 can be written as text",
            show(signature)
        )));
    }
    check_initialisers(module)?;
    Ok(ModuleEntry::Call(name.to_owned()))
}

fn is_number(value: &ValType) -> bool {
    matches!(value, ValType::I32 | ValType::I64 | ValType::F32 | ValType::F64)
}

/// Checks the functions that are called once in a module that is not a command.
fn check_initialisers(module: &Module) -> Result<(), Unfit> {
    for name in ["_initialize", "_start"] {
        if let Some(export) = module.get_export(name) {
            check_signature(name, &export, &[], "()")?;
        }
    }
    Ok(())
}

fn check_signature(name: &str, export: &ExternType, params: &[ValType], wanted: &str) -> Result<(), Unfit> {
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

/// A signature as text.
pub(crate) fn show(signature: &FuncType) -> String {
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

fn link(module: &Module, has_files: bool) -> Result<InstancePre<Guest>, Unfit> {
    let engine = module.engine();
    let linker = wasi::linker(engine, module, has_files);
    let linker = linker.map_err(|error| Unfit(format!("cannot be linked: {error:#}")))?;
    let mut store = Store::new(engine, Guest::default());
    let missing: Vec<_> =
        module.imports().filter(|import| linker.get_by_import(&mut store, import).is_none()).collect();
    if missing.is_empty() {
        let linked = linker.instantiate_pre(module);
        return linked.map_err(|error| Unfit(format!("imports something as what it is not: {error:#}")));
    }
    let names = list(missing.iter().map(|import| format!("{}.{}", import.module(), import.name())));
    let verb = if missing.len() == 1 { "does" } else { "do" };
    let way_out = hints::missing(missing.iter().map(|import| (import.module(), import.name())));
    Err(Unfit(format!("imports {names}, which {verb} not exist here: {way_out}")))
}
