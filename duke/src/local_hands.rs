//! The hands of a duke: peasants are processes of this machine, and supplies are files in its cache.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use distwasm_process::memory;
use distwasm_proto::{
    ids::{BaronId, JobId},
    limits::REACTOR_QUEUE,
};
use distwasm_transport::payload::Payload;
use rustc_hash::FxHashMap;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    allowed::AllowedDirs,
    cache::{Cache, CompileLimits, Made, MakeError, Recipe, Supply},
    peasant::{self, Content, HeldRoom, InputNo, KeptResult, PeasantNews, PeasantSettings, Spawner, UnitInput},
    reactor::{Hands, Read},
    stored::{Stored, StoredInputs},
};

/// See the module's documentation.
pub(crate) struct LocalHands {
    cache: Cache,
    spawner: Spawner,
    /// The folders that jobs may name.
    allowed: AllowedDirs,
    peasants: FxHashMap<BaronId, peasant::Handle>,
    news: mpsc::Sender<PeasantNews>,
    tried: mpsc::Sender<Tried>,
    stored: StoredInputs,
    read: mpsc::Sender<ReadDone>,
    tasks: TaskTracker,
    stop: CancellationToken,
    limits: CompileLimits,
    /// The work on supplies, and how it is stopped. Some may have ended.
    making: BTreeMap<Supply, (CancellationToken, JoinHandle<()>)>,
}

/// A supply, and what came of making it.
pub(crate) type Tried = (Supply, Result<Made, MakeError>);

/// A read of a part of a result, and its pieces, or why it cannot be read.
pub(crate) type ReadDone = (Read, Result<Vec<Bytes>, String>);

/// What comes of the work of hands.
pub(crate) struct Reports {
    pub(crate) news: mpsc::Receiver<PeasantNews>,
    pub(crate) tried: mpsc::Receiver<Tried>,
    pub(crate) stored: mpsc::Receiver<Stored>,
    pub(crate) read: mpsc::Receiver<ReadDone>,
}

impl LocalHands {
    /// Idle hands.
    pub(crate) fn new(
        cache: Cache,
        spawner: Spawner,
        limits: CompileLimits,
        allowed: AllowedDirs,
    ) -> (LocalHands, Reports) {
        let (news, news_receiver) = mpsc::channel(REACTOR_QUEUE);
        let (tried, tried_receiver) = mpsc::channel(REACTOR_QUEUE);
        let (stored, stored_receiver) = mpsc::channel(REACTOR_QUEUE);
        let stored = StoredInputs::new(cache.clone(), stored);
        let (read, read_receiver) = mpsc::channel(REACTOR_QUEUE);
        let (peasants, tasks, stop) = (FxHashMap::default(), TaskTracker::new(), CancellationToken::new());
        let making = BTreeMap::new();
        let hands =
            LocalHands { cache, spawner, allowed, peasants, news, tried, stored, read, tasks, stop, limits, making };
        let reports =
            Reports { news: news_receiver, tried: tried_receiver, stored: stored_receiver, read: read_receiver };
        (hands, reports)
    }

    /// Ends all child processes, and waits until they have ended. The reports must have been dropped, or they may fill
    /// up.
    pub(crate) async fn dismiss_all(&mut self) {
        self.stop.cancel();
        self.peasants.values().for_each(peasant::Handle::kill);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Hands for LocalHands {
    fn hire(&mut self, baron: BaronId, job: JobId, settings: PeasantSettings, room: HeldRoom) {
        let (handle, life) =
            peasant::hire(baron, job, settings, self.spawner.clone(), self.allowed.clone(), room, self.news.clone());
        self.peasants.insert(baron, handle);
        self.tasks.spawn(life);
    }

    fn feed(&mut self, baron: BaronId, stored: Option<InputNo>, mut input: UnitInput) {
        if let Content::Streamed { file, .. } = &mut input.content {
            *file = stored.and_then(|stored| self.stored.file(stored));
        }
        if let Some(handle) = self.peasants.get(&baron) {
            handle.feed(input);
        }
    }

    fn store(&mut self, input: InputNo, part: Bytes) {
        self.stored.store(input, part, &self.tasks);
    }

    fn read(&mut self, result: &KeptResult, read: Read, part: Range<u64>) {
        let (file, done) = (result.file(), self.read.clone());
        self.tasks.spawn_blocking(move || {
            let pieces = match file {
                Some(file) => peasant::read_part(&file, part).map_err(|error| error.to_string()),
                None => Err("it is gone".to_owned()),
            };
            // The reactor may have ended.
            let _sent = done.blocking_send((read, pieces));
        });
    }

    fn discard(&mut self, input: InputNo) {
        self.stored.discard(input);
    }

    fn retire(&mut self, baron: BaronId) {
        if let Some(handle) = self.peasants.get_mut(&baron) {
            handle.retire();
        }
    }

    fn kill(&mut self, baron: BaronId) {
        if let Some(handle) = self.peasants.get(&baron) {
            handle.kill();
        }
    }

    fn bury(&mut self, baron: BaronId) {
        self.peasants.remove(&baron);
    }

    fn find(&mut self, supply: &Supply) -> Option<Made> {
        self.cache.find(supply)
    }

    fn make(&mut self, supply: Supply, blob: Payload) {
        let (cache, spawner, limits) = (self.cache.clone(), self.spawner.clone(), self.limits);
        let (tried, stop, made) = (self.tried.clone(), self.stop.child_token(), supply.clone());
        let token = stop.clone();
        let task = self.tasks.spawn(async move {
            let result = cache.make(supply.clone(), blob, &spawner, limits, stop).await;
            // The reactor may have ended.
            let _sent = tried.send((supply, result)).await;
        });
        self.making.retain(|_, (_, task)| !task.is_finished());
        self.making.insert(made, (token, task));
    }

    fn stop(&mut self, supply: &Supply) {
        if let Some((stop, _)) = self.making.get(supply) {
            stop.cancel();
        }
    }

    fn remove(&mut self, recipe: &Recipe) {
        self.cache.remove(recipe);
    }

    fn give_memory_back(&mut self) {
        memory::give_back();
    }
}
