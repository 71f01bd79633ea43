//! The flags that say which files are inputs, for a job and for a check.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, builder::BoolishValueParser};
use distwasm_jobs::{
    file_time::FileTime,
    inputs::{
        InputRules, Names,
        survey::{Survey, SurveyError},
    },
    selection::{GlobError, GlobRule, Globs, Selection, Shard},
};
use distwasm_process::flags;
use distwasm_proto::limits::GLOBS_BYTES_MAX;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// Which files are inputs.
#[derive(Args, Clone, Debug, Default)]
pub struct SelectionOptions {
    /// Run only the inputs that FILE lists, one path a line below the input folder, in this order; `-` reads the list
    /// from stdin
    #[arg(long, value_name = "FILE", env = "DISTWASM_INPUT_LIST")]
    pub input_list: Option<PathBuf>,

    /// The paths in the list end with NUL instead of a line break, as `find -print0` writes them
    #[arg(short = '0', long, env = "DISTWASM_NULL", value_parser = BoolishValueParser::new())]
    pub null: bool,

    /// Follow links among the inputs also where they lead out of the input folder; without this flag such a link is
    /// skipped, with a message
    #[arg(long, env = "DISTWASM_FOLLOW_LINKS", value_parser = BoolishValueParser::new())]
    pub follow_links: bool,

    /// The globs, in their order.
    #[command(flatten)]
    pub globs: GlobFlags,

    /// Run only inputs that were changed after FILE was, or after a time in UTC such as 2026-11-27 or
    /// 2026-11-27T08:30:00
    #[arg(long, value_name = "FILE|TIME", env = "DISTWASM_NEWER_THAN")]
    pub newer_than: Option<PathBuf>,

    /// Run only shard I of N: several queens share the inputs without talking to each other
    #[arg(long, value_name = "I/N", env = "DISTWASM_SHARD")]
    pub shard: Option<Shard>,

    /// Run only N inputs, chosen at random, the same ones each time
    #[arg(long, value_name = "N", env = "DISTWASM_SAMPLE", value_parser = flags::whole_number(1..=u64::MAX))]
    pub sample: Option<u64>,

    /// Seed of --sample: another seed chooses other inputs
    #[arg(long, value_name = "N", default_value_t = 0, env = "DISTWASM_SAMPLE_SEED", value_parser = flags::whole_number(0..=u64::MAX))]
    pub sample_seed: u64,

    /// Run only the first N of the inputs that the other flags leave, whether they are done or not
    #[arg(long, value_name = "N", env = "DISTWASM_LIMIT", value_parser = flags::whole_number(1..=u64::MAX))]
    pub limit: Option<u64>,
}

/// The globs of `--include`, `--exclude` and `--exclude-from`, in the order in which they were given.
#[derive(Clone, Debug, Default)]
pub struct GlobFlags(Vec<GlobFlag>);

#[derive(Clone, Debug)]
enum GlobFlag {
    Include(String),
    Exclude(String),
    ExcludeFrom(PathBuf),
}

