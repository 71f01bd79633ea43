#!/bin/sh
# Needs Node.js with npm, which gets the compiler of AssemblyScript into node_modules/ the first time.
set -eu
if [ ! -d node_modules/assemblyscript ]; then
    npm install --no-audit --no-fund
fi
npx --no-install asc assembly/program.ts -O --exportStart _initialize --use abort=assembly/distwasm/abort \
    --outFile {{name}}.wasm
