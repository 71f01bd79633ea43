//! Imports that are not here. `wasi:http` of components is linked and refuses each request, as sockets do. With
//! `--unknown-imports trap` everything else that a program imports traps when it is called.

use wasmtime::component::types::{ComponentExtern, ComponentFunc, ComponentItem};
use wasmtime::component::{self, Component, LinkerInstance, Resource, ResourceAny, ResourceType, Type, Val};
use wasmtime::{Engine, ExternType, Linker, Module, Result, Store, StoreContextMut, bail};

use crate::guest::Guest;

/// A resource of an interface that is not here. No two of its resources differ.
struct Absent;

/// The interface of HTTP requests that a guest sends.
const HTTP: &str = "wasi:http/";

/// Whether a component's import is of the HTTP that refuses each request.
pub fn is_http(name: &str) -> bool {
    name.starts_with(HTTP) && name.contains("@0.2.")
}

/// Links a module's unknown functions to traps.
pub fn trap_in_module(linker: &mut Linker<Guest>, module: &Module) -> Result<()> {
    let mut store = Store::new(module.engine(), Guest::default());
    for import in module.imports() {
        let ExternType::Func(signature) = import.ty() else { continue };
        if linker.get(&mut store, import.module(), import.name()).is_ok() {
            continue;
        }
        let name = format!("{}.{}", import.module(), import.name());
        linker.func_new(import.module(), import.name(), signature, move |_, _, _| bail!("{}", reason(&name)))?;
    }
    Ok(())
}

fn reason(name: &str) -> String {
    format!("called `{name}`, which does not exist here (--unknown-imports trap)")
}

/// Links what a component imports and is not in WASI 0.2: HTTP, and other interfaces if they are to trap.
/// `is_there` knows the interfaces that are in `linker`.
pub fn link_component(
    linker: &mut component::Linker<Guest>,
    component: &Component,
    is_there: impl Fn(&str) -> bool,
    traps_unknown: bool,
) -> Result<()> {
    let engine = component.engine();
    let component_type = component.component_type();
    let mut defined = Vec::new();
    for (name, item) in component_type.imports(engine) {
        let refuses = is_http(name);
        if is_there(name) || !(refuses || traps_unknown) {
            remember(&item.ty, engine, &mut defined);
        } else if let ComponentItem::ComponentInstance(instance) = &item.ty {
            let mut at = linker.instance(name)?;
            for (function, item) in instance.exports(engine) {
                let full_name = format!("{name}#{function}");
                define(&mut at, function, full_name, &item, refuses, &mut defined)?;
            }
        } else {
            define(&mut linker.root(), name, name.to_owned(), &item, refuses, &mut defined)?;
        }
    }
    Ok(())
}

/// Notes the resources of an interface that is there. Others name them again, and must not define them.
fn remember(item: &ComponentItem, engine: &Engine, defined: &mut Vec<ResourceType>) {
    match item {
        ComponentItem::Resource(resource) => defined.push(*resource),
        ComponentItem::ComponentInstance(instance) => {
            instance.exports(engine).for_each(|(_, item)| remember(&item.ty, engine, defined));
        }
        _ => {}
    }
}

fn define(
    at: &mut LinkerInstance<'_, Guest>,
    name: &str,
    full_name: String,
    item: &ComponentExtern<'_>,
    refuses: bool,
    defined: &mut Vec<ResourceType>,
) -> Result<()> {
    match &item.ty {
        ComponentItem::ComponentFunc(_) if refuses => at.func_new(name, move |store, signature, params, results| {
            refuse(store, &full_name, &signature, params, results)
        }),
        ComponentItem::ComponentFunc(_) => at.func_new(name, move |_, _, _, _| bail!("{}", reason(&full_name))),
        ComponentItem::Resource(resource) if !defined.contains(resource) => {
            defined.push(*resource);
            at.resource(name, ResourceType::host::<Absent>(), |_, _| Ok(()))
        }
        // Types need no definition.
        _ => Ok(()),
    }
}

