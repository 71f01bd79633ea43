//! Checks the documents: the command line reference matches the programs, and the commands that are shown work.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where its expectation does")]

use std::{
    env,
    ffi::OsString,
    fmt::Write,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use clap::CommandFactory;
use distwasm_tests::real::{programs, root};

/// `UPDATE=1 cargo test -p distwasm-tests --test documents` rewrites the reference.
#[test]
fn the_reference_of_the_command_line_is_fresh() {
    let commands = [
        distwasm_queen::command_line::CommandLine::command(),
        distwasm_king::options::Options::command(),
        distwasm_duke::options::Options::command(),
        distwasm_peasant::options::Options::command(),
    ];
    let mut reference = String::from(
        "# Command line\n\nWhat `--help` says. What has a name in brackets can also come from the environment, by that name.\n\
         This page is generated from the programs; a test keeps it fresh.\n",
    );
    for command in commands {
        describe(command, None, &mut reference);
    }
    let path = root().join("docs/cli.md");
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, &reference).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == reference, "docs/cli.md is stale: run with UPDATE=1 and commit the changes");
}

fn describe(command: clap::Command, parent: Option<&str>, reference: &mut String) {
    let name =
        parent.map_or_else(|| command.get_name().to_owned(), |parent| format!("{parent} {}", command.get_name()));
    // Values from the environment of this test must not get into the page.
    let mut command = command.term_width(100).mut_args(|arg| arg.hide_env_values(true)).bin_name(&name);
    command.build();
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    write!(reference, "\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end()).unwrap();
    // The `help` of the queen has pages of its own; that of others is the one that clap adds to all.
    let is_documented = |sub: &&clap::Command| sub.get_name() != "help" || command.is_disable_help_subcommand_set();
    let subcommands: Vec<clap::Command> = command.get_subcommands().filter(is_documented).cloned().collect();
    for subcommand in subcommands {
        describe(subcommand, Some(&name), reference);
    }
}

/// A block of shell commands in a document.
struct Block {
    place: String,
    text: String,
}

/// The blocks of a document whose first line is this comment.
fn blocks(document: &str, first_line: &str) -> Vec<Block> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            None if line == "```sh" => {
                open = Some(Block { place: format!("{document}:{}", number + 1), text: String::new() });
            }
            None => {}
            Some(_) if line == "```" => blocks.extend(open.take().filter(|block| block.text.starts_with(first_line))),
            Some(block) => writeln!(block.text, "{line}").unwrap(),
        }
    }
    blocks
}

fn run(block: &Block, folder: &Path, scratch: &Path) -> String {
    let mut path = OsString::from(programs());
    path.push(":");
    path.push(env::var_os("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &block.text])
        .current_dir(folder)
        .env("PATH", path)
        .env("SCRATCH", scratch)
        .env("DISTWASM_CACHE", scratch.join(".cache"))
        .env("DISTWASM_DATA", scratch.join(".king"))
        .env("XDG_RUNTIME_DIR", scratch)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} fails:\n{}\n{stdout}\n{stderr}", block.place, block.text);
    stdout.into_owned()
}

#[test]
fn commands_in_the_documents_work_as_they_stand() {
    let mut count = 0;
    for document in documents() {
        for block in blocks(&document, "# test\n") {
            let scratch = tempfile::tempdir().unwrap();
            run(&block, &root(), scratch.path());
            count += 1;
        }
    }
    assert!(count >= 20, "the documents show only {count} tested blocks");
}

/// The documents that users and contributors read, with paths below the root.
fn documents() -> Vec<String> {
    let mut documents = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(str::to_owned).to_vec();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        documents.push(format!("docs/{}", entry.unwrap().file_name().into_string().unwrap()));
    }
    documents.sort();
    documents
}

/// The lines of a document that are not in a block of code.
fn prose(path: &Path) -> Vec<String> {
    let mut is_code = false;
    let mut is_prose = |line: &&str| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    };
    fs::read_to_string(path).unwrap().lines().filter(|line| is_prose(line)).map(str::to_owned).collect()
}

