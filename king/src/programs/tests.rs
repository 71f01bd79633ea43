//! Programs by name, in a store in a folder.

use std::{os::unix::fs::PermissionsExt, path::Path};

use bytes::Bytes;
use distwasm_proto::wire::PushBegin;
use distwasm_store::{check::check, sqlite::SqliteStore};
use tempfile::TempDir;

use super::*;
use crate::{
    programs::push::Announced,
    tokens::{
        Role, Tokens,
        tests::{FINGERPRINT, at, wish},
    },
};

fn kept() -> (TempDir, Programs) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let store = SqliteStore::open(folder.path()).unwrap();
    (folder, Programs::in_store(Arc::new(store)))
}

/// A queen that is limited to these projects.
fn queen(projects: &[&str]) -> Identity {
    let mut tokens = Tokens::default();
    let token = tokens.create(FINGERPRINT, wish(Role::Queen, projects, None), at(0)).unwrap();
    Identity::Token(Arc::clone(tokens.get(token.id()).unwrap()))
}

fn announce(name: &str, project: &str, program: &[u8]) -> PushBegin {
    let digest = Digest::of([program]).to_wire();
    PushBegin { name: name.to_owned(), project: project.to_owned(), bytes_total: program.len() as u64, digest }
}

async fn push_as(
    programs: &Programs,
    identity: &Identity,
    begin: &PushBegin,
    program: &[u8],
) -> Result<(u32, bool), ProgramsError> {
    let announced = Announced::check(begin)?;
    if let Some(there) = programs.is_there(identity, &announced).await? {
        return Ok((there.version, false));
    }
    let mut push = programs.begin(announced).await?;
    for piece in program.chunks(3) {
        push.take(Bytes::copy_from_slice(piece)).await?;
    }
    programs.finish(identity, push).await.map(|(version, is_new)| (version.version, is_new))
}

/// A program that differs from others.
fn program(number: u8) -> Vec<u8> {
    [b"\0asm\x01\0\0\0".as_slice(), &[number]].concat()
}

async fn push(programs: &Programs, name: &str, number: u8) -> (u32, bool) {
    let program = program(number);
    push_as(programs, &Identity::Trusted, &announce(name, "", &program), &program).await.unwrap()
}

async fn found(programs: &Programs, identity: &Identity, text: &str) -> Result<(String, u32), String> {
    let found = programs.find(identity, &text.parse().unwrap()).await;
    found.map(|found| (found.name, found.version)).map_err(|error| error.to_string())
}

fn blobs(folder: &TempDir) -> usize {
    std::fs::read_dir(folder.path().join("blobs")).unwrap().count()
}

#[tokio::test]
async fn a_name_has_versions_and_the_same_bytes_are_not_a_new_one() {
    let (folder, programs) = kept();
    assert_eq!(push(&programs, "summer", 1).await, (1, true));
    assert_eq!(push(&programs, "summer", 1).await, (1, false));
    assert_eq!(push(&programs, "summer", 2).await, (2, true));
    // What an older version was can be the newest one again.
    assert_eq!(push(&programs, "summer", 1).await, (3, true));
    assert_eq!(push(&programs, "other", 1).await, (1, true));
    assert_eq!(blobs(&folder), 2, "the same bytes are kept once");
    let trusted = Identity::Trusted;
    let sha256 = |number| format!("sha256:{}", Digest::of([program(number).as_slice()]));
    for (text, name, version) in
        [("summer", "summer", 3), ("@summer:2", "summer", 2), (&sha256(2)[..20], "summer", 2), (&sha256(1), "other", 1)]
    {
        assert_eq!(found(&programs, &trusted, text).await, Ok((name.to_owned(), version)), "{text}");
    }
    for (text, why) in [
        ("none", "there is no program none that this peer may see"),
        ("summer:4", "there is no program summer:4: there are versions 1-3"),
        ("sha256:00000000", "there is no program sha256:00000000"),
    ] {
        assert!(found(&programs, &trusted, text).await.unwrap_err().contains(why), "{text}");
    }
    let mut reader = programs.open(&trusted, Digest::of([program(2).as_slice()])).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), program(2));
    drop(programs);
    assert!(check(folder.path()).unwrap().problems.is_empty());
}

