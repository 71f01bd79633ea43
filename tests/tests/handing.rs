//! Units whose inputs and outputs are files that the duke sees: a duke's end of a peasant, and the real peasant.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test ends where its expectation does")]

use std::{
    env,
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use distwasm_duke::{
    allowed::AllowedDirs,
    cache::Made,
    peasant::{
        Answer, Content, Handle, HeldRoom, PeasantEvent, PeasantNews, PeasantSettings, Spawner, UnitInput, hire,
    },
};
use distwasm_process::{
    start,
    unfinished::{OWN_FOLDER, is_unfinished},
};
use distwasm_proto::{
    failure::FailureKind,
    guest::{GuestSettings, Places},
    ids::{BaronId, JobId, UnitNo},
    limits::PIPE_UNITS_MAX,
};
use distwasm_tests::real::{Place, guest, programs};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::sync::mpsc;

/// A job's folders and its compiled program.
struct Job {
    place: Place,
    compiled: PathBuf,
    units_with_files: usize,
}

/// What is done while answers come.
type OnAnswer<'a> = &'a mut dyn FnMut(usize, &mut Handle);

impl Job {
    fn new(program: &str) -> Job {
        let place = Place::default();
        fs::create_dir(place.output()).unwrap();
        let compiled = place.path().join("compiled");
        let mut compile = Command::new(programs().join("peasant"));
        compile.args(["compile", "--output"]).arg(&compiled).stdin(File::open(guest(program)).unwrap());
        assert!(compile.stdout(Stdio::null()).status().unwrap().success());
        Job { place, compiled, units_with_files: 64 }
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.place.input().join(name), content).unwrap();
    }

    /// Has a peasant answer units. Returns what came of each, up to the end of the peasant, and how it ended.
    fn run(&self, units: Vec<UnitInput>, on_answer: OnAnswer<'_>) -> (Vec<String>, String) {
        let runtime = start::runtime(1).unwrap();
        runtime.block_on(self.run_within(units, on_answer))
    }

    async fn run_within(&self, units: Vec<UnitInput>, on_answer: OnAnswer<'_>) -> (Vec<String>, String) {
        let places = Places { input: Some(self.place.input()), output: Some(self.place.output()), probe: None };
        let settings = PeasantSettings {
            supplies: vec![Made::Program(self.compiled.as_path().into())],
            memory_bytes: 64 << 20,
            guest: Arc::new(GuestSettings { places, ..GuestSettings::default() }),
            takes_files: false,
        };
        let spawner = Spawner::start(&programs().join("peasant")).unwrap().with_files_of(self.units_with_files);
        let (news, mut heard) = mpsc::channel(1);
        let (mut handle, life) =
            hire(BaronId(1), JobId(1), settings, spawner, AllowedDirs::All, HeldRoom::default(), news);
        let drive = async {
            let (mut said, mut open, mut units) = (Vec::new(), 0, units.into_iter());
            while let Some(PeasantNews { event, .. }) = heard.recv().await {
                match event {
                    PeasantEvent::Ready | PeasantEvent::AnswerBegun { .. } => {}
                    PeasantEvent::Answered(answers) => {
                        open -= answers.len();
                        for answer in answers {
                            said.push(self.settle(answer, said.len()));
                            on_answer(said.len(), &mut handle);
                        }
                    }
                    PeasantEvent::Gone(ending) => return (said, ending),
                    other => panic!("{other:?}"),
                }
                while open < PIPE_UNITS_MAX
                    && let Some(unit) = units.next()
                {
                    open += 1;
                    handle.feed(unit);
                }
                if open == 0 {
                    handle.retire();
                }
            }
            panic!("it is never said to be gone")
        };
        tokio::join!(drive, life).0
    }

    /// Gives an output its name, as a queen does; says what came of a unit.
    fn settle(&self, answer: Answer, number: usize) -> String {
        match answer {
            Answer::Result(held) => String::from_utf8(held.result.contiguous().to_vec()).unwrap(),
            Answer::Failure(failure) => format!("{}: {}", failure.kind.name(), failure.message),
            Answer::Written(unfinished) => {
                assert!(is_unfinished(unfinished.name().as_ref()));
                let found = self.place.output().join(OWN_FOLDER).join(unfinished.name());
                let bytes = fs::metadata(&found).unwrap().len();
                fs::rename(&found, found.with_file_name(format!("{number}"))).unwrap();
                format!("{bytes} bytes in {number}")
            }
            Answer::Kept(kept) => format!("{} bytes in a file of the duke", kept.bytes),
            Answer::NeedsFile(failure) => format!("it needs a file: {}", failure.message),
        }
    }

    fn output(&self, path: &str) -> String {
        fs::read_to_string(self.place.output().join(OWN_FOLDER).join(path)).unwrap()
    }
}

/// The number of files and folders in a folder.
fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

fn carried(name: &str, content: &[u8], is_left: bool) -> UnitInput {
    let content = Content::Carried(content.to_vec().into());
    UnitInput { unit: UnitNo(0), number: 1, name: name.as_bytes().to_vec().into(), content, is_left, is_kept: false }
}

fn in_files(name: &str, listed_bytes: u64) -> UnitInput {
    UnitInput { content: Content::Referenced { listed_bytes }, ..carried(name, b"", true) }
}

fn nothing() -> impl FnMut(usize, &mut Handle) {
    |_, _| {}
}

