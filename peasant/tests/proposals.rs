//! What the engine can: each proposal to WebAssembly, in a module and in a component. docs/guest-abi.md has the table.
#![allow(clippy::unwrap_used, reason = "a test ends where its expectation does")]

mod talk;

use talk::Peasant;

/// A proposal: fields of a module, and the body of a function that returns 42 if they work.
struct Proposal {
    /// Its row in docs/guest-abi.md.
    name: &'static str,
    fields: &'static str,
    body: &'static str,
}

const PROPOSALS: [Proposal; 17] = [
    Proposal {
        name: "exceptions (exnref)",
        fields: "(tag $e (param i32))
                 (func $throws (param i32) (throw $e (local.get 0)))",
        body: "(block $caught (result i32)
                 (try_table (catch $e $caught) (call $throws (i32.const 42)))
                 (i32.const 0))",
    },
    Proposal {
        name: "garbage collection",
        fields: "(type $pair (struct (field i32) (field (mut i32))))
                 (type $list (array (mut (ref null $pair))))",
        body: "(local $all (ref $list)) (local $n i32)
               (local.set $all (array.new_default $list (i32.const 1000)))
               (loop $next
                 (array.set $list (local.get $all) (local.get $n)
                   (struct.new $pair (local.get $n) (i32.const 40)))
                 (br_if $next (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000))))
               (i32.add
                 (struct.get $pair 0 (array.get $list (local.get $all) (i32.const 2)))
                 (struct.get $pair 1 (array.get $list (local.get $all) (i32.const 999))))",
    },
    Proposal {
        name: "typed function references",
        fields: "(type $f (func (result i32)))
                 (func $answer (type $f) (i32.const 42))
                 (elem declare func $answer)",
        body: "(call_ref $f (ref.func $answer))",
    },
    Proposal {
        name: "reference types",
        fields: "(table $t 2 externref) (table $f 1 funcref) (elem (table $f) (i32.const 0) func $one)
                 (func $one (result i32) (i32.const 41))",
        body: "(i32.add (ref.is_null (table.get $t (i32.const 1))) (call_indirect $f (result i32) (i32.const 0)))",
    },
    Proposal {
        name: "tail calls",
        fields: "(func $count (param i32 i32) (result i32)
                   (if (i32.eqz (local.get 0)) (then (return (local.get 1))))
                   (return_call $count (i32.sub (local.get 0) (i32.const 1)) (local.get 1)))",
        // Deeper than any stack.
        body: "(call $count (i32.const 10000000) (i32.const 42))",
    },
    Proposal {
        name: "memory64",
        fields: "(memory $long i64 1)",
        body: "(i32.store $long (i64.const 65532) (i32.const 42)) (i32.load $long (i64.const 65532))",
    },
    Proposal {
        name: "table64",
        fields: "(table $long i64 1 funcref) (elem (table $long) (i64.const 0) func $answer)
                 (func $answer (result i32) (i32.const 42))",
        body: "(call_indirect $long (result i32) (i64.const 0))",
    },
    Proposal {
        name: "multi-memory",
        fields: "(memory $a 1) (memory $b 1)",
        body: "(i32.store $a (i32.const 8) (i32.const 42))
               (memory.copy $b $a (i32.const 0) (i32.const 8) (i32.const 4))
               (i32.load $b (i32.const 0))",
    },
    Proposal {
        name: "bulk memory",
        fields: "(memory $bulk 1)",
        body: "(memory.fill $bulk (i32.const 0) (i32.const 42) (i32.const 9)) (i32.load8_u $bulk (i32.const 8))",
    },
    Proposal {
        name: "SIMD",
        fields: "",
        body: "(i32x4.extract_lane 2 (i32x4.add (v128.const i32x4 1 2 40 4) (v128.const i32x4 1 1 2 1)))",
    },
    Proposal {
        name: "relaxed SIMD",
        fields: "",
        body: "(i32.trunc_f32_s (f32x4.extract_lane 0
                 (f32x4.relaxed_madd (f32x4.splat (f32.const 4)) (f32x4.splat (f32.const 10)) (f32x4.splat (f32.const 2)))))",
    },
    Proposal {
        name: "extended constant expressions",
        fields: "(global $g i32 (i32.add (i32.const 40) (i32.const 2)))",
        body: "(global.get $g)",
    },
    Proposal {
        name: "sign extension",
        fields: "",
        body: "(i32.sub (i32.const 41) (i32.extend8_s (i32.const 0xff)))",
    },
    Proposal {
        name: "saturating conversions",
        fields: "",
        body: "(i32.sub (i32.trunc_sat_f32_s (f32.const 1e30)) (i32.const 2147483605))",
    },
    Proposal {
        name: "multi-value",
        fields: "(func $two (result i32 i32) (i32.const 40) (i32.const 2))",
        body: "(i32.add (call $two))",
    },
    Proposal {
        name: "mutable globals",
        fields: "(global $g (export \"g\") (mut i32) (i32.const 0))",
        body: "(global.set $g (i32.const 42)) (global.get $g)",
    },
    Proposal {
        name: "branch hinting",
        fields: "(func $hinted (param i32) (result i32)
                   (@metadata.code.branch_hint \"\\00\")
                   (if (result i32) (local.get 0) (then (i32.const 0)) (else (i32.const 42))))",
        body: "(call $hinted (i32.const 0))",
    },
];

