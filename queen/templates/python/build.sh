#!/bin/sh
# Wants componentize-py, which brings a Python of its own into the program: pip install componentize-py
set -eu
componentize-py --wit-path wit --world program componentize app -o {{name}}.wasm
