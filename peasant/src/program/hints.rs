//! Advice for programs that were made for another world than WASI.

use std::fmt::Write;

/// Advice by the tool that made the program, found by the beginnings of an import's module name and of its own name.
const MAKERS: [(&str, &str, &str); 13] = [
    ("env", "emscripten_", "made by Emscripten for a browser; build it for wasm32-wasip1, or with -sSTANDALONE_WASM"),
    ("env", "__cxa_", "made by Emscripten, with C++ exceptions; build it for wasm32-wasip1, without exceptions"),
    ("env", "invoke_", "made by Emscripten for a browser; build it for wasm32-wasip1, or with -sSTANDALONE_WASM"),
    ("env", "abort", "AssemblyScript needs @assemblyscript/wasi-shim to run without a browser"),
    ("env", "memory", "memory cannot be imported, as threads need it: build without threads"),
    ("wasi", "thread-spawn", "there are no threads here: build for wasm32-wasip1, without threads"),
    ("wbg", "", "made by wasm-bindgen for JavaScript; build it for wasm32-wasip1"),
    ("__wbindgen", "", "made by wasm-bindgen for JavaScript; build it for wasm32-wasip1"),
    ("./", "", "made by wasm-bindgen for JavaScript; build it for wasm32-wasip1"),
    ("gojs", "", "made by Go for a browser; build it with GOOS=wasip1"),
    ("go", "", "made by Go for a browser; build it with GOOS=wasip1"),
    ("wasi_unstable", "", "made for the first draft of WASI; build it with a newer compiler for wasm32-wasip1"),
    ("wasix_", "", "made for WASIX; build it for wasm32-wasip1"),
];

/// Advice for a module with imports that do not exist.
pub(super) fn missing<'a>(imports: impl Iterator<Item = (&'a str, &'a str)>) -> &'static str {
    for (module, name) in imports {
        let maker = MAKERS.iter().find(|(of_module, of_name, _)| {
            module.starts_with(of_module) && name.starts_with(of_name) && (*of_module != "env" || module == "env")
        });
        if let Some((_, _, way_out)) = maker {
            return way_out;
        }
    }
    "guests get WASI preview 1 only"
}

/// Interfaces that a component may not import, by the beginning of their names.
const INTERFACES: [(&str, &str); 3] = [
    ("wasi:http/", "guests have no network"),
    ("wasi:nn/", "guests have no access to accelerators"),
    ("wasi:", "guests get the interfaces of wasi:cli/command@0.2 only"),
];

/// Advice for a component with an import that does not exist.
pub(super) fn missing_interface(name: &str) -> &'static str {
    let found = INTERFACES.iter().find(|(beginning, _)| name.starts_with(beginning));
    found.map_or("guests get WASI 0.2 only; link the component with what it needs (wac plug)", |(_, way_out)| way_out)
}

/// Features that are switched off, by the words of the validator's error.
const PROPOSALS: [(&str, &str); 6] = [
    ("threads", "there are no threads here: build without them (wasm32-wasip1)"),
    ("shared memories", "there are no threads here: build without them (wasm32-wasip1)"),
    ("gc", "garbage collection is off here: build for linear memory"),
    ("reference types", "references are off here"),
    ("exceptions", "exceptions are off here: build without them (C++: -fno-exceptions)"),
    ("legacy", "exceptions are off here: build without them (C++: -fno-exceptions)"),
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
