;; Opens the file whose name is its input below its first directory, and answers what is in it. If that begins with `+`
;; it tries to write a file of that name. Exits with the number of the error that WASI gave.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)
  (func $check (param $errno i32) (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))
  (func (export "_start")
    (local $creates i32)
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 4096))
    (call $check (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (local.set $creates (i32.eq (i32.load8_u (i32.const 1024)) (i32.const 0x2b)))
    (call $check (call $path_open
      (i32.const 3) (i32.const 0) (i32.const 1024) (i32.load (i32.const 8)) (local.get $creates)
      (if (result i64) (local.get $creates) (then (i64.const 64)) (else (i64.const 2)))
      (i64.const 0) (i32.const 0) (i32.const 16)))
    (i32.store (i32.const 4) (i32.const 65536))
    (loop $next
      (i32.store (i32.const 4) (i32.const 60000))
      (call $check (call $fd_read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (call $check (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if $next (i32.load (i32.const 4))))))
