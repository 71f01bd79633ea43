;; Its ProcessStdio has a wrong signature.
(module (func (export "ProcessStdio") (param i64 i32) (result i32) (i32.const 0)))
