;; Wants 128 MiB of memory to begin with.
(module (memory (export "memory") 2048) (func (export "_start")))
