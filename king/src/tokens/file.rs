//! The text of a file of tokens: JSON Lines, the first of which says what the file is. Secrets are in it as digests only.

use std::{fmt::Write, time::SystemTime};

use distwasm_proto::{limits::TOKENS_MAX, text::is_name};
use distwasm_transport::token::SecretDigest;
use serde::{Deserialize, Serialize};

use super::{Grant, Projects, Role, Tokens};

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// The version of the format.
    distwasm_tokens: u32,
}

/// The version of the format that is written and read.
const FORMAT: u32 = 1;

/// One token.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    role: Role,
    projects: Vec<String>,
    name: String,
    created: String,
    expires: Option<String>,
    revoked: Option<String>,
    secret_sha256: String,
}

/// Where a text is damaged, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// The line, counted from 1.
    pub(super) line: usize,
    pub(super) why: String,
}

/// Reads the text.
///
/// # Errors
///
/// When any line of it is damaged: a token whose revocation cannot be read must not count as valid.
pub(super) fn parse(text: &str) -> Result<Tokens, Damage> {
    let damage = |line, why: String| Damage { line, why };
    let Some((head, rest)) = text.split_once('\n') else {
        return Err(damage(1, "the first line is cut off".to_owned()));
    };
    let head: Head = serde_json::from_str(head).map_err(|_| damage(1, "it is not a file of tokens".to_owned()))?;
    if head.distwasm_tokens != FORMAT {
        let why = format!("its format is {}, and this version of distwasm reads {FORMAT}", head.distwasm_tokens);
        return Err(damage(1, why));
    }
    let mut tokens = Tokens::default();
    for (line, text) in (2..).zip(rest.split_inclusive('\n')) {
        // Without this, a line that was cut off right before its end would pass.
        let text = text.strip_suffix('\n').ok_or_else(|| damage(line, "it is cut off".to_owned()))?;
        let grant = parse_line(text).map_err(|why| damage(line, why))?;
        if tokens.insert(grant).is_some() {
            return Err(damage(line, "an earlier line has the same id".to_owned()));
        }
        if line > TOKENS_MAX + 1 {
            return Err(damage(line, format!("there are more than {TOKENS_MAX} tokens")));
        }
    }
    Ok(tokens)
}

fn parse_line(text: &str) -> Result<Grant, String> {
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let time = |text: &str| {
        humantime::parse_rfc3339(text).map_err(|_| format!("{text:?} is not a time, such as 2026-01-31T12:00:00Z"))
    };
    if !is_name(&line.name) {
        return Err("its name is too long, or has control characters".to_owned());
    }
    Ok(Grant {
        id: line.id.parse().map_err(|_| format!("{:?} is not the id of a token", line.id))?,
        role: line.role,
        projects: Projects::new(line.projects).map_err(|error| error.to_string())?,
        name: line.name,
        created: time(&line.created)?,
        expires: line.expires.as_deref().map(time).transpose()?,
        revoked: line.revoked.as_deref().map(time).transpose()?,
        secret: SecretDigest::from_hex(&line.secret_sha256)
            .ok_or("secret_sha256 does not have 64 hexadecimal digits in lower case")?,
    })
}

/// The text of these tokens.
pub(super) fn render(tokens: &Tokens) -> String {
    let mut text = json(&Head { distwasm_tokens: FORMAT });
    text.push('\n');
    for grant in tokens.iter() {
        let line = Line {
            id: grant.id.to_string(),
            role: grant.role,
            projects: grant.projects.names().to_vec(),
            name: grant.name.clone(),
            created: show_time(grant.created),
            expires: grant.expires.map(show_time),
            revoked: grant.revoked.map(show_time),
            secret_sha256: grant.secret.to_hex(),
        };
        // Writing to a string does not fail.
        let _written = writeln!(text, "{}", json(&line));
    }
    text
}

/// A time for files and people, such as 2026-01-31T12:00:00Z.
pub(super) fn show_time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn json(value: &impl Serialize) -> String {
    // These values have no maps with keys that are not text, and nothing else that cannot be written.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{FINGERPRINT, at, wish},
        *,
    };

    fn tokens() -> Tokens {
        let mut tokens = Tokens::default();
        for (role, projects, life) in [
            (Role::Duke, &[][..], None),
            (Role::Queen, &["a", "lab-*", "ä \"b\""], Some(86_400)),
            (Role::Observer, &["a"], None),
            (Role::Admin, &[], Some(1)),
        ] {
            tokens.create(FINGERPRINT, wish(role, projects, life), at(0)).unwrap();
        }
        let first = tokens.iter().next().unwrap().id.to_string();
        tokens.revoke(&[first], at(3)).unwrap();
        tokens
    }

    #[test]
    fn tokens_are_read_as_they_were_written() {
        let text = render(&tokens());
        let read = parse(&text).unwrap();
        assert_eq!(render(&read), text);
        assert_eq!(text.lines().count(), 5);
        assert_eq!(parse("{\"distwasm_tokens\":1}\n").unwrap().iter().count(), 0);
    }

    #[test]
    fn the_file_has_no_secret() {
        let mut tokens = Tokens::default();
        let token = tokens.create(FINGERPRINT, wish(Role::Admin, &[], None), at(0)).unwrap();
        let bearer = token.to_bearer();
        let text = render(&tokens);
        // Any 8 characters of the secret's part.
        assert!(!bearer.as_bytes()[70..].windows(8).any(|part| text.contains(std::str::from_utf8(part).unwrap())));
    }

    #[test]
    fn a_damaged_file_is_refused_with_the_line() {
        let text = render(&tokens());
        for length in (0..text.len()).filter(|length| text.is_char_boundary(*length)) {
            let cut = parse(&text[..length]);
            // A file that ends with a line is whole, as far as that can be seen; the tokens behind it are unknown.
            assert_eq!(cut.is_ok(), text[..length].ends_with('\n'), "{length}");
        }
        let lines: Vec<&str> = text.lines().collect();
        let with = |number: usize, line: &str| {
            let mut lines = lines.clone();
            lines[number - 1] = line;
            parse(&(lines.join("\n") + "\n")).unwrap_err()
        };
        assert_eq!(with(1, "[]"), Damage { line: 1, why: "it is not a file of tokens".to_owned() });
        assert!(with(1, "{\"distwasm_tokens\":2}").why.contains("its format is 2"));
        for (from, to, why) in [
            ("\"role\":", "\"rule\":", "unknown field `rule`"),
            ("\"created\":\"2027", "\"created\":\"x027", "is not a time"),
            ("\"name\":\"\"", "\"name\":\"\\n\"", "its name is"),
            ("\"revoked\":", "\"revoked\":7,\"x\":", "invalid type"),
            ("\"id\":\"", "\"id\":\"u", "is not the id of a token"),
            ("\"secret_sha256\":\"", "\"secret_sha256\":\"0", "64 hexadecimal digits"),
        ] {
            let damage = with(3, &lines[2].replace(from, to));
            assert!(damage.line == 3 && damage.why.contains(why), "{damage:?}");
        }
        assert_eq!(with(4, lines[2]).why, "an earlier line has the same id");
        assert_eq!(with(4, "").line, 4);
    }
}
