//! Checks the options of a run before it begins, and turns them into all that it needs.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use distwasm_jobs::{
    Folders,
    history::{History, Making, RecordError},
    inputs::{
        Again, Listing, Names,
        survey::{Clash, Survey, SurveyError},
    },
    job_note::JobNote,
    outputs::{
        OutputPlace,
        prune::{self, PruneError},
    },
    request::JobRequest,
    selection::Shard,
};
use distwasm_process::beneath;
use distwasm_proto::limits::{NAME_BYTES_MAX, NAMES_SHOWN};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{
    failures_file::{self, FailureFile, FailuresUnread, default_failures_path},
    guest_options::{self, GuestOptionsError},
    input_place::{self, InputError, InputPlace, STANDARD},
    options::Options,
    output_folder::{self, OutputFolderError},
    program::{ProgramError, project_of, read_program},
    report::harmless_path,
    selection_options::SelectionError,
};

/// Why a run cannot begin.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PrepareError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Selection(#[from] SelectionError),
    #[error(transparent)]
    Output(#[from] OutputFolderError),
    #[error(transparent)]
    Survey(#[from] SurveyError),
    #[error(transparent)]
    Prune(#[from] PruneError),
    #[error("two inputs would have one output (--output-name):{}", show_clashes(.clashes))]
    Clash { clashes: Vec<Clash> },
    #[error(
        "--output-name has no {{word}} in it, so all inputs would have one output; {{stem}} is an input's name without its extension"
    )]
    OneName,
    #[error("{flag} has no effect on the output to stdout (--output -)")]
    Stdout { flag: &'static str },
    #[error("--output - writes one result to stdout, and there is more than one input: --input names one file, or `-`")]
    StdoutSeveral,
    #[error("--output - writes a result to stdout, and --json would print a summary there")]
    StdoutJson,
    #[error("the output {} would take the place of an input: --output names another folder, or --output-name another name", .path.display())]
    OverInput { path: PathBuf },
    #[error("{flag} is for a folder of inputs, and here they are named one by one")]
    NamedInputs { flag: &'static str },
    #[error(
        "with {flag} the numbers of inputs are others than without, and they are in the names of outputs (--output-name)"
    )]
    Numbers { flag: &'static str },
    #[error("{} has no record of a run, so its files may not be outputs: nothing is removed (--prune)", .path.display())]
    PruneStranger { path: PathBuf },
    #[error("a project's name has 1 to {NAME_BYTES_MAX} bytes")]
    Project,
    #[error(
        "each slot must have {wanted_mb} MB (--min-ram), and this machine gives its guests {limit_mb} MB (--ram-limit)"
    )]
    MinRam { wanted_mb: u64, limit_mb: u64 },
    #[error(transparent)]
    Guest(#[from] GuestOptionsError),
    #[error("failed to read the failures of earlier runs (--retry-failed)")]
    Earlier(#[from] FailuresUnread),
    #[error("failed to open the file of failures {} (--failures)", .path.display())]
    Failures { path: PathBuf, source: io::Error },
    #[error("the file of failures {} (--failures) is in the input folder, and would be an input", .path.display())]
    FailuresAmongInputs { path: PathBuf },
    #[error("the file of failures {} (--failures) has the name of an output: that of the input {}", .path.display(), .input.display())]
    FailuresAmongOutputs { path: PathBuf, input: PathBuf },
    #[error("failed to print what would be done")]
    Print(#[source] io::Error),
}

/// Clashes, one a line, safe for a terminal.
fn show_clashes(clashes: &[Clash]) -> String {
    let line = |Clash { output, inputs: [one, other] }: &Clash| {
        format!("\n    {}: the output of {} and of {}", harmless_path(output), harmless_path(one), harmless_path(other))
    };
    clashes.iter().map(line).collect()
}

/// What a run would do: known without changing anything.
#[derive(Debug)]
pub struct Planned {
    /// Where inputs and outputs are. The output folder may be missing.
    pub folders: Folders,
    /// The job for the king.
    pub request: JobRequest,
    /// The file of failures; `None` if there is none.
    pub failures: Option<PathBuf>,
    /// Outputs whose inputs are gone, if they are to be removed.
    pub orphans: Vec<PathBuf>,
    /// What the user should know before the run.
    pub warnings: Vec<String>,
    /// Keeps what was read from stdin.
    _input: InputPlace,
}

/// Everything that a run needs, checked.
#[derive(Debug)]
pub struct Prepared {
    /// Where inputs and outputs are.
    pub folders: Folders,
    /// The job for the king.
    pub request: JobRequest,
    /// The failures of this run and of earlier ones; `None` if none are kept.
    pub failures: Option<FailureFile>,
    /// The note about the job beside the output folder, if a king gets the job.
    pub note: Option<JobNote>,
    /// How many outputs were removed because their inputs are gone.
    pub pruned: usize,
    /// What the user should know before the run.
    pub warnings: Vec<String>,
    /// Held for as long as the run lasts: what was read from stdin, and the lock of the output folder.
    pub _held: (InputPlace, Option<output_folder::Claim>),
}

/// Checks everything that can be checked without changing anything.
///
/// # Errors
///
/// When the run cannot begin, with the reason.
pub fn plan(options: &Options, interrupted: &CancellationToken) -> Result<Planned, PrepareError> {
    let program = read_program(&options.binary)?;
    let project = options.project.clone().unwrap_or_else(|| project_of(&options.binary));
    if project.is_empty() || project.len() > NAME_BYTES_MAX {
        return Err(PrepareError::Project);
    }
    let (guest, archives) = guest_options::prepare(&options.guest, &project)?;
    let selection = options.selection.selection()?;
    let input = input_place::open(&options.input, options.selection.input_list.as_deref(), options.selection.null)?;
    check_combination(options, &input.names)?;
    let output = match options.output == Path::new(STANDARD) {
        true => OutputPlace::Stdout,
        false => OutputPlace::Folder(output_folder::look(&options.output, forbidden_overlap(&input))?),
    };
    check_places(options, &input, &output)?;
    let failures = failures_path(options, &input.folder, &output)?;
    let mut warnings = options.idle_flags.clone();
    if input.repeated > 0 {
        warnings.push(match input.repeated {
            1 => "1 line of the list of inputs names an input again; it runs once".to_owned(),
            repeated => format!("{repeated} lines of the list of inputs name an input again; each input runs once"),
        });
    }
    let making = Making::new(&program, &guest);
    let (history, damage) = match &output {
        OutputPlace::Folder(folder) => History::read(folder, making),
        OutputPlace::Stdout => (History::default(), None),
    };
    warnings.extend(damage.map(|damage| damage.to_string()));
    let mut names = input.names.clone();
    if options.retry_failed {
        names = Names::Failed(failures.as_deref().map(failures_file::names).transpose()?.unwrap_or_default().into());
    }
    let again = match (options.update, options.force) {
        (_, true) => Again::All,
        (true, false) => Again::Outdated,
        (false, false) => Again::Never,
    };
    let sweeps = options.selection.shard.is_none() && !options.dry_run;
    let output_name = options.output_name.clone();
    let follows_links = options.selection.follows_links(&input.names);
    let mut listing =
        Listing { names, follows_links, selection, output_name, again, history, sweeps, names_done: options.dry_run };
    survey(options, &input.folder, &mut listing, interrupted)?;
    let orphans = orphans(options, &input.folder, &output, &listing, interrupted)?;
    let folders = Folders { input: input.folder.clone(), output, sync: options.sync, listing: Arc::new(listing) };
    let request = JobRequest {
        key: fastrand::u64(..),
        replaces: None,
        project,
        program,
        min_ram_bytes: options.min_ram.saturating_mul(1 << 20),
        one_per_machine: options.one_per_machine,
        scheduling: options.scheduling.scheduling(),
        timeout: options.timeout,
        retries: options.retries,
        guest,
        archives,
    };
    Ok(Planned { folders, request, failures, orphans, warnings, _input: input })
}

/// Checks everything that can be checked before the run starts, claims the output folder, and creates it if it is
/// missing.
///
/// # Errors
///
/// When the run cannot begin, with the reason.
pub fn prepare(options: &Options, interrupted: &CancellationToken) -> Result<Prepared, PrepareError> {
    let Planned { mut folders, mut request, failures, orphans, mut warnings, _input: input } =
        plan(options, interrupted)?;
    let shard = options.selection.shard;
    let mut note = None;
    let mut claim = None;
    if let OutputPlace::Folder(folder) = &mut folders.output {
        let claimed = output_folder::claim(&options.output, forbidden_overlap(&input), shard)?;
        claimed.folder.clone_into(folder);
        prune::remove(folder, &orphans)?;
        let beside = beside(folder, shard);
        note = options.king_address.as_ref().map(|king| JobNote::new(&beside, king.to_string(), request.key));
        request.replaces = note.as_ref().and_then(JobNote::earlier);
        claim = Some(claimed);
    }
    // The lines of a file that the user named say which outputs they are about.
    let about = claim.as_ref().map_or(Path::new(STANDARD), |claim| &*claim.folder);
    let about = options.failures.as_ref().map(|_| about);
    let failures = failures.map(|path| FailureFile::open(path, about));
    // A file that the user named must be usable. The default file is needed only once there is a failure.
    if let (Some(path), Some(error)) = (&options.failures, failures.as_ref().and_then(FailureFile::error)) {
        let source = io::Error::new(error.kind(), error.to_string());
        return Err(PrepareError::Failures { path: path.clone(), source });
    }
    if let Some(claim) = &claim {
        let recorded = record(&mut folders, &claim.folder, &options.binary);
        warnings.extend(recorded.err().map(|error| distwasm_proto::error_text::chain(&error)));
    }
    Ok(Prepared { folders, request, failures, note, pruned: orphans.len(), warnings, _held: (input, claim) })
}

/// Adds this run to the record of the output folder.
fn record(folders: &mut Folders, output: &Path, program: &Path) -> Result<(), RecordError> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let mut listing = (*folders.listing).clone();
    let recorded = listing.history.record(output, &name);
    folders.listing = Arc::new(listing);
    recorded
}

/// The folder of inputs, if no output may be in it.
fn forbidden_overlap(input: &InputPlace) -> Option<&Path> {
    // Named inputs do not become more when outputs are written beside them.
    matches!(input.names, Names::All).then_some(&*input.folder)
}

/// Refuses flags that mean nothing together, or not what they seem to mean.
fn check_combination(options: &Options, names: &Names) -> Result<(), PrepareError> {
    let is_single = match names {
        Names::Stdin(_) => true,
        Names::Listed(names) => names.len() == 1,
        Names::All | Names::Failed(_) => false,
    };
    let first = |flags: &[(&'static str, bool)]| flags.iter().find(|(_, is_set)| *is_set).map(|(flag, _)| *flag);
    let name = options.output_name.as_ref();
    let (prune, retry_failed) = (("--prune", options.prune), ("--retry-failed", options.retry_failed));
    if options.output == Path::new(STANDARD) {
        let idle = [
            ("--output-name", name.is_some()),
            ("--update", options.update),
            ("--force", options.force),
            ("--sync", options.sync),
            prune,
            retry_failed,
        ];
        if let Some(flag) = first(&idle) {
            return Err(PrepareError::Stdout { flag });
        }
        if !is_single {
            return Err(PrepareError::StdoutSeveral);
        }
        if options.json && !options.dry_run {
            return Err(PrepareError::StdoutJson);
        }
    }
    if !matches!(names, Names::All)
        && let Some(flag) = first(&[prune, retry_failed])
    {
        return Err(PrepareError::NamedInputs { flag });
    }
    let Some(name) = name else { return Ok(()) };
    if name.is_constant() && !is_single {
        return Err(PrepareError::OneName);
    }
    let shard = ("--shard", options.selection.shard.is_some());
    match first(&[prune, retry_failed, shard]).filter(|_| name.has_number()) {
        Some(flag) => Err(PrepareError::Numbers { flag }),
        None => Ok(()),
    }
}

/// Refuses outputs that would take the places of named inputs.
fn check_places(options: &Options, input: &InputPlace, output: &OutputPlace) -> Result<(), PrepareError> {
    let (Names::Listed(names), OutputPlace::Folder(output)) = (&input.names, output) else { return Ok(()) };
    if !output.starts_with(&input.folder) && !input.folder.starts_with(output) {
        return Ok(());
    }
    let known: HashSet<&Path> = names.iter().map(PathBuf::as_path).collect();
    for (number, name) in (1..).zip(names.iter()) {
        let renamed = options.output_name.as_ref().map(|template| template.fill_in(name, number));
        // A name that cannot be used is told when its turn comes.
        let path = output.join(renamed.transpose().unwrap_or_default().as_deref().unwrap_or(name));
        if path.strip_prefix(&input.folder).is_ok_and(|below| known.contains(below)) {
            return Err(PrepareError::OverInput { path });
        }
    }
    Ok(())
}

/// Looks at all names, if a decision depends on all of them.
fn survey(
    options: &Options,
    input: &Path,
    listing: &mut Listing,
    interrupted: &CancellationToken,
) -> Result<(), PrepareError> {
    if let Some(size) = options.selection.sample {
        let survey = Survey { input, listing, interrupted };
        listing.selection.sample = Some(survey.sample(size, options.selection.sample_seed)?);
    }
    let Some(name) = listing.output_name.as_ref().filter(|name| !name.is_one_to_one()) else { return Ok(()) };
    // Failures of earlier runs have the outputs that they have among all inputs.
    let everything = Listing { names: Names::All, ..listing.clone() };
    let listing = if matches!(listing.names, Names::Failed(_)) { &everything } else { &*listing };
    let clashes = Survey { input, listing, interrupted }.clashes(name, NAMES_SHOWN)?;
    if clashes.is_empty() { Ok(()) } else { Err(PrepareError::Clash { clashes }) }
}

/// The outputs whose inputs are gone, if they are to be removed.
fn orphans(
    options: &Options,
    input: &Path,
    output: &OutputPlace,
    listing: &Listing,
    interrupted: &CancellationToken,
) -> Result<Vec<PathBuf>, PrepareError> {
    let OutputPlace::Folder(output) = output else { return Ok(Vec::new()) };
    if !options.prune || !output.exists() {
        return Ok(Vec::new());
    }
    if listing.history.is_empty() {
        return Err(PrepareError::PruneStranger { path: output.clone() });
    }
    Ok(prune::orphans(&Survey { input, listing, interrupted }, output)?)
}

/// The path whose name begins the names of files beside the output folder: each of several queens has its own.
fn beside(output: &Path, shard: Option<Shard>) -> PathBuf {
    let mut path = output.as_os_str().to_owned();
    if let Some(shard) = shard {
        path.push(".");
        path.push(shard.word());
    }
    path.into()
}

/// The path of the failures file.
fn failures_path(options: &Options, input: &Path, output: &OutputPlace) -> Result<Option<PathBuf>, PrepareError> {
    let Some(path) = &options.failures else {
        return Ok(match output {
            OutputPlace::Folder(output) => Some(default_failures_path(&beside(output, options.selection.shard))),
            OutputPlace::Stdout => None,
        });
    };
    let cannot_open = |source| PrepareError::Failures { path: path.clone(), source };
    if path.is_symlink() && !path.exists() {
        return Err(cannot_open(io::Error::other("it is a link to nothing")));
    }
    beneath::check_link(path).map_err(cannot_open)?;
    let resolved = output_folder::resolve(path).map_err(cannot_open)?;
    if resolved.starts_with(input) {
        return Err(PrepareError::FailuresAmongInputs { path: path.clone() });
    }
    let OutputPlace::Folder(output) = output else { return Ok(Some(resolved)) };
    match resolved.strip_prefix(output).map(|below| input.join(below)) {
        Ok(input) if input.symlink_metadata().is_ok() => {
            Err(PrepareError::FailuresAmongOutputs { path: path.clone(), input })
        }
        _ => Ok(Some(resolved)),
    }
}
