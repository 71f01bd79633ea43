;; Answers with its input; but when the input begins with `h`, its first attempt never ends.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    ;; The last variable is DISTWASM_ATTEMPT: its number stands before the last NUL.
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (drop (call $get (i32.const 4096) (i32.const 8192)))
    ;; Up to 1000 bytes of input are read to 65536.
    (i32.store (i32.const 16) (i32.const 65536))
    (i32.store (i32.const 20) (i32.const 1000))
    (drop (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 24)))
    (if (i32.eq (i32.load8_u (i32.const 65536)) (i32.const 104)) ;; h
      (then
        (if (i32.eq (i32.load8_u (i32.sub (i32.add (i32.const 8192) (i32.load (i32.const 4))) (i32.const 2)))
                    (i32.const 49)) ;; 1
          (then (loop $for_ever (br $for_ever))))))
    (i32.store (i32.const 20) (i32.load (i32.const 24)))
    (drop (call $fd_write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))))
