;; A component of WASI 0.2 that is a command: answers its input, and fails if that is empty.
(component
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error_type))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer 1 $error_type (type $e))
    (export "input-stream" (type $in (sub resource)))
    (export "output-stream" (type $out (sub resource)))
    (type $stream_error_type (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $stream_error (eq $stream_error_type)))
    (export "[method]input-stream.blocking-read"
      (func (param "self" (borrow $in)) (param "len" u64) (result (result (list u8) (error $stream_error)))))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $out)) (param "contents" (list u8)) (result (result (error $stream_error)))))))
  (alias export $streams "input-stream" (type $in))
  (alias export $streams "output-stream" (type $out))
  (import "wasi:cli/stdin@0.2.0" (instance $stdin
    (alias outer 1 $in (type $in_type))
    (export "input-stream" (type $i (eq $in_type)))
    (export "get-stdin" (func (result (own $i))))))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $out (type $out_type))
    (export "output-stream" (type $o (eq $out_type)))
    (export "get-stdout" (func (result (own $o))))))
  (core module $memory_module
    (memory (export "memory") 2)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $memory (instantiate $memory_module))
  (core func $read (canon lower (func $streams "[method]input-stream.blocking-read")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $get_stdin (canon lower (func $stdin "get-stdin")))
  (core func $get_stdout (canon lower (func $stdout "get-stdout")))
  (core module $m
    (import "" "memory" (memory 2))
    (import "" "get-stdin" (func $get_stdin (result i32)))
    (import "" "get-stdout" (func $get_stdout (result i32)))
    (import "" "read" (func $read (param i32 i64 i32)))
    (import "" "write" (func $write (param i32 i32 i32 i32)))
    (func (export "run") (result i32)
      (local $in i32) (local $out i32) (local $all i32)
      (local.set $in (call $get_stdin))
      (local.set $out (call $get_stdout))
      (block $end
        (loop $next
          ;; The result at 0: whether it is an error, where the bytes are, how many.
          (call $read (local.get $in) (i64.const 4096) (i32.const 0))
          (br_if $end (i32.load8_u (i32.const 0)))
          (local.set $all (i32.add (local.get $all) (i32.load (i32.const 8))))
          (call $write (local.get $out) (i32.load (i32.const 4)) (i32.load (i32.const 8)) (i32.const 16))
          (br $next)))
      (i32.eqz (local.get $all))))
  (core instance $i (instantiate $m (with "" (instance
    (export "memory" (memory $memory "memory"))
    (export "get-stdin" (func $get_stdin))
    (export "get-stdout" (func $get_stdout))
    (export "read" (func $read))
    (export "write" (func $write))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $run_instance (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $run_instance)))
