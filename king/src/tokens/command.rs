//! `king token`: makes, shows and revokes tokens. No king need be running; one that is notices within a second or two.

use std::{fmt::Display, io, time::Duration};

use clap::{Args, Subcommand};
use distwasm_process::{clock::time_of_day, files, flags, stderr};
use distwasm_proto::{
    limits::{NAME_BYTES_MAX, TOKEN_LIFE_MAX},
    text::is_name,
};
use distwasm_transport::token::TokenId;
use rustix::fs::{FileType, fstat};
use thiserror::Error;

use super::{
    Projects, ProjectsError, Role, Wish,
    store::{Store, StoreError},
    table::{JsonLines, Table},
};
use crate::{
    data::DataError,
    options::{KeyFlags, KeyFlagsError},
};

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Makes a token and prints it, this once
    Create(CreateOptions),
    /// Lists all tokens, without their secrets
    List(ListOptions),
    /// Revokes tokens, and ends the connections of those who use them
    Revoke(RevokeOptions),
}

/// A token to be made.
#[derive(Args, Debug)]
pub struct CreateOptions {
    /// What the token is for
    #[arg(long, value_enum)]
    pub role: Role,

    /// A project that the token is for; `*` stands for any text; may be given several times [default: all projects]
    #[arg(long = "project", value_name = "NAME")]
    pub projects: Vec<String>,

    /// How long it is valid, such as 12h or 30days [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = parse_life)]
    pub expires: Option<Duration>,

    /// A name for `king token list`
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = parse_name)]
    pub name: String,

    /// The king that it is for.
    #[command(flatten)]
    pub key: KeyFlags,
}

/// How tokens are listed.
#[derive(Args, Debug)]
pub struct ListOptions {
    /// Print JSON, one line for each token
    #[arg(long)]
    pub json: bool,

    /// The king whose tokens they are.
    #[command(flatten)]
    pub key: KeyFlags,
}

/// Tokens to be revoked.
#[derive(Args, Debug)]
pub struct RevokeOptions {
    /// Ids of tokens, as `king token list` shows them; the beginning of one is enough if no other begins so
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,

    /// The king whose tokens they are.
    #[command(flatten)]
    pub key: KeyFlags,
}

/// Why a command failed.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TokenCommandError {
    #[error(transparent)]
    Key(#[from] KeyFlagsError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Projects(#[from] ProjectsError),
    #[error("a token for {0}s is not for projects: leave --project out")]
    NoProjects(Role),
    #[error("failed to write to stdout")]
    Stdout(#[source] io::Error),
}

fn parse_life(text: &str) -> Result<Duration, String> {
    let life = flags::positive_duration(text)?;
    // Tokens are dated in whole seconds.
    let is_possible = (Duration::from_secs(1)..=TOKEN_LIFE_MAX).contains(&life);
    if is_possible { Ok(life) } else { Err("it must be between 1 s and 100 years".to_owned()) }
}

fn parse_name(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("a name has up to {NAME_BYTES_MAX} bytes, and no control characters"))
    }
}

impl TokenCommand {
    /// Does it, and prints what comes of it.
    ///
    /// # Errors
    ///
    /// When the tokens cannot be read or changed, or the result cannot be printed.
    pub fn run(self) -> Result<(), TokenCommandError> {
        match self {
            TokenCommand::Create(options) => create(options),
            TokenCommand::List(options) => list(&options),
            TokenCommand::Revoke(options) => revoke(&options),
        }
    }
}

fn create(options: CreateOptions) -> Result<(), TokenCommandError> {
    let CreateOptions { role, projects, expires, name, key } = options;
    if !projects.is_empty() && !matches!(role, Role::Queen | Role::Observer) {
        return Err(TokenCommandError::NoProjects(role));
    }
    let wish = Wish { role, projects: Projects::new(projects)?, name, life: expires };
    let fingerprint = key.open()?.fingerprint();
    let store = Store::in_folder(key.data()?.path());
    let token = store.change(|tokens| tokens.create(fingerprint, wish, time_of_day()))?;
    print(format!("{}\n", token.to_bearer()))?;
    if stdout_is_open_to_others() {
        stderr::say(
            "others may read the file that the token was written to: `chmod 600` it, or dukes and queens do not take it",
        );
    }
    let program = if role == Role::Duke { "duke" } else { "queen" };
    stderr::say(&format!(
        "token {} for {role}s; it is shown only now, and `king token revoke {}` takes it back. To use it:\n\
         DISTWASM_TOKEN=... {program} --king-address HOST:PORT",
        token.id(),
        token.id()
    ));
    Ok(())
}

/// Whether stdout is a file in which others may read the token.
fn stdout_is_open_to_others() -> bool {
    fstat(io::stdout()).is_ok_and(|found| {
        FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_mode & 0o077 != 0
    })
}

fn list(options: &ListOptions) -> Result<(), TokenCommandError> {
    let tokens = Store::in_folder(options.key.data()?.path()).read()?;
    let now = time_of_day();
    if options.json { print(JsonLines(&tokens, now)) } else { print(Table(&tokens, now)) }
}

fn revoke(options: &RevokeOptions) -> Result<(), TokenCommandError> {
    let store = Store::in_folder(options.key.data()?.path());
    let revoked = store.change(|tokens| tokens.revoke(&options.ids, time_of_day()))?;
    let ids: Vec<String> = revoked.iter().map(TokenId::to_string).collect();
    stderr::say(&match ids.len() {
        0 => "they were revoked before".to_owned(),
        _ => format!("revoked {}; a running king ends their connections within seconds", ids.join(", ")),
    });
    Ok(())
}

fn print(what: impl Display) -> Result<(), TokenCommandError> {
    files::write_stdout(what.to_string().as_bytes()).map_err(TokenCommandError::Stdout)
}
