//! Core modules: checks their exports and imports.

use std::collections::HashMap;

use wasmtime::{Engine, InstancePre, Module, Store};

use super::outline::{Import, Item, ModuleOutline, Signature};
use super::{Unfit, hints, list};
use crate::guest::{Grants, Guest};
use crate::wasi::{self, MODULE, absent};

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
        let opens_files = grants.has_files() && wasi::opens_files(module);
        let linked = link(module, grants, opens_files)?;
        let entry = entry(&ModuleOutline::of(module), grants)?;
        Ok(ModuleProgram { entry, linked, opens_files })
    }
}

/// Finds out, before a module is compiled, whether it can run here.
pub(super) fn check_ahead(engine: &Engine, module: &ModuleOutline, grants: &Grants) -> Result<(), Unfit> {
    // Imports are checked first: for a program of another world, missing imports say more than missing exports.
    check_imports(module, &there_is(engine)?, grants.traps_unknown_imports)?;
    if let Some(why) = hints::unsupported(module) {
        return Err(Unfit(why.to_owned()));
    }
    let entry = entry(module, grants)?;
    if entry == ModuleEntry::Command && module.has_empty_start {
        let functions: Vec<&str> = callable(module).collect();
        if !functions.is_empty() {
            let found = list(functions);
            return Err(Unfit(format!(
                "its `_start` does nothing, so it is not a command; --call NAME calls a function that it exports: {found}"
            )));
        }
    }
    check_memory(module)
}

/// The functions that a module may import, with their signatures.
fn there_is(engine: &Engine) -> Result<HashMap<(String, String), Signature>, Unfit> {
    let cannot = |error: wasmtime::Error| Unfit(format!("cannot be linked: {error:#}"));
    let mut store = Store::new(engine, Guest::default());
    let linker = wasi::linker(engine, None, false).map_err(cannot)?;
    let all: Vec<_> =
        linker.iter(&mut store).map(|(module, name, item)| (module.to_owned(), name.to_owned(), item)).collect();
    let functions = all.into_iter().filter_map(|(module, name, item)| match Item::of(&item.ty(&store)) {
        Item::Function(signature) => Some(((module, name), signature)),
        _ => None,
    });
    Ok(functions.collect())
}

fn check_imports(
    module: &ModuleOutline,
    there_is: &HashMap<(String, String), Signature>,
    traps_unknown: bool,
) -> Result<(), Unfit> {
    let found = |import: &Import| there_is.get(&(import.module.clone(), import.name.clone()));
    let is_missing =
        |import: &&Import| found(import).is_none() && !(traps_unknown && matches!(import.item, Item::Function(_)));
    let missing: Vec<&Import> = module.imports.iter().filter(is_missing).collect();
    if !missing.is_empty() {
        let names = list(missing.iter().map(|import| format!("{}.{}", import.module, import.name)));
        let verb = if missing.len() == 1 { "does" } else { "do" };
        return Err(Unfit(format!("imports {names}, which {verb} not exist here: {}", hints::missing(module))));
    }
    for import in &module.imports {
        let (Some(wanted), Item::Function(signature)) = (found(import), &import.item) else { continue };
        if wanted != signature {
            let has_long_addresses = import.module == MODULE && signature.params.iter().any(|param| param == "i64");
            let way_out =
                if has_long_addresses { "; WASI has addresses of 32 bits, so build it for wasm32" } else { "" };
            return Err(Unfit(format!(
                "imports something as what it is not: `{}.{}` as {signature}, which is {wanted}{way_out}",
                import.module, import.name
            )));
        }
    }
    Ok(())
}

/// Functions of WASI that take no address.
const WITHOUT_MEMORY: [&str; 4] = ["proc_exit", "sched_yield", "fd_close", "proc_raise"];

/// Refuses a module whose memory WASI cannot reach: its calls would all fail.
fn check_memory(module: &ModuleOutline) -> Result<(), Unfit> {
    let needs_memory = module.imports_any(|from, name| from == MODULE && !WITHOUT_MEMORY.contains(&name));
    if !needs_memory || matches!(module.export("memory"), Some(Item::Memory)) {
        return Ok(());
    }
    let other = module.exports.iter().find(|export| matches!(export.item, Item::Memory));
    let what = match other {
        Some(other) => format!("exports its memory as {}", list([&other.name])),
        None => "does not export its memory".to_owned(),
    };
    Err(Unfit(format!("{what}, which WASI must find as `memory` to pass anything (wasm-ld: --export-memory=memory)")))
}

