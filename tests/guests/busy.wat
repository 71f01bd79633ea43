;; Does what its arguments say, one after the other. The first letter of each says what, the rest is a path below its last
;; directory, or a text:
;;   r  reads a file and writes it to stdout       p  writes the text to stdout
;;   w  writes the text `new` into a new file      P  writes the text to stderr
;;   o  writes `!` over the start of a file        e  exits with the number that the first letter after it has
;;   d  makes a directory                          f  writes 64 KiB into a file, again and again until it fails
;;   s  makes a link to `target`                   n  makes files whose names begin so until it fails
;;   x  removes a file                             m  moves a file or directory to the name `moved`
;;   c  copies stdin to stdout                     k  opens a file and keeps it open
;;   2  makes a file its stdout                    M  moves the file that the M before it has named to this name
;; Of what fails it says the letter and the number of the error on stderr, and goes on.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $fd_renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $fd_prestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 4)
  ;; 0: a buffer's address and length, 8: bytes moved, 12: a descriptor, 16: the number of arguments and their bytes,
  ;; 32: texts, 1024: the addresses of the arguments, 8192: the arguments, 65536: a buffer of 64 KiB, 131072: names
  (data (i32.const 32) "new")
  (data (i32.const 36) "!")
  (data (i32.const 40) "target")
  (data (i32.const 48) "moved")
  (global $dir (mut i32) (i32.const 3))
  (global $path (mut i32) (i32.const 0))
  (global $bytes (mut i32) (i32.const 0))
  (global $from (mut i32) (i32.const 0))
  (global $from_bytes (mut i32) (i32.const 0))
  (func $length (param $text i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $text))
    (block $done (loop $next
      (br_if $done (i32.eqz (i32.load8_u (local.get $end))))
      (local.set $end (i32.add (local.get $end) (i32.const 1)))
      (br $next)))
    (i32.sub (local.get $end) (local.get $text)))
  (func $write (param $fd i32) (param $at i32) (param $bytes i32) (result i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $bytes))
    (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
  ;; Opens the path: with these flags, to read (1), to write (2) or both.
  (func $open (param $flags i32) (param $how i32) (result i32)
    (call $path_open (global.get $dir) (i32.const 1) (global.get $path) (global.get $bytes) (local.get $flags)
      (i64.or
        (select (i64.const 0x2) (i64.const 0) (i32.and (local.get $how) (i32.const 1)))
        (select (i64.const 0x40) (i64.const 0) (i32.and (local.get $how) (i32.const 2))))
      (i64.const 0) (i32.const 0) (i32.const 12)))
  (func $close (drop (call $fd_close (i32.load (i32.const 12)))))
  (func $copy (param $fd i32) (result i32)
    (local $errno i32)
    (block $done (loop $next
      (i32.store (i32.const 0) (i32.const 65536))
      (i32.store (i32.const 4) (i32.const 65536))
      (local.set $errno (call $fd_read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if $done (local.get $errno))
      (br_if $done (i32.eqz (i32.load (i32.const 8))))
      (local.set $errno (call $write (i32.const 1) (i32.const 65536) (i32.load (i32.const 8))))
      (br_if $next (i32.eqz (local.get $errno)))))
    (local.get $errno))
  (func $read (result i32)
    (local $errno i32)
    (local.set $errno (call $open (i32.const 0) (i32.const 1)))
    (if (i32.eqz (local.get $errno)) (then
      (local.set $errno (call $copy (i32.load (i32.const 12))))
      (call $close)))
    (local.get $errno))
  ;; Opens, writes, and closes.
  (func $put (param $flags i32) (param $how i32) (param $at i32) (param $bytes i32) (result i32)
    (local $errno i32)
    (local.set $errno (call $open (local.get $flags) (local.get $how)))
    (if (i32.eqz (local.get $errno)) (then
      (local.set $errno (call $write (i32.load (i32.const 12)) (local.get $at) (local.get $bytes)))
      (call $close)))
    (local.get $errno))
  (func $fill (result i32)
    (local $errno i32)
    (local.set $errno (call $open (i32.const 9) (i32.const 2)))
    (if (i32.eqz (local.get $errno)) (then
      (loop $next
        (local.set $errno (call $write (i32.load (i32.const 12)) (i32.const 65536) (i32.const 65536)))
        (br_if $next (i32.eqz (local.get $errno))))
      (call $close)))
    (local.get $errno))
  (func $many (result i32)
    (local $count i32) (local $errno i32) (local $place i32) (local $rest i32) (local $from i32) (local $end i32)
    (local.set $from (global.get $path))
    (local.set $end (global.get $bytes))
    (memory.copy (i32.const 131072) (local.get $from) (local.get $end))
    (global.set $path (i32.const 131072))
    (global.set $bytes (i32.add (local.get $end) (i32.const 7)))
    (loop $next
      (local.set $rest (local.get $count))
      (local.set $place (i32.add (i32.const 131072) (i32.add (local.get $end) (i32.const 7))))
      (loop $digit
        (local.set $place (i32.sub (local.get $place) (i32.const 1)))
        (i32.store8 (local.get $place) (i32.add (i32.const 48) (i32.rem_u (local.get $rest) (i32.const 10))))
        (local.set $rest (i32.div_u (local.get $rest) (i32.const 10)))
        (br_if $digit (i32.gt_u (local.get $place) (i32.add (i32.const 131072) (local.get $end)))))
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (local.set $errno (call $open (i32.const 1) (i32.const 2)))
      (if (i32.eqz (local.get $errno)) (then (call $close) (br $next))))
    (local.get $errno))
  (func $stdout (result i32)
    (local $errno i32)
    (local.set $errno (call $open (i32.const 9) (i32.const 2)))
    (if (i32.eqz (local.get $errno)) (then
      (local.set $errno (call $fd_renumber (i32.load (i32.const 12)) (i32.const 1)))))
    (local.get $errno))
  (func $move (result i32)
    (local $errno i32)
    (if (global.get $from) (then
      (local.set $errno (call $rename (global.get $dir) (global.get $from) (global.get $from_bytes)
        (global.get $dir) (global.get $path) (global.get $bytes)))))
    (global.set $from (global.get $path))
    (global.set $from_bytes (global.get $bytes))
    (local.get $errno))
  (func $do (param $what i32) (result i32)
    (if (i32.eq (local.get $what) (i32.const 0x4d)) (then (return (call $move))))
    (if (i32.eq (local.get $what) (i32.const 0x72)) (then (return (call $read))))
    (if (i32.eq (local.get $what) (i32.const 0x77)) (then
      (return (call $put (i32.const 9) (i32.const 2) (i32.const 32) (i32.const 3)))))
    (if (i32.eq (local.get $what) (i32.const 0x6f)) (then
      (return (call $put (i32.const 0) (i32.const 3) (i32.const 36) (i32.const 1)))))
    (if (i32.eq (local.get $what) (i32.const 0x64)) (then
      (return (call $mkdir (global.get $dir) (global.get $path) (global.get $bytes)))))
    (if (i32.eq (local.get $what) (i32.const 0x78)) (then
      (return (call $unlink (global.get $dir) (global.get $path) (global.get $bytes)))))
    (if (i32.eq (local.get $what) (i32.const 0x73)) (then
      (return (call $symlink (i32.const 40) (i32.const 6) (global.get $dir) (global.get $path) (global.get $bytes)))))
    (if (i32.eq (local.get $what) (i32.const 0x6d)) (then
      (return (call $rename (global.get $dir) (global.get $path) (global.get $bytes)
        (global.get $dir) (i32.const 48) (i32.const 5)))))
    (if (i32.eq (local.get $what) (i32.const 0x70)) (then
      (return (call $write (i32.const 1) (global.get $path) (global.get $bytes)))))
    (if (i32.eq (local.get $what) (i32.const 0x50)) (then
      (return (call $write (i32.const 2) (global.get $path) (global.get $bytes)))))
    (if (i32.eq (local.get $what) (i32.const 0x65)) (then
      (call $proc_exit (i32.sub (i32.load8_u (global.get $path)) (i32.const 48)))))
    (if (i32.eq (local.get $what) (i32.const 0x66)) (then (return (call $fill))))
    (if (i32.eq (local.get $what) (i32.const 0x6e)) (then (return (call $many))))
    (if (i32.eq (local.get $what) (i32.const 0x63)) (then (return (call $copy (i32.const 0)))))
    (if (i32.eq (local.get $what) (i32.const 0x6b)) (then (return (call $open (i32.const 0) (i32.const 1)))))
    (if (i32.eq (local.get $what) (i32.const 0x32)) (then (return (call $stdout))))
    (i32.const 99))
  (func (export "_start")
    (local $index i32) (local $errno i32) (local $what i32)
    (loop $next
      (if (i32.eqz (call $fd_prestat_get (i32.add (global.get $dir) (i32.const 1)) (i32.const 0))) (then
        (global.set $dir (i32.add (global.get $dir) (i32.const 1)))
        (br $next))))
    (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
    (drop (call $args_get (i32.const 1024) (i32.const 8192)))
    (block $done (loop $next
      (local.set $index (i32.add (local.get $index) (i32.const 1)))
      (br_if $done (i32.ge_u (local.get $index) (i32.load (i32.const 16))))
      (global.set $path (i32.load (i32.add (i32.const 1024) (i32.mul (local.get $index) (i32.const 4)))))
      (local.set $what (i32.load8_u (global.get $path)))
      (global.set $path (i32.add (global.get $path) (i32.const 1)))
      (global.set $bytes (call $length (global.get $path)))
      ;; A path from the root is one below the directory that is the root.
      (if (i32.eq (i32.load8_u (global.get $path)) (i32.const 0x2f)) (then
        (global.set $path (i32.add (global.get $path) (i32.const 1)))
        (global.set $bytes (i32.sub (global.get $bytes) (i32.const 1)))))
      (local.set $errno (call $do (local.get $what)))
      (if (local.get $errno) (then
        (i32.store8 (i32.const 60) (local.get $what))
        (i32.store8 (i32.const 61) (i32.add (i32.const 48) (i32.div_u (local.get $errno) (i32.const 10))))
        (i32.store8 (i32.const 62) (i32.add (i32.const 48) (i32.rem_u (local.get $errno) (i32.const 10))))
        (i32.store8 (i32.const 63) (i32.const 10))
        (drop (call $write (i32.const 2) (i32.const 60) (i32.const 4)))))
      (br $next)))))
