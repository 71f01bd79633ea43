//! Names of things that two processes talk about. An id is never used twice by the king that gave it.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// One link of a duke. A duke that comes back gets a new one.
    DukeId,
    "duke "
);
id!(
    /// One job, from its submission to its last verdict.
    JobId,
    "job "
);
id!(
    /// A unit's number within its job: dense, from 0.
    UnitNo,
    "unit "
);
id!(
    /// One try of one unit on one duke.
    AttemptId,
    "attempt "
);
id!(
    /// One slot of a duke, and the peasant that fills it. Known only to its duke.
    BaronId,
    "baron "
);
