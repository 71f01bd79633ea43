#!/bin/sh
# Needs Rust with its target for WebAssembly: rustup target add wasm32-wasip1
set -eu
cargo build --release --target wasm32-wasip1 --target-dir target
cp target/wasm32-wasip1/release/program.wasm {{name}}.wasm
