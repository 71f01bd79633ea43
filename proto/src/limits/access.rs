//! The limits of tokens, which say who may do what at a king.

use std::time::Duration;

use super::{KIB, MIB};

/// Tokens of one king, with those that have ended and are still listed: one for each person and machine of a large
/// site. Beyond that, the ones that ended first are forgotten.
pub const TOKENS_MAX: usize = 10_000;

/// The file of a king's tokens: each with a few projects and a name.
pub const TOKENS_BYTES_MAX: usize = 16 * MIB;

/// Projects that one token names: more are a case for a pattern.
pub const TOKEN_PROJECTS_MAX: usize = 64;

/// What a peer may show as its token, in bytes: many times the length of one, and the header is in memory already.
pub const BEARER_BYTES_MAX: usize = KIB;

/// The longest life of a token that expires. The dates of all such tokens can be written with four digits for the year.
pub const TOKEN_LIFE_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// How far the clock of another machine that made the token may be ahead, when both use one folder of data.
pub const TOKEN_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// How often a king looks whether its tokens have changed, or one has expired.
pub const TOKENS_LOOK_EVERY: Duration = Duration::from_secs(1);

/// The shortest pause between two such looks, which unknown tokens cause, too: the longest that a peer with a token that
/// was just made waits, and rare enough that a flood of unknown tokens costs little.
pub const TOKENS_LOOK_PAUSE: Duration = Duration::from_millis(50);
