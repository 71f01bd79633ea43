;; Command: answers with 16 bytes, the size of stdin and a number that depends on each byte and its place, little-endian.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start") (local $place i32) (local $end i32) (local $size i64) (local $sum i64)
    (block $over
      (loop $next
        (i32.store (i32.const 0) (i32.const 4096))
        (i32.store (i32.const 4) (i32.const 65536))
        (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br_if $over (i32.eqz (i32.load (i32.const 8))))
        (local.set $size (i64.add (local.get $size) (i64.load32_u (i32.const 8))))
        (local.set $place (i32.const 4096))
        (local.set $end (i32.add (local.get $place) (i32.load (i32.const 8))))
        (loop $byte
          (local.set $sum
            (i64.add (i64.mul (local.get $sum) (i64.const 31)) (i64.load8_u (local.get $place))))
          (local.set $place (i32.add (local.get $place) (i32.const 1)))
          (br_if $byte (i32.lt_u (local.get $place) (local.get $end))))
        (br $next)))
    (i64.store (i32.const 16) (local.get $size))
    (i64.store (i32.const 24) (local.get $sum))
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 16))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
