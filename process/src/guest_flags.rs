//! Flags about guests, for every program that starts some: how a guest is called, and what it gets.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use clap::{
    Args, ValueEnum,
    builder::{BoolishValueParser, NonEmptyStringValueParser},
};
use distwasm_proto::{arguments::Arguments, statuses::Statuses};
use thiserror::Error;

use crate::flags;

/// How a guest is called.
#[derive(Args, Clone, Debug)]
pub struct CallFlags {
    /// Call this export with the values found in each input, and take what it returns as the output text
    #[arg(long, value_name = "NAME", env = "DISTWASM_CALL", value_parser = NonEmptyStringValueParser::new())]
    pub call: Option<String>,

    /// Make a unit give the same bytes everywhere: fixed clock, randomness drawn from project and unit, canonical NaNs;
    /// implies --fresh
    #[arg(long, env = "DISTWASM_DETERMINISTIC", value_parser = BoolishValueParser::new())]
    pub deterministic: bool,

    /// What to do with functions that the program imports and that do not exist: refuse the program, or let each of them
    /// trap when it is called
    #[arg(long, value_name = "WHAT", env = "DISTWASM_UNKNOWN_IMPORTS", value_enum, default_value_t)]
    pub unknown_imports: UnknownImports,
}

/// What becomes of functions that a program imports and that do not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum UnknownImports {
    /// The program is unfit.
    #[default]
    Refuse,
    /// The program runs; a unit that calls one fails, with the name of the import in the reason.
    Trap,
}

/// How a guest is called, and what it gets.
#[derive(Args, Clone, Debug)]
pub struct GuestFlags {
    /// How it is called.
    #[command(flatten)]
    pub calling: CallFlags,

    /// Give each unit an instance of its own (by default, ProcessStdio programs keep one)
    #[arg(long, env = "DISTWASM_FRESH", value_parser = BoolishValueParser::new())]
    pub fresh: bool,

    /// The program's name for itself, the first of its arguments [default: the name of its file]
    #[arg(long, value_name = "NAME", env = "DISTWASM_ARGV0", value_parser = NonEmptyStringValueParser::new())]
    pub argv0: Option<String>,

    /// The program's stack, such as 8MB, for programs that recurse deeply: 64KB to 64MB; a plain number is MB
    /// [default: 1]
    #[arg(long, value_name = "SIZE", env = "DISTWASM_STACK", value_parser = flags::stack_bytes)]
    pub stack: Option<u64>,

    /// A variable in the environment of the program; may be given several times. With a name alone its value is that of
    /// this process, so that it does not stand on the command line, which other users of the machine can read
    #[arg(long, value_name = "K=V|K", env = "DISTWASM_ENV")]
    pub env: Vec<String>,

    /// A directory of this machine that the program sees, read-only; may be given several times
    #[arg(long = "dir", value_name = "HOST::GUEST", env = "DISTWASM_DIR")]
    pub dirs: Vec<OsString>,

    /// Exit statuses that are results, such as 0,1,10-20 (by default 0 alone); any other fails its unit
    #[arg(long, value_name = "LIST", env = "DISTWASM_OK_STATUS")]
    pub ok_status: Option<Statuses>,

    /// How much a unit may write into its scratch, the folders / and /tmp of the program, which are in memory and are
    /// emptied after each unit; 0 for no scratch [default: 256MB, or half of the memory of a slot]
    #[arg(long, value_name = "SIZE", env = "DISTWASM_SCRATCH", value_parser = flags::whole_megabytes)]
    pub scratch: Option<u64>,

    /// Pass the arguments for the program as they are, without filling in {} and the like
    #[arg(long, env = "DISTWASM_RAW_ARGS", value_parser = BoolishValueParser::new())]
    pub raw_args: bool,

    /// Arguments for the program. For each unit these are filled in: {} with the path of the input as a file, {name},
    /// {stem}, {ext}, {dir} and {number} with parts of its name, {out} or {out.png} with the path of a file that becomes
    /// the result, and {outdir} with that of a folder that becomes the result with all that is in it
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

/// A directory that is not written as HOST::GUEST.
#[derive(Debug, Error)]
#[error("--dir {} is not HOST::GUEST, the path of a directory here and for the program", .text.display())]
pub struct NotADirectory {
    text: OsString,
}

/// A variable that was given by its name alone, and has no value here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "--env {name}: this process has no variable of that name, or its value is not UTF-8 (or write --env {name}=VALUE)"
)]
pub struct NoValue {
    name: String,
}

impl GuestFlags {
    /// The variables as KEY=VALUE.
    ///
    /// # Errors
    ///
    /// When one was given by its name alone and has no value here.
    pub fn variables(&self) -> Result<Vec<String>, NoValue> {
        self.variables_from(|name| std::env::var(name).ok())
    }

    fn variables_from(&self, value: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, NoValue> {
        let variable = |text: &String| match text.contains('=') || text.is_empty() {
            true => Ok(text.clone()),
            false => value(text).map(|value| format!("{text}={value}")).ok_or_else(|| NoValue { name: text.clone() }),
        };
        self.env.iter().map(variable).collect()
    }

    /// Whether each unit gets an instance of its own. State that an instance keeps depends on the units before, so a
    /// deterministic guest always gets one; and arguments of one unit are not those of the next.
    pub fn is_fresh(&self) -> bool {
        self.fresh || self.calling.deterministic || self.arguments().have_placeholders()
    }

    /// The arguments, with the placeholders in them.
    pub fn arguments(&self) -> Arguments {
        if self.raw_args { Arguments::literal(&self.args) } else { Arguments::parse(&self.args) }
    }

    /// The directories, each with its path for the guest.
    ///
    /// # Errors
    ///
    /// When one is not written as HOST::GUEST.
    pub fn directories(&self) -> Result<Vec<(PathBuf, String)>, NotADirectory> {
        let refused = |text: &OsString| NotADirectory { text: text.clone() };
        self.dirs.iter().map(|text| split_directory(text).ok_or_else(|| refused(text))).collect()
    }
}

/// Splits at the last pair of colons: the path of a directory here may contain some, its path for the guest may not.
fn split_directory(text: &OsStr) -> Option<(PathBuf, String)> {
    let bytes = text.as_bytes();
    let middle = bytes.windows(2).rposition(|two| two == b"::")?;
    let (here, guest) = (bytes.get(..middle)?, bytes.get(middle + 2..)?);
    let guest = std::str::from_utf8(guest).ok()?.to_owned();
    (!here.is_empty()).then(|| (PathBuf::from(OsStr::from_bytes(here)), guest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_without_a_value_gets_that_of_this_process() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            guest: GuestFlags,
        }
        let told = |env: &str| {
            let line = <Line as clap::Parser>::try_parse_from(["queen", "--env", "A=1", "--env", env]).unwrap();
            line.guest.variables_from(|name| (name == "KEY").then(|| "a=b".to_owned()))
        };
        assert_eq!(told("KEY"), Ok(vec!["A=1".to_owned(), "KEY=a=b".to_owned()]));
        assert_eq!(told("KEY="), Ok(vec!["A=1".to_owned(), "KEY=".to_owned()]));
        assert_eq!(told("LOCK"), Err(NoValue { name: "LOCK".to_owned() }));
    }

    #[test]
    fn a_directory_is_split_at_the_last_colons() {
        let split = |text: &str| split_directory(text.as_ref());
        assert_eq!(split("a/b::/c"), Some(("a/b".into(), "/c".to_owned())));
        assert_eq!(split("a::b::c"), Some(("a::b".into(), "c".to_owned())));
        assert_eq!((split("a:b"), split("::c")), (None, None));
    }
}
