//! The walls around a peasant or a compiler, by name: what a machine can raise, and what an operator may insist on.

use std::fmt::{self, Display};

/// One wall around a process that runs or compiles a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wall {
    /// It is not the machine's root.
    NotRoot,
    /// No program that it could execute has more rights than itself.
    NoNewPrivileges,
    /// It has no capability.
    NoCapabilities,
    /// Bounds on descriptors, processes and core files.
    Limits,
    /// No other process of its user can trace it or read its memory, and it writes no core files.
    NotDumpable,
    /// Only the system calls that it needs.
    Seccomp,
    /// It can open nothing but what its job shares with it.
    LandlockFiles,
    /// It can neither bind nor connect a TCP socket.
    LandlockNetwork,
    /// It can reach no process outside by a signal or an abstract Unix socket.
    LandlockScope,
    /// User ids of its own, with no rights outside.
    UserNamespace,
    /// A network of its own, without any link.
    NetworkNamespace,
    /// Mounts of its own.
    MountNamespace,
    /// Message queues and shared memory of its own.
    IpcNamespace,
    /// A host name of its own.
    UtsNamespace,
    /// Its root folder is empty.
    EmptyRoot,
}

impl Wall {
    /// Every wall with its name.
    const TABLE: [(Wall, &'static str); 15] = [
        (Wall::NotRoot, "not-root"),
        (Wall::NoNewPrivileges, "no-new-privileges"),
        (Wall::NoCapabilities, "no-capabilities"),
        (Wall::Limits, "limits"),
        (Wall::NotDumpable, "not-dumpable"),
        (Wall::Seccomp, "seccomp"),
        (Wall::LandlockFiles, "landlock-files"),
        (Wall::LandlockNetwork, "landlock-network"),
        (Wall::LandlockScope, "landlock-scope"),
        (Wall::UserNamespace, "user-namespace"),
        (Wall::NetworkNamespace, "network-namespace"),
        (Wall::MountNamespace, "mount-namespace"),
        (Wall::IpcNamespace, "ipc-namespace"),
        (Wall::UtsNamespace, "uts-namespace"),
        (Wall::EmptyRoot, "empty-root"),
    ];

    /// Every wall, in the order in which they are listed.
    pub fn all() -> impl Iterator<Item = Wall> {
        Self::TABLE.iter().map(|(wall, _)| *wall)
    }

    /// The walls that need neither namespaces nor landlock: Linux since 4.17 gives them to any user, also in a container.
    pub const BASIC: [Wall; 6] =
        [Wall::NotRoot, Wall::NoNewPrivileges, Wall::NoCapabilities, Wall::Limits, Wall::NotDumpable, Wall::Seccomp];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|(wall, _)| *wall == self).map_or("unknown", |(_, name)| name)
    }

    /// The wall with this name.
    pub fn from_name(name: &str) -> Option<Wall> {
        Self::TABLE.iter().find(|(_, known)| *known == name).map(|(wall, _)| *wall)
    }
}

impl Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The names of these walls, separated by commas.
pub fn names(walls: impl IntoIterator<Item = Wall>) -> String {
    walls.into_iter().map(Wall::name).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wall_has_a_name_of_its_own() {
        assert!(Wall::all().all(|wall| Wall::from_name(wall.name()) == Some(wall)));
        assert_eq!(Wall::from_name("moat"), None);
        assert_eq!(names([Wall::Limits, Wall::Seccomp]), "limits,seccomp");
        assert!(Wall::BASIC.iter().all(|basic| Wall::all().any(|wall| wall == *basic)));
    }
}
