//! Who may do what: the one place where that is decided.
//!
//! Processes of the king's own user, and everybody at a king with `--insecure`, may do everything. All others show a
//! token, and may do what its role allows. [`refusal`](Refusal) says why a peer may not, and [`origin`](Origin) under
//! which name a peer is counted.

mod origin;
mod refusal;
mod watch;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use distwasm_process::{
    clock::{Clock, time_of_day},
    repeats::Repeats,
};
use distwasm_proto::limits::BEARER_BYTES_MAX;
use distwasm_transport::{
    fingerprint::Fingerprint,
    token::{Token, TokenError},
};
use tracing::warn;

pub use origin::Origin;
pub use refusal::Refusal;

use crate::tokens::{
    Grant, Role, State, Tokens,
    store::{Store, StoreError},
};
use watch::Watch;

/// How a peer reached the king, and so what is known about it before it says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Over the king's socket: the peer belongs to the king's user, or to root.
    SameUser,
    /// Over TLS: the peer knows the king, and the king does not know the peer.
    Tls,
    /// In plaintext over TCP: neither knows the other.
    Plain,
}

/// What a peer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To offer a machine's slots.
    Volunteer,
    /// To submit a job.
    SubmitJob,
    /// To cancel one.
    CancelJob,
    /// To push, pull, run or remove programs that the king keeps.
    UsePrograms,
    /// To do what only an operator may: to make a backup.
    Administer,
    /// To see jobs, dukes or programs.
    List,
    /// To see the metrics.
    Metrics,
    /// Whether the king is healthy.
    Health,
    /// Anything else, such as which services there are.
    Other,
}

/// A peer that is let in.
#[derive(Clone, Debug)]
pub enum Identity {
    /// It may do everything: it belongs to the king's user, or anybody may.
    Trusted,
    /// It may do what its token is for.
    Token(Arc<Grant>),
}

/// Decides who may do what. Clones share all of it.
#[derive(Clone, Debug)]
pub struct Authority(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    fingerprint: Fingerprint,
    takes_plaintext: bool,
    watch: Watch,
    clock: Clock,
    refusals: AtomicU64,
    /// Bounds how often the log says that peers are refused.
    repeats: Mutex<Repeats>,
}

impl Request {
    /// What a request for a method of gRPC asks for.
    pub(crate) fn of_path(path: &str) -> Request {
        match path.rsplit_once('/') {
            Some(("/distwasm.v1.King", "Volunteer")) => Request::Volunteer,
            Some(("/distwasm.v1.King", "SubmitJob")) => Request::SubmitJob,
            Some(("/distwasm.v1.King", "CancelJob")) => Request::CancelJob,
            Some(("/distwasm.v1.King", "ListJobs" | "ListDukes") | ("/distwasm.v1.Programs", "ListPrograms")) => {
                Request::List
            }
            Some(("/distwasm.v1.Programs", "PushProgram" | "PullProgram" | "FindProgram" | "RemoveProgram")) => {
                Request::UsePrograms
            }
            Some(("/distwasm.v1.Admin", _)) => Request::Administer,
            // `Watch` never ends, and strangers may not hold a connection.
            Some(("/grpc.health.v1.Health", "Check")) => Request::Health,
            _ => Request::Other,
        }
    }
}

impl Role {
    fn may(self, request: Request) -> bool {
        match request {
            Request::Volunteer => matches!(self, Role::Duke | Role::Admin),
            Request::SubmitJob | Request::CancelJob | Request::UsePrograms => {
                matches!(self, Role::Queen | Role::Admin)
            }
            Request::List => matches!(self, Role::Queen | Role::Observer | Role::Admin),
            Request::Metrics => matches!(self, Role::Observer | Role::Admin),
            Request::Administer => self == Role::Admin,
            Request::Health | Request::Other => true,
        }
    }
}

/// For the log.
impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Identity::Trusted => f.write_str("trusted"),
            Identity::Token(grant) => write!(f, "token {}", grant.id),
        }
    }
}

