//! Components: checks their exports and imports.

use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Type};
use wasmtime_wasi::p2::bindings::CommandIndices;

use super::outline::ComponentOutline;
use super::{Unfit, hints, list};
use crate::guest::{Grants, Guest};
use crate::wasi::{self, absent};

/// The export of the project's own world, `distwasm:guest/program`.
const ANSWER: &str = "answer";

/// How a component is called.
pub enum ComponentEntry {
    /// It exports `wasi:cli/run`.
    Command(CommandIndices),
    /// It exports `answer: func(input: list<u8>) -> result<list<u8>, string>`.
    Program(ComponentExportIndex),
    /// It exports this function of values that can be written as text.
    Call(ComponentExportIndex),
}

/// A component that can run here.
pub struct ComponentProgram {
    /// How it is called.
    pub entry: ComponentEntry,
    /// The component with all its imports.
    pub linked: InstancePre<Guest>,
}

impl ComponentProgram {
    pub(super) fn check(component: &Component, grants: &Grants) -> Result<ComponentProgram, Unfit> {
        let linked = link(component, grants)?;
        let entry = match &grants.call {
            Some(name) => called(component, name)?,
            None => found(&linked)?,
        };
        Ok(ComponentProgram { entry, linked })
    }
}

/// Finds out, before a component is compiled, whether it can run here.
pub(super) fn check_ahead(component: &ComponentOutline, grants: &Grants) -> Result<(), Unfit> {
    let is_there = |name: &&str| grants.traps_unknown_imports || absent::is_in_wasi(name) || absent::is_http(name);
    let missing: Vec<&str> = component.imports.iter().map(String::as_str).filter(|name| !is_there(name)).collect();
    if !missing.is_empty() {
        let verb = if missing.len() == 1 { "does" } else { "do" };
        let advice = hints::missing_interfaces(component, &missing);
        return Err(Unfit(format!("imports {}, which {verb} not exist here: {advice}", list(&missing))));
    }
    if let Some(why) = hints::unsupported_within(component) {
        return Err(Unfit(why.to_owned()));
    }
    let exports = |is_like: &dyn Fn(&str) -> bool| component.exports.iter().any(|name| is_like(name));
    match grants.call.as_deref().map(|name| name.split_once('#').map_or((name, false), |(first, _)| (first, true))) {
        None if exports(&|name| name == ANSWER || is_command(name)) => Ok(()),
        None => Err(no_entry(component)),
        Some((first, _)) if exports(&|name| name == first) => Ok(()),
        Some((interface, true)) => {
            Err(Unfit(format!("exports no interface `{interface}`; found: {}", list(&component.all_exports))))
        }
        Some((name, false)) => Err(no_function(name, &component.all_exports)),
    }
}

/// Whether an export is that of a command of WASI 0.2.
fn is_command(name: &str) -> bool {
    name.strip_prefix("wasi:cli/run@").is_some_and(|version| version.starts_with("0.2."))
}

fn no_entry(component: &ComponentOutline) -> Unfit {
    let (found, way_out) = (list(&component.all_exports), hints::no_export(component));
    Unfit(format!("exports neither `{ANSWER}` nor `wasi:cli/run@0.2`; found: {found}{way_out}"))
}

fn no_function(name: &str, found: &[String]) -> Unfit {
    Unfit(format!("exports no `{name}` to call; found: {}", list(found)))
}

fn found(linked: &InstancePre<Guest>) -> Result<ComponentEntry, Unfit> {
    let component = linked.component();
    if let Some((item, export)) = component.get_export(None, ANSWER) {
        let ComponentItem::ComponentFunc(function) = item else {
            return Err(Unfit(format!("exports `{ANSWER}`, but not as a function")));
        };
        return match function.typecheck::<(Vec<u8>,), (Result<Vec<u8>, String>,)>(&linked.instance_type()) {
            Ok(()) => Ok(ComponentEntry::Program(export)),
            Err(error) => Err(Unfit(format!(
                "exports `{ANSWER}`, which must be a func(input: list<u8>) -> result<list<u8>, string>: {error:#}"
            ))),
        };
    }
    if let Ok(indices) = CommandIndices::new(linked) {
        return Ok(ComponentEntry::Command(indices));
    }
    let component_type = component.component_type();
    let names = component_type.exports(component.engine()).map(|(name, _)| name.to_owned());
    let (exports, all_exports) = (names.collect(), exports(component));
    Err(no_entry(&ComponentOutline { exports, all_exports, ..ComponentOutline::default() }))
}

