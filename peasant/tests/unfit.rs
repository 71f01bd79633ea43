//! Files that people bring and that cannot run here: each is refused with the way out, and before anything of it is
//! compiled.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where its expectation does")]
#![allow(clippy::too_many_lines, reason = "a table is as long as it is")]

mod talk;

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use distwasm_peasant::guest::Grants;
use distwasm_peasant::program::Program;
use talk::PEASANT;

/// A function that no compiler accepts. If a module with it is refused for another reason, it was not compiled.
const NOT_VALID: &str = "(func i32.add)";

/// A file, and what is said about it.
type Unfit = (&'static str, Vec<u8>, &'static str);

/// A module with these fields that would not compile.
fn module(fields: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {fields} {NOT_VALID})")).unwrap()
}

/// A module that imports these functions, each `MODULE NAME`, and exports `_start`, and would not compile.
fn importing(names: &[&str]) -> Vec<u8> {
    let mut fields = String::new();
    for name in names {
        let (from, name) = name.split_once(' ').unwrap();
        fields.push_str(&format!("(import {from:?} {name:?} (func))"));
    }
    module(&format!("{fields} (memory (export \"memory\") 1) (func (export \"_start\") (call 0))"))
}

/// A module with an empty custom section of this name before all others, and these fields.
fn with_section(name: &str, fields: &str) -> Vec<u8> {
    let mut bytes = module(fields);
    let length = u8::try_from(name.len()).unwrap();
    let section = [&[0, length + 1, length], name.as_bytes()].concat();
    bytes.splice(8..8, section);
    bytes
}

/// A component with these fields, and with a module in it that would not compile.
fn component(fields: &str) -> Vec<u8> {
    wat::parse_str(format!("(component (core module {NOT_VALID}) {fields})")).unwrap()
}

fn with_javascript(mut component: Vec<u8>) -> Vec<u8> {
    // The section `producers`: one field, `sdk`, with one value.
    let body = b"\x09producers\x01\x03sdk\x01\x0eComponentizeJS\x060.19.3";
    component.extend_from_slice(&[&[0, u8::try_from(body.len()).unwrap()], &body[..]].concat());
    component
}

/// An empty instance with a function, which must be there.
const INSTANCE: &str = "(instance (export \"f\" (func)))";

/// Makes `block nop nop end`, which stands in [`LEGACY`], the first draft's `try catch 0 end`: the text format lacks it.
fn with_try(mut bytes: Vec<u8>) -> Vec<u8> {
    let block = [0x02, 0x40, 0x01, 0x01, 0x0b];
    let at = bytes.windows(block.len()).position(|part| part == block).unwrap();
    bytes.splice(at..at + block.len(), [0x06, 0x40, 0x07, 0x00, 0x0b]);
    bytes
}

const LEGACY: &str = "(tag) (func (export \"_start\") (block nop nop))";

fn unfit_files() -> Vec<Unfit> {
    let mut files = modules();
    files.extend(components());
    files.extend(others());
    files
}

