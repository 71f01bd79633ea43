#!/bin/sh
# Needs Zig 0.14 or later, from PyPI (pip install ziglang) or https://ziglang.org.
set -eu
if python3 -m ziglang version >/dev/null 2>&1; then
    set -- python3 -m ziglang
elif command -v zig >/dev/null; then
    set -- zig
else
    echo "no Zig here; one way to get it: pip install ziglang" >&2
    exit 1
fi
"$@" build-exe program.zig -target wasm32-wasi -fno-entry --export=ProcessStdio -O ReleaseSmall \
    -femit-bin={{name}}.wasm
