//! The hands of a duke: peasants are processes of this machine, and supplies are files in its cache.

use std::collections::BTreeMap;

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
    peasant::{self, HeldRoom, PeasantNews, PeasantSettings, Spawner, UnitInput},
    reactor::Hands,
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
    tasks: TaskTracker,
    stop: CancellationToken,
    limits: CompileLimits,
    /// The work on supplies, and how it is stopped. Some may have ended.
    making: BTreeMap<Supply, (CancellationToken, JoinHandle<()>)>,
}

/// A supply, and what came of making it.
pub(crate) type Tried = (Supply, Result<Made, MakeError>);

/// What comes of the work of hands.
pub(crate) struct Reports {
    pub(crate) news: mpsc::Receiver<PeasantNews>,
    pub(crate) tried: mpsc::Receiver<Tried>,
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
        let (peasants, tasks, stop) = (FxHashMap::default(), TaskTracker::new(), CancellationToken::new());
        let making = BTreeMap::new();
        let hands = LocalHands { cache, spawner, allowed, peasants, news, tried, tasks, stop, limits, making };
        (hands, Reports { news: news_receiver, tried: tried_receiver })
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

    fn feed(&mut self, baron: BaronId, input: UnitInput) {
        if let Some(handle) = self.peasants.get(&baron) {
            handle.feed(input);
        }
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
