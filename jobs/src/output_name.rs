//! What an output is called: a template such as `{dir}/{stem}.png`, filled in for each input. It is pure.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use distwasm_process::unfinished::{OWN_FOLDER, is_unfinished};
use distwasm_proto::limits::{FILE_NAME_BYTES_MAX, OUTPUT_PATH_BYTES_MAX};
use thiserror::Error;

/// See the module's documentation. The parts are filled in byte for byte, whatever the names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputName {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Word(Placeholder),
}

/// What stands in braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placeholder {
    Path,
    Dir,
    Name,
    Stem,
    Ext,
    Number,
}

const WORDS: [(&str, Placeholder); 6] = [
    ("path", Placeholder::Path),
    ("dir", Placeholder::Dir),
    ("name", Placeholder::Name),
    ("stem", Placeholder::Stem),
    ("ext", Placeholder::Ext),
    ("number", Placeholder::Number),
];

/// Why a template cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TemplateError {
    #[error("{{{word}}} is not known{meant} (there are {{path}}, {{dir}}, {{name}}, {{stem}}, {{ext}} and {{number}})")]
    Unknown { word: String, meant: String },
    #[error("a brace is not closed; write {{{{ for a brace in a name")]
    Unclosed,
    #[error("a brace is closed that was not opened; write }}}} for a brace in a name")]
    Unopened,
    #[error("it is empty")]
    Empty,
    #[error("it leads out of the output folder")]
    LeadsOut,
    #[error("it ends with a slash, and names a folder")]
    Folder,
    #[error("it has a NUL in it")]
    Nul,
}

impl FromStr for OutputName {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<OutputName, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(place) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(place);
            literal += before;
            if let Some(after) = brace.strip_prefix("{{").or_else(|| brace.strip_prefix("}}")) {
                literal.extend(brace.chars().next());
                rest = after;
                continue;
            }
            let inside = brace.strip_prefix('{').ok_or(TemplateError::Unopened)?;
            let (word, after) = inside.split_once('}').ok_or(TemplateError::Unclosed)?;
            let known = WORDS.iter().find(|(name, _)| *name == word);
            let (_, known) =
                known.ok_or_else(|| TemplateError::Unknown { word: word.to_owned(), meant: meant(word) })?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Word(*known));
            rest = after;
        }
        literal += rest;
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        let template = OutputName { parts };
        template.check().map(|()| template)
    }
}

/// What GNU parallel, and others, call the words.
const ELSEWHERE: [(&str, &str); 11] = [
    ("", "{path}"),
    (".", "{dir}/{stem}"),
    ("/", "{name}"),
    ("/.", "{stem}"),
    ("//", "{dir}"),
    ("#", "{number}"),
    ("basename", "{name}"),
    ("file", "{name}"),
    ("filename", "{name}"),
    ("parent", "{dir}"),
    ("extension", "{ext}"),
];

/// How similar two words are, from 0 to 1, if one may be meant for the other.
const SIMILAR: f64 = 0.7;

/// A question for what may be meant by a word.
fn meant(word: &str) -> String {
    let elsewhere = ELSEWHERE.iter().find(|(name, _)| *name == word).map(|(_, words)| (*words).to_owned());
    let similarity = |name: &str| strsim::jaro_winkler(name, &word.to_lowercase());
    let nearest =
        WORDS.iter().map(|(name, _)| *name).max_by(|one, other| similarity(one).total_cmp(&similarity(other)));
    let nearest = nearest.filter(|name| similarity(name) > SIMILAR).map(|name| format!("{{{name}}}"));
    elsewhere.or(nearest).map_or_else(String::new, |meant| format!(": did you mean {meant}?"))
}

impl OutputName {
    fn check(&self) -> Result<(), TemplateError> {
        let texts = || self.parts.iter().filter_map(|part| if let Part::Text(text) = part { Some(text) } else { None });
        if self.parts.is_empty() {
            return Err(TemplateError::Empty);
        }
        if texts().any(|text| text.contains('\0')) {
            return Err(TemplateError::Nul);
        }
        let first_is = |character| matches!(self.parts.first(), Some(Part::Text(text)) if text.starts_with(character));
        if first_is('/') || texts().any(|text| text.split('/').any(|part| part == "..")) {
            return Err(TemplateError::LeadsOut);
        }
        match self.parts.last() {
            Some(Part::Text(text)) if text.ends_with('/') => Err(TemplateError::Folder),
            _ => Ok(()),
        }
    }