fn entry(module: &ModuleOutline, grants: &Grants) -> Result<ModuleEntry, Unfit> {
    match &grants.call {
        Some(name) => called(module, name),
        None => found(module),
    }
}

fn found(module: &ModuleOutline) -> Result<ModuleEntry, Unfit> {
    if let Some(export) = module.export("ProcessStdio") {
        check_signature("ProcessStdio", export, &["i32"])?;
        check_initialisers(module)?;
        return Ok(ModuleEntry::ProcessStdio);
    }
    if let Some(export) = module.export("_start") {
        check_signature("_start", export, &[])?;
        return Ok(ModuleEntry::Command);
    }
    let found = list(module.exports.iter().map(|export| &export.name));
    let is_inside = module.exports.iter().any(|export| export.name.starts_with("cabi_"));
    let way_out = match callable(module).next() {
        _ if is_inside => "; it is the inside of a component, make it one (wasm-tools component new)",
        Some(_) => "; --call NAME calls any function of numbers",
        None => "",
    };
    Err(Unfit(format!("exports neither `ProcessStdio` nor `_start`; found: {found}{way_out}")))
}

/// The exported functions that `--call` can call.
fn callable(module: &ModuleOutline) -> impl Iterator<Item = &str> {
    module.exports.iter().filter_map(|export| match &export.item {
        Item::Function(signature) => {
            let is_own = !export.name.starts_with('_') && signature.is_of_numbers();
            is_own.then_some(export.name.as_str())
        }
        _ => None,
    })
}

fn called(module: &ModuleOutline, name: &str) -> Result<ModuleEntry, Unfit> {
    let Some(export) = module.export(name) else {
        let functions = module.exports.iter().filter(|export| matches!(export.item, Item::Function(_)));
        let found = list(functions.map(|export| &export.name));
        return Err(Unfit(format!("exports no `{name}` to call; functions that it exports: {found}")));
    };
    let Item::Function(signature) = export else {
        return Err(Unfit(format!("exports `{name}`, but not as a function")));
    };
    if !signature.is_of_numbers() {
        return Err(Unfit(format!(
            "exports `{name}` with the signature {signature}; only i32, i64, f32 and f64 can be written as text"
        )));
    }
    check_initialisers(module)?;
    Ok(ModuleEntry::Call(name.to_owned()))
}

/// Checks the functions that are called once in a module that is not a command.
fn check_initialisers(module: &ModuleOutline) -> Result<(), Unfit> {
    for name in ["_initialize", "_start"] {
        if let Some(export) = module.export(name) {
            check_signature(name, export, &[])?;
        }
    }
    Ok(())
}

fn check_signature(name: &str, export: &Item, params: &[&str]) -> Result<(), Unfit> {
    let Item::Function(signature) = export else {
        return Err(Unfit(format!("exports `{name}`, but not as a function")));
    };
    if signature.results.is_empty() && signature.params == params {
        return Ok(());
    }
    let wanted = params.join(", ");
    Err(Unfit(format!("exports `{name}` with the signature {signature}, which must be ({wanted})")))
}

fn link(module: &Module, grants: &Grants, opens_files: bool) -> Result<InstancePre<Guest>, Unfit> {
    let cannot = |error: wasmtime::Error| Unfit(format!("cannot be linked: {error:#}"));
    let memory = module.get_export_index("memory");
    let mut linker = wasi::linker(module.engine(), memory, opens_files).map_err(cannot)?;
    if grants.traps_unknown_imports {
        absent::trap_in_module(&mut linker, module).map_err(cannot)?;
    }
    linker.instantiate_pre(module).map_err(|error| {
        // A program that another job had compiled, with other settings, may import what does not exist.
        let checked = there_is(module.engine())
            .and_then(|there_is| check_imports(&ModuleOutline::of(module), &there_is, grants.traps_unknown_imports));
        checked.err().unwrap_or_else(|| Unfit(format!("imports something as what it is not: {error:#}")))
    })
}
