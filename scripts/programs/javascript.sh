# small: a component of componentize-js with its default settings
from="npm @bytecodealliance/componentize-js 0.23.0" modules=$cache/javascript/node_modules
if [ ! -d "$modules" ]; then
    mkdir -p "$cache/javascript.new" && cp examples/summer/javascript/*.json "$cache/javascript.new"
    npm --prefix "$cache/javascript.new" ci --silent --no-fund --no-audit || not_installed "npm could not get $from"
    mv "$cache/javascript.new" "$cache/javascript"
fi
if [ ! -f "$cache/javascript/summer.wasm" ]; then
    "$modules/.bin/componentize-js" examples/summer/javascript/summer.js --wit guest/wit --world-name program \
        --out "$work/summer.wasm"
    mv "$work/summer.wasm" "$cache/javascript"
fi
cp examples/summer/input/* "$work/input"
run "$cache/javascript/summer.wasm"
by="examples/summer/expected"
answer() { cat "examples/summer/expected/$(basename "$1")"; }
expect