    /// Whether all inputs would have one output: nothing stands in braces.
    pub fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// Whether the output of an input depends on the inputs before it.
    pub fn has_number(&self) -> bool {
        self.parts.contains(&Part::Word(Placeholder::Number))
    }

    /// Whether two inputs can never have one output, whatever their names. If not, a survey of all names finds out.
    pub fn is_one_to_one(&self) -> bool {
        use Part::{Text, Word as In};
        let parts = match &self.parts[..] {
            [Text(_), rest @ ..] => rest,
            all => all,
        };
        match parts {
            [In(Placeholder::Path | Placeholder::Number)] | [In(Placeholder::Path | Placeholder::Number), Text(_)] => {
                true
            }
            // The folder ends where the one slash between them is.
            [In(Placeholder::Dir), Text(between), In(Placeholder::Name), after @ ..] => {
                between.strip_prefix('/').is_some_and(|rest| !rest.contains('/'))
                    && after.iter().all(|part| matches!(part, Text(text) if !text.contains('/')))
            }
            _ => false,
        }
    }

    /// The path of an output below the output folder. `path` is that of the input below the input folder, and `number`
    /// says which input of the run it is, from 1.
    ///
    /// # Errors
    ///
    /// When there can be no such file, with the reason: it leads out of the output folder, is too long, or belongs to
    /// distwasm.
    pub fn fill_in(&self, path: &Path, number: u64) -> Result<PathBuf, String> {
        let mut filled = Vec::with_capacity(path.as_os_str().len() + 16);
        let parts = PathParts::of(path);
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.extend(text.as_bytes()),
                Part::Word(Placeholder::Path) => filled.extend(parts.path),
                Part::Word(Placeholder::Dir) => filled.extend(parts.dir),
                Part::Word(Placeholder::Name) => filled.extend(parts.name),
                Part::Word(Placeholder::Stem) => filled.extend(parts.stem),
                Part::Word(Placeholder::Ext) => filled.extend(parts.ext),
                Part::Word(Placeholder::Number) => filled.extend(number.to_string().as_bytes()),
            }
        }
        let output = PathBuf::from(OsString::from_vec(tidy(filled)));
        check_output(&output).map_err(|why| format!("{why}: {output:?}"))?;
        Ok(output)
    }
}

/// The parts of a path that has no needless slashes and dots. Finding them in the bytes takes a tenth of the time that
/// [`Path::components`] takes, and they are found for each input.
struct PathParts<'a> {
    path: &'a [u8],
    dir: &'a [u8],
    name: &'a [u8],
    stem: &'a [u8],
    ext: &'a [u8],
}

impl PathParts<'_> {
    fn of(path: &Path) -> PathParts<'_> {
        let path = path.as_os_str().as_bytes();
        let (dir, name) = split_last(path, b'/').unwrap_or((&[], path));
        // As `Path::file_stem` has it, a name that begins with its only dot has no extension.
        let (stem, ext) = split_last(name, b'.').filter(|(stem, _)| !stem.is_empty()).unwrap_or((name, &[]));
        PathParts { path, dir, name, stem, ext }
    }
}

/// What stands before and after the last of these bytes.
pub(crate) fn split_last(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = bytes.iter().rposition(|byte| *byte == at)?;
    Some((bytes.get(..place)?, bytes.get(place + 1..)?))
}

/// A path without needless slashes and dots. An input at the top has no folder: `{dir}/{name}` begins with a slash then.
fn tidy(path: Vec<u8>) -> Vec<u8> {
    let is_needless = |part: &[u8]| part.is_empty() || part == b".";
    // A path that ends with a slash is refused later, and keeps it.
    let is_tidy = !path.split(|byte| *byte == b'/').any(is_needless);
    if is_tidy || path.ends_with(b"/") {
        return path;
    }
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !is_needless(part)).collect();
    parts.join(&b'/')
}

