//! The queen's command line: a job to run, or one of its tools.

use std::ffi::OsString;

use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches, Subcommand, error::ErrorKind};

use crate::{
    commands::{
        admin::{AdminCommand, AdminOptions, BackupOptions},
        ask::AskedKing,
        cancel::CancelOptions,
        check::CheckOptions,
        dukes::DukesOptions,
        help::{self, HelpOptions},
        jobs::{JobOptions, JobsOptions},
        new::NewOptions,
        programs::{ProgramsCommand, ProgramsOptions, RemoveOptions},
        pull::PullOptions,
        push::PushOptions,
    },
    headings,
    options::Options,
    refusal,
};
use distwasm_process::flags::{self, is_typed};

/// A parsed command line.
#[derive(Debug)]
pub enum CommandLine {
    /// A job: no tool is named.
    Job(Box<Options>),
    /// `queen check`.
    Check(Box<CheckOptions>),
    /// `queen new`.
    New(NewOptions),
    /// `queen jobs`.
    Jobs(JobsOptions),
    /// `queen dukes`.
    Dukes(DukesOptions),
    /// `queen job`.
    OneJob(JobOptions),
    /// `queen cancel`.
    Cancel(CancelOptions),
    /// `queen push`.
    Push(Box<PushOptions>),
    /// `queen programs`: the king to ask, and whether it is to be JSON.
    Programs(AskedKing, bool),
    /// `queen programs rm`.
    RemovePrograms(RemoveOptions),
    /// `queen pull`.
    Pull(PullOptions),
    /// `queen admin backup`.
    Backup(BackupOptions),
    /// `queen help` with the name of a page: its text.
    Page(String),
}

#[derive(Debug, Subcommand)]
enum Tool {
    Check(Box<CheckOptions>),
    New(NewOptions),
    Jobs(JobsOptions),
    Job(JobOptions),
    Dukes(DukesOptions),
    Cancel(CancelOptions),
    Push(Box<PushOptions>),
    Programs(ProgramsOptions),
    Pull(PullOptions),
    Admin(AdminOptions),
    Help(HelpOptions),
}

impl CommandLine {
    /// The whole command line, as clap knows it.
    pub fn command() -> Command {
        let job = Options::command().disable_help_subcommand(true).subcommand_negates_reqs(true);
        Tool::augment_subcommands(headings::in_groups(job))
            .mut_subcommand("check", headings::in_groups)
            .mut_subcommand("push", headings::in_groups)
    }

    /// Threads that work for as long as the command does, besides those that handle events.
    pub fn blocking_threads(&self) -> usize {
        match self {
            CommandLine::Job(_) => distwasm_jobs::BLOCKING_THREADS + distwasm_duke::BLOCKING_THREADS,
            _ => 0,
        }
    }