impl Identity {
    /// Whether it may submit jobs of this project.
    ///
    /// # Errors
    ///
    /// When its token is for other projects.
    pub fn check_project(&self, project: &str) -> Result<(), Refusal> {
        match self {
            Identity::Token(grant) if !grant.projects.have(project) => Err(Refusal::WrongProject {
                id: grant.id,
                project: project.to_owned(),
                projects: grant.projects.to_string(),
            }),
            Identity::Token(_) | Identity::Trusted => Ok(()),
        }
    }

    /// Whether it may see jobs of this project.
    pub fn may_see(&self, project: &str) -> bool {
        self.check_project(project).is_ok()
    }

    /// Whether it may act in the place of `other`: come back to its job, or take its seat. A peer may do so with the
    /// token of the other one, or if it may do everything.
    pub fn may_replace(&self, other: &Identity) -> bool {
        match (self, other) {
            (Identity::Trusted, _) => true,
            (Identity::Token(grant), _) if grant.role == Role::Admin => true,
            (Identity::Token(grant), Identity::Token(other)) => grant.id == other.id,
            (Identity::Token(_), Identity::Trusted) => false,
        }
    }
}

impl Authority {
    /// The authority of the king with this key, by the tokens in this store. It lets in all peers in plaintext if it
    /// `takes_plaintext` (`--insecure`).
    ///
    /// # Errors
    ///
    /// When the tokens cannot be read or relied on.
    pub fn open(fingerprint: Fingerprint, store: Store, takes_plaintext: bool) -> Result<Authority, StoreError> {
        Ok(Authority::new(fingerprint, store.read()?, Some(store), takes_plaintext))
    }

    /// The authority of a king without tokens.
    pub fn without_tokens(takes_plaintext: bool) -> Authority {
        Authority::new(Fingerprint([0; 32]), Tokens::default(), None, takes_plaintext)
    }

    fn new(fingerprint: Fingerprint, tokens: Tokens, store: Option<Store>, takes_plaintext: bool) -> Authority {
        Authority(Arc::new(Shared {
            fingerprint,
            takes_plaintext,
            watch: Watch::new(tokens, store),
            clock: Clock::start(),
            refusals: AtomicU64::new(0),
            repeats: Mutex::default(),
        }))
    }

    /// Decides whether a peer may ask for this. `bearer` is what it sent as its token.
    ///
    /// # Errors
    ///
    /// When the peer may not.
    pub fn judge(&self, wire: Wire, bearer: Option<&[u8]>, request: Request) -> Result<Identity, Refusal> {
        match wire {
            Wire::SameUser => return Ok(Identity::Trusted),
            Wire::Plain if self.0.takes_plaintext => return Ok(Identity::Trusted),
            // Those who ask for this learn nothing about anybody.
            Wire::Plain | Wire::Tls if request == Request::Health => return Ok(Identity::Trusted),
            Wire::Plain if request != Request::Metrics => return Err(Refusal::Plaintext),
            Wire::Plain | Wire::Tls => {}
        }
        let bearer = bearer.ok_or(Refusal::NoToken)?;
        let tokens = self.0.watch.tokens();
        judge_token(self.0.fingerprint, &tokens, bearer, request, time_of_day()).map(Identity::Token)
    }

    /// As [`Authority::judge`], but waits for a look at the store before it says that a token is unknown: it may have
    /// been made a moment ago.
    ///
    /// # Errors
    ///
    /// When the peer may not.
    pub async fn judge_patiently(
        &self,
        wire: Wire,
        bearer: Option<&[u8]>,
        request: Request,
    ) -> Result<Identity, Refusal> {
        match self.judge(wire, bearer, request) {
            Err(Refusal::Unknown(_)) => {
                self.0.watch.look().await;
                self.judge(wire, bearer, request)
            }
            judged => judged,
        }
    }

    /// Waits until a peer that was let in may not stay any more: its token was revoked, or has expired.
    pub(crate) async fn withdrawn(&self, identity: &Identity) -> Refusal {
        match identity {
            Identity::Trusted => std::future::pending().await,
            Identity::Token(grant) => self.0.watch.ended(grant).await,
        }
    }

