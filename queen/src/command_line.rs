//! The queen's command line: a job to run, or one of its tools.

use std::ffi::OsString;

use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, Subcommand, error::ErrorKind, parser::ValueSource};

use crate::{
    commands::{
        check::CheckOptions,
        jobs::{JobOptions, JobsOptions},
        new::NewOptions,
    },
    options::Options,
};
use distwasm_process::flags;

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
    /// `queen job`.
    OneJob(JobOptions),
}

#[derive(Debug, Subcommand)]
enum Tool {
    Check(Box<CheckOptions>),
    New(NewOptions),
    Jobs(JobsOptions),
    Job(JobOptions),
}

impl CommandLine {
    /// The whole command line, as clap knows it.
    pub fn command() -> clap::Command {
        Tool::augment_subcommands(Options::command()).subcommand_negates_reqs(true)
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
        let mut command = flags::without_empty_variables(CommandLine::command());
        let matches = command.try_get_matches_from_mut(args)?;
        let Some(tool) = matches.subcommand_name() else {
            let mut options = Options::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
            options.idle_flags = idle_flags(&command, &matches);
            return Ok(CommandLine::Job(Box::new(options)));
        };
        // A tool would ignore the flags of a job. Variables in the environment are for every command that knows them.
        let is_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let for_job = command.get_arguments().find(|arg| is_typed(arg.get_id().as_str())).cloned();
        if let Some(arg) = for_job {
            let why = format!("{arg} is for a job, and cannot stand before `{tool}`");
            return Err(command.error(ErrorKind::ArgumentConflict, why));
        }
        Ok(match Tool::from_arg_matches(&matches).map_err(|error| error.format(&mut command))? {
            Tool::Check(options) => CommandLine::Check(options),
            Tool::New(options) => CommandLine::New(options),
            Tool::Jobs(options) => CommandLine::Jobs(options),
            Tool::Job(options) => CommandLine::OneJob(options),
        })
    }
}

/// Flags that were typed and have no effect on this job, with the reason.
fn idle_flags(command: &clap::Command, matches: &ArgMatches) -> Vec<String> {
    let (idle, why): (&[&str], _) = if matches.contains_id("king_address") {
        (&["num_cpus", "ram_limit", "peasant", "cache"], "with --king-address: the dukes have such flags of their own")
    } else {
        (
            &["grace", "weight", "priority", "no_speculation"],
            "without --king-address: this job is alone on this machine",
        )
    };
    let is_typed = |arg: &&Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let args = command.get_arguments().filter(|arg| idle.contains(&arg.get_id().as_str())).filter(is_typed);
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
            &["-b", "y", "-q", "--", "check", "--binary"],
        ] {
            assert!(matches!(parse(args), Ok(CommandLine::Job(_))), "{args:?}");
        }
        let Ok(CommandLine::Job(job)) = parse(&["-b", "y", "--", "check"]) else { panic!() };
        assert_eq!((job.binary.to_str(), job.guest.args), (Some("y"), vec!["check".to_owned()]));
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

    #[test]
    fn the_command_line_is_whole() {
        CommandLine::command().debug_assert();
    }
}
