//! The gRPC service of the programs.

use std::future::Future;

use distwasm_proto::{
    digest::Digest,
    limits::{OPENING_WITHIN, PROGRAM_MESSAGE_BYTES_MAX, PROGRAM_PIECE_WITHIN},
    program_name::ProgramRef,
    wire::{
        FindProgramRequest, ListProgramsRequest, ProgramList, ProgramVersion, PullProgramWord, PushProgramReply,
        PushProgramWord, RemoveProgramReply, RemoveProgramRequest, pull_program_word, push_program_word::Word,
    },
};
use distwasm_store::BlobReader;
use distwasm_transport::service::programs_server::{Programs as Rpc, ProgramsServer};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Programs, ProgramsError,
    push::Announced,
    turns::{Turn, Turns},
};
use crate::{
    authority::{Authority, Identity},
    service::Visit,
};

/// Pieces of a program or a backup that wait for a slow peer.
pub(crate) const PIECES_WAITING: usize = 2;

/// Answers what peers ask about programs.
#[derive(Clone)]
pub(crate) struct Methods {
    programs: Programs,
    authority: Authority,
    turns: Turns,
    /// Those that send programs.
    tasks: TaskTracker,
}

impl Methods {
    /// The service of these programs.
    pub(crate) fn server(programs: Programs, authority: Authority, tasks: TaskTracker) -> ProgramsServer<Methods> {
        let methods = Methods { programs, authority, turns: Turns::default(), tasks };
        ProgramsServer::new(methods).max_decoding_message_size(PROGRAM_MESSAGE_BYTES_MAX)
    }

    /// Waits for an answer as long as the peer may stay.
    async fn answer<T>(
        &self,
        identity: &Identity,
        answer: impl Future<Output = Result<T, ProgramsError>>,
    ) -> Result<Response<T>, Status> {
        tokio::select! {
            answered = timeout(OPENING_WITHIN, answer) => match answered.unwrap_or(Err(ProgramsError::Slow)) {
                Ok(answered) => Ok(Response::new(answered)),
                Err(error) => Err(error.to_status()),
            },
            refusal = self.authority.withdrawn(identity) => Err(Status::unauthenticated(refusal.to_string())),
        }
    }

    async fn push(
        &self,
        visit: &Visit,
        mut words: Streaming<PushProgramWord>,
    ) -> Result<PushProgramReply, ProgramsError> {
        let (programs, identity) = (&self.programs, visit.identity());
        programs.store()?;
        let _turn = self.turns.take(visit.origin())?;
        let Some(Word::Begin(begin)) = next(&mut words).await? else {
            return Err(ProgramsError::Nonsense("a push begins with the name of the program"));
        };
        let announced = Announced::check(&begin)?;
        if let Some(program) = programs.is_there(identity, &announced).await? {
            return Ok(PushProgramReply { program: Some(program), is_new: false });
        }
        let mut push = programs.begin(announced).await?;
        while let Some(word) = next(&mut words).await? {
            match word {
                Word::Piece(piece) if !piece.is_empty() => push.take(piece).await?,
                Word::Piece(_) | Word::Begin(_) => {
                    return Err(ProgramsError::Nonsense("after its beginning, a program comes in pieces with bytes"));
                }
            }
        }
        let (program, is_new) = programs.finish(identity, push).await?;
        if is_new {
            tracing::info!(
                name = program.name,
                version = program.version,
                project = program.project,
                bytes = program.bytes,
                peer = %identity,
                "a program was pushed"
            );
        }
        Ok(PushProgramReply { program: Some(program), is_new })
    }

    async fn remove(&self, visit: &Visit, request: &RemoveProgramRequest) -> Result<RemoveProgramReply, ProgramsError> {
        let name = request.name.parse()?;
        let number = (request.version > 0).then_some(request.version);
        let versions = self.programs.remove(visit.identity(), &name, number).await?;
        tracing::info!(%name, ?versions, peer = %visit.identity(), "versions of a program were removed");
        Ok(RemoveProgramReply { versions })
    }

