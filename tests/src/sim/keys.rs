//! The keys of simulated queens' jobs: made of the numbers of the queens, so that the world can tell whose a job is.

use distwasm_proto::{
    ids::JobId,
    secret::{Mark, Purpose, Secret},
};

use super::world::World;

/// The key of a queen's job.
pub(super) fn key_of(JobId(queen): JobId) -> Secret {
    Secret::new(u128::from(queen).to_be_bytes())
}

/// The mark of a queen's job.
pub(super) fn mark_of(queen: JobId) -> Mark {
    key_of(queen).mark(Purpose::Job)
}

impl World {
    /// The queen whose job has this mark.
    pub(super) fn queen_of(&self, mark: Mark) -> Option<JobId> {
        self.queens.keys().copied().find(|queen| mark_of(*queen) == mark)
    }
}
