//! Which of the files below the input folder are inputs of a run: pure decisions on names and times.
//!
//! A file passes the filters in this order: the globs, `--newer-than`, `--shard`, `--sample`. Those that pass are counted
//! by `--limit`. What a filter decides about a file depends on that file alone (and, for a sample, on what a survey of
//! all names finds), so that the same command has the same inputs when it is run again.

mod globs;
mod hashing;

use std::path::Path;

use serde::Serialize;

use crate::file_time::FileTime;

pub use globs::{FolderMatch, GlobError, GlobRule, Globs};
pub use hashing::{Sample, SampleDraw, Shard};

/// What leaves a file out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOutBy {
    /// It is a folder, and nothing below it can be an input.
    Folder,
    /// No `--include` matches it.
    Include,
    /// An `--exclude` matches it.
    Exclude,
    /// It is too old for `--newer-than`.
    NewerThan,
    /// It belongs to another shard.
    Shard,
    /// It is not in the sample.
    Sample,
}

/// The files that were left out, by what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Files that no `--include` matches.
    #[serde(skip_serializing_if = "is_zero")]
    pub include: u64,
    /// Files that an `--exclude` matches.
    #[serde(skip_serializing_if = "is_zero")]
    pub exclude: u64,
    /// Folders that an `--exclude` matches, which were not looked into.
    #[serde(skip_serializing_if = "is_zero")]
    pub folders: u64,
    /// Files that are too old for `--newer-than`.
    #[serde(skip_serializing_if = "is_zero")]
    pub newer_than: u64,
    /// Files of other shards.
    #[serde(skip_serializing_if = "is_zero")]
    pub shard: u64,
    /// Files that are not in the sample.
    #[serde(skip_serializing_if = "is_zero")]
    pub sample: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl LeftOut {
    /// Whether nothing was left out.
    pub fn is_nothing(&self) -> bool {
        *self == LeftOut::default()
    }

    /// Counts one file, or one folder.
    pub fn count(&mut self, by: LeftOutBy) {
        *match by {
            LeftOutBy::Folder => &mut self.folders,
            LeftOutBy::Include => &mut self.include,
            LeftOutBy::Exclude => &mut self.exclude,
            LeftOutBy::NewerThan => &mut self.newer_than,
            LeftOutBy::Shard => &mut self.shard,
            LeftOutBy::Sample => &mut self.sample,
        } += 1;
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: LeftOut) {
        self.include += other.include;
        self.exclude += other.exclude;
        self.folders += other.folders;
        self.newer_than += other.newer_than;
        self.shard += other.shard;
        self.sample += other.sample;
    }

    /// The counts of files that are not zero, each with its flag.
    pub fn files(&self) -> impl Iterator<Item = (u64, &'static str)> + use<> {
        let counts = [
            (self.include, "--include"),
            (self.exclude, "--exclude"),
            (self.newer_than, "--newer-than"),
            (self.shard, "--shard"),
            (self.sample, "--sample"),
        ];
        counts.into_iter().filter(|(count, _)| *count > 0)
    }
}

/// The filters of a run. By default, every file is an input.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The globs of `--include` and `--exclude`.
    pub globs: Globs,
    /// Only files that were changed after this.
    pub newer_than: Option<FileTime>,
    /// Only files of this shard.
    pub shard: Option<Shard>,
    /// Only a sample of the files.
    pub sample: Option<Sample>,
    /// Only the first files that pass all filters, this many.
    pub limit: Option<u64>,
}

impl Selection {
    /// What leaves this file out, if anything does. `changed` is asked only when the answer depends on it.
    pub fn leaves_out(
        &self,
        folder: FolderMatch,
        path: &Path,
        changed: impl FnOnce() -> Option<FileTime>,
    ) -> Option<LeftOutBy> {
        if let Some(by) = self.globs.leave_out(folder, path) {
            return Some(by);
        }
        // A file whose time is unknown is kept: it fails later, with the reason.
        if self.newer_than.is_some_and(|bound| changed().is_some_and(|changed| changed <= bound)) {
            return Some(LeftOutBy::NewerThan);
        }
        if self.shard.is_some_and(|shard| !shard.has(path)) {
            return Some(LeftOutBy::Shard);
        }
        self.sample.is_some_and(|sample| !sample.has(path)).then_some(LeftOutBy::Sample)
    }

    /// The filters that come before the sample.
    pub(crate) fn before_sample(&self) -> Selection {
        Selection { sample: None, limit: None, ..self.clone() }
    }
}
