;; Functions to be called by `--call`.
(module
  (func (export "add") (param i64 i64) (result i64) (i64.add (local.get 0) (local.get 1)))
  (func (export "div") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
  (func (export "both") (param f32 f64) (result f64 f32) (local.get 1) (local.get 0))
  (func (export "count") (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (global.get $calls))
  (func (export "vector") (param v128))
  (global $calls (mut i32) (i32.const 0))
  (global (export "number") i32 (i32.const 1)))
