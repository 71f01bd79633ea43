//! A third-party command: pulldown-cmark from its registry, unmodified, compared with the same program built natively.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use distwasm_tests::real::root;

use crate::run::{answers, cache, skipped};

/// More documents than this would not test anything new.
const FILES_MAX: usize = 300;

/// Documents of this repository and of the crates that cargo has unpacked, named by numbers.
fn documents() -> BTreeMap<String, Vec<u8>> {
    let mut folders = vec![root(), root().join("docs"), root().join("examples")];
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"))).unwrap_or_default();
    for registry in subfolders(&cargo.join("registry/src")) {
        folders.extend(subfolders(&registry));
    }
    let is_markdown = |path: &PathBuf| path.extension().is_some_and(|end| end == "md") && path.is_file();
    let files = folders.iter().flat_map(|folder| entries(folder)).filter(is_markdown);
    files.take(FILES_MAX).enumerate().map(|(at, path)| (at.to_string(), fs::read(path).unwrap())).collect()
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| path.is_dir()).collect()
}

/// The entries of a folder, in order. Empty if it does not exist.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The output of the native program for a document.
fn natively(program: &Path, document: &[u8]) -> Vec<u8> {
    let input = tempfile::NamedTempFile::new().unwrap();
    fs::write(input.path(), document).unwrap();
    let mut command = Command::new(program);
    let output = command.stdin(input.reopen().unwrap()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn markdown_becomes_the_same_as_natively() {
    let native = cache().join("markdown/native/bin/pulldown-cmark");
    let guest = cache().join("markdown/wasm/bin/pulldown-cmark.wasm");
    if !native.is_file() || !guest.is_file() {
        skipped("pulldown-cmark is not built; scripts/build-examples markdown builds it");
        return;
    }
    let documents = documents();
    assert!(documents.len() > 5);
    for (name, html) in answers(&guest, &documents, &[]) {
        assert_eq!(html.unwrap(), natively(&native, &documents[&name]), "document {name}");
    }
}