#[test]
fn inputs_and_outputs_are_files_or_carried() {
    for program in ["upper.wat", "echo.wat", "component-upper.wat"] {
        let job = Job::new(program);
        job.write("a", b"A file");
        let units = vec![
            in_files("a", 6),
            UnitInput { is_left: false, ..in_files("a", 6) },
            carried("b", b"Bytes", true),
            carried("b", b"Bytes", false),
        ];
        let (said, _) = job.run(units, &mut nothing());
        let case = |text: &str| if program == "echo.wat" { text.to_owned() } else { text.to_uppercase() };
        assert_eq!(said, ["6 bytes in 0".to_owned(), case("A file"), "5 bytes in 2".to_owned(), case("Bytes")]);
        assert_eq!((job.output("0"), job.output("2")), (case("A file"), case("Bytes")));
        assert_eq!(count(&job.place.output().join(OWN_FOLDER)), 2);
    }
}

#[test]
fn units_without_their_files_are_answered_in_order() {
    let job = Job::new("upper.wat");
    job.write("a", b"a");
    let units = [("a", 1), ("lost", 1), ("a", 1), ("a", 2), ("../compiled", 1), ("a", 1)];
    let (said, _) = job.run(units.map(|(name, bytes)| in_files(name, bytes)).into(), &mut nothing());
    let kinds: Vec<_> = said.iter().map(|said| said.split(':').next().unwrap().to_owned()).collect();
    let good = |number| format!("1 bytes in {number}");
    let bad = || FailureKind::Input.name().to_owned();
    assert_eq!(kinds, [good(0), bad(), good(2), bad(), bad(), good(5)]);
    let lost: Vec<_> = ["lost"; 5].map(|name| in_files(name, 1)).into();
    let (said, _) = job.run(lost, &mut nothing());
    assert!(said.len() == 5 && said.iter().all(|said| said.contains("cannot read lost: No such file")), "{said:?}");
}

#[test]
fn a_killed_peasant_leaves_nothing() {
    let job = Job::new("loop.wat");
    job.write("a", b"a");
    job.write("loop", b"loop");
    let (said, ending) = job.run(vec![in_files("a", 1)], &mut nothing());
    assert!(ending.contains("exit status 0"), "{said:?} {ending}");
    let mut kill = |_: usize, handle: &mut Handle| handle.kill();
    let units = [("a", 1), ("loop", 4), ("loop", 4)].map(|(name, bytes)| in_files(name, bytes)).into();
    let (said, ending) = job.run(units, &mut kill);
    assert!(said.len() == 1 && ending.contains("signal 9"), "{said:?} {ending}");
    assert_eq!(count(&job.place.output().join(OWN_FOLDER)), 1);
}

#[test]
fn files_may_be_longer_than_the_memory_of_the_guest() {
    let job = Job::new("echo.wat");
    let mut large = File::create(job.place.input().join("large")).unwrap();
    large.seek(SeekFrom::Start(70 << 20)).unwrap();
    large.write_all(b"end").unwrap();
    let (said, _) = job.run(vec![in_files("large", (70 << 20) + 3)], &mut nothing());
    assert_eq!(said, [format!("{} bytes in 0", (70 << 20) + 3)]);
}

#[test]
fn an_output_on_a_full_disk_is_a_failure_of_its_unit() {
    let job = Job::new("echo.wat");
    let disk = job.place.output();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&disk).output();
    if !mount.is_ok_and(|mount| mount.status.success()) {
        println!("SKIPPED: a small file system cannot be mounted here, so a full disk cannot be tried");
        return;
    }
    job.write("small", b"small");
    job.write("large", &vec![b'x'; 2 << 20]);
    let (said, _) = job.run(vec![in_files("small", 5), in_files("large", 2 << 20)], &mut nothing());
    let left = count(&disk.join(OWN_FOLDER));
    // Lazily: processes that other tests start inherit the folder for a moment.
    assert!(Command::new("umount").arg("--lazy").arg(&disk).status().unwrap().success());
    assert!(said[1].starts_with("output: cannot write the output: No space left"), "{said:?}");
    assert_eq!((said[0].as_str(), left), ("5 bytes in 0", 1));
}

/// Set for the process that has few descriptors.
const NARROW: &str = "DISTWASM_TEST_NARROW";

#[test]
fn many_units_pass_with_few_descriptors() {
    if env::var_os(NARROW).is_none() {
        let mut narrow = Command::new(env::current_exe().unwrap());
        narrow.args(["--exact", "many_units_pass_with_few_descriptors", "--nocapture"]).env(NARROW, "1");
        assert!(narrow.status().unwrap().success());
        return;
    }
    let job = Job::new("upper.wat");
    (0..100).for_each(|number| job.write(&number.to_string(), format!("n{number}").as_bytes()));
    let units =
        (0..100).map(|number: u64| in_files(&number.to_string(), 1 + number.to_string().len() as u64)).collect();
    setrlimit(Resource::Nofile, Rlimit { current: Some(45), maximum: Some(45) }).unwrap();
    let (said, ending) = job.run(units, &mut nothing());
    assert_eq!((said.len(), ending.as_str()), (100, "it ended with exit status 0"));
    for (number, said) in said.iter().enumerate() {
        assert_eq!(*said, format!("{} bytes in {number}", 1 + number.to_string().len()));
        assert_eq!(job.output(&number.to_string()), format!("N{number}"));
    }
}
