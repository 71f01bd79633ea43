//! Names the kind of a file that is not a WebAssembly program, so that a user who named the wrong file sees it at once,
//! and says how to make a program of it.

/// The first bytes of well-known kinds of files, and what to do if it is a program in another form.
const BEGINNINGS: [(&[u8], &str, &str); 21] = [
    (b"\x7fELF", "an ELF executable or library", BUILD_FOR_WASI),
    (b"MZ", "a Windows executable", BUILD_FOR_WASI),
    (b"\xcf\xfa\xed\xfe", "a Mach-O executable", BUILD_FOR_WASI),
    (b"\xce\xfa\xed\xfe", "a Mach-O executable", BUILD_FOR_WASI),
    (b"\xca\xfe\xba\xbe", "a universal Mach-O executable or a Java class", BUILD_FOR_WASI),
    (b"!<arch>\n", "an archive of object files", "link the whole program into one file"),
    (b"BC\xc0\xde", "LLVM bitcode", "compile it to the end: clang --target=wasm32-wasip1 without -emit-llvm"),
    (b"\x1f\x8b", "a gzip file", UNPACK),
    (b"PK\x03\x04", "a zip file", UNPACK),
    (b"PK\x05\x06", "an empty zip file", ""),
    (b"\x28\xb5\x2f\xfd", "a zstd file", UNPACK),
    (b"\xfd7zXZ\0", "an xz file", UNPACK),
    (b"BZh", "a bzip2 file", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z file", UNPACK),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture", ""),
    (b"\xff\xd8\xff", "a JPEG picture", ""),
    (b"GIF8", "a GIF picture", ""),
    (b"%PDF-", "a PDF document", ""),
    (b"<!DOCTYPE", "a page of HTML or XML", ""),
    (b"<html", "a page of HTML", ""),
    (b"<?xml", "an XML document", ""),
];

const BUILD_FOR_WASI: &str = "it runs on one kind of machine; build the program for WASI (the target wasm32-wasip1)";
const UNPACK: &str = "unpack it first";

/// Kinds of scripts, by the name of their interpreter without its version.
const SCRIPTS: [(&[&str], &str, &str); 3] = [
    (&["python", "pypy"], "a Python script", PYTHON),
    (&["node", "nodejs", "deno", "bun"], "a JavaScript script", JAVASCRIPT),
    (&["sh", "bash", "dash", "zsh", "ksh", "fish", "ash", "busybox"], "a shell script", SHELL),
];
/// Any other script.
const SCRIPT: (&str, &str) =
    ("a script", "a guest is a WebAssembly program; give the script as an input to an interpreter that is one");

/// Languages, by a line that begins like this. The first that fits decides.
const LANGUAGES: [(&[&str], &str, &str); 7] = [
    (&["fn main(", "pub fn ", "use std::", "#![", "extern crate "], "Rust source", RUST),
    (&["package main"], "Go source", "build it first: GOOS=wasip1 GOARCH=wasm go build -o program.wasm"),
    (&["#include ", "#define ", "int main("], "C or C++ source", C),
    (&["const std = @import("], "Zig source", "build it first: zig build-exe -target wasm32-wasi FILE.zig"),
    (&["def ", "from ", "import sys", "import os", "if __name__", "print("], "Python source", PYTHON),
    (
        &[
            "const ",
            "let ",
            "var ",
            "function ",
            "import ",
            "export ",
            "console.",
            "module.exports",
            "\"use strict\"",
            "'use strict'",
        ],
        "JavaScript or TypeScript source",
        JAVASCRIPT,
    ),
    (&["set -e", "echo "], "a shell script", SHELL),
];

const RUST: &str = "build it first: rustup target add wasm32-wasip1, then rustc --target wasm32-wasip1 -O FILE.rs or \
                    cargo build --release --target wasm32-wasip1";
const C: &str = "build it first: clang --target=wasm32-wasip1 -O2 -o program.wasm FILE.c (of wasi-sdk), or zig cc \
                 --target=wasm32-wasi";
const PYTHON: &str = "build it first: componentize-py makes a component of it (queen new --lang python shows how)";
const JAVASCRIPT: &str = "build it first: componentize-js makes a component of it";
const SHELL: &str =
    "a guest is one WebAssembly program, which cannot start others; name the program that the script runs";

/// Lines of a text that are looked at. The first ones tell the language.
const LINES_READ: usize = 200;