/// The anchors of the headings, as GitHub makes them.
fn anchors(path: &Path) -> Vec<String> {
    let anchor = |line: &String| {
        let heading = line.starts_with('#').then(|| line.trim_start_matches('#').trim().to_lowercase())?;
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        Some(kept.map(|c| if c == ' ' { '-' } else { c }).collect())
    };
    prose(path).iter().filter_map(anchor).collect()
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let mut dead = Vec::new();
    for document in documents() {
        let path = root().join(&document);
        // A link may be broken between two lines.
        for link in prose(&path).join(" ").split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let is_dead = !target.exists() || !(anchor.is_empty() || anchors(&target).iter().any(|it| it == anchor));
            if is_dead && !link.starts_with("https://") {
                dead.push(format!("{document}: {link}"));
            }
        }
    }
    assert_eq!(dead, Vec::<String>::new());
}

#[test]
fn the_tutorial_takes_one_evening() {
    let words = fs::read_to_string(root().join("docs/tutorial.md")).unwrap().split_whitespace().count();
    assert!(words <= 1500, "docs/tutorial.md has {words} words");
}

/// The kingdom of the README, unchanged except for its port, which may be in use here.
#[test]
fn the_kingdom_of_the_readme_sums_ten_thousand_pairs() {
    let [kingdom] =
        blocks("README.md", "# kingdom\n").try_into().unwrap_or_else(|_| panic!("README.md shows one kingdom"));
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    std::os::unix::fs::symlink(root().join("examples"), folder.join("examples")).unwrap();
    fs::create_dir(folder.join("target")).unwrap();
    std::os::unix::fs::symlink(programs(), folder.join("target/release")).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert!(kingdom.text.contains("127.0.0.1:1900"), "the example names the king's port");
    let text = kingdom.text.replace("127.0.0.1:1900", &format!("127.0.0.1:{port}"));
    let text = text.replacen("king &", &format!("king --port {port} --http none &"), 1);
    let block = Block { place: kingdom.place, text };
    run(&block, folder, folder);
    let mut sums = 0;
    for entry in fs::read_dir(folder.join("my-input")).unwrap() {
        let name = entry.unwrap().file_name();
        let input = fs::read_to_string(folder.join("my-input").join(&name)).unwrap();
        let sum: u64 = input.split('+').map(|number| number.trim().parse::<u64>().unwrap()).sum();
        let output = fs::read_to_string(folder.join("my-output").join(&name)).unwrap();
        assert_eq!(output.trim(), sum.to_string(), "{input}");
        sums += 1;
    }
    assert_eq!(sums, 10_000);
}

/// Each of the places that are said to show something is there.
#[test]
fn the_tests_that_the_security_page_names_exist() {
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let named = text.split('`').skip(1).step_by(2).filter(|name| name.contains('/') && !name.contains(' '));
    let mut count = 0;
    for name in named {
        assert!(root().join(name).exists(), "{name}");
        count += 1;
    }
    assert!(count > 20, "{count}");
}

/// A reader who follows the table finds each step in the file that it names.
#[test]
fn the_path_of_one_unit_is_where_the_architecture_says() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut steps = 0;
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, file, functions, ..] = cells.as_slice() else { continue };
        if number.parse::<u32>().is_err() {
            continue;
        }
        steps += 1;
        let path = root().join(file.trim_matches('`'));
        let files = if path.is_dir() { vec![path.join("mod.rs")] } else { vec![path] };
        let source: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        for name in functions.split(',') {
            let name = name.trim().trim_matches('`').rsplit("::").next().unwrap();
            let known = [format!("fn {name}"), format!("struct {name}"), format!("trait {name}")];
            assert!(known.iter().any(|known| source.contains(known)), "step {number}: no {name} in {file}");
        }
    }
    assert!(steps > 30, "the table has only {steps} steps");
}
