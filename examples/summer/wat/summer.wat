;; Summer in WebAssembly text: reads `A + B`, answers the sum. A ProcessStdio guest for integers of 64 bits.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))

  ;; At 0 where a buffer is, at 4 how long it is, at 8 how much of it was read or written.
  ;; The answer ends before 64, then come the texts of errors, and the input begins at 512.
  (memory (export "memory") 1)
  (global $answer_end i32 (i32.const 64))
  (global $input i32 (i32.const 512))
  (global $input_size_max i32 (i32.const 65024))
  (data (i32.const 64) "expected `A + B`\n")
  (data (i32.const 128) "`A` or `B` is not an integer\n")
  (data (i32.const 192) "`A`, `B` or the sum does not fit into 64 bits\n")
  (data (i32.const 256) "the input is longer than 65,024 bytes\n")
  (data (i32.const 320) "cannot read the input or write the result\n")

  (func (export "ProcessStdio") (param $size i32)
    (local $end i32) (local $plus i32) (local $a i64) (local $b i64) (local $sum i64)
    (if (i32.gt_u (local.get $size) (global.get $input_size_max))
      (then (call $fail (i32.const 256) (i32.const 38))))
    (call $read (local.get $size))
    (local.set $end (i32.add (global.get $input) (local.get $size)))
    (local.set $plus (call $plus_between (global.get $input) (local.get $end)))
    (local.set $a (call $number (global.get $input) (local.get $plus)))
    (local.set $b (call $number (i32.add (local.get $plus) (i32.const 1)) (local.get $end)))
    (local.set $sum (i64.add (local.get $a) (local.get $b)))
    ;; A sum that overflowed has another sign than both numbers.
    (if (i64.lt_s
          (i64.and (i64.xor (local.get $a) (local.get $sum)) (i64.xor (local.get $b) (local.get $sum)))
          (i64.const 0))
      (then (call $fail (i32.const 192) (i32.const 46))))
    (call $write_answer (local.get $sum)))

  ;; Where the plus between the numbers is: the first after a digit or a space that is not at the very beginning.
  (func $plus_between (param $at i32) (param $end i32) (result i32)
    (local $previous i32)
    (local.set $at (call $skip_spaces (local.get $at) (local.get $end)))
    (loop $next
      (if (i32.ge_u (local.get $at) (local.get $end))
        (then (call $fail (i32.const 64) (i32.const 17))))
      (if (i32.and
            (i32.eq (i32.load8_u (local.get $at)) (i32.const 43 (; + ;)))
            (i32.or (call $is_digit (local.get $previous)) (call $is_space (local.get $previous))))
        (then (return (local.get $at))))
      (local.set $previous (i32.load8_u (local.get $at)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $next))
    (unreachable))

  ;; The integer between two places: a sign and digits, with spaces around them.
  (func $number (param $at i32) (param $end i32) (result i64)
    (local $value i64) (local $digit i64) (local $letter i32) (local $negative i32)
    (local.set $at (call $skip_spaces (local.get $at) (local.get $end)))
    ;; From the end backwards.
    (block $trimmed
      (loop $next
        (br_if $trimmed (i32.le_u (local.get $end) (local.get $at)))
        (br_if $trimmed (i32.eqz (call $is_space (i32.load8_u (i32.sub (local.get $end) (i32.const 1))))))
        (local.set $end (i32.sub (local.get $end) (i32.const 1)))
        (br $next)))
    (if (i32.lt_u (local.get $at) (local.get $end))
      (then
        (local.set $letter (i32.load8_u (local.get $at)))
        (local.set $negative (i32.eq (local.get $letter) (i32.const 45 (; - ;))))
        (local.set $at
          (i32.add
            (local.get $at)
            (i32.or (local.get $negative) (i32.eq (local.get $letter) (i32.const 43 (; + ;))))))))
    ;; No digits are no number.
    (if (i32.ge_u (local.get $at) (local.get $end))
      (then (call $fail (i32.const 128) (i32.const 29))))
    ;; Downwards from 0, because negative numbers reach one further than positive ones.
    (loop $next
      (local.set $letter (i32.load8_u (local.get $at)))
      (if (i32.eqz (call $is_digit (local.get $letter)))
        (then (call $fail (i32.const 128) (i32.const 29))))
      (local.set $digit (i64.extend_i32_u (i32.sub (local.get $letter) (i32.const 48))))
      (if (i64.lt_s
            (local.get $value)
            (i64.div_s (i64.add (i64.const -9223372036854775808) (local.get $digit)) (i64.const 10)))
        (then (call $fail (i32.const 192) (i32.const 46))))
      (local.set $value (i64.sub (i64.mul (local.get $value) (i64.const 10)) (local.get $digit)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
    (if (local.get $negative)
      (then (return (local.get $value))))
    (if (i64.eq (local.get $value) (i64.const -9223372036854775808))
      (then (call $fail (i32.const 192) (i32.const 46))))
    (i64.sub (i64.const 0) (local.get $value)))

  (func $skip_spaces (param $at i32) (param $end i32) (result i32)
    (block $found
      (loop $next
        (br_if $found (i32.ge_u (local.get $at) (local.get $end)))
        (br_if $found (i32.eqz (call $is_space (i32.load8_u (local.get $at)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (local.get $at))

  (func $is_digit (param $letter i32) (result i32)
    (i32.lt_u (i32.sub (local.get $letter) (i32.const 48)) (i32.const 10)))

  ;; A space, or one of the five from tab to carriage return.
  (func $is_space (param $letter i32) (result i32)
    (i32.or
      (i32.eq (local.get $letter) (i32.const 32))
      (i32.lt_u (i32.sub (local.get $letter) (i32.const 9)) (i32.const 5))))

  ;; Reads so many bytes of stdin to where the input is.
  (func $read (param $size i32)
    (local $done i32)
    (block $all
      (loop $next
        (br_if $all (i32.eq (local.get $done) (local.get $size)))
        (i32.store (i32.const 0) (i32.add (global.get $input) (local.get $done)))
        (i32.store (i32.const 4) (i32.sub (local.get $size) (local.get $done)))
        (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))
          (then (call $fail (i32.const 320) (i32.const 42))))
        ;; An input that ends early would be the host's fault.
        (if (i32.eqz (i32.load (i32.const 8))) (then (unreachable)))
        (local.set $done (i32.add (local.get $done) (i32.load (i32.const 8))))
        (br $next))))

  ;; Writes the length of the answer, 32 bits, the decimal number, and a newline. All from the last byte backwards.
  (func $write_answer (param $number i64)
    (local $at i32) (local $rest i64)
    (local.set $at (i32.sub (global.get $answer_end) (i32.const 1)))
    (i32.store8 (local.get $at) (i32.const 10))
    ;; Below 0, where every number has its opposite.
    (local.set $rest
      (select
        (local.get $number)
        (i64.sub (i64.const 0) (local.get $number))
        (i64.lt_s (local.get $number) (i64.const 0))))
    (loop $next
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i64.store8 (local.get $at) (i64.sub (i64.const 48) (i64.rem_s (local.get $rest) (i64.const 10))))
      (local.set $rest (i64.div_s (local.get $rest) (i64.const 10)))
      (br_if $next (i64.ne (local.get $rest) (i64.const 0))))
    (if (i64.lt_s (local.get $number) (i64.const 0))
      (then
        (local.set $at (i32.sub (local.get $at) (i32.const 1)))
        (i32.store8 (local.get $at) (i32.const 45 (; - ;)))))
    (i32.store (i32.sub (local.get $at) (i32.const 4)) (i32.sub (global.get $answer_end) (local.get $at)))
    (local.set $at (i32.sub (local.get $at) (i32.const 4)))
    (call $write (i32.const 1) (local.get $at) (i32.sub (global.get $answer_end) (local.get $at))))

  (func $write (param $to i32) (param $start i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $start))
    (i32.store (i32.const 4) (local.get $size))
    (if (call $fd_write (local.get $to) (i32.const 0) (i32.const 1) (i32.const 8))
      (then (call $proc_exit (i32.const 1)))))

  ;; Says why there is no answer, and ends the instance.
  (func $fail (param $text i32) (param $size i32)
    (call $write (i32.const 2) (local.get $text) (local.get $size))
    (call $proc_exit (i32.const 1))))
