//! Checks the options of a run before it begins, and turns them into all that it needs.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use distwasm_jobs::{
    Folders,
    history::{History, Making},
    inputs::{
        InputRules, Names, Rerun,
        survey::{Clash, Survey, SurveyError},
    },
    job_note::JobNote,
    output_name::OutputName,
    outputs::{
        self, OutputPlace,
        prune::{self, PruneError},
    },
    request::JobRequest,
    selection::Selection,
};
use distwasm_process::randomness;
use distwasm_proto::{
    error_text::chain,
    guest::GuestSettings,
    limits::{FILE_BYTES_MAX, IN_PLACES_FROM_BYTES, NAME_BYTES_MAX, NAMES_SHOWN, STREAMED_BYTES_MIN},
    text::is_name,
};
use distwasm_transport::credentials::CredentialsError;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{
    combinations::{self, CombinationError},
    failures_file::{self, FailureFile, FailuresPathError, FailuresUnread, failures_path},
    guest_options::{self, GuestOptionsError},
    input_place::{self, InputError, InputPlace, STANDARD},
    local,
    options::Options,
    output_folder::{self, FolderLock, OutputFolderError},
    program::{JobProgram, ProgramError},
    report::harmless_path,
    selection_options::SelectionError,
    shared_folders::{self, Probe, Shared},
};

