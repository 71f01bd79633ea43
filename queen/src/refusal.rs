//! What the queen says of a command line without a program, or with words where none belong.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::commands::new::quoted;

/// How similar a word and the name of a tool are, from 0 to 1, if one may be meant for the other.
const SIMILAR: f64 = 0.7;

/// The error, in words that help more where there are such.
pub fn explained(command: &mut clap::Command, mut error: clap::Error, args: &[OsString]) -> clap::Error {
    // The tip to pass a flag as an argument of the program would start the job.
    error.remove(ContextKind::Suggested);
    let tools: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    if is_about_tool(&error, &tools) {
        return error;
    }
    let why = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => {
            about_flag(word).or_else(|| about_word(word, args, &tools))
        }
        (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing))) => about_missing(missing),
        _ => None,
    };
    match why {
        Some(why) => command.error(error.kind(), why),
        None => error,
    }
}

/// Whether the error is one of a tool's own command line: its usage begins with the queen and the tool.
fn is_about_tool(error: &clap::Error, tools: &[&str]) -> bool {
    let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) else { return false };
    usage.to_string().split_whitespace().nth(2).is_some_and(|word| tools.contains(&word))
}

/// Flags of other programs, and what does the same here.
const ELSEWHERE: [(&str, &str); 7] = [
    ("--delete", "--prune removes outputs of no input"),
    ("-g", "--include and --exclude take globs"),
    ("--glob", "--include and --exclude take globs"),
    ("--files-from", "--input-list names a list of inputs"),
    ("--jobs-from", "--input-list names a list of inputs"),
    ("--shuf", "--sample N chooses N inputs at random"),
    ("--no-king", "--local runs the job on this machine"),
];

/// What to say of a flag that another program has.
fn about_flag(word: &str) -> Option<String> {
    let known = ELSEWHERE.iter().find(|(flag, _)| *flag == word);
    known.map(|(flag, here)| format!("there is no flag {flag}; {here}"))
}

/// What to say of a word that is neither a flag nor a tool.
fn about_word(word: &str, args: &[OsString], tools: &[&str]) -> Option<String> {
    let names_program = |arg: &OsString| {
        let arg = arg.to_string_lossy();
        arg.starts_with("--binary") || (arg.starts_with("-b") && !arg.starts_with("--"))
    };
    if word.starts_with('-') {
        return None;
    }
    if args.iter().any(names_program) {
        let rest = "--input names the inputs, --output the outputs, and arguments for the program come after `--`";
        return Some(format!("{word:?} stands alone: {rest}"));
    }
    let named = |program: &str| format!("a program is named with --binary: queen --binary {program}");
    if word == "run" {
        let program = args.iter().skip(1).find(|arg| is_program(arg)).map(|arg| quoted(arg));
        let program = program.unwrap_or_else(|| "PROGRAM".to_owned());
        return Some(format!("there is no `queen run`; {}", named(&program)));
    }
    if is_program(word.as_ref()) {
        return Some(named(&quoted(word.as_ref())));
    }
    let similarity = |tool: &&&str| strsim::jaro(word, tool);
    let nearest = tools.iter().max_by(|one, other| similarity(one).total_cmp(&similarity(other)))?;
    let is_similar = strsim::jaro(word, nearest) > SIMILAR;
    is_similar.then(|| format!("there is no `queen {word}`; did you mean `queen {nearest}`?"))
}

/// Whether the word looks like the path of a program.
fn is_program(word: &OsStr) -> bool {
    let word = word.to_string_lossy();
    !word.starts_with('-') && (word.ends_with(".wasm") || word.ends_with(".wat") || word.contains('/'))
}

fn about_missing(missing: &[String]) -> Option<String> {
    let is_binary = missing.iter().any(|arg| arg.starts_with("--binary"));
    let example = "queen --binary prog.wasm --input input --output output";
    is_binary.then(|| format!("no program is named; --binary names it: {example}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_does_not_belong_there_is_answered_by_what_may_be_meant() {
        let tools = ["check", "new", "jobs", "job", "help"];
        for (line, word, said) in [
            ("queen prog.wasm", "prog.wasm", Some("a program is named with --binary: queen --binary prog.wasm")),
            ("queen -q ./prog", "./prog", Some("queen --binary ./prog")),
            (
                "queen run -i in prog.wat",
                "run",
                Some("there is no `queen run`; a program is named with --binary: queen --binary prog.wat"),
            ),
            ("queen run", "run", Some("queen --binary PROGRAM")),
            ("queen chek", "chek", Some("there is no `queen chek`; did you mean `queen check`?")),
            ("queen jbs", "jbs", Some("did you mean `queen jobs`?")),
            ("queen something", "something", None),
            ("queen --wasm.wasm", "--wasm.wasm", None),
            ("queen -b a.wasm in out", "in", Some("arguments for the program come after `--`")),
            ("queen --binary=a.wasm run", "run", Some("arguments for the program come after `--`")),
        ] {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let why = about_word(word, &args, &tools);
            match said {
                Some(said) => assert!(why.as_ref().is_some_and(|why| why.ends_with(said)), "{line}: {why:?}"),
                None => assert_eq!(why, None, "{line}"),
            }
        }
        let args = ["queen", "my prog.wasm"].map(OsString::from);
        assert!(about_word("my prog.wasm", &args, &tools).unwrap().ends_with("'my prog.wasm'"));
    }
}
