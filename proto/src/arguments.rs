//! Arguments of a guest with placeholders, such as `{}`, `{out.png}` and `{outdir}`, which are filled in for each unit. Queen and
//! peasant find the same ones in them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::limits::{FILE_NAME_BYTES_MAX, OUTPUT_ENDING_BYTES_MAX};

/// The folder in which a guest finds its input as a file.
pub const INPUT_FOLDER: &str = "in";
/// The folder in which a guest leaves its result: one file in it, or all that is in it.
pub const OUTPUT_FOLDER: &str = "out";

/// Arguments, with the placeholders that were found in them. Braces around anything else are text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    arguments: Vec<Vec<Part>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Word(Word),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Input,
    Name,
    Stem,
    Ext,
    Dir,
    Number,
    /// The path of the result, with this ending instead of the input's.
    Output(Option<String>),
    /// The folder in which all files are results.
    OutputFolder,
}

impl Word {
    fn is_output(&self) -> bool {
        matches!(self, Word::Output(_) | Word::OutputFolder)
    }
}

/// What the placeholders of one unit stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filling {
    /// The input's name as a file for the guest: the unit's, or `input` if that cannot be the name of a file there.
    pub name: String,
    dir: String,
    number: u64,
}

impl Filling {
    /// The filling of the unit with this name, the path of an input, and this number. What is not UTF-8 is replaced.
    pub fn of(unit: &[u8], number: u64) -> Filling {
        let path = Path::new(OsStr::from_bytes(unit));
        let text = |part: &OsStr| part.to_string_lossy().into_owned();
        let name = path.file_name().map(text).filter(|name| name.len() <= FILE_NAME_BYTES_MAX);
        let dir = path.parent().map(|dir| text(dir.as_os_str())).filter(|dir| !dir.is_empty());
        Filling { name: name.unwrap_or_else(|| "input".to_owned()), dir: dir.unwrap_or_else(|| ".".to_owned()), number }
    }

    fn stem(&self) -> &str {
        self.split().0
    }

    fn ext(&self) -> &str {
        self.split().1
    }

    /// As `Path::file_stem` has it: a name that begins with its only dot has no extension.
    fn split(&self) -> (&str, &str) {
        self.name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).unwrap_or((&self.name, ""))
    }

    /// The name of the file in which the guest leaves its result.
    fn output_name(&self, ending: Option<&str>) -> String {
        match ending {
            None => self.name.clone(),
            Some(ending) => {
                let most = FILE_NAME_BYTES_MAX - OUTPUT_ENDING_BYTES_MAX - 1;
                let stem = self.stem();
                format!("{}.{ending}", stem.get(..stem.floor_char_boundary(most)).unwrap_or(stem))
            }
        }
    }
}

impl Arguments {
    /// Finds the placeholders.
    pub fn parse(arguments: &[String]) -> Arguments {
        Arguments { arguments: arguments.iter().map(|argument| parts(argument)).collect() }
    }

    /// Arguments in which braces mean nothing.
    pub fn literal(arguments: &[String]) -> Arguments {
        Arguments { arguments: arguments.iter().map(|argument| vec![Part::Text(argument.clone())]).collect() }
    }

    fn words(&self) -> impl Iterator<Item = &Word> {
        self.arguments.iter().flatten().filter_map(|part| if let Part::Word(word) = part { Some(word) } else { None })
    }

    /// Whether there is any placeholder, so that they differ from unit to unit.
    pub fn have_placeholders(&self) -> bool {
        self.words().next().is_some()
    }

    /// Whether the guest gets its input as a file.
    pub fn name_input(&self) -> bool {
        self.words().any(|word| *word == Word::Input)
    }

    /// Whether the guest leaves its result in a file, or in a folder of files.
    pub fn name_output(&self) -> bool {
        self.words().any(Word::is_output)
    }

    /// Whether the guest leaves a folder of files as its result.
    pub fn name_output_folder(&self) -> bool {
        self.words().any(|word| *word == Word::OutputFolder)
    }

    /// The ending of the files with the results, if one was chosen.
    pub fn ending(&self) -> Option<&str> {
        self.words().find_map(|word| if let Word::Output(ending) = word { Some(ending.as_deref()) } else { None })?
    }

    /// Whether they name one result for each unit: a file with one ending, or a folder.
    pub fn agree_on_output(&self) -> bool {
        let mut outputs = self.words().filter(|word| word.is_output());
        let first = outputs.next();
        outputs.all(|other| Some(other) == first)
    }