/// Why these bytes cannot be a program, as far as they tell without being parsed: neither binary nor text.
pub fn why_no_program(bytes: &[u8]) -> Option<String> {
    if bytes.starts_with(b"\0asm") {
        return None;
    }
    let (what, way_out) = match BEGINNINGS.iter().find(|(beginning, ..)| bytes.starts_with(beginning)) {
        Some((_, what, way_out)) => ((*what).to_owned(), *way_out),
        None if bytes.is_empty() => ("empty".to_owned(), ""),
        None => match std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')) {
            Some(text) => {
                let (what, way_out) = kind_of_text(text)?;
                (what.to_owned(), way_out)
            }
            None => (format!("a binary file that begins with {}", first_bytes(bytes)), ""),
        },
    };
    let separator = if way_out.is_empty() { "" } else { "; " };
    Some(format!("not a WebAssembly program: it is {what}{separator}{way_out}"))
}

/// What a text is, if it is not in the text format of WebAssembly, which begins with a parenthesis or a comment.
fn kind_of_text(text: &str) -> Option<(&'static str, &'static str)> {
    if let Some(line) =
        text.strip_prefix("#!").and_then(|rest| rest.lines().next()).filter(|line| !line.starts_with('['))
    {
        let interpreter = interpreter(line);
        let known = SCRIPTS.iter().find(|(names, ..)| names.contains(&interpreter));
        return Some(known.map_or(SCRIPT, |(_, what, way_out)| (*what, *way_out)));
    }
    if text.trim_start().starts_with(['(', ';']) {
        return None;
    }
    let lines = || text.lines().take(LINES_READ).map(str::trim_start);
    let is_in =
        |beginnings: &[&str]| lines().any(|line| beginnings.iter().any(|beginning| line.starts_with(beginning)));
    LANGUAGES.iter().find(|(beginnings, ..)| is_in(beginnings)).map(|(_, what, way_out)| (*what, *way_out))
}

/// The name of the interpreter in the first line of a script, without its folder and version.
fn interpreter(line: &str) -> &str {
    let mut words = line.split_whitespace();
    let mut interpreter = words.next().unwrap_or_default();
    if interpreter.ends_with("/env") {
        interpreter = words.find(|word| !word.starts_with('-') && !word.contains('=')).unwrap_or_default();
    }
    let name = interpreter.rsplit('/').next().unwrap_or_default();
    name.trim_end_matches(|character: char| character.is_ascii_digit() || character == '.')
}

/// The first bytes of a file for people, when nothing else is known of it.
fn first_bytes(bytes: &[u8]) -> String {
    const SHOWN: usize = 8;
    bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        why_no_program(text.as_bytes()).unwrap_or_default().replace("not a WebAssembly program: it is ", "")
    }

    #[test]
    fn programs_pass_and_other_files_are_named() {
        assert_eq!(why_no_program(b"\0asm\x01\0\0\0"), None);
        for program in ["(module)", "\n (; a comment ;)\n(module)", ";; def f\n;; import os\n(component)"] {
            assert_eq!(why_no_program(program.as_bytes()), None, "{program}");
        }
        assert_eq!(told(""), "empty");
        assert!(told("\u{7f}ELF\u{2}").starts_with("an ELF executable or library; it runs on one kind of machine"));
        assert_eq!(told("ab\0"), "a binary file that begins with 61 62 00");
        assert_eq!(told("%PDF-1"), "a PDF document");
    }

    #[test]
    fn a_source_is_named_with_the_way_to_build_it() {
        for (text, what) in [
            ("//! A program.\n\nfn main() {\n}\n", "Rust source; build it first: rustup target add"),
            ("#![no_std]\n", "Rust source"),
            ("// Go\npackage main\n\nimport \"os\"\n", "Go source"),
            ("#include <stdio.h>\n", "C or C++ source"),
            ("import sys\nprint(sys.argv)\n", "Python source"),
            ("\"\"\"Doc.\"\"\"\ndef main():\n", "Python source"),
            ("import fs from 'fs';\n", "JavaScript or TypeScript source"),
            ("const a = 1;\n", "JavaScript or TypeScript source"),
            ("#!/usr/bin/env python3\nprint(1)\n", "a Python script"),
            ("#!/bin/bash\nls\n", "a shell script"),
            ("#!/usr/bin/env node\n", "a JavaScript script"),
            ("#!/usr/bin/perl\n", "a script"),
            ("#!/usr/share/tool/run\n", "a script"),
            ("#!/usr/bin/env -S PATH=/bin bash -e\n", "a shell script"),
            ("# comment\nset -eu\nls\n", "a shell script"),
        ] {
            assert!(told(text).starts_with(what), "{text:?}: {}", told(text));
        }
        // Other text is left to the parser of the text format, which says where it is wrong.
        assert_eq!((told("hello world"), told("package com.example;\n")), (String::new(), String::new()));
    }
}
