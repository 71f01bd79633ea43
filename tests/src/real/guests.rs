//! The guest programs of the tests.

use std::path::PathBuf;

use super::root;

/// A guest by name: an example if it ends in `.wasm`, else one of those in `tests/guests`.
pub fn guest(name: &str) -> PathBuf {
    let folder = if name.ends_with(".wasm") { "examples/summer" } else { "tests/guests" };
    let path = root().join(folder).join(name);
    assert!(path.is_file(), "no guest {}", path.display());
    path
}
