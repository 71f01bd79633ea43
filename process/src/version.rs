//! What `--version` says, the same for every program.

use std::sync::LazyLock;

use distwasm_proto::{PROTOCOL, VERSION};

/// Where this build comes from: `commit 1a2b3c4d`, `development build`, or nothing where that is not known.
const ORIGIN: &str = env!("DISTWASM_BUILD_ORIGIN");

/// The version of the engine that runs the guests.
const ENGINE: &str = env!("DISTWASM_BUILD_ENGINE");

static TEXT: LazyLock<String> = LazyLock::new(|| text(ORIGIN));

/// The version of this build, such as `0.1.0 (commit 1a2b3c4d, protocol 2, wasmtime 48.0.8)`.
pub fn version() -> &'static str {
    &TEXT
}

fn text(origin: &str) -> String {
    let comma = if origin.is_empty() { "" } else { ", " };
    format!("{VERSION} ({origin}{comma}protocol {PROTOCOL}, wasmtime {ENGINE})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_names_its_origin_if_that_is_known() {
        let rest = format!("protocol {PROTOCOL}, wasmtime {ENGINE})");
        assert_eq!(text("commit 1a2b3c4d"), format!("{VERSION} (commit 1a2b3c4d, {rest}"));
        assert_eq!(text(""), format!("{VERSION} ({rest}"));
        assert!(ENGINE.split('.').all(|part| part.parse::<u32>().is_ok()), "{ENGINE}");
    }
}
