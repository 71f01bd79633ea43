;; ProcessStdio: answers 100 MiB of `x` to any input, from one page of memory.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 3)
  (func $write (param $at i32) (param $count i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $count))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_initialize") (memory.fill (i32.const 65536) (i32.const 120) (i32.const 65536)))
  (func (export "ProcessStdio") (param i32)
    (local $count i32)
    (i32.store (i32.const 16) (i32.const 104857600))
    (call $write (i32.const 16) (i32.const 4))
    (loop $more
      (call $write (i32.const 65536) (i32.const 65536))
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $count) (i32.const 1600))))))
