//! Finds out what `--version` says of this build: its commit, and its engine.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?);
    let root = here.parent().ok_or("the workspace is the folder above")?;
    println!("cargo:rustc-env=DISTWASM_BUILD_ENGINE={}", engine(&root.join("Cargo.lock"))?);
    // Builds of developers do not depend on the commit: otherwise each commit would rebuild everything.
    let is_release = env::var_os("PROFILE").is_some_and(|profile| profile == "release");
    let origin = if is_release { commit(root) } else { Some("development build".to_owned()) };
    println!("cargo:rustc-env=DISTWASM_BUILD_ORIGIN={}", origin.unwrap_or_default());
    Ok(())
}

/// The version of the engine that is locked.
fn engine(lock: &Path) -> Result<String, Box<dyn Error>> {
    println!("cargo:rerun-if-changed={}", lock.display());
    let text = fs::read_to_string(lock)?;
    let mut lines = text.lines().skip_while(|line| *line != "name = \"wasmtime\"");
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    Ok(version.ok_or("Cargo.lock does not lock wasmtime")?.to_owned())
}

/// The commit that is checked out. None if there is no git, or these files are not in a repository of their own.
fn commit(root: &Path) -> Option<String> {
    // In a worktree this is a file. The commit of a repository further up would say nothing of these files.
    if !root.join(".git").exists() {
        return None;
    }
    let commit = git(root, &["rev-parse", "--short=8", "HEAD"])?;
    let head = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(head.as_deref()) {
        let path = git(root, &["rev-parse", "--git-path", name]).map(|path| root.join(path));
        // Cargo would take a file that does not exist for one that always changes.
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    Some(format!("commit {commit}"))
}

fn git(root: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