    /// The arguments for one unit.
    pub fn fill_in(&self, filling: &Filling) -> Vec<String> {
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Word(Word::Input) => format!("/{INPUT_FOLDER}/{}", filling.name),
            Part::Word(Word::Name) => filling.name.clone(),
            Part::Word(Word::Stem) => filling.stem().to_owned(),
            Part::Word(Word::Ext) => filling.ext().to_owned(),
            Part::Word(Word::Dir) => filling.dir.clone(),
            Part::Word(Word::Number) => filling.number.to_string(),
            Part::Word(Word::Output(ending)) => format!("/{OUTPUT_FOLDER}/{}", filling.output_name(ending.as_deref())),
            Part::Word(Word::OutputFolder) => format!("/{OUTPUT_FOLDER}"),
        };
        self.arguments.iter().map(|parts| parts.iter().map(text).collect()).collect()
    }

    /// The path of the file in which the guest leaves its result.
    pub fn output_path(&self, filling: &Filling) -> String {
        format!("{OUTPUT_FOLDER}/{}", filling.output_name(self.ending()))
    }
}

fn parts(argument: &str) -> Vec<Part> {
    let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), argument);
    while let Some(place) = rest.find('{') {
        let (before, brace) = rest.split_at(place);
        literal += before;
        match word(brace) {
            Some((word, after)) => {
                parts.extend((!literal.is_empty()).then(|| Part::Text(std::mem::take(&mut literal))));
                parts.push(Part::Word(word));
                rest = after;
            }
            None => {
                literal.push('{');
                rest = brace.get(1..).unwrap_or_default();
            }
        }
    }
    literal += rest;
    parts.extend((!literal.is_empty()).then_some(Part::Text(literal)));
    parts
}

/// The placeholder at the beginning of a text, and what comes after it.
fn word(text: &str) -> Option<(Word, &str)> {
    let (inside, after) = text.strip_prefix('{')?.split_once('}')?;
    let word = match inside {
        "" => Word::Input,
        "name" => Word::Name,
        "stem" => Word::Stem,
        "ext" => Word::Ext,
        "dir" => Word::Dir,
        "number" => Word::Number,
        "out" => Word::Output(None),
        "outdir" => Word::OutputFolder,
        _ => Word::Output(Some(inside.strip_prefix("out.").filter(|ending| is_ending(ending))?.to_owned())),
    };
    Some((word, after))
}

fn is_ending(ending: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !ending.is_empty() && ending.len() <= OUTPUT_ENDING_BYTES_MAX && ending.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(argument: &str, unit: &[u8]) -> String {
        Arguments::parse(&[argument.to_owned()]).fill_in(&Filling::of(unit, 7)).concat()
    }

    #[test]
    fn placeholders_are_filled_in() {
        for (argument, wanted) in [
            ("{}", "/in/c.tar.gz"),
            ("--in={}", "--in=/in/c.tar.gz"),
            ("{name} {stem} {ext}", "c.tar.gz c.tar gz"),
            ("{dir}/{number}", "a/b/7"),
            ("{out}", "/out/c.tar.gz"),
            ("{out.png}", "/out/c.tar.png"),
            ("{outdir}/index.html", "/out/index.html"),
            ("{}{}", "/in/c.tar.gz/in/c.tar.gz"),
        ] {
            assert_eq!(filled(argument, b"a/b/c.tar.gz"), wanted, "{argument}");
        }
        assert_eq!(filled("{dir} {stem} {ext}.", b".profile"), ". .profile .");
    }

    #[test]
    fn other_braces_are_text() {
        for argument in ["{print $1}", "{{a}}", "{", "}", "{out./../x}", "{out.}", "{a{b}", "{\"k\": 1}", "{Name}"] {
            assert_eq!(filled(argument, b"x"), argument);
        }
        assert_eq!(filled("{ {name}", b"x"), "{ x");
        let literal = Arguments::literal(&["{}".to_owned()]);
        assert_eq!(
            (literal.fill_in(&Filling::of(b"x", 1)).concat().as_str(), literal.have_placeholders()),
            ("{}", false)
        );
    }

    #[test]
    fn names_that_a_guest_cannot_have_are_made() {
        assert_eq!(filled("{}", b"a/\xff.txt"), "/in/\u{fffd}.txt");
        // Written in UTF-8 it is longer than a name may be.
        assert_eq!(filled("{}", &[0xff; 255]), "/in/input");
        assert_eq!(filled("{}", b""), "/in/input");
        let long = "x".repeat(FILE_NAME_BYTES_MAX);
        assert!(filled("{out.jpeg}", long.as_bytes()).len() <= "/out/".len() + FILE_NAME_BYTES_MAX);
    }

    #[test]
    fn what_they_ask_for_is_known() {
        let parse = |arguments: &[&str]| {
            Arguments::parse(&arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>())
        };
        let both = parse(&["-o", "{out.png}", "{}"]);
        assert!(both.name_input() && both.name_output() && both.agree_on_output());
        assert_eq!(both.ending(), Some("png"));
        let folder = parse(&["{outdir}/a", "{outdir}"]);
        assert!(
            folder.name_output()
                && folder.name_output_folder()
                && folder.agree_on_output()
                && !both.name_output_folder()
        );
        for differing in [["{out}", "{out.png}"], ["{out}", "{outdir}"]] {
            assert!(!parse(&differing).agree_on_output());
        }
        let name = parse(&["{name}"]);
        assert!(name.have_placeholders() && !name.name_input() && !name.name_output());
    }
}
