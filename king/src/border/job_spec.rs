//! The part of a queen's request that is for the scheduler, checked.

use distwasm_proto::{
    limits::{PRIORITY_MAX, WEIGHT_MAX},
    text::is_name,
    wire,
};

use super::are_labels;
use crate::{authority::Origin, inbox::LinkError, scheduler::JobSpec};

/// Takes it out of the request.
pub(super) fn check_job_spec(request: &mut wire::OpenJob) -> Result<JobSpec, LinkError> {
    if request.project.is_empty() || !is_name(&request.project) {
        return Err(LinkError::Nonsense("the name of its project is empty, too long, or has control characters"));
    }
    if request.weight > WEIGHT_MAX {
        return Err(LinkError::Nonsense("a job weighs 1 to 1000"));
    }
    if request.priority.unsigned_abs() > PRIORITY_MAX.unsigned_abs() {
        return Err(LinkError::Nonsense("the priority of a job is -100 to 100"));
    }
    let requires = std::mem::take(&mut request.requires);
    if !are_labels(&requires) {
        return Err(LinkError::Nonsense("it requires labels that no duke may have"));
    }
    Ok(JobSpec {
        project: std::mem::take(&mut request.project),
        min_ram_bytes: request.min_ram_bytes,
        one_per_machine: request.one_per_machine,
        retries: request.retries,
        weight: request.weight.max(1),
        priority: request.priority,
        max_parallel: (request.max_parallel > 0).then_some(request.max_parallel),
        requires: requires.into_iter().collect(),
        speculate: request.speculate,
        payer: Origin::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(change: impl Fn(&mut wire::OpenJob)) -> Result<JobSpec, String> {
        let mut request = wire::OpenJob { project: "p".to_owned(), ..wire::OpenJob::default() };
        change(&mut request);
        check_job_spec(&mut request).map_err(|error| error.to_string())
    }

    #[test]
    fn a_job_weighs_one_by_default() {
        assert_eq!(told(|_| ()), Ok(JobSpec { project: "p".to_owned(), speculate: false, ..JobSpec::default() }));
    }

    #[test]
    fn scheduling_options_have_their_bounds() {
        assert_eq!(told(|job| job.weight = 1000).map(|spec| spec.weight), Ok(1000));
        assert!(told(|job| job.weight = 1001).unwrap_err().contains("1 to 1000"));
        assert_eq!(told(|job| job.priority = -100).map(|spec| spec.priority), Ok(-100));
        for priority in [101, -101, i32::MIN] {
            assert!(told(|job| job.priority = priority).unwrap_err().contains("-100 to 100"));
        }
        assert_eq!(told(|job| job.max_parallel = 7).map(|spec| spec.max_parallel), Ok(Some(7)));
        let label = |key: &str| (key.to_owned(), "x".repeat(256));
        assert!(told(|job| job.requires.extend([label("zone")])).unwrap_err().contains("no duke may have"));
        for name in ["", "a\nb", "a\x1b[2J", &"x".repeat(256)] {
            assert!(
                told(|job| name.clone_into(&mut job.project)).unwrap_err().contains("name of its project"),
                "{name}"
            );
        }
    }
}
