;; ProcessStdio: echoes the input, but traps if its first byte is `!`.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  ;; 0: buffer address, 4: its length, 8: count. 16: the answer's length, and the answer after it.
  (func (export "ProcessStdio") (param $size i32)
    (if (i32.gt_u (local.get $size) (i32.const 131000)) (then unreachable))
    (i32.store (i32.const 0) (i32.const 20))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (i32.eq (i32.load8_u (i32.const 20)) (i32.const 33)) (then unreachable))
    (i32.store (i32.const 16) (local.get $size))
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.add (local.get $size) (i32.const 4)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
