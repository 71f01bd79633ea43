;; Command: fails in the way that the first byte of the input names.
;;   x exits with status 3, without output         r recurses without end
;;   o the same after output and a word on stderr   m takes memory until there is none, and traps
;;   0 exits with status 0 after output             e writes 4 MiB to stderr and exits with status 1
;;   t traps                                        a answers without end
;;   p passes bad pointers and answers their error numbers
;;   else: writes "fine" and returns
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 100) "fine")
  (data (i32.const 110) "some output")
  (data (i32.const 130) "last words\n")
  (func $write (param $fd i32) (param $at i32) (param $count i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $count))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $recurse (param i32) (result i32)
    (i32.add (i32.const 1) (call $recurse (i32.add (local.get 0) (i32.const 1)))))
  (func $is (param $letter i32) (result i32) (i32.eq (i32.load8_u (i32.const 32)) (local.get $letter)))
  (func (export "_start")
    (local $count i32)
    (i32.store (i32.const 0) (i32.const 32))
    (i32.store (i32.const 4) (i32.const 1))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (call $is (i32.const 120)) (then (call $proc_exit (i32.const 3))))
    (if (call $is (i32.const 111)) (then
      (call $write (i32.const 1) (i32.const 110) (i32.const 11))
      (call $write (i32.const 2) (i32.const 130) (i32.const 11))
      (call $proc_exit (i32.const 4))))
    (if (call $is (i32.const 48)) (then
      (call $write (i32.const 1) (i32.const 110) (i32.const 11))
      (call $proc_exit (i32.const 0))))
    (if (call $is (i32.const 116)) (then unreachable))
    (if (call $is (i32.const 114)) (then (drop (call $recurse (i32.const 0)))))
    (if (call $is (i32.const 109)) (then
      (loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16)))))
      unreachable))
    (if (call $is (i32.const 101)) (then
      (loop $more
        (call $write (i32.const 2) (i32.const 130) (i32.const 65536))
        (local.set $count (i32.add (local.get $count) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $count) (i32.const 64))))
      (call $proc_exit (i32.const 1))))
    (if (call $is (i32.const 97)) (then
      (loop $more (call $write (i32.const 1) (i32.const 0) (i32.const 65536)) (br $more))))
    (if (call $is (i32.const 112)) (then
      ;; A list of buffers outside of memory, a buffer outside of memory, a count outside, a closed descriptor, a file.
      (i32.store8 (i32.const 200)
        (call $fd_write (i32.const 1) (i32.const -8) (i32.const 4) (i32.const 8)))
      (i32.store (i32.const 0) (i32.const 100))
      (i32.store (i32.const 4) (i32.const -1))
      (i32.store8 (i32.const 201)
        (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i32.store8 (i32.const 202)
        (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i32.store (i32.const 4) (i32.const 0))
      (i32.store8 (i32.const 203)
        (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const -1)))
      (i32.store8 (i32.const 204)
        (call $fd_write (i32.const 7) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i32.store8 (i32.const 205)
        (call $path_open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 4) (i32.const 0)
          (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 8)))
      (call $write (i32.const 1) (i32.const 200) (i32.const 6))
      (return)))
    (call $write (i32.const 1) (i32.const 100) (i32.const 4))))
