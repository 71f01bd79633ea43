;; Its initialisation traps.
(module
  (memory (export "memory") 1)
  (func $deeper (export "deeper") unreachable)
  (func (export "_initialize") (call $deeper))
  (func (export "ProcessStdio") (param i32)))
