#!/bin/sh
# Needs componentize-py, which puts a Python of its own into the program: pip install componentize-py
set -eu
componentize-py --wit-path wit --world program componentize app -o {{name}}.wasm
