//! Arguments and results of components as text, in the notation of WAVE (WebAssembly Value Encoding).

use std::fmt;

use wasmtime::component::types::ComponentFunc;
use wasmtime::component::wasm_wave::untyped::UntypedFuncCall;
use wasmtime::component::{Val, wasm_wave};

/// The notation of a call needs a function name; which one does not matter.
const BEFORE: &str = "f(";

/// Parses arguments: WAVE values with commas between them.
pub fn parse(input: &[u8], signature: &ComponentFunc) -> Result<Vec<Val>, String> {
    let text = std::str::from_utf8(input)
        .map_err(|error| format!("the input is not text: invalid UTF-8 at byte {}", error.valid_up_to() + 1))?;
    // The newline before the closing bracket ends a comment at the end of the text.
    let call = format!("{BEFORE}{text}\n)");
    let parsed = UntypedFuncCall::parse(&call).and_then(|parsed| {
        let types: Vec<_> = signature.params().map(|(_, value)| value).collect();
        parsed.to_wasm_params(&types)
    });
    parsed.map_err(|error| {
        let span = error.span();
        let why = error.to_string();
        // The parser's own position counts the prefix, so it is replaced.
        let why = why.strip_suffix(&format!(" at {span:?}")).unwrap_or(&why);
        let byte = span.start.saturating_sub(BEFORE.len()).min(text.len()) + 1;
        let wanted = Params(signature);
        format!("the input is not {wanted} in WAVE's notation: {why} at byte {byte}")
    })
}

/// A function's parameters, in the notation of WIT.
struct Params<'a>(&'a ComponentFunc);

impl fmt::Display for Params<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (index, (name, value)) in self.0.params().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{name}: {}", wasm_wave::wasm::DisplayType(&value))?;
        }
        f.write_str(")")
    }
}

/// Results as one line.
pub fn show(results: &[Val]) -> wasmtime::Result<String> {
    let values = results.iter().map(Val::to_wave).collect::<wasmtime::Result<Vec<_>>>()?;
    Ok(values.join(", ") + "\n")
}