/// Why the flags cannot be used.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SelectionError {
    #[error(transparent)]
    Glob(#[from] GlobError),
    #[error("failed to read the globs in {} (--exclude-from)", .path.display())]
    ExcludeFrom { path: PathBuf, source: io::Error },
    #[error("line {line} of {} (--exclude-from) {why}", .path.display())]
    ExcludeLine { path: PathBuf, line: usize, why: &'static str },
    #[error("--newer-than: there is no file {}, and it is not a time in UTC such as 2026-11-27 or 2026-11-27T08:30:00", .path.display())]
    NewerThan { path: PathBuf },
    #[error("failed to examine {} (--newer-than)", .path.display())]
    NewerThanFile { path: PathBuf, source: io::Error },
}

impl SelectionOptions {
    /// Whether links among these inputs are followed wherever they lead. A file that `--input` names may be such a link.
    pub fn follows_links(&self, names: &Names) -> bool {
        self.follow_links || (self.input_list.is_none() && matches!(names, Names::Listed(_)))
    }

    /// The filters that they describe; a sample is found later.
    ///
    /// # Errors
    ///
    /// When one of them cannot be used.
    pub fn selection(&self) -> Result<Selection, SelectionError> {
        let newer_than = self.newer_than.as_deref().map(bound).transpose()?;
        Ok(Selection { globs: self.globs.globs()?, newer_than, shard: self.shard, sample: None, limit: self.limit })
    }

    /// Draws the sample, if there is to be one.
    ///
    /// # Errors
    ///
    /// When the survey of all names was interrupted.
    pub fn draw_sample(
        &self,
        input: &Path,
        rules: &mut InputRules,
        interrupted: &CancellationToken,
    ) -> Result<(), SurveyError> {
        if let Some(size) = self.sample {
            rules.selection.sample = Some(Survey { input, rules, interrupted }.sample(size, self.sample_seed)?);
        }
        Ok(())
    }
}

/// The time of a file, or the time that a text names.
fn bound(path: &Path) -> Result<FileTime, SelectionError> {
    let unknown = match fs::metadata(path) {
        Ok(found) => return Ok(FileTime::of(&found)),
        Err(error) => error,
    };
    let time = path.to_str().and_then(|text| {
        // A day, a minute or a second.
        let forms = [text.to_owned(), format!("{text}:00"), format!("{text} 00:00:00")];
        forms.iter().find_map(|text| humantime::parse_rfc3339_weak(text).ok())
    });
    match time {
        Some(time) => Ok(time.into()),
        None if unknown.kind() == ErrorKind::NotFound => Err(SelectionError::NewerThan { path: path.to_owned() }),
        None => Err(SelectionError::NewerThanFile { path: path.to_owned(), source: unknown }),
    }
}

impl GlobFlags {
    fn globs(&self) -> Result<Globs, SelectionError> {
        let mut rules = Vec::new();
        for flag in &self.0 {
            let rule = |is_include, glob: &str, place: &str| GlobRule {
                is_include,
                glob: glob.to_owned(),
                place: place.to_owned(),
            };
            match flag {
                GlobFlag::Include(glob) => rules.push(rule(true, glob, "--include")),
                GlobFlag::Exclude(glob) => rules.push(rule(false, glob, "--exclude")),
                GlobFlag::ExcludeFrom(path) => {
                    for (line, glob) in excluded(path)? {
                        rules.push(rule(false, &glob, &format!("line {line} of {} (--exclude-from)", path.display())));
                    }
                }
            }
        }
        Ok(Globs::new(&rules)?)
    }
}

/// The globs in a file: one a line, without empty lines and those that begin with `#`.
fn excluded(path: &Path) -> Result<Vec<(usize, String)>, SelectionError> {
    let unread = |source| SelectionError::ExcludeFrom { path: path.to_owned(), source };
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(GLOBS_BYTES_MAX + 1).read_to_end(&mut text)).map_err(unread)?;
    if text.len() as u64 > GLOBS_BYTES_MAX {
        return Err(unread(io::Error::other(format!("it has more than {} MB", GLOBS_BYTES_MAX >> 20))));
    }
    let mut globs = Vec::new();
    for (line, bytes) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let broken = |why| SelectionError::ExcludeLine { path: path.to_owned(), line, why };
        let glob = str::from_utf8(bytes).map_err(|_| broken("is not UTF-8"))?.trim_end_matches('\r');
        if glob.starts_with('!') {
            return Err(broken(
                "begins with `!`, which is not understood here: use --include, or write \\! for a name",
            ));
        }
        if !glob.trim().is_empty() && !glob.starts_with('#') {
            globs.push((line, glob.to_owned()));
        }
    }
    Ok(globs)
}

const INCLUDE: &str = "include";
const EXCLUDE: &str = "exclude";
const EXCLUDE_FROM: &str = "exclude_from";

