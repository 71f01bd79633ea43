;; Command: reads a 64-bit number, little-endian, from stdin, and writes so many bytes to stdout: 0, 1, ... 250, 0, 1, ...
;; It writes 251 * 256 of them at a time.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start") (local $place i32) (local $left i64)
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 8))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (local.set $left (i64.load (i32.const 16)))
    (loop $byte
      (i32.store8 (i32.add (i32.const 4096) (local.get $place)) (i32.rem_u (local.get $place) (i32.const 251)))
      (local.set $place (i32.add (local.get $place) (i32.const 1)))
      (br_if $byte (i32.lt_u (local.get $place) (i32.const 64256))))
    (i32.store (i32.const 0) (i32.const 4096))
    (block $over
      (loop $next
        (br_if $over (i64.eqz (local.get $left)))
        (i32.store (i32.const 4) (i32.const 64256))
        (if (i64.lt_u (local.get $left) (i64.const 64256))
          (then (i32.store (i32.const 4) (i32.wrap_i64 (local.get $left)))))
        (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
        (local.set $left (i64.sub (local.get $left) (i64.load32_u (i32.const 8))))
        (br $next)))))
