;; ProcessStdio: the input with ASCII letters in upper case, sixteen bytes at a time.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  ;; 0: buffer address, 4: its length, 8: count. 16: the answer's length, and the answer after it.
  (func (export "ProcessStdio") (param $size i32)
    (local $at i32) (local $end i32) (local $chunk v128)
    (local $wanted i32)
    ;; Pages for the answer and a chunk more.
    (local.set $wanted (i32.shr_u (i32.add (local.get $size) (i32.const 65599)) (i32.const 16)))
    (if (i32.gt_u (local.get $wanted) (memory.size))
      (then (if (i32.eq (i32.const -1) (memory.grow (i32.sub (local.get $wanted) (memory.size)))) (then unreachable))))
    (i32.store (i32.const 0) (i32.const 20))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (i32.ne (i32.load (i32.const 8)) (local.get $size)) (then unreachable))
    (local.set $at (i32.const 20))
    (local.set $end (i32.add (i32.const 20) (local.get $size)))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (local.set $chunk (v128.load align=1 (local.get $at)))
      (v128.store align=1 (local.get $at)
        (i8x16.sub (local.get $chunk)
          (v128.and (v128.const i8x16 32 32 32 32 32 32 32 32 32 32 32 32 32 32 32 32)
            (i8x16.lt_u
              (i8x16.sub (local.get $chunk) (v128.const i8x16 97 97 97 97 97 97 97 97 97 97 97 97 97 97 97 97))
              (v128.const i8x16 26 26 26 26 26 26 26 26 26 26 26 26 26 26 26 26)))))
      (local.set $at (i32.add (local.get $at) (i32.const 16)))
      (br $next)))
    (i32.store (i32.const 16) (local.get $size))
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.add (local.get $size) (i32.const 4)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
