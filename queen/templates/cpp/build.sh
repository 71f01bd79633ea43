#!/bin/sh
# Needs a C++ compiler with a library for WebAssembly, and takes the first of these that is installed: the clang of a
# wasi-sdk (WASI_SDK_PATH), Zig from PyPI (pip install ziglang), Zig. The first build with Zig compiles its C++ library
# too, which takes a minute or two.
set -eu

# Tests whether this compiler finds the headers of WASI.
compiles() {
    echo '#include <unistd.h>' | "$@" --target=wasm32-wasi -E -x c++ - >/dev/null 2>&1
}

if [ -n "${WASI_SDK_PATH-}" ] && compiles "$WASI_SDK_PATH/bin/clang++"; then
    set -- "$WASI_SDK_PATH/bin/clang++"
elif compiles python3 -m ziglang c++; then
    set -- python3 -m ziglang c++
elif compiles zig c++; then
    set -- zig c++
else
    echo "no C++ compiler for WebAssembly here; one way to get one: pip install ziglang" >&2
    exit 1
fi
# The libraries of these compilers have no exceptions for WebAssembly.
"$@" --target=wasm32-wasi -std=c++20 -O2 -s -mexec-model=reactor -fno-exceptions -Wall -Wextra -o {{name}}.wasm \
    program.cc
