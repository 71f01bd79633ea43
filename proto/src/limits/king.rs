//! Limits of a king on its peers' words and on the slots of jobs.

/// How often the only duke of a job may call its program unfit, whoever came and went meanwhile: each time costs a
/// compilation, and a job must end at some time.
pub const UNFIT_WORDS_MAX: u32 = 3;