/// Why a run cannot begin.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PrepareError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Combination(#[from] CombinationError),
    #[error(transparent)]
    Selection(#[from] SelectionError),
    #[error(transparent)]
    Output(#[from] OutputFolderError),
    #[error(transparent)]
    Survey(#[from] SurveyError),
    #[error(transparent)]
    Prune(#[from] PruneError),
    #[error("the current folder, to which the paths of inputs and outputs are relative, cannot be found")]
    NoCurrentFolder(#[source] io::Error),
    #[error("two inputs would have one output (--output-name; {{dir}} or {{path}} in the name keeps inputs of several folders apart):{}", show_clashes(.clashes))]
    Clash { clashes: Vec<Clash> },
    #[error("the output {} would lie in the folder that is the output of another input (--output-name names it otherwise)", .path.display())]
    Nested { path: PathBuf },
    #[error("the output {} would take the place of an input: --output names another folder, or --output-name another name", .path.display())]
    OverInput { path: PathBuf },
    #[error("{} has no record of a run, so its files may not be outputs: nothing is removed (--prune)", .path.display())]
    PruneWithoutRecord { path: PathBuf },
    #[error(
        "the inputs have other numbers than in the run before, so the outputs in {} would be taken for those of other inputs: \
         --output names another folder, and --force writes all outputs anew",
        .path.display()
    )]
    Renumbered { path: PathBuf },
    #[error("a project's name has 1 to {NAME_BYTES_MAX} bytes, and no control characters (--project names another)")]
    Project,
    #[error(
        "each slot must have {wanted_mb} MB (--min-ram), and this machine gives its guests {limit_mb} MB (--ram-limit)"
    )]
    MinRam { wanted_mb: u64, limit_mb: u64 },
    #[error("failed to make up a key for the job")]
    Randomness(#[source] io::Error),
    #[error(transparent)]
    Guest(#[from] GuestOptionsError),
    #[error(transparent)]
    FailuresPath(#[from] FailuresPathError),
    #[error("failed to read the failures of earlier runs (--retry-failed)")]
    Earlier(#[from] FailuresUnread),
}

impl PrepareError {
    /// Whether the user stopped it.
    pub fn is_interruption(&self) -> bool {
        matches!(
            self,
            PrepareError::Survey(SurveyError::Interrupted)
                | PrepareError::Prune(PruneError::Survey(SurveyError::Interrupted))
        )
    }
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
pub struct Plan {
    /// Where inputs and outputs are. The output folder may be missing.
    pub folders: Folders,
    /// The job for the king.
    pub request: JobRequest,
    /// The file of failures; `None` if there is none.
    pub failures: Option<PathBuf>,
    /// Files among the outputs that no input has as its output, if they are to be removed.
    pub orphans: Vec<PathBuf>,
    /// What the user should know before the run.
    pub warnings: Vec<String>,
    /// Keeps what was read from stdin.
    input: InputPlace,
}

/// Everything that a run needs, checked.
#[derive(Debug)]
pub struct Preparation {
    /// Where inputs and outputs are.
    pub folders: Folders,
    /// The job for the king.
    pub request: JobRequest,
    /// The failures of this run and of earlier ones; `None` if none are kept.
    pub failures: Option<FailureFile>,
    /// The note about the job in the output folder, if a king gets the job.
    pub note: Option<JobNote>,
    /// How many files among the outputs were removed, because no input has them as its output.
    pub pruned: usize,
    /// What the user should know before the run.
    pub warnings: Vec<String>,
    /// Keeps what was read from stdin.
    pub _input: InputPlace,
    /// Shows dukes that they see the same output folder.
    pub _probe: Option<Probe>,
    /// Keeps other queens from the output folder.
    pub _lock: Option<FolderLock>,
}

/// Checks everything that can be checked without changing anything.
///
/// # Errors
///
/// When the run cannot begin, with the reason.
pub fn plan(options: &Options, program: &JobProgram, interrupted: &CancellationToken) -> Result<Plan, PrepareError> {
    let project = options.project.clone().unwrap_or_else(|| program.project.clone());
    if project.is_empty() || !is_name(&project) {
        return Err(PrepareError::Project);
    }
    let (mut guest, archives) = guest_options::prepare(&options.guest, &project)?;
    guest.result_bytes_max = options.max_output.map(|megabytes| megabytes.saturating_mul(1 << 20));
    let selection = options.selection.selection()?;
    let input = input_place::open(
        &options.input,
        options.selection.input_list.as_deref(),
        options.selection.null,
        FILE_BYTES_MAX,
    )?;
    combinations::check(options, &input.names)?;
    let output = match options.output == Path::new(STANDARD) {
        true => OutputPlace::Stdout,
        false => {
            let forbidden = |output: &Path| forbidden_overlap(&input, &selection, output);
            OutputPlace::Folder(output_folder::locate(&options.output, forbidden)?)
        }
    };
    let output_name = options.output_name();
    let failures = failures_path(
        options.failures.as_deref(),
        &input.folder,
        &output,
        options.selection.shard,
        output_name.is_some(),
    )?;
    if options.king_address.is_none() {
        local::check_memory(options)?;
    }
    let mut warnings = options.idle_flags.clone();
    warnings.extend(repeated(input.repeated));
    let (history, damage) = match &output {
        OutputPlace::Folder(folder) => {
            History::read(folder, Making::new(source(&input), program.program.digest(), &guest))
        }
        OutputPlace::Stdout => (History::default(), None),
    };
    warnings.extend(damage.map(|damage| chain(&damage)));
    // After the record was compared: a program whose file has another name makes the same outputs.
    guest_options::name_like(Path::new(&program.argv0), &mut guest);
    let names = match options.retry_failed {
        true => Names::Failed(failures.as_deref().map(failures_file::names).transpose()?.unwrap_or_default().into()),
        false => input.names.clone(),
    };
    let rerun = rerun(options, &names);
    let sweeps = options.selection.shard.is_none() && !options.dry_run;
    let follows_links = options.selection.follows_links(&input.names);
    let reports_done = options.dry_run;
    let outputs_are_folders = guest.arguments().name_output_folder();
    let rules = InputRules {
        names,
        follows_links,
        selection,
        output_name,
        outputs_are_folders,
        rerun,
        history,
        sweeps,
        reports_done,
    };
    let mut folders = Folders { input: input.folder.clone(), output, sync: options.sync, rules: Arc::new(rules) };
    survey(options, &mut folders, interrupted)?;
    let orphans = orphans(options, &folders, failures.as_deref(), interrupted)?;
    let request = JobRequest { archives, ..request(options, project, program, guest)? };
    Ok(Plan { folders, request, failures, orphans, warnings, input })
}

/// The job for the king, without its shared directories.
fn request(
    options: &Options,
    project: String,
    program: &JobProgram,
    guest: GuestSettings,
) -> Result<JobRequest, PrepareError> {
    Ok(JobRequest {
        key: randomness::secret().map_err(PrepareError::Randomness)?,
        replaces: Vec::new(),
        project,
        program: program.program.clone(),
        min_ram_bytes: options.min_ram.saturating_mul(1 << 20),
        one_per_machine: options.one_per_machine,
        scheduling: options.scheduling.scheduling(),
        timeout: options.timeout,
        retries: options.retries,
        guest,
        // On one machine the small ones take the way through memory.
        in_places_from_bytes: if is_one_machine(options) { IN_PLACES_FROM_BYTES } else { 0 },
        streamed_from_bytes: STREAMED_BYTES_MIN,
        archives: Vec::new(),
    })
}

/// Where inputs come from, for the record of runs.
fn source(input: &InputPlace) -> &Path {
    if matches!(input.names, Names::Stdin(_)) { Path::new(STANDARD) } else { &input.folder }
}

/// Which inputs run although they have outputs.
fn rerun(options: &Options, names: &Names) -> Rerun {
    if options.force || matches!(names, Names::Stdin(_)) {
        // What comes from stdin is another input each time.
        Rerun::All
    } else if options.update || options.retry_failed {
        // An input that failed may have the output that it had before it was changed.
        Rerun::Outdated
    } else {
        Rerun::Never
    }
}

/// Whether there is no king, and nothing is said of shared folders.
fn is_one_machine(options: &Options) -> bool {
    options.king_address.is_none() && options.shared.is_none()
}

/// A word about names that come again in a list.
fn repeated(count: u64) -> Option<String> {
    match count {
        0 => None,
        1 => Some("1 line of the list of inputs names an input again; it runs once".to_owned()),
        count => Some(format!("{count} lines of the list of inputs name an input again; each input runs once")),
    }
}

/// Checks everything that can be checked before the run starts, claims the output folder, and creates it if it is
/// missing.
///
/// # Errors
///
/// When the run cannot begin, with the reason.
pub fn prepare(
    options: &Options,
    program: &JobProgram,
    interrupted: &CancellationToken,
) -> Result<Preparation, PrepareError> {
    let Plan { mut folders, mut request, failures, orphans, mut warnings, input } =
        plan(options, program, interrupted)?;
    let shard = options.selection.shard;
    let (mut note, mut lock) = (None, None);
    if let OutputPlace::Folder(folder) = &mut folders.output {
        let forbidden = |output: &Path| forbidden_overlap(&input, &folders.rules.selection, output);
        let claimed = output_folder::claim(&options.output, forbidden, shard)?;
        claimed.folder.clone_into(folder);
        note = options.king_address.as_ref().map(|_| JobNote::new(folder, shard, request.key));
        request.replaces = note.as_ref().map(JobNote::earlier).unwrap_or_default();
        lock = Some(claimed);
    }
    if let (OutputPlace::Folder(folder), true) = (&folders.output, folders.rules.sweeps) {
        outputs::sweep(folder);
    }
    let is_local = options.king_address.is_none();
    let mut probe = None;
    if let Some(shared) = options.shared.or(is_local.then_some(Shared::Both)) {
        let carried;
        (request.guest.places, probe, carried) =
            shared_folders::places(&folders, shared, !is_local).map_err(PrepareError::NoCurrentFolder)?;
        if !is_local {
            warnings.extend(carried.into_iter().map(|why| format!("--shared: {why}")));
        }
    }
    // The lines of a file that the user named say which outputs they are about.
    let about = lock.as_ref().map_or(Path::new(STANDARD), |lock| &*lock.folder);
    let about = options.failures.as_ref().map(|_| about);
    let failures = failures.map(|path| FailureFile::open(path, about));
    // A file that the user named must be usable. The default file is needed only once there is a failure.
    if let (Some(path), Some(error)) = (&options.failures, failures.as_ref().and_then(FailureFile::error)) {
        let source = io::Error::new(error.kind(), error.to_string());
        return Err(FailuresPathError::Unusable { path: path.clone(), source }.into());
    }
    if let Some(lock) = &lock {
        let recorded = Arc::make_mut(&mut folders.rules).history.record(&lock.folder, &program.shown.to_string_lossy());
        warnings.extend(recorded.err().map(|error| chain(&error)));
        // Last of all: nothing can keep the run from its beginning now.
        prune::remove(&lock.folder, &orphans, interrupted)?;
    }
    Ok(Preparation {
        folders,
        request,
        failures,
        note,
        pruned: orphans.len(),
        warnings,
        _input: input,
        _probe: probe,
        _lock: lock,
    })
}

/// The folder of inputs, if this folder of outputs overlaps it in a way that outputs might be taken for inputs.
fn forbidden_overlap<'a>(input: &'a InputPlace, selection: &Selection, output: &Path) -> Option<&'a Path> {
    // Named inputs do not become more when outputs are written beside them.
    let is_whole = matches!(input.names, Names::All);
    let overlaps =
        output.starts_with(&input.folder) || input.folder.starts_with(output) || is_same(output, &input.folder);
    let is_left_out = || match output.strip_prefix(&input.folder) {
        Ok(below) if !below.as_os_str().is_empty() => selection.globs.prunes(selection.globs.folder_by_path(below)),
        _ => false,
    };
    (is_whole && overlaps && !is_left_out()).then_some(&*input.folder)
}

/// Whether two paths lead to one folder, which may be mounted twice.
fn is_same(one: &Path, other: &Path) -> bool {
    // What is missing is no other folder.
    let place = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    place(one).is_some_and(|one| place(other) == Some(one))
}

/// Looks at all names, if a decision depends on all of them.
fn survey(options: &Options, folders: &mut Folders, interrupted: &CancellationToken) -> Result<(), PrepareError> {
    let (input, rules) = (&*folders.input, Arc::make_mut(&mut folders.rules));
    options.selection.draw_sample(input, rules, interrupted)?;
    let OutputPlace::Folder(output) = &folders.output else { return Ok(()) };
    let survey = |rules| Survey { input, rules, interrupted };
    if let Some(name) = rules.output_name.as_ref().filter(|name| !name.is_one_to_one()) {
        let clashes = survey(rules).clashes(name, NAMES_SHOWN)?;
        if !clashes.is_empty() {
            return Err(PrepareError::Clash { clashes });
        }
    }
    if let Some(name) = rules.output_name.as_ref().filter(|_| rules.outputs_are_folders)
        && let Some(path) = survey(rules).nested(name)?
    {
        return Err(PrepareError::Nested { path });
    }
    let overlaps = output.starts_with(input) || input.starts_with(output);
    if overlaps && let Some(below) = survey(rules).output_over_input(output)? {
        return Err(PrepareError::OverInput { path: input.join(below) });
    }
    if rules.output_name.as_ref().is_some_and(OutputName::has_number) {
        let names = survey(rules).digest()?;
        rules.history.number(names);
        if rules.history.is_renumbered() && !options.force {
            return Err(PrepareError::Renumbered { path: output.clone() });
        }
    }
    Ok(())
}

/// Files among the outputs that no input has as its output, if they are to be removed.
fn orphans(
    options: &Options,
    folders: &Folders,
    failures: Option<&Path>,
    interrupted: &CancellationToken,
) -> Result<Vec<PathBuf>, PrepareError> {
    let Folders { input, output: OutputPlace::Folder(output), rules, .. } = folders else { return Ok(Vec::new()) };
    if !options.prune || !output.exists() {
        return Ok(Vec::new());
    }
    if rules.history.is_empty() {
        return Err(PrepareError::PruneWithoutRecord { path: output.clone() });
    }
    let survey = Survey { input, rules, interrupted };
    Ok(prune::orphans(&survey, output, failures.as_slice())?)
}
