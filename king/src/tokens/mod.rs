//! The tokens that a king has given out: who may do what, until when. Nothing here touches a file or a clock.
//!
//! `store.rs` keeps them in a file, and [`crate::authority`] asks them about each peer.

pub mod command;
mod file;
pub mod first;
mod projects;
pub mod store;
mod table;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use distwasm_proto::limits::{TOKEN_CLOCK_SKEW, TOKENS_MAX};
use distwasm_transport::{
    fingerprint::Fingerprint,
    token::{SecretDigest, Token, TokenId},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use projects::{Projects, ProjectsError};

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Offers a machine's slots.
    Duke,
    /// Submits jobs in its projects, and sees the jobs of these projects
    Queen,
    /// Sees the jobs of its projects, and the metrics
    Observer,
    /// Everything
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Duke => "duke",
            Role::Queen => "queen",
            Role::Observer => "observer",
            Role::Admin => "admin",
        })
    }
}

/// What the king knows of one token.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Its id.
    pub id: TokenId,
    /// What it is for.
    pub role: Role,
    /// The projects that it is for.
    pub projects: Projects,
    /// A name for people; may be empty.
    pub name: String,
    /// When it was made.
    pub created: SystemTime,
    /// From when on it is not valid any more, if it expires.
    pub expires: Option<SystemTime>,
    /// When it was revoked, if it was.
    pub revoked: Option<SystemTime>,
    /// The digest of its secret.
    secret: SecretDigest,
}

/// Whether a token is valid at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is.
    Valid,
    /// Not any more: it has expired.
    Expired,
    /// Not any more: it was revoked.
    Revoked,
    /// It was made later than now, so the clock is wrong, and its time cannot be judged.
    FromTheFuture,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Valid => "valid",
            State::Expired => "expired",
            State::Revoked => "revoked",
            State::FromTheFuture => "from the future",
        })
    }
}

/// What a new token is to be.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What it is for.
    pub role: Role,
    /// The projects that it is for.
    pub projects: Projects,
    /// A name for people; may be empty.
    pub name: String,
    /// How long it is valid, unless it is for good.
    pub life: Option<Duration>,
}

/// Why a token cannot be made or revoked.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TokensError {
    #[error("the system gives no random numbers")]
    Random(#[source] std::io::Error),
    #[error("there are {TOKENS_MAX} tokens already, which is as many as a king keeps: revoke some of them")]
    TooMany,
    #[error("no token has the id {0}; `king token list` shows all")]
    Unknown(String),
    #[error("the ids of several tokens begin with {0}: write more of it")]
    Ambiguous(String),
}

/// All tokens of a king, by their ids.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    grants: BTreeMap<TokenId, Arc<Grant>>,
}

impl Grant {
    /// Whether the token is valid at this moment.
    pub fn state(&self, now: SystemTime) -> State {
        if self.revoked.is_some() {
            State::Revoked
        } else if self.expires.is_some_and(|expires| expires <= now) {
            State::Expired
        } else if self.created.duration_since(now).is_ok_and(|ahead| ahead > TOKEN_CLOCK_SKEW) {
            State::FromTheFuture
        } else {
            State::Valid
        }
    }

    /// Whether this is the token's secret.
    pub fn has_secret_of(&self, token: &Token) -> bool {
        self.secret.is_same(token.secret_digest())
    }

    /// When it ended, if it has.
    fn ended(&self, now: SystemTime) -> Option<SystemTime> {
        let expired = self.expires.filter(|expires| *expires <= now);
        [self.revoked, expired].into_iter().flatten().min()
    }
}

impl Tokens {
    /// Whether no token was ever made, or all were forgotten.
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    /// What is known of a token.
    pub fn get(&self, id: TokenId) -> Option<&Arc<Grant>> {
        self.grants.get(&id)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values().map(AsRef::as_ref)
    }

    /// Makes a token for the king with this fingerprint.
    ///
    /// # Errors
    ///
    /// When there are too many, and none of them has ended, or when the system has no randomness.
    pub fn create(&mut self, fingerprint: Fingerprint, wish: Wish, now: SystemTime) -> Result<Token, TokensError> {
        let token = loop {
            let token = Token::generate(fingerprint).map_err(TokensError::Random)?;
            if !self.grants.contains_key(&token.id()) {
                break token;
            }
        };
        let Wish { role, projects, name, life } = wish;
        if self.grants.len() >= TOKENS_MAX {
            let ended = self.grants.values().filter_map(|grant| Some((grant.ended(now)?, grant.id)));
            let (_, first) = ended.min().ok_or(TokensError::TooMany)?;
            self.grants.remove(&first);
        }
        // Whole seconds, as they are written.
        let created = whole_seconds(now);
        let expires = life.and_then(|life| created.checked_add(life));
        let (id, secret) = (token.id(), token.secret_digest());
        self.insert(Grant { id, role, projects, name, created, expires, revoked: None, secret });
        Ok(token)
    }

