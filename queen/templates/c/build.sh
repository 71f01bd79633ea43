#!/bin/sh
# Needs a C compiler with a library for WebAssembly, and takes the first of these that is installed: the clang of a
# wasi-sdk (WASI_SDK_PATH), Zig from PyPI (pip install ziglang), Zig, clang with wasi-libc. The first build with Zig
# compiles its C library too, which takes a minute.
set -eu

# Tests whether this compiler finds the headers of WASI.
compiles() {
    echo '#include <unistd.h>' | "$@" --target=wasm32-wasi -E -x c - >/dev/null 2>&1
}

if [ -n "${WASI_SDK_PATH-}" ] && compiles "$WASI_SDK_PATH/bin/clang"; then
    set -- "$WASI_SDK_PATH/bin/clang"
elif compiles python3 -m ziglang cc; then
    set -- python3 -m ziglang cc
elif compiles zig cc; then
    set -- zig cc
elif compiles clang; then
    set -- clang
else
    echo "no C compiler for WebAssembly here; one way to get one: pip install ziglang" >&2
    exit 1
fi
# Names of functions stay, for the backtrace of a failure.
"$@" --target=wasm32-wasi -O2 -Wl,--strip-debug -mexec-model=reactor -Wall -Wextra -o {{name}}.wasm program.c
