//! `queen jobs` and `queen job`: show the jobs of a king, and what each job waits for.

use std::fmt::{self, Display};

use clap::Args;
use distwasm_process::flags;
use distwasm_proto::{
    text,
    wire::{Compilation, JobInfo, JobList, ListJobsRequest},
};
use distwasm_transport::address::Address;
use thiserror::Error;

use super::ask::{AskError, AskedKing};

/// Lists the jobs of a king.
#[derive(Args, Debug)]
pub struct JobsOptions {
    /// The king to ask.
    #[command(flatten)]
    pub king: AskedKing,

    /// Print JSON, one line for each job
    #[arg(long)]
    pub json: bool,
}

/// Shows one job of a king, and what the job waits for.
#[derive(Args, Debug)]
pub struct JobOptions {
    /// The number of the job, as `queen jobs` shows it
    #[arg(value_name = "ID", value_parser = parse_job)]
    pub job: u64,

    /// The king to ask, and the output format
    #[command(flatten)]
    pub jobs: JobsOptions,
}

/// A number on the command line that names a job.
pub(super) fn parse_job(text: &str) -> Result<u64, String> {
    flags::whole_number(1..=u64::MAX)(text)
        .map_err(|_| "it must be the number of a job, as `queen jobs` shows it".to_owned())
}

/// Why a job cannot be shown.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum JobError {
    #[error(transparent)]
    NoAnswer(#[from] AskError),
    #[error("the king at {address} has no job {job}; `queen jobs` shows those that it has")]
    NoJob { address: Address, job: u64 },
}

/// Asks the king for its jobs.
///
/// # Errors
///
/// When the king does not answer.
pub async fn list(options: &JobsOptions) -> Result<JobList, AskError> {
    options.king.ask(async |mut king, remote| king.list_jobs(remote.request(ListJobsRequest {})).await).await
}

/// Asks the king for one of its jobs.
///
/// # Errors
///
/// When the king does not answer, or has no such job.
pub async fn find(options: &JobOptions) -> Result<JobInfo, JobError> {
    let jobs = list(&options.jobs).await?.jobs;
    let job = jobs.into_iter().find(|job| job.job == options.job);
    job.ok_or_else(|| JobError::NoJob { address: options.jobs.king.king_address.clone(), job: options.job })
}

/// Jobs as a table for people.
pub struct Table<'a>(pub &'a JobList);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobList { jobs, dukes } = self.0;
        if jobs.is_empty() {
            return writeln!(f, "no jobs, {dukes} dukes");
        }
        writeln!(
            f,
            "{:<14} {:<20} {:>5} {:>8} {:>8} {:>8} {:>8}  WAITS FOR",
            "JOB", "PROJECT", "SLOTS", "WAITING", "RUNNING", "DONE", "FAILED"
        )?;
        for job in jobs {
            let JobInfo { project, slots, units_waiting, units_running, units_done, units_failed, .. } = job;
            writeln!(
                f,
                "{:<14} {:<20} {slots:>5} {units_waiting:>8} {units_running:>8} {units_done:>8} {units_failed:>8}  {}",
                job.job,
                text::line(project),
                text::line(&waits_for(job))
            )?;
        }
        Ok(())
    }
}

/// One job for people.
pub struct Sheet<'a>(pub &'a JobInfo);

impl Display for Sheet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobInfo { job, project, priority, slots, units_waiting, units_running, units_done, units_failed, .. } =
            self.0;
        let project = text::line(project);
        writeln!(f, "job       {job}\nproject   {project}\npriority  {priority}\nslots     {slots}")?;
        writeln!(
            f,
            "units     {units_waiting} waiting, {units_running} running, {units_done} done, {units_failed} failed"
        )?;
        if let Some(longest) = &self.0.longest {
            let name = String::from_utf8_lossy(&longest.name);
            let (seconds, duke) = (longest.running_ms / 1000, text::line(&longest.duke));
            writeln!(f, "longest   {}, on {duke} for {seconds} s", text::line(&name))?;
        }
        if let Some(Compilation { duke, running_ms }) = &self.0.compiling {
            writeln!(f, "compiling {} s, on {}", running_ms / 1000, text::line(duke))?;
        }
        let waits_for = waits_for(self.0);
        if waits_for.is_empty() { Ok(()) } else { writeln!(f, "waits     {}", text::line(&waits_for)) }
    }
}

fn waits_for(job: &JobInfo) -> String {
    match (job.queen_is_away, job.waits_for.as_str()) {
        (false, why) => why.to_owned(),
        (true, "") => "its queen is away".to_owned(),
        (true, why) => format!("its queen is away; {why}"),
    }
}

/// A job as one line of JSON.
pub fn to_json(job: &JobInfo) -> String {
    serde_json::json!({
        "job": job.job,
        "project": job.project,
        "priority": job.priority,
        "slots": job.slots,
        "waiting": job.units_waiting,
        "running": job.units_running,
        "done": job.units_done,
        "failed": job.units_failed,
        "waits_for": job.waits_for,
        "queen_is_away": job.queen_is_away,
        "compiling": job.compiling.as_ref().map(|compilation| serde_json::json!({
            "duke": compilation.duke,
            "seconds": compilation.running_ms as f64 / 1000.0,
        })),
        "longest": job.longest.as_ref().map(|longest| serde_json::json!({
            "input": String::from_utf8_lossy(&longest.name),
            "duke": longest.duke,
            "seconds": longest.running_ms as f64 / 1000.0,
        })),
    })
    .to_string()
}