/// Whether a tidy path below the output folder can be that of an output, and why not.
pub(crate) fn check_output(path: &Path) -> Result<(), String> {
    let bytes = path.as_os_str().as_bytes();
    let parts = || bytes.split(|byte| *byte == b'/');
    if bytes.is_empty() || bytes.ends_with(b"/") {
        return Err("its output would have no name".to_owned());
    }
    if bytes.starts_with(b"/") || parts().any(|part| part == b"..") {
        return Err("its output would lead out of the output folder".to_owned());
    }
    if bytes.len() > OUTPUT_PATH_BYTES_MAX {
        return Err(format!("its output would have a path of more than {OUTPUT_PATH_BYTES_MAX} bytes"));
    }
    if parts().any(|part| part.len() > FILE_NAME_BYTES_MAX) {
        return Err(format!("its output would have a name of more than {FILE_NAME_BYTES_MAX} bytes"));
    }
    let is_ours = |name: &[u8]| is_unfinished(OsStr::from_bytes(name));
    if parts().next() == Some(OWN_FOLDER.as_bytes()) || parts().next_back().is_some_and(is_ours) {
        return Err("its output would have a name that distwasm uses itself".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str, path: &str) -> Result<String, String> {
        let name = template.parse::<OutputName>().unwrap().fill_in(Path::new(path), 7)?;
        Ok(name.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_template_is_filled_in_for_each_input() {
        for (template, path, expected) in [
            ("{dir}/{stem}.png", "a/b/c.svg", "a/b/c.png"),
            ("{dir}/{stem}.png", "c.svg", "c.png"),
            ("{path}.out", "a/b.tar.gz", "a/b.tar.gz.out"),
            ("{name}", "a/b.c", "b.c"),
            ("{stem}", "a.b/c", "c"),
            ("{stem}-{ext}", "a.", "a-"),
            ("{stem}-{ext}", "a/b.tar.gz", "b.tar-gz"),
            ("{stem}{ext}", ".hidden", ".hidden"),
            ("{number}", "a/b", "7"),
            ("x{{{number}}}", "a", "x{7}"),
            ("flat/{dir}-{name}", "a/b", "flat/a-b"),
            ("./{dir}//{name}", "a/b", "a/b"),
            ("one", "a/b", "one"),
        ] {
            assert_eq!(filled(template, path).as_deref(), Ok(expected), "{template}: {path}");
        }
        let name = "{stem}.x".parse::<OutputName>().unwrap();
        let odd = Path::new(OsStr::from_bytes(b"d/\xff\xfe.y"));
        assert_eq!(name.fill_in(odd, 1).unwrap().as_os_str().as_bytes(), b"\xff\xfe.x");
    }

    #[test]
    fn a_template_that_cannot_be_used_is_refused() {
        for (template, why) in [
            ("{steam}", "did you mean {stem}?"),
            ("{extension}", "did you mean {ext}?"),
            ("{directory}", "did you mean {dir}?"),
            ("{filename}", "did you mean {name}?"),
            ("{stm}", "did you mean {stem}?"),
            ("{}", "did you mean {path}?"),
            ("{/.}", "did you mean {stem}?"),
            ("{size}", "{size} is not known (there are {path}, "),
            ("{dir", "not closed"),
            ("dir}", "not opened"),
            ("", "empty"),
            ("/{name}", "leads out"),
            ("../{name}", "leads out"),
            ("{dir}/../{name}", "leads out"),
            ("{dir}/", "folder"),
            ("a\0", "NUL"),
        ] {
            let error = template.parse::<OutputName>().unwrap_err().to_string();
            assert!(error.contains(why), "{template}: {error}");
        }
    }

    #[test]
    fn an_output_stays_in_its_folder_under_a_name_that_a_file_can_have() {
        let long = "n".repeat(253);
        for (template, path, why) in [
            ("{stem}", "a/...", "lead out"),
            ("{dir}/{ext}", "a/b", "no name"),
            ("{ext}", "b", "no name"),
            ("{stem}.png", &long, "more than 255"),
            ("{name}/{path}", &format!("{}x", "d/".repeat(2100)), "more than 4095"),
            (".distwasm/{name}", "a", "uses itself"),
            (".distwasm-1-{number}.unfinished", "a", "uses itself"),
        ] {
            let error = filled(template, path).unwrap_err();
            assert!(error.contains(why), "{template}: {error}");
        }
    }

    #[test]
    fn it_is_known_whether_two_inputs_may_have_one_output() {
        for (template, is_one_to_one) in [
            ("{path}", true),
            ("{path}.png", true),
            ("{number}.txt", true),
            ("{dir}/{name}.png", true),
            ("x/{dir}/y-{name}", true),
            ("{dir}/{stem}.png", false),
            ("{dir}{name}", false),
            ("{dir}-{name}", false),
            ("{dir}/{name}/x", false),
            ("{name}", false),
            ("{number}{path}", false),
            ("x", false),
        ] {
            assert_eq!(template.parse::<OutputName>().unwrap().is_one_to_one(), is_one_to_one, "{template}");
        }
    }
}
