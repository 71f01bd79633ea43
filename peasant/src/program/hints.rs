//! Advice for programs that cannot run here: who made them, and how to make one that can.

use std::fmt::Write;

use super::outline::{ComponentOutline, ModuleOutline};

const EMSCRIPTEN: &str = "made by Emscripten for JavaScript; build it with -sSTANDALONE_WASM, or for wasm32-wasip1";
const WASM_BINDGEN: &str = "made by wasm-bindgen for JavaScript; build it for wasm32-wasip1";
const GO: &str = "made by Go for JavaScript; build it with GOOS=wasip1";
const THREADS: &str = "there are no threads here, but each slot runs a unit of its own: build it without threads \
                       (wasm32-wasip1, no -pthread)";
const LEGACY_EXCEPTIONS: &str = "it uses the first draft of exceptions; convert it with wasm-opt --translate-to-exnref \
                                 -all, or build it with new ones (clang: -mllvm -wasm-use-legacy-eh=false)";

/// A sign of the tool that made a module, and the advice. The first sign that a module shows decides.
type Maker = (fn(&ModuleOutline) -> bool, &'static str);

const MAKERS: [Maker; 20] = [
    (
        |module| is_emscripten(module) && module.has_shared_memory,
        "made by Emscripten with threads; build it without them (no -pthread), with -sSTANDALONE_WASM",
    ),
    (
        |module| module.sections.iter().any(|name| name.starts_with("dylink")),
        "it is a dynamic library, one part of a program; link the whole program into one file (Emscripten: without \
         -sSIDE_MODULE and -sMAIN_MODULE)",
    ),
    (
        |module| module.imports_any(|from, name| from == "env" && is_exception(name)),
        "made by Emscripten, whose C++ exceptions and setjmp need JavaScript; build it with -fwasm-exceptions \
         -sWASM_LEGACY_EXCEPTIONS=0 -sSTANDALONE_WASM, or without exceptions",
    ),
    (is_emscripten, EMSCRIPTEN),
    (|module| module.imports_any(|from, _| is_of_wasm_bindgen(from)), WASM_BINDGEN),
    (|module| module.imports_any(|from, _| from == "gojs" || from == "go"), GO),
    (
        |module| module.imports_any(|from, _| from.starts_with("wasix_")),
        "made for WASIX, which has threads, processes and sockets; build it for wasm32-wasip1",
    ),
    (
        |module| module.imports_any(|from, _| from == "wasi_unstable"),
        "made for the first draft of WASI; build it with a newer compiler for wasm32-wasip1",
    ),
    (
        |module| module.imports_any(|from, name| from == "js_code" || name.starts_with("kotlin.")),
        "made by Kotlin for JavaScript; build it for the target wasmWasi",
    ),
    (
        |module| module.imports_any(|from, _| from.starts_with("dart")),
        "made by Dart, whose compiler makes WebAssembly for JavaScript only; use another language for this program",
    ),
    (
        |module| module.imports_any(|from, _| matches!(from, "bindings" | "OCaml")),
        "made by wasm_of_ocaml for JavaScript; build it with wasm_of_ocaml --enable wasi",
    ),
    (
        |module| module.imports_any(|from, _| from.starts_with("wasm:js-string")),
        "it uses strings of JavaScript; build it for wasm32-wasip1",
    ),
    (
        |module| module.has_shared_memory || module.imports_any(|from, name| (from, name) == ("wasi", "thread-spawn")),
        THREADS,
    ),
    (|module| module.has_legacy_exceptions, LEGACY_EXCEPTIONS),
    (
        |module| module.imports_any(|from, name| (from, name) == ("env", "abort")),
        "AssemblyScript needs @assemblyscript/wasi-shim to run without a browser",
    ),
    (
        |module| module.imports_any(|from, name| (from, name) == ("env", "memory")),
        "memory cannot be imported; link it without --import-memory",
    ),
    (
        |module| module.imports_any(|from, name| from == "wasi_snapshot_preview1" && is_of_network(name)),
        "guests have no network",
    ),
    (
        |module| module.imports_any(|from, _| from.contains(':') && from.contains('/')),
        "it is the inside of a component; make it one (wasm-tools component new)",
    ),
    (
        |module| {
            module
                .imports_any(|from, name| from == "env" && (name.starts_with("__wasm_") || name.starts_with("__stack")))
        },
        "it is an object file, one part of a program; link it (wasm-ld, or the compiler without -c)",
    ),
    (
        |module| module.imports_any(|from, name| from == "env" && name.starts_with("js")),
        "made for JavaScript; build it for wasm32-wasip1",
    ),
];

/// Advice for a module with imports that do not exist.
pub(super) fn missing(module: &ModuleOutline) -> &'static str {
    by_maker(module)
        .unwrap_or("guests get WASI preview 1 only (with --unknown-imports trap it runs until it calls something else)")
}

/// Why a module cannot run here although all its imports exist.
pub(super) fn unsupported(module: &ModuleOutline) -> Option<&'static str> {
    let is_other = module.has_shared_memory
        || module.has_legacy_exceptions
        || module.sections.iter().any(|name| name.starts_with("dylink"));
    by_maker(module).filter(|_| is_other)
}

/// Why a component cannot run here although all its imports exist.
pub(super) fn unsupported_within(component: &ComponentOutline) -> Option<&'static str> {
    match component {
        _ if component.has_shared_memory => Some(THREADS),
        _ if component.has_legacy_exceptions => Some(LEGACY_EXCEPTIONS),
        _ => None,
    }
}