#[tokio::test]
async fn versions_are_removed_and_their_numbers_do_not_come_again() {
    let (folder, programs) = kept();
    let (trusted, name) = (Identity::Trusted, "summer".parse().unwrap());
    for number in 1..=3 {
        push(&programs, "summer", number).await;
    }
    assert_eq!(programs.remove(&trusted, &name, Some(3)).await.unwrap(), [3]);
    assert_eq!(found(&programs, &trusted, "summer").await, Ok(("summer".to_owned(), 2)));
    let told = programs.remove(&trusted, &name, Some(3)).await.unwrap_err().to_string();
    assert!(told.contains("there are versions 1-2"), "{told}");
    assert_eq!(programs.remove(&trusted, &name, None).await.unwrap(), [1, 2]);
    assert!(programs.remove(&trusted, &name, None).await.is_err());
    assert!(programs.list(&trusted, "").await.unwrap().programs.is_empty());
    assert_eq!(push(&programs, "summer", 3).await, (4, true));
    assert_eq!(blobs(&folder), 1);
}

#[tokio::test]
async fn more_versions_than_fit_a_batch_are_removed_together() {
    let (_folder, programs) = kept();
    for number in 0..=u8::MAX {
        push(&programs, "summer", number).await;
    }
    let list = programs.list(&Identity::Trusted, "").await.unwrap();
    assert_eq!((list.programs.len(), list.next.as_str()), (256, ""));
    let removed = programs.remove(&Identity::Trusted, &"summer".parse().unwrap(), None).await.unwrap();
    assert_eq!(removed, (1..=256).collect::<Vec<u32>>());
}

#[tokio::test]
async fn a_queen_of_a_project_has_the_programs_of_its_project() {
    let (_folder, programs) = kept();
    let (lab, field) = (queen(&["lab"]), queen(&["field-*"]));
    let pushed = async |identity: &Identity, name: &str, project: &str, number: u8| {
        let program = program(number);
        push_as(&programs, identity, &announce(name, project, &program), &program).await
    };
    assert_eq!(pushed(&lab, "summer", "lab", 1).await.unwrap(), (1, true));
    assert_eq!(pushed(&lab, "summer", "", 2).await.unwrap(), (2, true), "it keeps its project");
    assert_eq!(pushed(&field, "field-1", "", 1).await.unwrap(), (1, true), "its project is its name");
    let refused = async |identity: &Identity, name: &str, project: &str| {
        pushed(identity, name, project, 9).await.unwrap_err().to_string()
    };
    assert!(refused(&lab, "other", "").await.contains("(--project says to which project"));
    assert!(refused(&field, "summer", "").await.contains("of another project: push under another name"));
    assert!(refused(&Identity::Trusted, "summer", "x").await.contains("belongs to project lab, and not to x"));
    for (identity, seen) in [(&lab, vec!["summer", "summer"]), (&field, vec!["field-1"]), (&queen(&["x"]), vec![])] {
        let list = programs.list(identity, "").await.unwrap().programs;
        assert_eq!(list.iter().map(|program| program.name.as_str()).collect::<Vec<_>>(), seen);
    }
    assert!(found(&programs, &field, "summer").await.is_err());
    // A digest that both have shows each its own.
    let digest = Digest::of([program(1).as_slice()]);
    assert_eq!(found(&programs, &field, &format!("sha256:{digest}")).await, Ok(("field-1".to_owned(), 1)));
    assert!(programs.open(&field, Digest::of([program(2).as_slice()])).await.is_err());
    assert!(programs.remove(&field, &"summer".parse().unwrap(), None).await.is_err());
    // A name without versions is free.
    programs.remove(&lab, &"summer".parse().unwrap(), None).await.unwrap();
    assert_eq!(pushed(&field, "summer", "field-2", 1).await.unwrap(), (3, true));
    assert!(found(&programs, &lab, "summer").await.is_err());
}