    /// Revokes the tokens with these ids, or with the only ids that begin so. Returns those that were still valid.
    ///
    /// # Errors
    ///
    /// When an id is not that of one token. Then none is revoked.
    pub fn revoke(&mut self, ids: &[String], now: SystemTime) -> Result<Vec<TokenId>, TokensError> {
        let found = ids.iter().map(|id| self.find(id)).collect::<Result<Vec<TokenId>, TokensError>>()?;
        let mut revoked = Vec::new();
        for id in found {
            let Some(grant) = self.grants.get_mut(&id) else { continue };
            if grant.revoked.is_none() {
                Arc::make_mut(grant).revoked = Some(whole_seconds(now));
                revoked.push(id);
            }
        }
        Ok(revoked)
    }

    /// The token with this id, or the only one whose id begins so.
    fn find(&self, text: &str) -> Result<TokenId, TokensError> {
        let start = text.to_ascii_lowercase();
        let mut found = self.grants.keys().filter(|id| !start.is_empty() && id.to_string().starts_with(&start));
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(*id),
            (None, _) => Err(TokensError::Unknown(text.to_owned())),
            (Some(_), Some(_)) => Err(TokensError::Ambiguous(text.to_owned())),
        }
    }

    /// Takes in a token; returns the one with the same id, if there was one.
    fn insert(&mut self, grant: Grant) -> Option<Arc<Grant>> {
        self.grants.insert(grant.id, Arc::new(grant))
    }
}

/// The time without fractions of a second.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A moment of tests, this many seconds after an arbitrary one.
    pub(crate) fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    /// The key of the king of tests.
    pub(crate) const FINGERPRINT: Fingerprint = Fingerprint([7; 32]);

    pub(crate) fn wish(role: Role, projects: &[&str], life: Option<u64>) -> Wish {
        let projects: Vec<String> = projects.iter().map(|&project| project.to_owned()).collect();
        let life = life.map(Duration::from_secs);
        Wish { role, projects: Projects::new(projects).unwrap(), name: String::new(), life }
    }

    #[test]
    fn a_token_is_valid_from_its_making_until_it_expires_or_is_revoked() {
        let mut tokens = Tokens::default();
        let token = tokens.create(FINGERPRINT, wish(Role::Duke, &[], Some(10)), at(5)).unwrap();
        let state = |tokens: &Tokens, now| tokens.get(token.id()).unwrap().state(at(now));
        assert_eq!([5, 14, 15].map(|now| state(&tokens, now)), [State::Valid, State::Valid, State::Expired]);
        let skew = TOKEN_CLOCK_SKEW.as_secs();
        let grant = tokens.get(token.id()).unwrap();
        assert_eq!(grant.state(at(5) - Duration::from_secs(skew)), State::Valid);
        assert_eq!(grant.state(at(5) - Duration::from_secs(skew + 1)), State::FromTheFuture);
        assert!(grant.has_secret_of(&token) && !grant.has_secret_of(&Token::generate(FINGERPRINT).unwrap()));
        assert_eq!(tokens.revoke(&[token.id().to_string()], at(7)).unwrap(), [token.id()]);
        assert_eq!(state(&tokens, 8), State::Revoked);
        // The first time counts.
        assert_eq!(tokens.revoke(&[token.id().to_string()], at(9)).unwrap(), []);
        assert_eq!(tokens.get(token.id()).unwrap().revoked, Some(at(7)));
    }

    #[test]
    fn the_beginning_of_an_id_is_enough_if_no_other_begins_so() {
        let mut tokens = Tokens::default();
        let ids: Vec<String> = (0..40)
            .map(|_| tokens.create(FINGERPRINT, wish(Role::Queen, &[], None), at(0)).unwrap().id().to_string())
            .collect();
        assert!(matches!(tokens.revoke(&[String::new()], at(1)), Err(TokensError::Unknown(_))));
        // There are 40 ids, and 32 letters.
        let shared = ids.iter().find(|id| ids.iter().any(|other| other != *id && other[..1] == id[..1])).unwrap();
        let wrong = [ids[0].clone(), shared[..1].to_owned()];
        assert!(matches!(tokens.revoke(&wrong, at(1)), Err(TokensError::Ambiguous(_))));
        assert!(tokens.iter().all(|grant| grant.revoked.is_none()), "none is revoked if one is wrong");
        let upper = ids[0][..7].to_uppercase();
        assert_eq!(tokens.revoke(&[upper], at(1)).unwrap()[0].to_string(), ids[0]);
        assert!(matches!(tokens.revoke(&["uuu".to_owned()], at(1)), Err(TokensError::Unknown(_))));
    }

    #[test]
    fn a_king_with_as_many_tokens_as_it_keeps_forgets_those_that_ended_first() {
        let mut tokens = Tokens::default();
        let mut create = |life, now| tokens.create(FINGERPRINT, wish(Role::Duke, &[], life), at(now));
        let first = create(Some(50), 0).unwrap();
        let second = create(Some(10), 0).unwrap();
        for _ in 2..TOKENS_MAX {
            create(None, 0).unwrap();
        }
        assert!(matches!(create(None, 5), Err(TokensError::TooMany)));
        create(None, 60).unwrap();
        create(None, 60).unwrap();
        assert!(tokens.get(first.id()).is_none() && tokens.get(second.id()).is_none());
        assert_eq!(tokens.iter().count(), TOKENS_MAX);
    }
}
