#!/bin/sh
# Needs Node.js 20 or later with npm, which gets componentize-js into node_modules/ the first time. componentize-js puts
# a JavaScript engine into the program.
set -eu
if [ ! -d node_modules/@bytecodealliance/componentize-js ]; then
    npm install --no-audit --no-fund
fi
npx --no-install componentize-js program.js --wit wit --world-name program --disable http fetch-event \
    --out {{name}}.wasm