fn modules() -> Vec<Unfit> {
    vec![
        (
            "Emscripten",
            importing(&["env emscripten_resize_heap", "wasi_snapshot_preview1 fd_write"]),
            "imports `env.emscripten_resize_heap`, which does not exist here: made by Emscripten for JavaScript; build it \
             with -sSTANDALONE_WASM, or for wasm32-wasip1",
        ),
        (
            "Emscripten, minified",
            importing(&["a a", "a b", "a Aa"]),
            "imports `a.a`, `a.b`, `a.Aa`, which do not exist here: made by Emscripten for JavaScript; build it with \
             -sSTANDALONE_WASM, or for wasm32-wasip1",
        ),
        (
            "Emscripten, a part of a program",
            with_section("dylink.0", "(import \"env\" \"memory\" (memory 1)) (func (export \"_start\"))"),
            "imports `env.memory`, which does not exist here: it is a dynamic library, one part of a program; link the \
             whole program into one file (Emscripten: without -sSIDE_MODULE and -sMAIN_MODULE)",
        ),
        (
            "Emscripten with threads",
            module(
                "(import \"a\" \"a\" (memory 1 2 shared)) (import \"a\" \"b\" (func)) (func (export \"_start\") (call 0))",
            ),
            "imports `a.a`, `a.b`, which do not exist here: made by Emscripten with threads; build it without them (no \
             -pthread), with -sSTANDALONE_WASM",
        ),
        (
            "Emscripten with C++ exceptions",
            importing(&["env __cxa_throw", "env invoke_vii"]),
            "imports `env.__cxa_throw`, `env.invoke_vii`, which do not exist here: made by Emscripten, whose C++ \
             exceptions and setjmp need JavaScript; build it with -fwasm-exceptions -sWASM_LEGACY_EXCEPTIONS=0 \
             -sSTANDALONE_WASM, or without exceptions",
        ),
        (
            "wasm-bindgen",
            importing(&["wbg __wbindgen_throw"]),
            "imports `wbg.__wbindgen_throw`, which does not exist here: made by wasm-bindgen for JavaScript; build it \
             for wasm32-wasip1",
        ),
        (
            "wasm-bindgen with externref",
            module(
                "(import \"./summer_bg.js\" \"__wbindgen_init_externref_table\" (func))
                 (table (export \"__wbindgen_externrefs\") 128 externref) (func (export \"sum\") (param i32))",
            ),
            "imports `./summer_bg.js.__wbindgen_init_externref_table`, which does not exist here: made by wasm-bindgen \
             for JavaScript; build it for wasm32-wasip1",
        ),
        (
            "Go for JavaScript",
            importing(&["gojs runtime.wasmExit"]),
            "imports `gojs.runtime.wasmExit`, which does not exist here: made by Go for JavaScript; build it with \
             GOOS=wasip1",
        ),
        (
            "WASIX",
            importing(&["wasix_32v1 proc_fork"]),
            "imports `wasix_32v1.proc_fork`, which does not exist here: made for WASIX, which has threads, processes and \
             sockets; build it for wasm32-wasip1",
        ),
        (
            "the first draft of WASI",
            importing(&["wasi_unstable fd_write"]),
            "imports `wasi_unstable.fd_write`, which does not exist here: made for the first draft of WASI; build it with \
             a newer compiler for wasm32-wasip1",
        ),
        (
            "Kotlin",
            importing(&["js_code kotlin.captureStackTrace"]),
            "imports `js_code.kotlin.captureStackTrace`, which does not exist here: made by Kotlin for JavaScript; build \
             it for the target wasmWasi",
        ),
        (
            "Dart",
            importing(&["dart2wasm _1"]),
            "imports `dart2wasm._1`, which does not exist here: made by Dart, whose compiler makes WebAssembly for \
             JavaScript only; use another language for this program",
        ),
        (
            "OCaml",
            importing(&["bindings write", "wasm:js-string length"]),
            "imports `bindings.write`, `wasm:js-string.length`, which do not exist here: made by wasm_of_ocaml for \
             JavaScript; build it with wasm_of_ocaml --enable wasi",
        ),
        (
            "threads",
            module("(import \"env\" \"memory\" (memory 1 2 shared)) (func (export \"_start\"))"),
            "imports `env.memory`, which does not exist here: there are no threads here, but each slot runs a unit of its \
             own: build it without threads (wasm32-wasip1, no -pthread)",
        ),
        (
            "threads of their own",
            importing(&["wasi thread-spawn"]),
            "imports `wasi.thread-spawn`, which does not exist here: there are no threads here, but each slot runs a unit \
             of its own: build it without threads (wasm32-wasip1, no -pthread)",
        ),
        (
            "a shared memory of its own",
            module("(memory (export \"memory\") 1 2 shared) (func (export \"_start\"))"),
            "there are no threads here, but each slot runs a unit of its own: build it without threads (wasm32-wasip1, no \
             -pthread)",
        ),
        (
            "legacy exceptions",
            with_try(module(LEGACY)),
            "it uses the first draft of exceptions; convert it with wasm-opt --translate-to-exnref -all, or build it with \
             new ones (clang: -mllvm -wasm-use-legacy-eh=false)",
        ),
        (
            "AssemblyScript",
            importing(&["env abort"]),
            "imports `env.abort`, which does not exist here: AssemblyScript needs @assemblyscript/wasi-shim to run \
             without a browser",
        ),
        (
            "an unknown world",
            importing(&["env foo"]),
            "imports `env.foo`, which does not exist here: guests get WASI preview 1 only (with --unknown-imports trap it \
             runs until it calls something else)",
        ),
        (
            "addresses of 64 bits",
            module(
                "(import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32 i64 i64 i64) (result i32)))
                 (memory (export \"memory\") i64 1) (func (export \"_start\"))",
            ),
            "imports something as what it is not: `wasi_snapshot_preview1.fd_write` as (i32, i64, i64, i64) -> i32, which \
             is (i32, i32, i32, i32) -> i32; WASI has addresses of 32 bits, so build it for wasm32",
        ),
        (
            "a memory that is not exported",
            module(
                "(import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32)))
                 (memory (export \"mem\") 1) (func (export \"_start\") (drop (i32.const 1)))",
            ),
            "exports its memory as `mem`, which WASI must find as `memory` to pass anything (wasm-ld: \
             --export-memory=memory)",
        ),
        (
            "functions and an empty _start",
            module(
                "(func (export \"_start\")) (func (export \"add\") (param i32 i32) (result i32) (i32.const 1))
                 (func (export \"refs\") (param externref))",
            ),
            "its `_start` does nothing, so it is not a command; --call NAME calls a function that it exports: `add`",
        ),
        (
            "the inside of a component",
            module("(memory (export \"memory\") 1) (func (export \"cabi_realloc\"))"),
            "exports neither `ProcessStdio` nor `_start`; found: `memory`, `cabi_realloc`; it is the inside of a \
             component, make it one (wasm-tools component new)",
        ),
        (
            "sockets of WasmEdge",
            importing(&["wasi_snapshot_preview1 sock_open"]),
            "imports `wasi_snapshot_preview1.sock_open`, which does not exist here: guests have no network",
        ),
        (
            "a library",
            module("(func (export \"add\") (param f64) (result f64) (local.get 0))"),
            "exports neither `ProcessStdio` nor `_start`; found: `add`; --call NAME calls any function of numbers",
        ),
    ]
}

fn components() -> Vec<Unfit> {
    let import = |name: &str| component(&format!("(import {name:?} {INSTANCE})"));
    vec![
        (
            "a component for Spin",
            import("fermyon:spin/key-value@2.0.0"),
            "imports `fermyon:spin/key-value@2.0.0`, which does not exist here: made for Spin; build it for wasm32-wasip2",
        ),
        (
            "a component for another host",
            import("example:host/things"),
            "imports `example:host/things`, which does not exist here: made for another host; guests get WASI 0.2 only: \
             link the component with what it needs (wac plug), or let it run until it calls something else \
             (--unknown-imports trap)",
        ),
        (
            "componentize-js with HTTP",
            with_javascript(component(
                "(instance $f) (instance $i (export \"f\" (instance $f)))
                 (export \"wasi:http/incoming-handler@0.2.3\" (instance $i))",
            )),
            "exports neither `answer` nor `wasi:cli/run@0.2`; found: `wasi:http/incoming-handler@0.2.3#f`; it answers HTTP \
             requests, build a command instead (componentize-js leaves imports out with disableFeatures: ['http', \
             'fetch-event'])",
        ),
        (
            "WASI 0.3",
            import("wasi:cli/stdin@0.3.0"),
            "imports `wasi:cli/stdin@0.3.0`, which does not exist here: made for WASI 0.3, which is young and not there \
             yet; build it for WASI 0.2 (wasm32-wasip2)",
        ),
        (
            "a component with threads in it",
            component("(core module (memory 1 1 shared)) (instance $i) (export \"wasi:cli/run@0.2.0\" (instance $i))"),
            "there are no threads here, but each slot runs a unit of its own: build it without threads (wasm32-wasip1, no \
             -pthread)",
        ),
        (
            "a component with legacy exceptions in it",
            with_try(component(&format!(
                "(core module {LEGACY}) (instance $i) (export \"wasi:cli/run@0.2.0\" (instance $i))"
            ))),
            "it uses the first draft of exceptions; convert it with wasm-opt --translate-to-exnref -all, or build it with \
             new ones (clang: -mllvm -wasm-use-legacy-eh=false)",
        ),
    ]
}

fn others() -> Vec<Unfit> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        (
            "a shell script",
            text("#!/bin/sh\njq . < \"$1\"\n"),
            "not a WebAssembly program: it is a shell script; a guest is one WebAssembly program, which cannot start \
             others; name the program that the script runs",
        ),
        (
            "Python source",
            text("import sys\nprint(sys.stdin.read().upper())\n"),
            "not a WebAssembly program: it is Python source; build it first: componentize-py makes a component of it \
             (queen new --lang python shows how)",
        ),
        (
            "JavaScript source",
            text("import { readFile } from 'fs';\nconsole.log(1);\n"),
            "not a WebAssembly program: it is JavaScript or TypeScript source; build it first: componentize-js makes a \
             component of it",
        ),
        (
            "ELF",
            b"\x7fELF\x02\x01\x01\0".to_vec(),
            "not a WebAssembly program: it is an ELF executable or library; it runs on one kind of machine; build the \
             program for WASI (the target wasm32-wasip1)",
        ),
        (
            "a .rs file",
            text("use std::io;\n\nfn main() {\n    println!(\"hello\");\n}\n"),
            "not a WebAssembly program: it is Rust source; build it first: rustup target add wasm32-wasip1, then rustc \
             --target wasm32-wasip1 -O FILE.rs or cargo build --release --target wasm32-wasip1",
        ),
    ]
}

#[test]
fn each_file_is_refused_with_the_way_out() {
    let files = unfit_files();
    assert!(files.len() >= 30, "{}", files.len());
    let mut wrong = Vec::new();
    for (name, bytes, expected) in files {
        let told = Program::compile(&bytes, &Grants::default()).err().map(|unfit| unfit.to_string());
        if told.as_deref() != Some(expected) {
            wrong.push(format!("{name}:\n  {}\n  {expected}", told.unwrap_or_default()));
        }
    }
    assert!(wrong.is_empty(), "what was said, and what was expected:\n{}", wrong.join("\n"));
}

/// Starts a check of a program, as `queen check` does.
fn check(bytes: &[u8], args: &[&str]) -> Output {
    let mut command = Command::new(PEASANT);
    command.arg("check").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A peasant that refuses early may not read everything.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    child.wait_with_output().unwrap()
}

#[test]
#[allow(clippy::disallowed_methods, reason = "what it measures is time")]
fn a_check_refuses_each_file_without_delay() {
    for (name, bytes, expected) in unfit_files() {
        let began = Instant::now();
        let refused = check(&bytes, &["--name=x"]);
        assert_eq!(refused.status.code(), Some(2), "{name}");
        assert_eq!(String::from_utf8_lossy(&refused.stderr), format!("x: {expected}\n"), "{name}");
        // 200 ms are the goal on a calm machine, with an optimized peasant.
        assert!(began.elapsed() < Duration::from_secs(5), "{name} took {:?}", began.elapsed());
    }
}

/// A component that imports an interface and calls its function.
fn calling(import: &str, function: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
  (import "{import}" (instance $host (export "{function}" (func))))
  (core func $f (canon lower (func $host "{function}")))
  (core module $m
    (import "host" "f" (func $f))
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "answer") (param i32 i32) (result i32)
      (if (local.get 1) (then (call $f)))
      (i32.store (i32.const 20) (i32.const 64))
      (i32.store (i32.const 24) (i32.const 1))
      (i32.const 16)))
  (core instance $i (instantiate $m (with "host" (instance (export "f" (func $f))))))
  (func (export "answer") (param "input" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "answer") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#
    );
    wat::parse_str(text).unwrap()
}

#[test]
fn unknown_imports_trap_when_they_are_called_if_that_is_wanted() {
    let module = br#"(module
  (import "env" "foo" (func $foo (param i32 externref) (result f64)))
  (import "wasi_snapshot_preview1" "fd_filestat_get" (func $stat (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $stat (i32.const 0) (i32.const 0)))
    (if (i64.gt_u (i64.load (i32.const 32)) (i64.const 0)) (then (drop (call $foo (i32.const 1) (ref.null extern)))))))"#;
    let reason = |name: &str| format!("called `{name}`, which does not exist here (--unknown-imports trap)");
    let mut peasant = talk::Peasant::start(module.to_vec(), &["--unknown-imports=trap"]);
    assert_eq!(peasant.ask(b""), Ok(Vec::new()));
    peasant.ends_well();
    let calls = br#"(module (import "env" "foo" (func $foo)) (func (export "_start") (call $foo)))"#;
    let mut peasant = talk::Peasant::start(calls.to_vec(), &["--unknown-imports=trap"]);
    for _ in 0..2 {
        let failure = peasant.ask(b"").unwrap_err();
        assert!(failure.message.starts_with(&reason("env.foo")), "{}", failure.message);
    }
    peasant.ends_well();
    let mut peasant = talk::Peasant::start(calling("example:host/things", "go"), &["--unknown-imports=trap"]);
    assert_eq!(peasant.ask(b""), Ok(vec![0]));
    let failure = peasant.ask(b"x").unwrap_err();
    assert!(failure.message.starts_with(&reason("example:host/things#go")), "{}", failure.message);
    peasant.ends_well();
    // What is not a function cannot trap.
    let global = br#"(module (import "env" "g" (global i32)) (func (export "_start")))"#;
    let refused = check(global, &["--unknown-imports=trap"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("imports `env.g`, which does not exist here"));
}

#[test]
fn a_module_that_tells_of_its_memory_is_not_heard() {
    let program = br#"(module
  (import "env" "emscripten_notify_memory_growth" (func $grown (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (drop (memory.grow (i32.const 1))) (call $grown (i32.const 0))))"#;
    let mut peasant = talk::Peasant::start(program.to_vec(), &[]);
    assert_eq!(peasant.ask(b""), Ok(Vec::new()));
    peasant.ends_well();
}

/// A component that sends a request over HTTP, and answers with the number of the error's case.
const REQUEST: &str = r#"(component
  (import "wasi:http/types@0.2.3" (instance $types
    (export "fields" (type $fields (sub resource)))
    (export "outgoing-request" (type $request (sub resource)))
    (export "future-incoming-response" (type $response (sub resource)))
    (export "request-options" (type $options (sub resource)))
    (type $code (variant (case "DNS-timeout") (case "HTTP-request-denied") (case "internal-error" (option string))))
    (export "error-code" (type $error (eq $code)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[constructor]outgoing-request" (func (param "headers" (own $fields)) (result (own $request))))
    (export "[method]outgoing-request.set-path-with-query"
      (func (param "self" (borrow $request)) (param "path" (option string)) (result (result))))))
  (alias export $types "outgoing-request" (type $request))
  (alias export $types "future-incoming-response" (type $response))
  (alias export $types "request-options" (type $options))
  (alias export $types "error-code" (type $error))
  (import "wasi:http/outgoing-handler@0.2.3" (instance $handler
    (export "outgoing-request" (type $r (eq $request)))
    (export "future-incoming-response" (type $f (eq $response)))
    (export "request-options" (type $o (eq $options)))
    (export "error-code" (type $e (eq $error)))
    (export "handle" (func (param "request" (own $r)) (param "options" (option (own $o)))
      (result (result (own $f) (error $e)))))))
  (core module $memory (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $memory (instantiate $memory))
  (core func $fields (canon lower (func $types "[constructor]fields")))
  (core func $request (canon lower (func $types "[constructor]outgoing-request")))
  (core func $path (canon lower (func $types "[method]outgoing-request.set-path-with-query") (memory (core memory $memory "memory"))))
  (core func $handle (canon lower (func $handler "handle") (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core module $m
    (import "m" "memory" (memory 1))
    (import "http" "fields" (func $fields (result i32)))
    (import "http" "request" (func $request (param i32) (result i32)))
    (import "http" "path" (func $path (param i32 i32 i32 i32) (result i32)))
    (import "http" "handle" (func $handle (param i32 i32 i32 i32)))
    (func (export "answer") (param i32 i32) (result i32)
      (local $request i32)
      (local.set $request (call $request (call $fields)))
      (if (call $path (local.get $request) (i32.const 1) (i32.const 64) (i32.const 1)) (then unreachable))
      (call $handle (local.get $request) (i32.const 0) (i32.const 0) (i32.const 128))
      ;; The result is at 128, its error at 132.
      (i32.store8 (i32.const 64) (i32.load8_u (i32.const 128)))
      (i32.store8 (i32.const 65) (i32.load8_u (i32.const 132)))
      (i32.store (i32.const 20) (i32.const 64))
      (i32.store (i32.const 24) (i32.const 2))
      (i32.const 16)))
  (core instance $i (instantiate $m (with "m" (instance $memory)) (with "http" (instance
    (export "fields" (func $fields)) (export "request" (func $request))
    (export "path" (func $path)) (export "handle" (func $handle))))))
  (func (export "answer") (param "input" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "answer") (memory (core memory $memory "memory")) (realloc (core func $memory "realloc")))))"#;

#[test]
fn a_request_over_http_is_refused() {
    let mut peasant = talk::Peasant::start(wat::parse_str(REQUEST).unwrap(), &[]);
    for _ in 0..3 {
        assert_eq!(peasant.ask(b"x"), Ok(vec![1, 1]), "an error, and its second case");
    }
    peasant.ends_well();
}
