//! The projects that a token is for.

use std::fmt;

use distwasm_proto::{limits::TOKEN_PROJECTS_MAX, text::is_name};
use thiserror::Error;

/// Names of projects, or patterns in which `*` stands for any text. Without any, all projects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Projects(Vec<String>);

/// Why these are not names of projects.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ProjectsError {
    #[error("a project has a name of 1 to 255 bytes without control characters")]
    NotName,
    #[error("a token may name {TOKEN_PROJECTS_MAX} projects: use a pattern, such as lab-*")]
    TooMany,
}

impl Projects {
    /// These projects, or all if there are none.
    ///
    /// # Errors
    ///
    /// When no project can be called so, or there are too many.
    pub fn new(names: Vec<String>) -> Result<Projects, ProjectsError> {
        if names.len() > TOKEN_PROJECTS_MAX {
            return Err(ProjectsError::TooMany);
        }
        if names.iter().any(|name| name.is_empty() || !is_name(name)) {
            return Err(ProjectsError::NotName);
        }
        Ok(Projects(names))
    }

    /// Whether a project is one of them.
    pub fn have(&self, project: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| matches(pattern, project))
    }

    /// Whether they are all projects.
    pub fn are_all(&self) -> bool {
        self.0.is_empty()
    }

    /// The names and patterns.
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Projects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.are_all() { f.pad("all") } else { f.pad(&self.0.join(", ")) }
    }
}

/// Whether a name fits a pattern.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut name) = name.strip_prefix(start).and_then(|name| name.strip_suffix(end)) else { return false };
    // The first place of each part leaves the most room for the parts that follow.
    middle.split('*').all(|part| match name.split_once(part) {
        Some((_, after)) => {
            name = after;
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_all_projects_that_fit_it_and_no_others() {
        for (pattern, fits, does_not) in [
            ("lab", &["lab"][..], &["", "la", "labs", "Lab", "*"][..]),
            ("*", &["", "lab", "a*b"], &[]),
            ("lab-*", &["lab-", "lab-1", "lab-*"], &["lab", "xlab-1"]),
            ("*-x", &["-x", "a-x", "-x-x"], &["x", "a-xx"]),
            ("a*b*c", &["abc", "a1b2c", "abbcc", "abcbc"], &["ac", "acb", "abcd", "xabc"]),
            ("a*a", &["aa", "aba"], &["a", "ab"]),
            ("**", &["", "x"], &[]),
            ("ä*", &["ä", "äö"], &["a"]),
        ] {
            let projects = Projects::new(vec![pattern.to_owned()]).unwrap();
            assert!(fits.iter().all(|name| projects.have(name)), "{pattern}");
            assert!(!does_not.iter().any(|name| projects.have(name)), "{pattern}");
        }
        assert!(Projects::default().have("any"));
        let two = Projects::new(vec!["a".to_owned(), "b*".to_owned()]).unwrap();
        assert_eq!(["a", "b", "b1", "c"].map(|name| two.have(name)), [true, true, true, false]);
    }

    #[test]
    fn names_that_no_project_has_are_refused() {
        for name in ["", "a\nb", "\x1b[2J"] {
            assert_eq!(Projects::new(vec![name.to_owned()]), Err(ProjectsError::NotName), "{name:?}");
        }
        assert_eq!(Projects::new(vec!["a".to_owned(); TOKEN_PROJECTS_MAX + 1]), Err(ProjectsError::TooMany));
    }
}
