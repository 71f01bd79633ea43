//! The first tokens of a king that other machines can reach: without them nobody could be let in.

use std::{env, fmt::Display, io};

use distwasm_process::clock::time_of_day;
use distwasm_transport::fingerprint::Fingerprint;
use rustix::fs::fstat;

use super::{
    Projects, Role, Wish,
    store::{Store, StoreError},
};

/// If the king has no tokens, makes one for dukes and one for queens, and returns the two lines that people paste on
/// other machines. `place` is where those reach the king.
///
/// # Errors
///
/// When the tokens cannot be read or written.
pub fn make(store: &Store, fingerprint: Fingerprint, place: &impl Display) -> Result<Option<String>, StoreError> {
    // Another king of this folder may do this at the same time.
    if !store.read()?.is_empty() {
        return Ok(None);
    }
    store.change(|tokens| {
        if !tokens.is_empty() {
            return Ok(None);
        }
        let mut create = |role, name: &str| {
            let wish = Wish { role, projects: Projects::default(), name: name.to_owned(), life: None };
            tokens.create(fingerprint, wish, time_of_day()).map(|token| token.to_bearer())
        };
        let (duke, queen) = (create(Role::Duke, "first dukes")?, create(Role::Queen, "first queens")?);
        Ok(Some(format!(
            "DISTWASM_TOKEN={duke} duke --king-address {place}\n\
             DISTWASM_TOKEN={queen} queen --king-address {place} --binary PROGRAM --input DIR --output DIR\n"
        )))
    })
}

/// Whether stdout is a log of systemd, which keeps what is written and shows it to others: no place for tokens.
pub fn stdout_is_a_log() -> bool {
    let (Ok(log), Ok(stdout)) = (env::var("JOURNAL_STREAM"), fstat(io::stdout())) else { return false };
    log == format!("{}:{}", stdout.st_dev, stdout.st_ino)
}

#[cfg(test)]
mod tests {
    use distwasm_transport::token::Token;

    use super::{super::tests::FINGERPRINT, *};

    #[test]
    fn a_king_without_tokens_makes_one_for_dukes_and_one_for_queens_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path());
        let lines = make(&store, FINGERPRINT, &"king-host:7").unwrap().unwrap();
        let mut roles = Vec::new();
        for line in lines.lines() {
            let (token, command) = line.strip_prefix("DISTWASM_TOKEN=").unwrap().split_once(' ').unwrap();
            assert!(command.contains(" --king-address king-host:7"), "{line}");
            let token: Token = token.parse().unwrap();
            let grant = store.read().unwrap().get(token.id()).cloned().unwrap();
            assert!(grant.has_secret_of(&token) && command.starts_with(&grant.role.to_string()));
            roles.push(grant.role);
        }
        assert_eq!(roles, [Role::Duke, Role::Queen]);
        assert_eq!(make(&store, FINGERPRINT, &"king-host:7").unwrap(), None);
        let ids: Vec<String> = store.read().unwrap().iter().map(|grant| grant.id.to_string()).collect();
        store.change(|tokens| tokens.revoke(&ids, time_of_day())).unwrap();
        assert_eq!(make(&store, FINGERPRINT, &"king-host:7").unwrap(), None, "they were revoked for a reason");
    }
}
