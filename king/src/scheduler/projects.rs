//! The figures that decide between projects: their weights, the slots they have, and the slot time they have had.
//!
//! A project's *pass* is the slot time that it had, divided by its weight (C. A. Waldspurger, Stride Scheduling, 1995).
//! Where slots cannot be divided as the weights say, the project with the lower pass gets the next turn.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use distwasm_proto::{
    limits::{CREDIT_TENURES, SLOT_TENURE},
    time::Time,
};

use super::{events::JobSpec, job::Job};

/// The parts of a slot-microsecond of weight 1 that are counted, so that dividing by a weight loses nothing that
/// matters.
const PARTS: u128 = 1 << 20;

/// The projects that have jobs.
#[derive(Debug, Default)]
pub(super) struct Projects {
    numbers: BTreeMap<String, ProjectNo>,
    by_number: BTreeMap<ProjectNo, Project>,
    last: ProjectNo,
    charged_at: Time,
}

/// A project, as its jobs know it: names are compared when a job is opened, and not for each slot that is dealt out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProjectNo(u64);

/// One project.
#[derive(Clone, Copy, Debug)]
pub(super) struct Project {
    /// The largest of its jobs' weights.
    pub(super) weight: u32,
    /// Slots that its jobs have or will have, counted when slots are dealt out.
    pub(super) share: u32,
    /// See the module's documentation.
    pub(super) pass: u128,
}

impl Project {
    /// Compares the slots of two projects, each measured by its weight.
    pub(super) fn compare_levels(&self, other: &Project) -> Ordering {
        self.level_against(self.share, other).cmp(&other.level_against(other.share, self))
    }

    /// Whether this project, with one slot more, would still have no more than `other` with one slot less.
    pub(super) fn evens_out(&self, other: &Project) -> bool {
        let Some(others_left) = other.share.checked_sub(1) else { return false };
        self.level_against(self.share + 1, other) <= other.level_against(others_left, self)
    }

    /// The level of `slots` slots of this project, on a scale that it has in common with `other`.
    fn level_against(&self, slots: u32, other: &Project) -> u64 {
        debug_assert!(self.weight > 0, "the border lets no weight of 0 through");
        u64::from(slots) * u64::from(other.weight)
    }
}

impl Projects {
    pub(super) fn get(&self, number: ProjectNo) -> Option<&Project> {
        self.by_number.get(&number)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Project)> {
        self.numbers.iter().filter_map(|(name, number)| Some((name.as_str(), self.by_number.get(number)?)))
    }

    /// Adds a job that was opened. A new project begins with the lowest pass of all projects.
    pub(super) fn enter(&mut self, spec: &JobSpec) -> ProjectNo {
        let number = *self.numbers.entry(spec.project.clone()).or_insert_with(|| {
            self.last.0 += 1;
            self.last
        });
        let pass = || self.by_number.values().map(|project| project.pass).min().unwrap_or(0);
        let fresh = if self.by_number.contains_key(&number) { 0 } else { pass() };
        let project = self.by_number.entry(number).or_insert(Project { weight: 1, share: 0, pass: fresh });
        project.weight = project.weight.max(spec.weight);
        number
    }