    /// Keeps looking for tokens that were made or revoked, or that expire. Never ends.
    pub(crate) async fn keep_watch(&self) {
        self.0.watch.keep().await;
    }

    /// Counts a refusal, and logs it unless the log has said the same a short time ago. The log shows what the peer is
    /// told, which has no secret in it.
    pub(crate) fn tell(&self, peer: Option<SocketAddr>, refusal: &Refusal) {
        self.0.refusals.fetch_add(1, Ordering::Relaxed);
        // Nothing in here can panic half-way through a change.
        let mut repeats = self.0.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        // By its kind: a peer that sends another token each time must not fill the log.
        if let Some(refusals) = repeats.count(self.0.clock.now(), refusal.kind()) {
            let peer = peer.map(|address| address.to_string());
            warn!(peer, refusals, why = %refusal, "a peer is not let in");
        }
    }

    /// How many requests were refused since the king started.
    pub(crate) fn refusals(&self) -> u64 {
        self.0.refusals.load(Ordering::Relaxed)
    }
}

/// Decides by a token alone.
fn judge_token(
    fingerprint: Fingerprint,
    tokens: &Tokens,
    bearer: &[u8],
    request: Request,
    now: SystemTime,
) -> Result<Arc<Grant>, Refusal> {
    let text = std::str::from_utf8(bearer).ok().filter(|text| text.len() <= BEARER_BYTES_MAX);
    let token: Token = text.ok_or(TokenError::NotToken).and_then(str::parse).map_err(Refusal::Malformed)?;
    if token.fingerprint() != fingerprint {
        return Err(Refusal::WrongKingdom);
    }
    let id = token.id();
    let grant = tokens.get(id).filter(|grant| grant.has_secret_of(&token)).ok_or(Refusal::Unknown(id))?;
    check_state(grant, now)?;
    if !grant.role.may(request) {
        return Err(Refusal::WrongRole { id, role: grant.role, request });
    }
    Ok(Arc::clone(grant))
}

