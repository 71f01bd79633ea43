//! What each process of distwasm needs from its machine, done in one way: to begin and end, read flags and the clock, log,
//! write files that last, and know how much it may use.

pub mod aligned;
pub mod allowance;
pub mod beneath;
pub mod clock;
pub mod files;
pub mod flags;
pub mod guest_flags;
pub mod handed;
pub mod handover;
pub mod logging;
pub mod memory;
pub mod nameless;
pub mod randomness;
pub mod repeats;
pub mod shutdown;
pub mod start;
pub mod stderr;
pub mod token_flags;
pub mod unfinished;
pub mod version;