    /// Removes a job of this project that is over; `jobs` are the remaining ones.
    pub(super) fn leave<'a>(&mut self, number: ProjectNo, jobs: impl Iterator<Item = &'a Job>) {
        let weight = jobs.filter(|job| job.project == number).map(|job| job.spec.weight).max();
        match (weight, self.by_number.get_mut(&number)) {
            (Some(weight), Some(project)) => project.weight = weight,
            _ => {
                self.by_number.remove(&number);
                self.numbers.retain(|_, known| *known != number);
            }
        }
    }

    /// Charges each project for its slot time since the last charge. `taken` are the slots of its jobs; a slot counts
    /// until it is given back.
    pub(super) fn charge(&mut self, now: Time, taken: impl Iterator<Item = (ProjectNo, u32)>) {
        let micros = u128::from(now.micros_since(self.charged_at));
        self.charged_at = now;
        // A single project is compared with no other.
        if micros == 0 || self.by_number.len() < 2 {
            return;
        }
        for (number, slots) in taken {
            let Some(project) = self.by_number.get_mut(&number) else { continue };
            project.pass += micros * u128::from(slots) * PARTS / u128::from(project.weight);
        }
    }

    /// Counts the slots of each project again, and forgets old credit: that of projects that want no more than they
    /// have, and any that goes beyond some turns. `jobs` are the jobs with the slots that they have or will have, and
    /// whether they want more.
    pub(super) fn recount(&mut self, jobs: impl Iterator<Item = (ProjectNo, u32, bool)>) {
        let mut wanting: BTreeSet<ProjectNo> = BTreeSet::new();
        self.by_number.values_mut().for_each(|project| project.share = 0);
        for (number, slots, wants_more) in jobs {
            let Some(project) = self.by_number.get_mut(&number) else { continue };
            project.share += slots;
            if wants_more {
                wanting.insert(number);
            }
        }
        let passes = |number: &ProjectNo| self.by_number.get(number).map(|project| project.pass);
        let lowest = wanting.iter().filter_map(passes).min();
        let highest = self.by_number.values().map(|project| project.pass).max().unwrap_or(0);
        let lightest = self.by_number.values().map(|project| project.weight).min().unwrap_or(1);
        let credit = SLOT_TENURE.as_micros() * u128::from(CREDIT_TENURES) * PARTS / u128::from(lightest);
        for (number, project) in &mut self.by_number {
            let content = lowest.filter(|_| !wanting.contains(number)).unwrap_or(0);
            project.pass = project.pass.max(content).max(highest.saturating_sub(credit));
        }
    }

    /// Notes that a job of this project will have one slot more.
    pub(super) fn give(&mut self, number: ProjectNo) {
        if let Some(project) = self.by_number.get_mut(&number) {
            project.share += 1;
        }
    }

    /// Notes that a job of this project was asked for a slot.
    pub(super) fn take(&mut self, number: ProjectNo) {
        if let Some(project) = self.by_number.get_mut(&number) {
            project.share = project.share.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use distwasm_proto::ids::JobId;

    use super::*;
    use crate::scheduler::testing::mark_of;

    fn project(weight: u32, share: u32) -> Project {
        Project { weight, share, pass: 0 }
    }

    #[test]
    fn slots_are_compared_by_weight() {
        assert_eq!(project(1, 1).compare_levels(&project(3, 3)), Ordering::Equal);
        assert_eq!(project(1, 1).compare_levels(&project(3, 2)), Ordering::Greater);
        assert_eq!(project(1000, 999).compare_levels(&project(1, 1)), Ordering::Less);
    }

    #[test]
    fn a_slot_goes_over_when_nobody_is_worse_off_than_the_other_was() {
        assert!(project(1, 0).evens_out(&project(1, 2)));
        assert!(!project(1, 0).evens_out(&project(1, 1)), "they take turns");
        assert!(project(3, 2).evens_out(&project(1, 2)));
        assert!(!project(3, 3).evens_out(&project(1, 1)));
        assert!(!project(3, 0).evens_out(&project(1, 0)));
    }

    #[test]
    fn a_newcomer_has_no_debts_and_no_credit() {
        let spec = |project: &str, weight| JobSpec { project: project.to_owned(), weight, ..JobSpec::default() };
        let mut projects = Projects::default();
        let (a, b) = (projects.enter(&spec("a", 1)), projects.enter(&spec("b", 2)));
        projects.charge(Time(10), [(a, 4), (b, 2)].into_iter());
        assert_eq!(projects.get(a).map(|a| a.pass), Some(40 * PARTS));
        assert_eq!(projects.get(b).map(|b| b.pass), Some(10 * PARTS));
        let c = projects.enter(&spec("c", 7));
        assert_eq!(projects.get(c).map(|c| (c.pass, c.weight)), Some((10 * PARTS, 7)));
        assert_eq!(projects.enter(&spec("b", 5)), b);
        projects.leave(b, std::iter::once(&Job::new(mark_of(JobId(0)), spec("b", 5), b)));
        assert_eq!(projects.get(b).map(|b| b.weight), Some(5));
        projects.leave(b, std::iter::empty());
        assert!(projects.get(b).is_none());
        assert_ne!(projects.enter(&spec("b", 1)), b, "a number is not used again");
    }
}
