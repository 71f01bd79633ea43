# small: SQLite's shell, with a database in a file for each unit
from_npm sqlite3@5.1.7 44cc9bdee02705a7b636f76968d745e21c1d0b2f1c62810c678bc3b0ececab1b
with_zig
if [ ! -f "$package/sqlite.wasm" ]; then
    tar -xf "$package"/deps/sqlite-autoconf-*.tar.gz -C "$work"
    # WASI has no shell, no pipes to other programs and no libraries to load.
    zig cc --target=wasm32-wasi -O1 -s -w -DSQLITE_OMIT_LOAD_EXTENSION -DSQLITE_THREADSAFE=0 -DSQLITE_OMIT_POPEN \
        -DSQLITE_NOHAVE_SYSTEM -D_WASI_EMULATED_SIGNAL -lwasi-emulated-signal -D_WASI_EMULATED_GETPID \
        -lwasi-emulated-getpid -D_WASI_EMULATED_PROCESS_CLOCKS -lwasi-emulated-process-clocks \
        -o "$work/sqlite.wasm" "$work"/sqlite-autoconf-*/{sqlite3,shell}.c
    mv "$work/sqlite.wasm" "$package"
fi
for last in 10 1000 10000; do
    input "$last.sql" <<END
create table squares (n integer primary key, square integer);
begin;
with recursive n(i) as (values(1) union all select i + 1 from n where i < $last)
insert into squares select i, i * i from n;
commit;
create index by_square on squares(square);
select count(*), sum(square), max(square) from squares where square % 3 = 1;
pragma integrity_check;
END
done
run "$package/sqlite.wasm" --scratch 64MB -- -batch /tmp/unit.db
native sqlite3 libsqlite3-0 libreadline8
answer() { rm -f "$work/unit.db" && "$native/usr/bin/sqlite3" -batch "$work/unit.db" <"$1"; }
expect
