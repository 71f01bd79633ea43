//! The groups in which the help shows the flags of a job.

use clap::Command;

/// Flags that say which files are inputs.
pub const INPUT_FLAGS: [&str; 11] = [
    "input_list",
    "null",
    "follow_links",
    "include",
    "exclude",
    "exclude_from",
    "newer_than",
    "shard",
    "sample",
    "sample_seed",
    "limit",
];

/// The headings, and the flags below each. All other flags come first.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Which files are inputs", &INPUT_FLAGS),
    ("What is done before, and again", &["dry_run", "update", "force", "prune", "retry_failed"]),
    (
        "The guest program",
        &[
            "call",
            "deterministic",
            "fresh",
            "argv0",
            "stack",
            "unknown_imports",
            "ok_status",
            "scratch",
            "raw_args",
            "env",
            "dirs",
        ],
    ),
    (
        "The job among others",
        &["weight", "priority", "max_parallel", "requires", "no_speculation", "one_per_machine", "grace"],
    ),
    ("Without a king", &["num_cpus", "ram_limit", "compile_timeout", "peasant", "cache", "require_jail"]),
];

/// The command with its flags in groups, as far as it has them.
pub fn in_groups(command: Command) -> Command {
    command.mut_args(|arg| {
        let group = GROUPS.iter().find(|(_, flags)| flags.contains(&arg.get_id().as_str()));
        match group {
            Some((heading, _)) => arg.help_heading(*heading),
            None => arg,
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::options::Options;

    #[test]
    fn every_flag_of_a_group_is_one_of_a_job() {
        let command = Options::command();
        for flag in GROUPS.iter().flat_map(|(_, flags)| flags.iter()) {
            assert!(command.get_arguments().any(|arg| arg.get_id() == flag), "{flag}");
        }
    }
}
