//! The folders of a run that dukes use themselves, so that inputs or results are not carried.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use distwasm_jobs::{Folders, inputs::Names, outputs::OutputPlace};
use distwasm_process::{
    beneath::{self, Missing},
    files,
    unfinished::{open_own_folder, unfinished_name},
};
use distwasm_proto::guest::Places;
use rustix::fs::OFlags;

/// Which folders dukes see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shared {
    /// Those of inputs and outputs
    Both,
    /// That of inputs: results are carried
    Input,
    /// That of outputs: inputs are carried
    Output,
}

/// A file by which dukes know the output folder. Removed when it is dropped.
#[derive(Debug)]
pub struct Probe {
    folder: File,
    name: PathBuf,
}

impl Probe {
    fn write(own: File) -> io::Result<Probe> {
        let name = PathBuf::from(unfinished_name());
        beneath::file_in(own.try_clone()?, &name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        Ok(Probe { folder: own, name })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // If it cannot be removed now, the next run removes it.
        let _removed = files::remove_in(&self.folder, &self.name);
    }
}

/// What of a run is not carried, and what dukes know the output folder by, if it is `elsewhere` for them. What has to be
/// carried is told in words: inputs that links may lead anywhere, or that come from stdin, and a result for stdout.
///
/// # Errors
///
/// When the current folder, to which paths are relative, cannot be found.
pub fn places(
    folders: &Folders,
    shared: Shared,
    elsewhere: bool,
) -> io::Result<(Places, Option<Probe>, Vec<&'static str>)> {
    let (mut places, mut probe, mut carried) = (Places::default(), None, Vec::new());
    if shared != Shared::Output {
        match (&folders.rules.names, folders.rules.follows_links) {
            (Names::Stdin(_), _) => carried.push("the input is carried to the dukes, because it comes from stdin"),
            (_, true) => carried.push("inputs are carried to the dukes, because links among them are followed"),
            (_, false) => places.input = Some(std::path::absolute(&folders.input)?),
        }
    }
    if shared != Shared::Input {
        match &folders.output {
            OutputPlace::Stdout => carried.push("the result is carried home, because it goes to stdout"),
            OutputPlace::Folder(folder) => match own_folder(folder, elsewhere) {
                Ok(written) => {
                    places.output = Some(std::path::absolute(folder)?);
                    places.probe = written.as_ref().map(|probe| probe.name.clone());
                    probe = written;
                }
                Err(_) => carried
                    .push("results are carried home, because nothing can be written to .distwasm in the output folder"),
            },
        }
    }
    Ok((places, probe, carried))
}

/// Makes sure that results can be written, and marks the folder if that is wanted.
fn own_folder(output: &Path, marks: bool) -> io::Result<Option<Probe>> {
    let own = open_own_folder(File::open(output)?, Missing::Made)?;
    marks.then(|| Probe::write(own)).transpose()
}
