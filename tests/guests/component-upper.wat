;; A component of the world distwasm:guest/program: upper-cases ASCII letters; an input that begins with `!` is refused,
;; one that begins with `?` traps.
(component
  (core module $m
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 1024))
    (data (i32.const 16) "this one is refused")
    (func (export "realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
      (global.set $free (i32.add (local.get $at) (local.get $size)))
      ;; Pages as they are needed.
      (block $there
        (br_if $there (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
        (br_if $there (i32.ne (i32.const -1) (memory.grow
          (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16))))))
        (unreachable))
      (local.get $at))
    (func (export "answer") (param $at i32) (param $size i32) (result i32)
      (local $i i32) (local $letter i32)
      ;; The result at 0: whether it is an error, where it is, how long it is.
      (i32.store (i32.const 0) (i32.const 0))
      (i32.store (i32.const 4) (local.get $at))
      (i32.store (i32.const 8) (local.get $size))
      (if (local.get $size) (then
        (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 0x3f)) (then (unreachable)))
        (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 0x21)) (then
          (i32.store (i32.const 0) (i32.const 1))
          (i32.store (i32.const 4) (i32.const 16))
          (i32.store (i32.const 8) (i32.const 19))
          (return (i32.const 0))))))
      (block $done
        (loop $next
          (br_if $done (i32.ge_u (local.get $i) (local.get $size)))
          (local.set $letter (i32.load8_u (i32.add (local.get $at) (local.get $i))))
          (if (i32.lt_u (i32.sub (local.get $letter) (i32.const 97)) (i32.const 26)) (then
            (i32.store8 (i32.add (local.get $at) (local.get $i)) (i32.sub (local.get $letter) (i32.const 32)))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next)))
      (i32.const 0)))
  (core instance $i (instantiate $m))
  (func (export "answer") (param "input" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "answer") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))
