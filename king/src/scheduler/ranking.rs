//! The order in which jobs get slots, kept up to date while slots are dealt out.
//!
//! Between projects the one with the lowest level comes first, then the one with the lower pass. Within a project a
//! higher priority comes first, then jobs without a slot, then the oldest. Jobs whose queens are away come last.
//!
//! Ranking all jobs takes n log n steps, and each slot that is dealt out log n. The heap is lazy: an outdated entry of
//! a project is noticed when it comes to the top.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use distwasm_proto::{ids::JobId, time::Time};

use super::{
    job::Job,
    ledger::{Account, Ledger},
    projects::{Project, ProjectNo, Projects},
};

/// The jobs that want a slot and may get one.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    groups: BTreeMap<Group, BTreeSet<Rank>>,
    places: BTreeMap<JobId, (Group, Rank)>,
    heap: BinaryHeap<Reverse<Entry>>,
}

/// Jobs of one project. Jobs that yield to those with connected queens form a group of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    yields: bool,
    project: ProjectNo,
}

/// The place of a job in its group.
type Rank = (Reverse<i32>, bool, JobId);

/// A group as it was when this entry was put into the heap.
#[derive(Debug)]
struct Entry {
    group: Group,
    project: Project,
    first: JobId,
}

impl Ranking {
    /// Ranks all jobs that want a slot.
    pub(super) fn new(now: Time, jobs: &BTreeMap<JobId, Job>, ledger: &Ledger, projects: &Projects) -> Ranking {
        let mut ranking = Ranking::default();
        for (id, job) in jobs {
            ranking.place(now, *id, job, ledger.account(*id));
        }
        let groups: Vec<Group> = ranking.groups.keys().copied().collect();
        groups.iter().for_each(|group| ranking.enter(group, projects));
        ranking
    }

    /// The job that should get the next slot.
    pub(super) fn first(&mut self, projects: &Projects) -> Option<JobId> {
        loop {
            let Reverse(top) = self.heap.peek()?;
            match self.entry(&top.group, projects) {
                Some(current) if current == *top => return Some(current.first),
                current => {
                    self.heap.pop();
                    self.heap.extend(current.map(Reverse));
                }
            }
        }
    }

    /// Updates the place of a job that has more or fewer slots than before, or fits nowhere.
    pub(super) fn update(&mut self, now: Time, id: JobId, job: &Job, account: &Account, projects: &Projects) {
        if let Some((group, rank)) = self.places.remove(&id)
            && let Some(ranks) = self.groups.get_mut(&group)
        {
            ranks.remove(&rank);
        }
        self.place(now, id, job, account);
        // With fewer slots its project may come earlier than the heap knows.
        self.enter(&Group::of(now, job), projects);
    }

    fn place(&mut self, now: Time, id: JobId, job: &Job, account: &Account) {
        if job.wants_slot(account) && !job.fits_nowhere {
            let (group, rank) = (Group::of(now, job), (Reverse(job.spec.priority), account.promised() > 0, id));
            self.groups.entry(group).or_default().insert(rank);
            self.places.insert(id, (group, rank));
        }
    }

    fn enter(&mut self, group: &Group, projects: &Projects) {
        self.heap.extend(self.entry(group, projects).map(Reverse));
    }

    /// A group as it is now; `None` if no job of it wants a slot.
    fn entry(&self, group: &Group, projects: &Projects) -> Option<Entry> {
        let (.., first) = *self.groups.get(group)?.first()?;
        Some(Entry { group: *group, project: *projects.get(group.project)?, first })
    }
}

impl Group {
    fn of(now: Time, job: &Job) -> Group {
        Group { yields: job.yields(now), project: job.project }
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        let by_level = || self.project.compare_levels(&other.project);
        let by_pass = || self.project.pass.cmp(&other.project.pass);
        self.group
            .yields
            .cmp(&other.group.yields)
            .then_with(by_level)
            .then_with(by_pass)
            .then(self.first.cmp(&other.first))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}
