;; Imports two functions that do not exist.
(module
  (import "env" "foo" (func (param i32)))
  (import "wasi_snapshot_preview1" "fd_dance" (func))
  (func (export "_start")))