#[tokio::test]
async fn what_is_no_program_or_did_not_come_whole_is_not_kept() {
    let (folder, programs) = kept();
    let (trusted, fine) = (Identity::Trusted, program(1));
    for (name, program, why) in [
        ("a", b"%PDF-1.7".to_vec(), "not a WebAssembly program"),
        ("a", Vec::new(), "it is empty"),
        ("A", fine.clone(), "is not the name of a program"),
    ] {
        let told = push_as(&programs, &trusted, &announce(name, "", &program), &program).await.unwrap_err();
        assert!(told.to_string().contains(why), "{told}");
    }
    let begin = announce("a", "", &fine);
    let short = push_as(&programs, &trusted, &begin, &fine[..5]).await;
    assert!(matches!(short, Err(ProgramsError::BrokenOff)), "{short:?}");
    let long = push_as(&programs, &trusted, &begin, &[&fine[..], b"x"].concat()).await;
    assert!(long.unwrap_err().to_string().contains("more than the 9 bytes that were announced"));
    let other = push_as(&programs, &trusted, &begin, &program(2)).await;
    assert!(matches!(other, Err(ProgramsError::Garbled)), "{other:?}");
    let huge = PushBegin { bytes_total: u64::MAX, ..begin.clone() };
    assert!(matches!(Announced::check(&huge), Err(ProgramsError::TooLarge)));
    assert!(Announced::check(&PushBegin { project: "a\nb".to_owned(), ..begin.clone() }).is_err());
    assert!(Announced::check(&PushBegin { digest: Bytes::new(), ..begin }).is_err());
    assert!(programs.list(&trusted, "").await.unwrap().programs.is_empty());
    assert!(programs.list(&trusted, "a b").await.is_err());
    drop(programs);
    assert_eq!(blobs(&folder), 0);
    // A text in the middle of whose last character it is cut.
    let text = format!("(module) ;; {}", "ä".repeat(4096));
    let programs = Programs::in_store(Arc::new(SqliteStore::open(folder.path()).unwrap()));
    let begin = announce("text", "", text.as_bytes());
    assert!(push_as(&programs, &trusted, &begin, text.as_bytes()).await.is_ok());
}

#[tokio::test]
async fn of_pushes_at_the_same_time_each_gets_a_number() {
    let (_folder, programs) = kept();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..12 {
        let programs = programs.clone();
        tasks.spawn(async move { push(&programs, "summer", number).await });
    }
    let mut versions = tasks.join_all().await;
    versions.sort_unstable();
    assert_eq!(versions, (1..=12).map(|number| (number, true)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_king_without_a_folder_says_that_it_keeps_nothing() {
    let programs = Programs::none();
    let told = programs.find(&Identity::Trusted, &"summer".parse().unwrap()).await.unwrap_err();
    assert!(told.to_string().contains("one that is started with `king --data DIR` does"), "{told}");
    assert!(programs.list(&Identity::Trusted, "").await.is_err());
}

#[tokio::test]
async fn what_is_wrong_with_the_disk_of_a_king_is_told_without_its_paths() {
    let (folder, programs) = kept();
    push(&programs, "summer", 1).await;
    let blob = folder.path().join("blobs").join(Digest::of([program(1).as_slice()]).to_string());
    std::fs::write(&blob, "other").unwrap();
    let mut reader = programs.open(&Identity::Trusted, Digest::of([program(1).as_slice()])).await.unwrap();
    let error = ProgramsError::from(reader.next().await.unwrap_err());
    let told = error.for_peer();
    assert!(told.contains("lost the bytes of this program") && !told.contains('/'), "{told}");
    assert!(!Path::new(&told).is_absolute() && !error.may_pass());
}