/// A command that writes the byte that the function returns.
fn module(proposal: &Proposal) -> String {
    let Proposal { fields, body, .. } = proposal;
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  {fields}
  (func $proposal (result i32) {body})
  (func (export "_start")
    (i32.store8 0 (i32.const 16) (call $proposal))
    (i32.store 0 (i32.const 0) (i32.const 16))
    (i32.store 0 (i32.const 4) (i32.const 1))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    )
}

/// A component that answers with the byte that the function returns.
fn component(proposal: &Proposal) -> String {
    let Proposal { fields, body, .. } = proposal;
    format!(
        r#"(component
  (core module $m
    (memory (export "memory") 1)
    {fields}
    (func $proposal (result i32) {body})
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "answer") (param i32 i32) (result i32)
      (i32.store8 0 (i32.const 64) (call $proposal))
      ;; At 16: the result is good, where its list is, how long it is.
      (i32.store8 0 (i32.const 16) (i32.const 0))
      (i32.store 0 (i32.const 20) (i32.const 64))
      (i32.store 0 (i32.const 24) (i32.const 1))
      (i32.const 16)))
  (core instance $i (instantiate $m))
  (func (export "answer") (param "input" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $i "answer") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#
    )
}

#[test]
fn modules_and_components_have_each_proposal() {
    for proposal in &PROPOSALS {
        for (kind, program) in [("module", module(proposal)), ("component", component(proposal))] {
            for flags in [&[][..], &["--deterministic", "--seed=s"]] {
                let mut peasant = Peasant::start(program.clone().into_bytes(), flags);
                for unit in 0..3 {
                    assert_eq!(peasant.ask(b""), Ok(vec![42]), "{} in a {kind}, {flags:?}, {unit}", proposal.name);
                }
                peasant.ends_well();
            }
        }
    }
}

#[test]
fn the_table_in_the_docs_has_each_proposal() {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guest-abi.md")).unwrap();
    for proposal in &PROPOSALS {
        assert!(docs.contains(&format!("\n| {} | yes | yes |", proposal.name)), "{}", proposal.name);
    }
}

#[test]
fn an_instance_that_lives_on_throws_and_collects_in_each_unit() {
    // Each unit makes 5 MB of garbage, so that 100 of them do not fit into the memory.
    let program = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (tag $e (param i32))
  (type $blob (array i8))
  (func (export "ProcessStdio") (param $size i32)
    (local $n i32)
    (loop $next
      (drop (array.new_default $blob (i32.const 50000)))
      (br_if $next (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100))))
    (i32.store8 (i32.const 20)
      (block $caught (result i32) (try_table (catch $e $caught) (throw $e (i32.const 42))) (i32.const 0)))
    (i32.store (i32.const 16) (i32.const 1))
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 5))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    let mut peasant = Peasant::start(program.as_bytes().to_vec(), &["--memory-bytes=33554432"]);
    for _ in 0..100 {
        assert_eq!(peasant.ask(b"x"), Ok(vec![42]));
    }
    peasant.ends_well();
}

#[test]
fn objects_count_as_memory() {
    let program = r#"(module
  (memory (export "memory") 1)
  (type $list (array (mut (ref null any))))
  (type $blob (array i8))
  (func (export "_start")
    (local $all (ref $list)) (local $n i32)
    (local.set $all (array.new_default $list (i32.const 10000)))
    (loop $next
      (array.set $list (local.get $all) (local.get $n) (array.new_default $blob (i32.const 50000)))
      (br_if $next (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 10000))))))"#;
    let mut peasant = Peasant::start(program.as_bytes().to_vec(), &["--memory-bytes=33554432"]);
    let failure = peasant.ask(b"").unwrap_err();
    assert_eq!(failure.kind, distwasm_proto::failure::FailureKind::Memory, "{}", failure.message);
    assert!(failure.message.starts_with("wanted more than 32 MiB of memory"), "{}", failure.message);
    peasant.ends_well();
}

#[test]
fn an_exception_that_nothing_catches_fails_the_unit() {
    let program = r#"(module (tag $e) (func $f (throw $e)) (func (export "_start") (call $f)))"#;
    let mut peasant = Peasant::start(program.as_bytes().to_vec(), &[]);
    for _ in 0..3 {
        let failure = peasant.ask(b"").unwrap_err();
        assert_eq!(failure.kind, distwasm_proto::failure::FailureKind::Trap);
        assert!(failure.message.starts_with("threw an exception that nothing caught"), "{}", failure.message);
    }
    peasant.ends_well();
}
