;; ProcessStdio: breaks the ABI in the way that the first byte of the input names.
;;   n writes nothing                    c claims 100 bytes and writes 4
;;   s writes 2 bytes                    l claims 2 bytes and writes 4
;;   g writes garbage                    z exits with status 0 without an answer
;;   y exits with status 0 after one     x exits with status 7 after a whole answer
;;   else: answers "good"
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 104) "good")
  (data (i32.const 120) "Hello, I do not know the ABI\n")
  (func $write (param $at i32) (param $count i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $count))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $answer (param $claim i32)
    (i32.store (i32.const 100) (local.get $claim))
    (call $write (i32.const 100) (i32.const 8)))
  (func $is (param $letter i32) (result i32) (i32.eq (i32.load8_u (i32.const 32)) (local.get $letter)))
  (func (export "ProcessStdio") (param i32)
    (i32.store (i32.const 0) (i32.const 32))
    (i32.store (i32.const 4) (i32.const 1))
    (i32.store8 (i32.const 32) (i32.const 0))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (call $is (i32.const 110)) (then (return)))
    (if (call $is (i32.const 115)) (then (call $write (i32.const 104) (i32.const 2)) (return)))
    (if (call $is (i32.const 103)) (then (call $write (i32.const 120) (i32.const 29)) (return)))
    (if (call $is (i32.const 99)) (then (call $answer (i32.const 100)) (return)))
    (if (call $is (i32.const 108)) (then (call $answer (i32.const 2)) (return)))
    (if (call $is (i32.const 122)) (then (call $proc_exit (i32.const 0))))
    (call $answer (i32.const 4))
    (if (call $is (i32.const 121)) (then (call $proc_exit (i32.const 0))))
    (if (call $is (i32.const 120)) (then (call $proc_exit (i32.const 7))))))
