# small: brotli, a compressor
from_pypi brotli==1.2.1 02b2f7b5a83485efe448a44ddf7983def05c3bb1dcf917d4f7154070260e13de --source
with_zig
if [ ! -f "$package/brotli.wasm" ]; then
    # Files have no owners in WASI.
    zig cc --target=wasm32-wasi -O2 -s -w '-Dchown(path,user,group)=0' -I"$package/c/include" -o "$work/brotli.wasm" \
        $(find "$package"/c/{common,enc,dec,tools} -name '*.c')
    mv "$work/brotli.wasm" "$package"
fi
cp README.md CHANGELOG.md "$work/input"
seq 20000 | input numbers
run "$package/brotli.wasm" -- -c -q 9
native brotli libbrotli1
answer() { "$native/usr/bin/brotli" -c -q 9 <"$1"; }
expect