fn by_maker(module: &ModuleOutline) -> Option<&'static str> {
    MAKERS.iter().find(|(shows, _)| shows(module)).map(|(_, advice)| *advice)
}

/// Beginnings of names that Emscripten's own JavaScript has in `env`.
const OF_EMSCRIPTEN: [&str; 9] = [
    "emscripten_",
    "_emscripten_",
    "_embind_",
    "__syscall_",
    "_mmap_js",
    "_munmap_js",
    "_tzset_js",
    "_abort_js",
    "__asyncify",
];

fn is_emscripten(module: &ModuleOutline) -> bool {
    let by_name = module.imports_any(|from, name| {
        from == "env" && (is_exception(name) || OF_EMSCRIPTEN.iter().any(|beginning| name.starts_with(beginning)))
    });
    // Optimized programs have names of one or two letters, all in one module of one letter.
    let is_minified = !module.imports.is_empty()
        && module.imports.iter().all(|import| import.module == "a" && import.name.len() <= 2);
    by_name || is_minified
}

/// Whether a name in `env` is about exceptions that JavaScript throws and catches.
fn is_exception(name: &str) -> bool {
    ["__cxa_", "invoke_", "_emscripten_throw_longjmp", "__resumeException"].iter().any(|part| name.starts_with(part))
}

/// Whether a name is of the sockets that WasmEdge and WASIX add to WASI.
fn is_of_network(name: &str) -> bool {
    name.starts_with("sock_") && !matches!(name, "sock_accept" | "sock_recv" | "sock_send" | "sock_shutdown")
}

fn is_of_wasm_bindgen(from: &str) -> bool {
    from == "wbg" || from.starts_with("__wbindgen") || (from.starts_with("./") && from.ends_with(".js"))
}

/// Advice by the beginning of the name of an interface that a component may not import. The first one decides that
/// begins any name.
const INTERFACES: [(&str, &str); 10] = [
    ("wasi:http/", "HTTP is there in version 0.2 only, and refuses each request"),
    ("wasi:nn/", "guests have no access to accelerators"),
    ("wasi:keyvalue/", "made for a host with a store of keys and values; a guest has its input and its answer"),
    ("wasi:blobstore/", "made for a host with a store of blobs; a guest has its input and its answer"),
    ("wasi:", "guests get the interfaces of wasi:cli/command@0.2 only"),
    ("fastly:", "made for Fastly's Compute; build it for wasm32-wasip2"),
    ("fermyon:", "made for Spin; build it for wasm32-wasip2"),
    ("spin:", "made for Spin; build it for wasm32-wasip2"),
    ("wasmcloud:", "made for wasmCloud; build it for wasm32-wasip2"),
    ("golem:", "made for Golem; build it for wasm32-wasip2"),
];

/// For components that componentize-js made. Without these features it imports WASI 0.2 alone.
const JAVASCRIPT: &str = "componentize-js leaves imports out with disableFeatures: ['http', 'fetch-event']";

/// Advice for a component with imports that do not exist.
pub(super) fn missing_interfaces(component: &ComponentOutline, missing: &[&str]) -> String {
    if missing.iter().any(|name| is_of_wasi_3(name)) {
        return WASI_3.to_owned();
    }
    let found = INTERFACES.iter().find(|(beginning, _)| missing.iter().any(|name| name.starts_with(beginning)));
    let mut advice = found.map_or(
        "made for another host; guests get WASI 0.2 only: link the component with what it needs (wac plug), or let it \
         run until it calls something else (--unknown-imports trap)",
        |(_, advice)| *advice,
    )
    .to_owned();
    if component.is_javascript {
        let _ = write!(advice, "; {JAVASCRIPT}");
    }
    advice
}

const WASI_3: &str = "made for WASI 0.3, which is young and not there yet; build it for WASI 0.2 (wasm32-wasip2)";

/// Whether an interface is one of WASI 0.3.
fn is_of_wasi_3(name: &str) -> bool {
    name.starts_with("wasi:") && name.contains("@0.3.")
}

/// Advice for a component that exports nothing that is called here.
pub(super) fn no_export(component: &ComponentOutline) -> String {
    let exports = |is_like: fn(&str) -> bool| component.exports.iter().any(|name| is_like(name));
    if exports(is_of_wasi_3) {
        return format!("; {WASI_3}");
    }
    if exports(|name| name.starts_with("wasi:http/")) {
        let javascript = if component.is_javascript { format!(" ({JAVASCRIPT})") } else { String::new() };
        return format!("; it answers HTTP requests, build a command instead{javascript}");
    }
    if exports(|name| !name.starts_with("wasi:")) {
        return "; --call NAME calls a function of values, within an interface by INTERFACE#FUNCTION".to_owned();
    }
    String::new()
}

/// Features that are switched off, by the words of the validator's error.
const PROPOSALS: [(&str, &str); 5] = [
    ("threads", THREADS),
    ("shared memories", THREADS),
    ("legacy", LEGACY_EXCEPTIONS),
    ("stack switching", "the engine cannot switch stacks: build it without"),
    ("wide arithmetic", "the engine has no wide arithmetic: build it without"),
];

/// Says why code is not valid, with advice if it only uses a feature that is switched off.
pub(super) fn invalid(error: &wasmtime::Error) -> String {
    let mut text = format!("not valid WebAssembly: {error:#}");
    let is_switched_off = ["enabled", "disabled", "disallowed"].iter().any(|word| text.contains(word));
    let found = PROPOSALS.iter().find(|(word, _)| is_switched_off && text.contains(word));
    if let Some((_, way_out)) = found {
        let _ = write!(text, "; {way_out}");
    }
    text
}
