;; Answers with its environment, 16 random bytes, the clocks, and a NaN. Sleeps for
;; 50 ms before that if its input is not empty.
(module
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  ;; At 256 a subscription to the monotonic clock in 50 ms; the event goes to 320.
  (data (i32.const 272) "\01")
  (data (i32.const 280) "\80\f0\fa\02")
  (func $write (param $at i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 24))
    (i32.store (i32.const 4) (i32.const 1))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (i32.load (i32.const 8)) (then
      (drop (call $poll_oneoff (i32.const 256) (i32.const 320) (i32.const 1) (i32.const 12)))))
    ;; The number of variables at 16, their size at 20, pointers at 1024, the variables at 65536.
    (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
    (drop (call $environ_get (i32.const 1024) (i32.const 65536)))
    (call $write (i32.const 65536) (i32.load (i32.const 20)))
    (drop (call $random_get (i32.const 32) (i32.const 16)))
    (drop (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 48)))
    (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 56)))
    (f32.store (i32.const 64) (f32.div (f32.load (i32.const 128)) (f32.load (i32.const 128))))
    (call $write (i32.const 32) (i32.const 36))))
