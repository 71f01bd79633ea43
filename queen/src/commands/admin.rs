//! `queen admin`: what the operator of a king does from elsewhere.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use distwasm_proto::{
    limits::KING_PATIENCE,
    wire::{BackUpPiece, BackUpRequest},
};
use distwasm_transport::{link::Remote, service::admin_client::AdminClient};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{
    ask::{AskError, AskedKing},
    new_file::{NewFile, NewFileError},
};

/// What the operator of a king does from elsewhere, with a token of an admin.
#[derive(Args, Debug)]
pub struct AdminOptions {
    /// What is to be done.
    #[command(subcommand)]
    pub command: AdminCommand,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Writes a backup of all that a king remembers into a new file, while the king goes on. `king restore` makes a folder
    /// of it. The king's key and tokens are not in it: copy `key.der` and `tokens.jsonl` from the king's folder
    Backup(BackupOptions),
}

/// Where a backup comes from, and goes to.
#[derive(Args, Debug)]
pub struct BackupOptions {
    /// The file, which must not exist yet: a tar archive
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The king that is backed up.
    #[command(flatten)]
    pub king: AskedKing,
}

/// Why there is no backup. No file is left.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BackupError {
    #[error(transparent)]
    File(#[from] NewFileError),
    #[error(transparent)]
    Asked(#[from] AskError),
    #[error("interrupted: there is no backup")]
    Interrupted,
}

/// Fetches a backup from a king; returns a sentence about it.
///
/// # Errors
///
/// When the king does not send all of it, or it cannot be written.
pub async fn back_up(options: &BackupOptions, interrupted: &CancellationToken) -> Result<String, BackupError> {
    let bytes = interrupted.run_until_cancelled(fetch(options)).await.ok_or(BackupError::Interrupted)??;
    Ok(format!("{}: {bytes} bytes", options.file.display()))
}

async fn fetch(options: &BackupOptions) -> Result<u64, BackupError> {
    let mut file = NewFile::create(&options.file)?;
    let asked =
        async |remote: Remote| AdminClient::new(remote.channel()).back_up(remote.request(BackUpRequest {})).await;
    let mut pieces: Streaming<BackUpPiece> = options.king.ask_within(KING_PATIENCE, asked).await?;
    let mut bytes = 0;
    while let Some(piece) = pieces.message().await.map_err(|status| options.king.refused(&status))? {
        bytes += piece.data.len() as u64;
        tokio::task::block_in_place(|| file.write(&piece.data))?;
    }
    tokio::task::block_in_place(|| file.finish())?;
    Ok(bytes)
}
