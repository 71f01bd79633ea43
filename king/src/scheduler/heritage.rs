//! What kings before this one may have left: jobs and attempts that dukes bring with them until the grace time of this
//! king is over.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use distwasm_proto::{
    ids::{AttemptId, JobId},
    limits::JOBS_MAX,
    secret::Mark,
    time::Time,
};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Heritage {
    /// Jobs of earlier kings have numbers up to this, and those of this king have higher ones.
    began: u64,
    /// Attempts that this king has made.
    attempts_made: u64,
    /// Until then, jobs and attempts that dukes bring may be from an earlier king; `None` once that time is over.
    learning_until: Option<Time>,
    /// Jobs that ended since this king began: it learns nothing more of them from dukes.
    ended: BTreeSet<JobId>,
    /// Jobs whose queens were killed and started again, the last first: dukes may still bring them, and their first
    /// word may still arrive.
    replaced: VecDeque<Mark>,
    /// Attempts of earlier kings that ended since this king began.
    judged: BTreeSet<AttemptId>,
}

impl Heritage {
    /// That of a king that begins `now`. Jobs of earlier kings have numbers up to `began`, and their attempts have
    /// numbers up to `began << 20`.
    pub(super) fn new(now: Time, grace: Duration, began: u64) -> Heritage {
        let learning_until = Some(now.after(grace));
        let mut heritage = Heritage {
            began,
            attempts_made: 0,
            learning_until,
            ended: BTreeSet::new(),
            replaced: VecDeque::new(),
            judged: BTreeSet::new(),
        };
        heritage.expire(now);
        heritage
    }

    /// Forgets everything once the grace time is over.
    pub(super) fn expire(&mut self, now: Time) {
        if self.learning_until.is_some_and(|until| until <= now) {
            self.learning_until = None;
            self.ended.clear();
            self.judged.clear();
        }
    }

    /// The number of the next attempt: higher than that of any attempt of an earlier king.
    pub(super) fn next_attempt(&mut self) -> AttemptId {
        self.attempts_made += 1;
        AttemptId(self.last_attempt() + self.attempts_made)
    }

    /// Until when dukes may bring this job as one of an earlier king; `None` if they may not.
    pub(super) fn may_bring_job(&self, id: JobId) -> Option<Time> {
        self.learning_until.filter(|_| id.0 <= self.began && !self.ended.contains(&id))
    }

    /// Whether an attempt may be one of an earlier king that has not ended. All others that this king does not know
    /// were given up.
    pub(super) fn may_bring_attempt(&self, id: AttemptId) -> bool {
        id.0 <= self.last_attempt() && !self.judged.contains(&id)
    }

    pub(super) fn job_ended(&mut self, id: JobId) {
        if self.learning_until.is_some() {
            self.ended.insert(id);
        }
    }

    /// The job with this mark is over, whatever its number.
    pub(super) fn job_replaced(&mut self, mark: Mark) {
        if !self.is_replaced(mark) {
            self.replaced.truncate(JOBS_MAX - 1);
            self.replaced.push_front(mark);
        }
    }

    /// Whether the queen of this job was killed and started again as another job.
    pub(super) fn is_replaced(&self, mark: Mark) -> bool {
        self.replaced.contains(&mark)
    }

    pub(super) fn attempt_ended(&mut self, id: AttemptId) {
        if self.learning_until.is_some() && id.0 <= self.last_attempt() {
            self.judged.insert(id);
        }
    }

    fn last_attempt(&self) -> u64 {
        self.began << 20
    }
}