fn called(component: &Component, name: &str) -> Result<ComponentEntry, Unfit> {
    // A function within an interface is named as in `wasi:cli/run@0.2.0#run`.
    let (interface, function_name) = match name.split_once('#') {
        Some((interface, function)) => (Some(interface), function),
        None => (None, name),
    };
    let interface = match interface.map(|interface| (interface, component.get_export_index(None, interface))) {
        Some((interface, None)) => {
            let found = list(exports(component));
            return Err(Unfit(format!("exports no interface `{interface}`; found: {found}")));
        }
        Some((_, Some(index))) => Some(index),
        None => None,
    };
    let Some((item, export)) = component.get_export(interface.as_ref(), function_name) else {
        return Err(no_function(name, &exports(component)));
    };
    let ComponentItem::ComponentFunc(function) = item else {
        return Err(Unfit(format!(
            "exports `{name}`, but not as a function; one within an interface is called by INTERFACE#FUNCTION"
        )));
    };
    if !is_text(&function) {
        return Err(Unfit(format!("exports `{name}`, whose resources, streams or futures cannot be written as text")));
    }
    Ok(ComponentEntry::Call(export))
}

/// Names of all exports; functions within interfaces as `INTERFACE#FUNCTION`.
pub(crate) fn exports(component: &Component) -> Vec<String> {
    let engine = component.engine();
    let mut names = Vec::new();
    for (name, item) in component.component_type().exports(engine) {
        match item.ty {
            ComponentItem::ComponentInstance(instance) => {
                names.extend(instance.exports(engine).map(|(function, _)| format!("{name}#{function}")));
            }
            _ => names.push(name.to_owned()),
        }
    }
    names
}

/// Whether all parameters and results of a function can be written as text.
fn is_text(function: &ComponentFunc) -> bool {
    function.params().all(|(_, value)| is_text_value(&value)) && function.results().all(|value| is_text_value(&value))
}

fn is_text_value(value: &Type) -> bool {
    let is_none_or_text = |value: Option<Type>| value.is_none_or(|value| is_text_value(&value));
    match value {
        Type::Own(_) | Type::Borrow(_) | Type::Stream(_) | Type::Future(_) | Type::ErrorContext | Type::Map(_) => false,
        Type::List(list) => is_text_value(&list.ty()),
        Type::FixedLengthList(list) => is_text_value(&list.ty()),
        Type::Record(record) => record.fields().all(|field| is_text_value(&field.ty)),
        Type::Tuple(tuple) => tuple.types().all(|value| is_text_value(&value)),
        Type::Variant(variant) => variant.cases().all(|case| is_none_or_text(case.ty)),
        Type::Option(option) => is_text_value(&option.ty()),
        Type::Result(result) => is_none_or_text(result.ok()) && is_none_or_text(result.err()),
        _ => true,
    }
}

fn link(component: &Component, grants: &Grants) -> Result<InstancePre<Guest>, Unfit> {
    let cannot = |error: wasmtime::Error| Unfit(format!("cannot be linked: {error:#}"));
    let mut linker = wasi::component_linker(component.engine()).map_err(cannot)?;
    absent::link_component(&mut linker, component, absent::is_in_wasi, grants.traps_unknown_imports).map_err(cannot)?;
    linker
        .instantiate_pre(component)
        .map_err(|error| Unfit(format!("imports something that does not exist here as it wants it: {error:#}")))
}
