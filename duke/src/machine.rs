//! What this machine has, as far as this process may use it.

use std::{fs, num::NonZero};

use distwasm_process::{allowance, memory};
use distwasm_proto::{
    limits::{
        DUKE_CPUS_MAX, DUKE_DESCRIPTORS, DUKE_THREADS, PEASANT_DESCRIPTORS, PEASANT_THREADS,
        REFERENCED_UNIT_DESCRIPTORS, REFERENCED_UNITS_MAX, UNKNOWN_MEMORY_SLOT_BYTES,
    },
    text,
};
use tracing::warn;

/// The machine's name.
pub fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // The king refuses names with control characters.
    let is_name = !name.is_empty() && text::is_name(&name);
    if is_name { name } else { "unnamed".to_owned() }
}

/// Processors that this process may use: affinity and cgroup quota are respected.
pub fn cpus() -> u32 {
    let cpus = std::thread::available_parallelism().map_or_else(
        |error| {
            warn!(%error, "the processors of this machine cannot be counted; using one (--num-cpus sets another number)");
            1
        },
        NonZero::get,
    );
    u32::try_from(cpus).unwrap_or(DUKE_CPUS_MAX).min(DUKE_CPUS_MAX)
}

/// The memory for guests by default: half of the machine's.
pub fn guest_memory_bytes(cpus: u32) -> u64 {
    memory::usable_bytes().map_or_else(
        || {
            let bytes = u64::from(cpus) * UNKNOWN_MEMORY_SLOT_BYTES;
            let mb = bytes >> 20;
            warn!(mb, "the memory of this machine is not known; guests may take this much (--ram-limit sets it)");
            bytes
        },
        |bytes| bytes / 2,
    )
}

/// How many peasants, at most `wanted`, fit beside what this process itself needs. If fewer than `wanted` fit, names
/// the limit.
pub fn peasants_that_fit(wanted: u32) -> (u32, Option<&'static str>) {
    let fit = |left: Option<u64>, own: u64, each: u64| {
        left.map_or(u32::MAX, |left| u32::try_from(left.saturating_sub(own) / each).unwrap_or(u32::MAX))
    };
    let descriptors = fit(allowance::descriptors_left(), DUKE_DESCRIPTORS, PEASANT_DESCRIPTORS);
    let processes = fit(allowance::processes_left(), DUKE_THREADS, PEASANT_THREADS);
    let (fit, bound) = if descriptors <= processes {
        (descriptors, "its limit of open files (`ulimit -n`)")
    } else {
        (processes, "its limit of processes and threads (`ulimit -u`, or the cgroup's pids.max)")
    };
    if fit < wanted { (fit, Some(bound)) } else { (wanted, None) }
}

/// How many units of each of `peasants` may have their files open at a time: as many as make sense, if there are
/// descriptors for them, and one in any case.
pub fn units_with_files(peasants: u32) -> usize {
    let Some(left) = allowance::descriptors_left() else { return REFERENCED_UNITS_MAX };
    let each = left.saturating_sub(DUKE_DESCRIPTORS) / u64::from(peasants.max(1));
    let own = PEASANT_DESCRIPTORS - REFERENCED_UNIT_DESCRIPTORS;
    let units = each.saturating_sub(own) / REFERENCED_UNIT_DESCRIPTORS;
    usize::try_from(units).unwrap_or(REFERENCED_UNITS_MAX).clamp(1, REFERENCED_UNITS_MAX)
}

/// An id of this machine's current boot, unique among machines. Empty where the system has none.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_a_name_and_processors() {
        assert!(!hostname().is_empty() && cpus() > 0);
    }

    #[test]
    fn no_more_peasants_are_promised_than_fit() {
        assert_eq!(peasants_that_fit(0), (0, None));
        let (fit, bound) = peasants_that_fit(u32::MAX);
        assert!(bound.is_none() || fit < u32::MAX);
        assert_eq!(units_with_files(u32::MAX), 1);
    }
}
