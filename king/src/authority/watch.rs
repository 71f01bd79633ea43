//! Notices when the tokens of a running king change, or expire.

use std::sync::Arc;

use distwasm_process::{
    clock::{Clock, time_of_day},
    repeats::Repeats,
};
use distwasm_proto::{
    error_text::chain,
    limits::{TOKENS_LOOK_EVERY, TOKENS_LOOK_PAUSE},
    time::Time,
};
use tokio::{
    sync::{Mutex, watch},
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info};

use super::{Refusal, check_state};
use crate::tokens::{
    Grant, State, Tokens,
    store::{Stamp, Store, StoreError},
};

/// The tokens as they were last read.
#[derive(Debug)]
pub(super) struct Watch {
    /// Changes when tokens were made, revoked or have expired.
    tokens: watch::Sender<Arc<Tokens>>,
    store: Option<Store>,
    clock: Clock,
    last: Mutex<Look>,
}

/// The last look at the store.
#[derive(Debug, Default)]
struct Look {
    /// When it was, if there was one.
    at: Option<Time>,
    /// The state of the file whose tokens are known; `None` if it is to be read in any case.
    stamp: Option<Option<Stamp>>,
    /// How many of the tokens were valid.
    valid: usize,
    /// Bounds how often the log says that the tokens cannot be read.
    repeats: Repeats,
}

impl Watch {
    pub(super) fn new(tokens: Tokens, store: Option<Store>) -> Watch {
        let (tokens, _) = watch::channel(Arc::new(tokens));
        Watch { tokens, store, clock: Clock::start(), last: Mutex::default() }
    }

    pub(super) fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(&self.tokens.borrow())
    }

    /// Looks at the store once in a while. Never ends.
    pub(super) async fn keep(&self) {
        let mut looks = interval(TOKENS_LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look().await;
        }
    }

    /// Looks at the store. A look that began after this was called, for somebody else, is enough: so a flood of unknown
    /// tokens causes few of them.
    pub(super) async fn look(&self) {
        let called = self.clock.now();
        let mut last = self.last.lock().await;
        if last.at > Some(called) {
            return;
        }
        if let Some(at) = last.at {
            self.clock.sleep_until(Some(at.after(TOKENS_LOOK_PAUSE))).await;
        }
        last.at = Some(self.clock.now());
        let changed = match &self.store {
            Some(store) => {
                let (store, stamp) = (store.clone(), last.stamp);
                let read = tokio::task::spawn_blocking(move || read_changed(&store, stamp)).await;
                // The king is ending if the task could not run.
                read.unwrap_or(Ok(None))
            }
            None => Ok(None),
        };
        match changed {
            Ok(Some((stamp, tokens))) => {
                let is_first = last.stamp.replace(stamp).is_none();
                last.repeats.forget();
                last.valid = valid(&tokens);
                if !is_first {
                    info!(tokens = tokens.iter().count(), valid = last.valid, "the tokens have changed");
                }
                self.tokens.send_replace(Arc::new(tokens));
            }
            Ok(None) => {
                let valid = valid(&self.tokens.borrow());
                if std::mem::replace(&mut last.valid, valid) != valid {
                    self.tokens.send_modify(|_| ());
                }
            }
            Err(error) => {
                let why = chain(&error);
                if last.repeats.count(self.clock.now(), &why).is_some() {
                    error!(why, "the tokens cannot be read; those that were read last stay as they were");
                }
            }
        }
    }

    /// Waits until a token is not valid any more.
    pub(super) async fn ended(&self, grant: &Grant) -> Refusal {
        let mut tokens = self.tokens.subscribe();
        loop {
            let known = tokens.borrow_and_update().get(grant.id).cloned();
            match known.map(|known| check_state(&known, time_of_day())) {
                None => return Refusal::Unknown(grant.id),
                // A clock that was set back takes nothing from those that are here.
                Some(Ok(()) | Err(Refusal::FromTheFuture(_))) => {}
                Some(Err(refusal)) => return refusal,
            }
            // The sender lives as long as this.
            let _changed = tokens.changed().await;
        }
    }
}

fn valid(tokens: &Tokens) -> usize {
    let now = time_of_day();
    tokens.iter().filter(|grant| grant.state(now) == State::Valid).count()
}

/// Reads the tokens, unless the file is in the state in which it was read before.
fn read_changed(store: &Store, before: Option<Option<Stamp>>) -> Result<Option<(Option<Stamp>, Tokens)>, StoreError> {
    let stamp = store.stamp()?;
    if before == Some(stamp) {
        return Ok(None);
    }
    // If it changes between these two, it is read again at the next look.
    Ok(Some((stamp, store.read()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::{
        Role,
        tests::{FINGERPRINT, wish},
    };

    fn create(store: &Store, life: Option<u64>) -> Arc<Grant> {
        let wish = wish(Role::Duke, &[], life);
        let token = store.change(|tokens| tokens.create(FINGERPRINT, wish, time_of_day())).unwrap();
        Arc::clone(store.read().unwrap().get(token.id()).unwrap())
    }

    #[tokio::test]
    async fn a_token_that_was_made_or_revoked_is_noticed_at_the_next_look() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path());
        let (one, two) = (create(&store, None), create(&store, None));
        let watch = Watch::new(store.read().unwrap(), Some(store.clone()));
        watch.look().await;
        let three = create(&store, None);
        assert!(watch.tokens().get(three.id).is_none());
        watch.look().await;
        assert!(watch.tokens().get(three.id).is_some());
        store.change(|tokens| tokens.revoke(&[one.id.to_string()], time_of_day())).unwrap();
        let ended = tokio::select! {
            biased;
            ended = watch.ended(&two) => ended,
            ended = watch.ended(&one) => ended,
            () = async { watch.look().await; std::future::pending().await } => Refusal::NoToken,
        };
        assert_eq!(ended, Refusal::Revoked(one.id));
    }

    #[tokio::test]
    async fn a_token_that_expires_ends_without_a_change_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path());
        let grant = create(&store, Some(1));
        let watch = Watch::new(store.read().unwrap(), Some(store));
        watch.look().await;
        let ended = tokio::select! {
            ended = watch.ended(&grant) => ended,
            () = watch.keep() => Refusal::NoToken,
        };
        assert_eq!(ended, Refusal::Expired(grant.id));
    }

    #[tokio::test]
    async fn a_damaged_file_takes_nothing_away_until_it_is_mended() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_folder(folder.path());
        let grant = create(&store, None);
        let watch = Watch::new(store.read().unwrap(), Some(store.clone()));
        watch.look().await;
        let path = folder.path().join("tokens.jsonl");
        let good = std::fs::read(&path).unwrap();
        distwasm_process::files::replace_private_for_good(&path, b"nonsense\n").unwrap();
        watch.look().await;
        assert!(watch.tokens().get(grant.id).is_some());
        distwasm_process::files::replace_private_for_good(&path, &good).unwrap();
        store.change(|tokens| tokens.revoke(&[grant.id.to_string()], time_of_day())).unwrap();
        watch.look().await;
        assert_eq!(watch.ended(&grant).await, Refusal::Revoked(grant.id));
        std::fs::remove_file(&path).unwrap();
        watch.look().await;
        assert_eq!(watch.ended(&grant).await, Refusal::Unknown(grant.id));
    }
}
