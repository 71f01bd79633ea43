# small: pulldown-cmark, Markdown to HTML in Rust
from="crates.io pulldown-cmark 0.13.6"
DISTWASM_EXAMPLES_CACHE=$cache/crates scripts/build-examples markdown || not_installed "cargo could not get $from"
cp README.md CHANGELOG.md docs/*.md "$work/input"
run "$cache/crates/markdown/wasm/bin/pulldown-cmark.wasm"
by="the same one, natively"
answer() { "$cache/crates/markdown/native/bin/pulldown-cmark" <"$1"; }
expect
