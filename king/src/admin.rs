//! The gRPC service of the operator: backups.

use std::sync::Arc;

use distwasm_proto::{
    limits::{BACKUPS_MAX, PROGRAM_PIECE_WITHIN, REQUEST_BYTES_MAX},
    wire::{BackUpPiece, BackUpRequest},
};
use distwasm_store::Backup;
use distwasm_transport::service::admin_server::{Admin as Rpc, AdminServer};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use crate::{
    authority::Authority,
    programs::{PIECES_WAITING, Programs, ProgramsError},
    service::Visit,
};

/// Answers what an operator asks.
#[derive(Clone)]
pub(crate) struct Methods {
    programs: Programs,
    authority: Authority,
    /// Those that send backups.
    tasks: TaskTracker,
    places: Arc<Semaphore>,
}

impl Methods {
    /// The service, for what these programs are kept in.
    pub(crate) fn server(programs: Programs, authority: Authority, tasks: TaskTracker) -> AdminServer<Methods> {
        let methods = Methods { programs, authority, tasks, places: Arc::new(Semaphore::new(BACKUPS_MAX)) };
        AdminServer::new(methods).max_decoding_message_size(REQUEST_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Rpc for Methods {
    type BackUpStream = ReceiverStream<Result<BackUpPiece, Status>>;

    async fn back_up(&self, request: Request<BackUpRequest>) -> Result<Response<Self::BackUpStream>, Status> {
        let visit = Visit::of(&request)?;
        let busy = |_| Status::resource_exhausted("another backup is being made: try again when it is done");
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(busy)?;
        let backup = self.programs.back_up().await.map_err(|error| error.to_status())?;
        let (sender, pieces) = mpsc::channel(PIECES_WAITING);
        let (authority, identity) = (self.authority.clone(), visit.identity().clone());
        tracing::info!(peer = %identity, "a backup begins");
        self.tasks.spawn(async move {
            let _place = place;
            tokio::select! {
                () = send(backup, &sender) => {}
                refusal = authority.withdrawn(&identity) => {
                    // The peer may not be reading.
                    let _told = sender.try_send(Err(Status::unauthenticated(refusal.to_string())));
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(pieces)))
    }
}

/// Sends a backup as fast as the peer takes it. A peer that takes nothing gets no more of it.
async fn send(mut backup: Backup, sender: &mpsc::Sender<Result<BackUpPiece, Status>>) {
    while let Some(piece) = backup.next().await {
        let piece = piece.map(|data| BackUpPiece { data }).map_err(|error| ProgramsError::from(error).to_status());
        let is_over = piece.is_err();
        if sender.send_timeout(piece, PROGRAM_PIECE_WITHIN).await.is_err() || is_over {
            return;
        }
    }
}
