# small: Lua 5.4, whose errors are setjmp and longjmp, which become exceptions
from_pypi lupa==2.8 d8022641b9ec8ecf2c5ecbe9f47e5a70e0b87c4b5ae921b92cb02a638e0acd08 --source
with_zig
setjmp=$PYTHONPATH/ziglang/lib/libc/wasi/libc-top-half/musl/src/setjmp/wasm32/rt.c
if [ ! -f "$package/lua.wasm" ]; then
    # WASI has no temporary files without a name, and no shell. Zig leaves the tag of longjmp's exception undefined.
    echo '#include <stdio.h>
        FILE *tmpfile(void) { return NULL; }
        __asm__(".globl __c_longjmp\n.tagtype __c_longjmp i32\n__c_longjmp:\n");' >"$work/absent.c"
    zig cc --target=wasm32-wasi -O2 -s -w -mcpu=generic+exception_handling -mllvm -wasm-enable-sjlj \
        -mllvm -wasm-use-legacy-eh=false -D__wasm_exception_handling__ -D_WASI_EMULATED_SIGNAL -lwasi-emulated-signal \
        -D_WASI_EMULATED_PROCESS_CLOCKS -lwasi-emulated-process-clocks -DLUA_USE_C89 -DLUA_TMPNAMBUFSIZE=32 \
        '-Dlua_tmpnam(b,e)={(void)(b);e=1;}' '-Dl_system(c)=-1' -o "$work/lua.wasm" \
        "$work/absent.c" "$setjmp" "$package/third-party/lua54/onelua.c"
    mv "$work/lua.wasm" "$package"
fi
input errors.lua <<'END'
print(pcall(function() error("caught " .. 6 * 7, 0) end))
print(pcall(string.rep))
print(select("#", pcall(error)))
END
input coroutines.lua <<'END'
local numbers = coroutine.wrap(function() for i = 1, 5 do coroutine.yield(i * i) end end)
for square in numbers do io.write(square, " ") end
print(string.format("%.14g", math.pi), ("x"):rep(3, ","))
END
run "$package/lua.wasm" -- -
native lua5.4
answer() { "$native/usr/bin/lua5.4" - <"$1"; }
expect