    /// Parses the arguments of this process. Ends the process when they are invalid, or ask for help.
    pub fn parse() -> CommandLine {
        CommandLine::try_parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Parses arguments; the first is the name of the program.
    ///
    /// # Errors
    ///
    /// When they are invalid, or ask for help.
    pub fn try_parse_from<Arg>(args: impl IntoIterator<Item = Arg>) -> Result<CommandLine, clap::Error>
    where
        Arg: Into<OsString> + Clone,
    {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let mut command = flags::without_empty_variables(CommandLine::command());
        // A long flag with one dash would be a short one with the rest of it as its value.
        let long = |arg: &&OsString| ["-input", "-output"].iter().any(|flag| arg.to_string_lossy().starts_with(flag));
        if let Some(arg) = args.iter().take_while(|arg| *arg != "--").find(long) {
            let why = format!("{} begins with one dash, and long flags have two: -{0}", arg.to_string_lossy());
            return Err(command.error(ErrorKind::UnknownArgument, why));
        }
        let parsed = command.try_get_matches_from_mut(&args);
        let matches = parsed.map_err(|error| refusal::explained(&mut command, error, &args))?;
        let Some(tool) = matches.subcommand_name() else {
            return Ok(CommandLine::Job(Box::new(job_options(&mut command, &matches)?)));
        };
        // A tool would ignore the flags of a job. Variables in the environment are for every command that knows them.
        let for_job = command.get_arguments().find(|arg| is_typed(&matches, arg.get_id().as_str())).cloned();
        if let Some(arg) = for_job {
            let why = format!("{arg} is for a job, and cannot stand before `{tool}`");
            return Err(command.error(ErrorKind::ArgumentConflict, why));
        }
        Ok(match Tool::from_arg_matches(&matches).map_err(|error| error.format(&mut command))? {
            Tool::Check(options) => {
                let check = matches.subcommand_matches("check");
                let filter = check.filter(|_| options.input.is_none()).and_then(typed_filter);
                if let Some(flag) = filter {
                    let why = format!("--{flag} chooses one of the inputs in a folder, which --input names");
                    return Err(command.error(ErrorKind::MissingRequiredArgument, why));
                }
                CommandLine::Check(options)
            }
            Tool::New(options) => CommandLine::New(options),
            Tool::Jobs(options) => CommandLine::Jobs(options),
            Tool::Job(options) => CommandLine::OneJob(options),
            Tool::Dukes(options) => CommandLine::Dukes(options),
            Tool::Cancel(options) => CommandLine::Cancel(options),
            Tool::Push(options) => CommandLine::Push(options),
            Tool::Programs(ProgramsOptions { command: Some(ProgramsCommand::Rm(options)), .. }) => {
                CommandLine::RemovePrograms(options)
            }
            Tool::Programs(options) => {
                let missing =
                    || command.error(ErrorKind::MissingRequiredArgument, "--king-address names the king to ask");
                CommandLine::Programs(options.king().ok_or_else(missing)?, options.json)
            }
            Tool::Pull(options) => CommandLine::Pull(options),
            Tool::Admin(AdminOptions { command: AdminCommand::Backup(options) }) => CommandLine::Backup(options),
            Tool::Help(options) => return help(command, options),
        })
    }
}

/// A typed flag that says which files are inputs.
fn typed_filter(matches: &ArgMatches) -> Option<String> {
    let typed = headings::INPUT_FLAGS.iter().find(|id| is_typed(matches, id));
    typed.map(|id| id.replace('_', "-"))
}

/// The options of a job. What is typed wins over the environment.
fn job_options(command: &mut Command, matches: &ArgMatches) -> Result<Options, clap::Error> {
    let mut options = Options::from_arg_matches(matches).map_err(|error| error.format(command))?;
    let names_king = is_typed(matches, "king_address");
    if names_king && is_typed(matches, "local") {
        let why = "--local runs the job on this machine, and cannot be used with --king-address";
        return Err(command.error(ErrorKind::ArgumentConflict, why));
    }
    options.local &= !names_king;
    if options.local {
        options.king_address = None;
        // The environment may hold all settings for a king. A flag that was typed is meant for this job.
        if !is_typed(matches, "requires") {
            options.scheduling.requires.clear();
        }
    }
    if let Some((key, [one, other])) = options.scheduling.contradiction() {
        let why = format!("--require {key}={one} and --require {key}={other}: no duke has both");
        return Err(command.error(ErrorKind::ArgumentConflict, why));
    }
    if options.king_address.is_none() && !options.scheduling.requires.is_empty() {
        let king = if options.local { ", and --local takes none" } else { "; --king-address names one" };
        return Err(command.error(ErrorKind::MissingRequiredArgument, format!("--require needs a king{king}")));
    }
    let is_both = options.update && options.force && is_typed(matches, "update");
    if is_both {
        let why = "the argument '--update' cannot be used with '--force'";
        return Err(command.error(ErrorKind::ArgumentConflict, why));
    }
    // What is typed wins over the environment.
    options.update &= !options.force;
    if options.selection.input_list.is_none() && is_typed(matches, "null") {
        let why = "--null is about the names in --input-list, and there is none";
        return Err(command.error(ErrorKind::MissingRequiredArgument, why));
    }
    options.idle_flags = idle_flags(command, matches, &options);
    Ok(options)
}

/// The page that was asked for. The help of the queen and of a tool is what `--help` prints, which is an error here.
fn help(mut command: Command, HelpOptions { word }: HelpOptions) -> Result<CommandLine, clap::Error> {
    let word = word.unwrap_or_default();
    if let Some(text) = help::page(&word) {
        return Ok(CommandLine::Page(text));
    }
    let tools: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    let tool = tools.iter().find(|tool| tool.eq_ignore_ascii_case(&word));
    if tool.is_none() && !word.is_empty() {
        let why = help::no_page(&word, &tools);
        return Err(command.error(ErrorKind::InvalidValue, why));
    }
    let asked: Vec<&str> = ["queen"].into_iter().chain(tool.copied()).chain(["--help"]).collect();
    CommandLine::try_parse_from(asked)
}

/// Flags that were typed and have no effect on this job, with the reason.
fn idle_flags(command: &Command, matches: &ArgMatches, options: &Options) -> Vec<String> {
    let (idle, why): (&[&str], _) = if options.king_address.is_some() {
        (
            &["num_cpus", "ram_limit", "compile_timeout", "peasant", "cache", "require_jail"],
            "with --king-address: the dukes have such flags of their own",
        )
    } else {
        let idle = &["grace", "token_file", "insecure", "weight", "priority", "no_speculation"];
        match options.local {
            true => (idle, "with --local: this job is alone on this machine"),
            false => (idle, "without --king-address: this job is alone on this machine"),
        }
    };
    let is_idle = |arg: &&Arg| idle.contains(&arg.get_id().as_str()) && is_typed(matches, arg.get_id().as_str());
    let args = command.get_arguments().filter(is_idle);
    args.filter_map(|arg| Some(format!("--{} has no effect {why}", arg.get_long()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(["queen"].iter().chain(args))
    }

    #[test]
    fn a_command_line_without_a_tool_is_a_job() {
        for args in [
            &["--binary", "x", "--input", "y"][..],
            &["--input", "check", "--binary", "new"],
            &["-b", "x", "-q", "--", "check", "--binary"],
        ] {
            assert!(matches!(parse(args), Ok(CommandLine::Job(_))), "{args:?}");
        }
        let Ok(CommandLine::Job(job)) = parse(&["-b", "x", "-i", "y", "-o", "z", "-j", "3", "--", "check"]) else {
            panic!()
        };
        assert_eq!((job.binary.to_str(), job.guest.args), (Some("x"), vec!["check".to_owned()]));
        assert_eq!((job.input.to_str(), job.output.to_str(), job.num_cpus), (Some("y"), Some("z"), Some(3)));
        assert!(matches!(parse(&["-b", "x", "--jobs", "3"]), Ok(CommandLine::Job(job)) if job.num_cpus == Some(3)));
    }

    #[test]
    fn a_job_needs_its_program_and_a_tool_does_not() {
        assert_eq!(parse(&["--input", "y"]).unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
        let Ok(CommandLine::Check(check)) = parse(&["check", "x", "--env", "A=1", "--env", "B=2", "--", "new"]) else {
            panic!()
        };
        assert_eq!((check.program.to_str(), check.guest.env.len(), check.guest.args.len()), (Some("x"), 2, 1));
        assert!(matches!(parse(&["new", "--lang", "c", "x"]), Ok(CommandLine::New(_))));
    }

    #[test]
    fn flags_of_a_job_cannot_stand_before_a_tool() {
        let error = parse(&["--binary", "x", "check", "y"]).unwrap_err();
        assert!(error.to_string().contains("--binary <PROGRAM> is for a job"), "{error}");
        assert_eq!(parse(&["-q", "new", "--lang", "c", "x"]).unwrap_err().kind(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn flags_without_effect_are_named() {
        let idle = |args: &[&str]| match parse(&[&["-b", "x"], args].concat()) {
            Ok(CommandLine::Job(job)) => job.idle_flags,
            other => panic!("{other:?}"),
        };
        assert_eq!(idle(&["--num-cpus", "1", "--weight", "1"]).len(), 1);
        let with_king = idle(&["-k", "king", "--num-cpus", "1", "--weight", "1", "--cache", "c"]);
        assert!(matches!(&with_king[..], [one, two] if one.contains("--num-cpus has") && two.contains("--cache")));
    }

    fn job(args: &[&str], environment: &[(&str, &'static str)]) -> Result<Options, String> {
        // Values from the environment, without touching the environment of this process.
        let mut command = CommandLine::command();
        for (id, value) in environment {
            command = command.mut_arg(*id, |arg| arg.env(None::<&str>).default_value(*value));
        }
        let args: Vec<&str> = ["queen", "-b", "x"].iter().chain(args).copied().collect();
        let matches = command.try_get_matches_from_mut(args).map_err(|error| error.to_string())?;
        job_options(&mut command, &matches).map_err(|error| error.to_string())
    }

    #[test]
    fn a_local_job_ignores_the_king_of_the_environment() {
        let king = ("king_address", "king");
        let with_king = |job: Result<Options, String>| job.unwrap().king_address.is_some();
        assert!(with_king(job(&[], &[king])));
        assert!(!with_king(job(&["--local"], &[king])));
        assert!(!with_king(job(&["--local"], &[])));
        assert!(!with_king(job(&[], &[king, ("local", "true")])));
        assert!(with_king(job(&[], &[king, ("local", "false")])));
        assert!(with_king(job(&["-k", "other"], &[king, ("local", "true")])), "what is typed wins");
        assert!(job(&["--local", "-k", "king"], &[]).unwrap_err().contains("cannot be used with --king-address"));
        let idle = job(&["--local", "--grace", "1s", "--num-cpus", "1"], &[king]).unwrap().idle_flags;
        assert!(matches!(&idle[..], [one] if one.contains("--grace has no effect with --local")), "{idle:?}");
    }

    #[test]
    fn labels_are_required_of_the_dukes_of_a_king() {
        let (king, zone) = (("king_address", "king"), ("requires", "zone=eu"));
        assert_eq!(job(&["--require", "zone=eu"], &[king]).unwrap().scheduling.requires.len(), 1);
        assert!(job(&["--require", "zone=eu"], &[]).unwrap_err().contains("--king-address names one"));
        assert!(job(&["--require", "zone=eu", "--local"], &[king]).unwrap_err().contains("--local takes none"));
        assert!(job(&[], &[zone]).is_err());
        assert!(job(&["--local"], &[king, zone]).unwrap().scheduling.requires.is_empty());
        for twice in [&["--require", "zone=eu", "--require", "zone=us"][..], &["--require", "zone=eu,a=b,zone=us"]] {
            let why = job(twice, &[king]).unwrap_err();
            assert!(why.contains("--require zone=eu and --require zone=us"), "{why}");
        }
        assert!(job(&["--require", "zone=eu,zone=eu"], &[king]).is_ok());
    }

    #[test]
    fn a_flag_is_given_once() {
        for twice in [&["-i", "a", "-i", "b"][..], &["--quiet", "-q"], &["-j", "1", "--num-cpus", "1"]] {
            let why = job(twice, &[]).unwrap_err();
            assert!(why.contains("cannot be used multiple times"), "{why}");
        }
        for args in [&["check", "x", "-i", "a", "-i", "b"][..], &["jobs", "-k", "a", "-k", "b"]] {
            assert_eq!(parse(args).unwrap_err().kind(), ErrorKind::ArgumentConflict, "{args:?}");
        }
        assert_eq!(job(&["-vv", "-v"], &[]).unwrap().verbose, 3);
    }

    #[test]
    fn help_is_about_the_queen_or_a_tool_or_a_page() {
        for args in [&["help"][..], &["help", "check"], &["help", "Jobs"], &["help", "help"], &["--help"]] {
            assert_eq!(parse(args).unwrap_err().kind(), ErrorKind::DisplayHelp, "{args:?}");
        }
        let whole = parse(&["help"]).unwrap_err().to_string();
        assert!(whole.contains("queen help kinds|outputs|failures") && whole.contains("--retry-failed"), "{whole}");
        assert!(parse(&["help", "check"]).unwrap_err().to_string().contains("Usage: queen check"));
        for page in ["kinds", "OUTPUTS", "Failures"] {
            assert!(matches!(parse(&["help", page]), Ok(CommandLine::Page(text)) if text.len() > 100), "{page}");
        }
        assert!(parse(&["help", "chek"]).unwrap_err().to_string().contains("there is help on check, "));
    }

    #[test]
    fn what_is_wrong_with_a_tool_is_said_by_the_tool() {
        let why = parse(&["check", "x.wasm", "y.wasm"]).unwrap_err().to_string();
        assert!(why.contains("unexpected argument 'y.wasm'") && why.contains("queen check"), "{why}");
        assert!(parse(&["x.wasm"]).unwrap_err().to_string().contains("queen --binary x.wasm"));
        assert!(parse(&[]).unwrap_err().to_string().contains("no program is named"));
    }

    #[test]
    fn the_command_line_is_whole() {
        CommandLine::command().debug_assert();
    }
}
