//! What the king shows of its jobs, dukes and counts: the one model that the command line, the metrics and any page read.
//!
//! The reactor makes a view only when somebody wants to look, and one view serves all who wait for it. A look does not
//! enter the reactor's queue, so it does not wait behind the words of peers.

use std::sync::Arc;

use distwasm_proto::wire;
use tokio::sync::{Notify, watch};

use crate::{authority::Identity, scheduler::Census};

/// The king at one moment.
#[derive(Debug, Default)]
pub struct View {
    /// The jobs that queens have opened, by number.
    pub jobs: Vec<wire::JobInfo>,
    /// The dukes, by number.
    pub dukes: Vec<wire::DukeInfo>,
    /// Counts of jobs, dukes, slots and units.
    pub census: Census,
    /// The counts since the king started.
    pub totals: Totals,
    /// Bytes of inputs that are held.
    pub input_bytes: u64,
    /// Bytes of programs that are held.
    pub program_bytes: u64,
    /// Bytes of the archives of shared directories that are held.
    pub share_bytes: u64,
}

/// The counts since the king started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Jobs that were opened.
    pub jobs: u64,
    /// Units that arrived.
    pub units: u64,
    /// Units that got a result.
    pub units_done: u64,
    /// Units that failed.
    pub units_failed: u64,
    /// Attempts that were handed to dukes.
    pub attempts: u64,
    /// Bytes of inputs that arrived.
    pub input_bytes: u64,
    /// Bytes of results that were reported.
    pub result_bytes: u64,
}

impl View {
    /// The list of the jobs that a peer may see.
    pub(crate) fn to_wire(&self, identity: &Identity) -> wire::JobList {
        let dukes = u32::try_from(self.census.dukes).unwrap_or(u32::MAX);
        let jobs = self.jobs.iter().filter(|job| identity.may_see(&job.project));
        wire::JobList { jobs: jobs.cloned().collect(), dukes }
    }

    /// The list of dukes, for a queen.
    pub(crate) fn dukes_to_wire(&self) -> wire::DukeList {
        wire::DukeList { dukes: self.dukes.clone() }
    }
}

/// A place to look at the king from.
#[derive(Clone, Debug)]
pub(crate) struct Viewer {
    wanted: Arc<Notify>,
    views: watch::Receiver<Arc<View>>,
}

/// The reactor's side of its viewers.
#[derive(Debug)]
pub(crate) struct Publisher {
    wanted: Arc<Notify>,
    views: watch::Sender<Arc<View>>,
}

/// Makes a publisher and its first viewer.
pub(crate) fn viewers() -> (Publisher, Viewer) {
    let (sender, views) = watch::channel(Arc::default());
    let wanted = Arc::new(Notify::new());
    (Publisher { wanted: Arc::clone(&wanted), views: sender }, Viewer { wanted, views })
}

impl Viewer {
    /// Looks at the king as it is now. `None` if its reactor has ended.
    pub(crate) async fn look(&self) -> Option<Arc<View>> {
        let mut views = self.views.clone();
        views.mark_unchanged();
        self.wanted.notify_one();
        views.changed().await.ok()?;
        Some(Arc::clone(&views.borrow_and_update()))
    }
}

impl Publisher {
    /// Waits until somebody wants to look. Cancel-safe.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    pub(crate) fn publish(&self, view: View) {
        self.views.send_replace(Arc::new(view));
    }
}
