//! Tokens for people, and as JSON: without anything that must be kept secret.

use std::{
    fmt::{self, Display},
    time::SystemTime,
};

use distwasm_proto::text;

use super::{Grant, Tokens, file::show_time};

/// All tokens as a table.
pub(super) struct Table<'a>(pub(super) &'a Tokens, pub(super) SystemTime);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Table(tokens, now) = self;
        if tokens.is_empty() {
            return writeln!(f, "no tokens");
        }
        writeln!(
            f,
            "{:<8} {:<8} {:<20} {:<20} {:<20} {:<15}  NAME",
            "ID", "ROLE", "PROJECTS", "CREATED", "EXPIRES", "STATE"
        )?;
        for grant in tokens.iter() {
            let Grant { id, role, projects, name, .. } = grant;
            let (created, expires) = (show_time(grant.created), grant.expires.map_or("never".to_owned(), show_time));
            let (projects, state) = (projects.to_string(), grant.state(*now));
            let line = format!(
                "{id:<8} {role:<8} {:<20} {created:<20} {expires:<20} {state:<15}  {}",
                text::line(&projects),
                text::line(name)
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// All tokens as JSON, one line for each.
pub(super) struct JsonLines<'a>(pub(super) &'a Tokens, pub(super) SystemTime);

impl Display for JsonLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JsonLines(tokens, now) = self;
        tokens.iter().try_for_each(|grant| {
            let line = serde_json::json!({
                "id": grant.id.to_string(),
                "role": grant.role,
                "projects": grant.projects.names(),
                "name": grant.name,
                "created": show_time(grant.created),
                "expires": grant.expires.map(show_time),
                "revoked": grant.revoked.map(show_time),
                "state": grant.state(*now).to_string(),
            });
            writeln!(f, "{line}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Role,
            tests::{FINGERPRINT, at, wish},
        },
        *,
    };

    #[test]
    fn the_table_tells_all_tokens_apart_and_shows_no_secret() {
        let mut tokens = Tokens::default();
        let mut wish = wish(Role::Queen, &["lab-*", "b"], Some(30));
        "Lab\tof Ä".clone_into(&mut wish.name);
        let token = tokens.create(FINGERPRINT, wish, at(0)).unwrap();
        let id = token.id();
        let text = Table(&tokens, at(30)).to_string();
        let expected = format!(
            "{id} queen    lab-*, b             2027-01-15T08:00:00Z 2027-01-15T08:00:30Z expired          Lab\tof Ä"
        );
        assert_eq!(text.lines().nth(1), Some(expected.as_str()));
        let json = JsonLines(&tokens, at(0)).to_string();
        assert!(json.contains("\"state\":\"valid\"") && json.contains("\"projects\":[\"lab-*\",\"b\"]"), "{json}");
        let (bearer, digest) = (token.to_bearer(), token.secret_digest().to_hex());
        for shown in [text, json] {
            assert!(!shown.contains(&digest) && !shown.contains(&bearer[60..80]), "{shown}");
        }
        assert_eq!(Table(&Tokens::default(), at(0)).to_string(), "no tokens\n");
    }
}