/// Answers a call of HTTP: a request can be made and filled in, and is refused when it is sent.
fn refuse(
    mut store: StoreContextMut<'_, Guest>,
    name: &str,
    signature: &ComponentFunc,
    params: &[Val],
    results: &mut [Val],
) -> Result<()> {
    params.iter().try_for_each(|param| release(&mut store, param))?;
    let sends = name.ends_with("#handle");
    for (result, of) in results.iter_mut().zip(signature.results()) {
        let answer = if sends { refusal(&of) } else { nothing(&mut store, &of)? };
        match answer {
            Some(answer) => *result = answer,
            None => bail!("called `{name}`, but guests have no network"),
        }
    }
    Ok(())
}

/// Gives up a resource that the guest has handed over.
fn release(store: &mut StoreContextMut<'_, Guest>, param: &Val) -> Result<()> {
    match param {
        Val::Resource(resource) if resource.ty() == ResourceType::host::<Absent>() => {
            resource.try_into_resource::<Absent>(store).map(drop)
        }
        Val::Option(Some(value)) | Val::Result(Ok(Some(value)) | Err(Some(value))) => release(store, value),
        _ => Ok(()),
    }
}

/// The error of a request that is not sent.
fn refusal(of: &Type) -> Option<Val> {
    const DENIED: &str = "HTTP-request-denied";
    let Type::Result(result) = of else { return None };
    let Some(Type::Variant(error)) = result.err() else { return None };
    error
        .cases()
        .any(|case| case.name == DENIED && case.ty.is_none())
        .then(|| Val::Result(Err(Some(Box::new(Val::Variant(DENIED.to_owned(), None))))))
}

/// A value that says nothing, or `None` if there is none of this type.
fn nothing(store: &mut StoreContextMut<'_, Guest>, of: &Type) -> Result<Option<Val>> {
    Ok(Some(match of {
        Type::Bool => Val::Bool(false),
        Type::U8 => Val::U8(0),
        Type::U16 => Val::U16(0),
        Type::U32 => Val::U32(0),
        Type::U64 => Val::U64(0),
        Type::String => Val::String(String::new()),
        Type::List(_) => Val::List(Vec::new()),
        Type::Option(_) => Val::Option(None),
        Type::Result(result) => return nothing_or_error(store, result.ok(), result.err()),
        Type::Variant(variant) => match variant.cases().find(|case| case.ty.is_none()) {
            Some(case) => Val::Variant(case.name.to_owned(), None),
            None => return Ok(None),
        },
        Type::Own(resource) if *resource == ResourceType::host::<Absent>() => {
            Val::Resource(ResourceAny::try_from_resource(Resource::<Absent>::new_own(0), store)?)
        }
        _ => return Ok(None),
    }))
}

/// A result that says nothing, else an error.
fn nothing_or_error(
    store: &mut StoreContextMut<'_, Guest>,
    ok: Option<Type>,
    err: Option<Type>,
) -> Result<Option<Val>> {
    let Some(ok) = ok else { return Ok(Some(Val::Result(Ok(None)))) };
    if let Some(value) = nothing(store, &ok)? {
        return Ok(Some(Val::Result(Ok(Some(Box::new(value))))));
    }
    let Some(err) = err else { return Ok(Some(Val::Result(Err(None)))) };
    Ok(nothing(store, &err)?.map(|value| Val::Result(Err(Some(Box::new(value))))))
}

/// The interfaces of WASI 0.2 that components may import, by their names without versions.
pub const INTERFACES: [&str; 27] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Whether a component's import is in WASI 0.2.
pub fn is_in_wasi(name: &str) -> bool {
    name.split_once('@')
        .is_some_and(|(interface, version)| version.starts_with("0.2.") && INTERFACES.contains(&interface))
}