fn check_state(grant: &Grant, now: SystemTime) -> Result<(), Refusal> {
    let id = grant.id;
    match grant.state(now) {
        State::Valid => Ok(()),
        State::Expired => Err(Refusal::Expired(id)),
        State::Revoked => Err(Refusal::Revoked(id)),
        State::FromTheFuture => Err(Refusal::FromTheFuture(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::tests::{FINGERPRINT, at, wish};

    const ALL: [Request; 6] =
        [Request::Volunteer, Request::SubmitJob, Request::List, Request::Metrics, Request::Health, Request::Other];

    fn grant(tokens: &mut Tokens, role: Role, projects: &[&str]) -> (Token, Identity) {
        let token = tokens.create(FINGERPRINT, wish(role, projects, Some(60)), at(0)).unwrap();
        let identity = Identity::Token(Arc::clone(tokens.get(token.id()).unwrap()));
        (token, identity)
    }

    #[test]
    fn each_role_may_do_what_it_is_for() {
        let mut tokens = Tokens::default();
        for (role, may) in [
            (Role::Duke, [true, false, false, false, true, true]),
            (Role::Queen, [false, true, true, false, true, true]),
            (Role::Observer, [false, false, true, true, true, true]),
            (Role::Admin, [true; 6]),
        ] {
            let bearer = grant(&mut tokens, role, &[]).0.to_bearer();
            let judged =
                ALL.map(|request| judge_token(FINGERPRINT, &tokens, bearer.as_bytes(), request, at(1)).is_ok());
            assert_eq!(judged, may, "{role}");
        }
    }

    #[test]
    fn a_peer_without_a_token_may_do_what_its_wire_allows() {
        let closed = Authority::new(FINGERPRINT, Tokens::default(), None, false);
        let open = Authority::new(FINGERPRINT, Tokens::default(), None, true);
        for request in ALL {
            let kind = |authority: &Authority, wire| {
                authority.judge(wire, None, request).map_or_else(|refusal| refusal.kind(), |_| "")
            };
            let is_health = request == Request::Health;
            assert_eq!(kind(&closed, Wire::SameUser), "");
            assert_eq!(kind(&open, Wire::Plain), "");
            assert_eq!(kind(&open, Wire::Tls), if is_health { "" } else { "no token" });
            assert_eq!(kind(&closed, Wire::Tls), if is_health { "" } else { "no token" });
            let plain = if request == Request::Metrics { "no token" } else { "plaintext" };
            assert_eq!(kind(&closed, Wire::Plain), if is_health { "" } else { plain });
        }
    }

    #[test]
    fn a_refusal_says_which_it_is_and_has_no_secret() {
        let mut tokens = Tokens::default();
        let token = grant(&mut tokens, Role::Duke, &[]).0;
        let revoked = grant(&mut tokens, Role::Duke, &[]).0;
        tokens.revoke(&[revoked.id().to_string()], at(0)).unwrap();
        let judge = |bearer: &str, request, now| {
            judge_token(FINGERPRINT, &tokens, bearer.as_bytes(), request, at(now)).unwrap_err()
        };
        let bearer = token.to_bearer();
        // The same id, with another secret.
        let mut forged = Tokens::default();
        let unknown = grant(&mut forged, Role::Duke, &[]).0;
        let elsewhere = Token::generate(Fingerprint([8; 32])).unwrap();
        let refusals = [
            (judge("secret", Request::Volunteer, 1), "malformed"),
            (judge(&bearer[..50], Request::Volunteer, 1), "malformed"),
            (judge(&" ".repeat(BEARER_BYTES_MAX + 1), Request::Volunteer, 1), "malformed"),
            (judge(&unknown.to_bearer(), Request::Volunteer, 1), "unknown"),
            (judge(&bearer, Request::Volunteer, 60), "expired"),
            (judge(&revoked.to_bearer(), Request::Volunteer, 1), "revoked"),
            (judge(&bearer, Request::SubmitJob, 1), "wrong role"),
            (judge(&elsewhere.to_bearer(), Request::Volunteer, 1), "wrong kingdom"),
        ];
        for (refusal, kind) in refusals {
            assert_eq!(refusal.kind(), kind);
            let told = refusal.to_string();
            for bearer in [&bearer, &unknown.to_bearer(), &revoked.to_bearer(), &elsewhere.to_bearer()] {
                let secret = &bearer[70..];
                assert!(!(0..27).any(|at| told.contains(&secret[at..at + 8])), "{told}");
            }
        }
        let before = at(0) - distwasm_proto::limits::TOKEN_CLOCK_SKEW * 2;
        let early = judge_token(FINGERPRINT, &tokens, bearer.as_bytes(), Request::Volunteer, before);
        assert_eq!(early.unwrap_err().kind(), "from the future");
    }

    #[test]
    fn a_token_for_some_projects_is_for_no_others() {
        let mut tokens = Tokens::default();
        let (_, some) = grant(&mut tokens, Role::Queen, &["a", "lab-*"]);
        let (_, all) = grant(&mut tokens, Role::Queen, &[]);
        assert!(some.may_see("a") && some.may_see("lab-1") && !some.may_see("b"));
        assert!(all.may_see("b") && Identity::Trusted.may_see("b"));
        let told = some.check_project("b").unwrap_err().to_string();
        assert!(told.contains("a, lab-*") && told.contains("project b"), "{told}");
    }

    #[test]
    fn only_the_same_token_or_one_that_may_do_everything_takes_a_place() {
        let mut tokens = Tokens::default();
        let [one, two, admin] = [Role::Queen, Role::Queen, Role::Admin].map(|role| grant(&mut tokens, role, &[]).1);
        let peers = [&one, &two, &admin, &Identity::Trusted];
        let may = peers.map(|peer| peers.map(|other| peer.may_replace(other)));
        let expected = [[true, false, false, false], [false, true, false, false], [true; 4], [true; 4]];
        assert_eq!(may, expected);
    }
}