impl Args for GlobFlags {
    fn augment_args(command: Command) -> Command {
        let glob = |id: &'static str, help: &'static str| {
            Arg::new(id).long(id).value_name("GLOB").action(ArgAction::Append).help(help)
        };
        command
            .arg(glob(
                INCLUDE,
                "Run only inputs that match GLOB: `*.svg` a name in any folder, `logs/**/*.gz` a path. May be given \
                 several times, as may --exclude; the last one that matches an input, or a folder above it, decides",
            ))
            .arg(glob(
                EXCLUDE,
                "Leave out inputs, or folders of inputs, that match GLOB; a slash at its end means folders only",
            ))
            .arg(
                Arg::new(EXCLUDE_FROM)
                    .long("exclude-from")
                    .value_name("FILE")
                    .action(ArgAction::Append)
                    .value_parser(clap::value_parser!(PathBuf))
                    .help("Exclude the globs in FILE, one a line; lines that begin with # are comments"),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        GlobFlags::augment_args(command)
    }
}

impl FromArgMatches for GlobFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<GlobFlags, clap::Error> {
        let mut flags: Vec<(usize, GlobFlag)> = Vec::new();
        let texts =
            |id| matches.indices_of(id).into_iter().flatten().zip(matches.get_many::<String>(id).into_iter().flatten());
        flags.extend(texts(INCLUDE).map(|(place, glob)| (place, GlobFlag::Include(glob.clone()))));
        flags.extend(texts(EXCLUDE).map(|(place, glob)| (place, GlobFlag::Exclude(glob.clone()))));
        let files = matches.get_many::<PathBuf>(EXCLUDE_FROM).into_iter().flatten();
        let places = matches.indices_of(EXCLUDE_FROM).into_iter().flatten();
        flags.extend(places.zip(files).map(|(place, path)| (place, GlobFlag::ExcludeFrom(path.clone()))));
        flags.sort_by_key(|(place, _)| *place);
        Ok(GlobFlags(flags.into_iter().map(|(_, flag)| flag).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = GlobFlags::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        selection: SelectionOptions,
    }

    fn options(args: &[&str]) -> SelectionOptions {
        Line::try_parse_from(["queen"].iter().chain(args)).unwrap().selection
    }

    #[test]
    fn globs_keep_their_order_whatever_their_flags() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("globs");
        fs::write(&file, "# comment\n\n*.tmp\r\n \n.git\n").unwrap();
        let file = file.to_str().unwrap();
        let told =
            options(&["--exclude", "a", "--exclude-from", file, "--include=b", "--exclude", "c", "--include", "d"]);
        use GlobFlag::{Exclude, ExcludeFrom, Include};
        assert!(matches!(&told.globs.0[..], [Exclude(_), ExcludeFrom(_), Include(_), Exclude(_), Include(_)]));
        assert!(told.selection().is_ok());
        let lines = excluded(Path::new(file)).unwrap();
        assert_eq!(lines, [(3, "*.tmp".to_owned()), (5, ".git".to_owned())]);
    }

    #[test]
    fn flags_that_cannot_be_used_say_where_and_why() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("globs");
        let place = file.to_str().unwrap();
        let why = |args: &[&str]| options(args).selection().unwrap_err().to_string();
        assert!(why(&["--include", "a["]).starts_with("--include: the glob \"a[\" cannot be used: unclosed"));
        assert!(why(&["--exclude-from", place]).starts_with("failed to read the globs in"));
        for (text, expected) in
            [(&b"a\n{b\n"[..], "line 2 of"), (b"a\n\n\xff", "line 3 of"), (b"!a", "begins with `!`")]
        {
            fs::write(&file, text).unwrap();
            let why = why(&["--exclude-from", place]);
            assert!(why.contains(expected), "{why}");
        }
        assert!(why(&["--newer-than", "/nowhere"]).contains("there is no file /nowhere"));
    }

    #[test]
    fn a_bound_is_a_file_or_a_time() {
        let time = |text: &str| bound(Path::new(text)).unwrap();
        let at = |millis| FileTime::from(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(time("1970-01-02"), at(86_400_000));
        assert_eq!(time("1970-01-01T00:00:01.5Z"), at(1500));
        assert_eq!(time("1970-01-01 00:01:00"), at(60_000));
        assert_eq!(time("1970-01-01T00:01"), at(60_000));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(bound(file.path()).unwrap(), FileTime::of(&file.as_file().metadata().unwrap()));
    }
}