    async fn pull(
        &self,
        visit: &Visit,
        request: &FindProgramRequest,
    ) -> Result<ReceiverStream<Result<PullProgramWord, Status>>, ProgramsError> {
        let store = self.programs.store()?;
        let turn = self.turns.take(visit.origin())?;
        let program = self.programs.find(visit.identity(), &request.program.parse()?).await?;
        let damaged = || ProgramsError::Record { key: program.name.clone() };
        let digest = Digest::from_wire(&program.digest).ok_or_else(damaged)?;
        let reader = store.read_blob(digest).await?;
        let (sender, pieces) = mpsc::channel(PIECES_WAITING);
        let (authority, identity) = (self.authority.clone(), visit.identity().clone());
        self.tasks.spawn(async move {
            tokio::select! {
                // One that takes longer has given up its place by then.
                _ = timeout(OPENING_WITHIN, send(program, reader, &sender, turn)) => {}
                refusal = authority.withdrawn(&identity) => {
                    // The peer may not be reading.
                    let _told = sender.try_send(Err(Status::unauthenticated(refusal.to_string())));
                }
            }
        });
        Ok(ReceiverStream::new(pieces))
    }
}

/// The next word of a peer; `None` when it has said all, or has gone.
async fn next(words: &mut Streaming<PushProgramWord>) -> Result<Option<Word>, ProgramsError> {
    match timeout(PROGRAM_PIECE_WITHIN, words.message()).await {
        Ok(Ok(None)) => Ok(None),
        Ok(Ok(Some(message))) => {
            message.word.map(Some).ok_or(ProgramsError::Nonsense("a word of a kind that is not known"))
        }
        Ok(Err(_)) => Err(ProgramsError::BrokenOff),
        Err(_) => Err(ProgramsError::Slow),
    }
}

/// Sends a program to a peer, as fast as that takes it. A peer that takes nothing loses its place.
async fn send(
    program: ProgramVersion,
    mut reader: Box<dyn BlobReader>,
    sender: &mpsc::Sender<Result<PullProgramWord, Status>>,
    _turn: Turn,
) {
    let mut word = pull_program_word::Word::Begin(program);
    loop {
        let sent = sender.send_timeout(Ok(PullProgramWord { word: Some(word) }), PROGRAM_PIECE_WITHIN);
        if sent.await.is_err() {
            return;
        }
        word = match reader.next().await {
            Ok(Some(piece)) => pull_program_word::Word::Piece(piece),
            Ok(None) => return,
            Err(error) => {
                let failure = ProgramsError::from(error).to_status();
                // The peer may have gone.
                let _told = sender.send_timeout(Err(failure), PROGRAM_PIECE_WITHIN).await;
                return;
            }
        };
    }
}

#[tonic::async_trait]
impl Rpc for Methods {
    type PullProgramStream = ReceiverStream<Result<PullProgramWord, Status>>;

    async fn push_program(
        &self,
        request: Request<Streaming<PushProgramWord>>,
    ) -> Result<Response<PushProgramReply>, Status> {
        let visit = Visit::of(&request)?;
        self.answer(visit.identity(), self.push(&visit, request.into_inner())).await
    }

    async fn list_programs(&self, request: Request<ListProgramsRequest>) -> Result<Response<ProgramList>, Status> {
        let visit = Visit::of(&request)?;
        self.answer(visit.identity(), self.programs.list(visit.identity(), &request.get_ref().after)).await
    }

    async fn find_program(&self, request: Request<FindProgramRequest>) -> Result<Response<ProgramVersion>, Status> {
        let visit = Visit::of(&request)?;
        let found = async {
            let program: ProgramRef = request.get_ref().program.parse()?;
            self.programs.find(visit.identity(), &program).await
        };
        self.answer(visit.identity(), found).await
    }

    async fn pull_program(
        &self,
        request: Request<FindProgramRequest>,
    ) -> Result<Response<Self::PullProgramStream>, Status> {
        let visit = Visit::of(&request)?;
        self.answer(visit.identity(), self.pull(&visit, request.get_ref())).await
    }

    async fn remove_program(
        &self,
        request: Request<RemoveProgramRequest>,
    ) -> Result<Response<RemoveProgramReply>, Status> {
        let visit = Visit::of(&request)?;
        self.answer(visit.identity(), self.remove(&visit, request.get_ref())).await
    }
}
