//! A queen's link: her words, checked.

use std::time::Duration;

use distwasm_proto::{
    digest::Digest,
    ids::{JobId, UnitNo},
    limits::{GUEST_ARGS_BYTES_MAX, HELLO_WITHIN, NAME_BYTES_MAX, PROGRAM_BYTES_MAX, UNIT_BYTES_MAX},
    payload::Payload,
    transfer::{Arrived, Assembler, Outbox},
    wire::{self, QueenNews, QueenWord, queen_word::Word},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{Leaving, LinkError, Peer, check_protocol, next_message};
use crate::{reactor::Input, scheduler::JobSpec};

/// What a queen asks for.
#[derive(Debug)]
pub(crate) struct JobRequest {
    pub(crate) spec: JobSpec,
    pub(crate) digest: Digest,
    pub(crate) program: Payload,
    pub(crate) timeout: Option<Duration>,
    pub(crate) args: Vec<String>,
}

/// What a queen says after that.
#[derive(Debug)]
pub(crate) enum Said {
    Unit { unit: UnitNo, input: Result<Payload, String> },
    Closed,
}

/// What reads a queen's stream.
pub(super) struct Link {
    pub(super) job: JobId,
    pub(super) reactor: mpsc::Sender<Input>,
    pub(super) outbox: Outbox<QueenNews>,
    pub(super) peer: Peer,
}

/// What has been said so far, as far as the next word must fit it.
#[derive(Default)]
struct Progress {
    units: u64,
    closed: bool,
}

impl Link {
    /// Reads until the queen leaves or is told to, and tells the reactor of both ends.
    pub(super) async fn serve(self, mut stream: Streaming<wire::FromQueen>) {
        let ended = CancellationToken::new();
        let _cancel_with_task = ended.clone().drop_guard();
        let leaving = self.listen(&mut stream, &ended).await;
        self.peer.tell(&leaving);
        // The reactor is gone only when the king ends.
        let _sent = self.reactor.send(Input::QueenGone { job: self.job, outbox: self.outbox, leaving }).await;
    }

    async fn listen(&self, stream: &mut Streaming<wire::FromQueen>, ended: &CancellationToken) -> Leaving {
        let mut words = self.open(stream, ended).await?;
        let mut assembler = Assembler::new(UNIT_BYTES_MAX);
        let mut progress = Progress::default();
        loop {
            let mut said = Vec::with_capacity(words.len());
            let mut leaves = false;
            for word in words {
                // Whoever leaves may do so in the middle of a payload.
                leaves |= matches!(word.word, Some(Word::End(_)));
                if leaves {
                    break;
                }
                let Some(arrived) = assembler.accept(word)? else { continue };
                said.push(progress.check_word(arrived)?);
            }
            if !said.is_empty() {
                self.send(Input::QueenSaid { job: self.job, said }).await?;
            }
            if leaves {
                return Ok(());
            }
            words = next_message(stream, ended).await?.words.into_iter();
        }
    }

    /// Reads the first word with its program, opens the job, and gives back the words that came with it.
    async fn open(
        &self,
        stream: &mut Streaming<wire::FromQueen>,
        ended: &CancellationToken,
    ) -> Result<std::vec::IntoIter<QueenWord>, LinkError> {
        let mut assembler = Assembler::new(PROGRAM_BYTES_MAX);
        // The time for the first message; a large program over a slow network may take longer as long as it flows.
        loop {
            let message = timeout_at(Instant::now() + HELLO_WITHIN, next_message(stream, ended));
            let mut words = message.await.map_err(|_| LinkError::NoHello(HELLO_WITHIN))??.words.into_iter();
            while let Some(word) = words.next() {
                let Some((word, program)) = assembler.accept(word)? else { continue };
                let Some(Word::OpenJob(request)) = word.word else {
                    return Err(LinkError::Nonsense("its first word opens no job"));
                };
                let program = program.map_err(|_| LinkError::Nonsense("it broke off in its program"))?;
                let request = check_request(request, program)?;
                let opened =
                    Input::QueenJoined { job: self.job, request, outbox: self.outbox.clone(), ended: ended.clone() };
                self.send(opened).await?;
                return Ok(words);
            }
        }
    }

    async fn send(&self, input: Input) -> Result<(), LinkError> {
        self.reactor.send(input).await.map_err(|_| LinkError::Ended)
    }
}

fn check_request(request: wire::OpenJob, program: Payload) -> Result<JobRequest, LinkError> {
    check_protocol(request.protocol)?;
    if request.project.is_empty() || request.project.len() > NAME_BYTES_MAX {
        return Err(LinkError::Nonsense("the name of its project is empty or too long"));
    }
    let args_bytes: usize = request.args.iter().map(|arg| arg.len() + 1).sum();
    if args_bytes > GUEST_ARGS_BYTES_MAX {
        return Err(LinkError::Nonsense("the arguments of its guest are too long"));
    }
    let digest = Digest::of(program.chunks().map(AsRef::as_ref));
    if Digest::from_wire(&request.program_digest) != Some(digest) {
        return Err(LinkError::Nonsense("the program is not the one whose digest it sent"));
    }
    let spec = JobSpec {
        project: request.project,
        min_ram_bytes: request.min_ram_bytes,
        one_per_machine: request.one_per_machine,
        retries: request.retries,
    };
    let timeout = (request.timeout_ms > 0).then(|| Duration::from_millis(request.timeout_ms));
    Ok(JobRequest { spec, digest, program, timeout, args: request.args })
}

impl Progress {
    /// The word as the reactor knows it.
    fn check_word(&mut self, (word, payload): Arrived<QueenWord>) -> Result<Said, LinkError> {
        match word.word {
            Some(Word::Unit(_)) if self.closed => Err(LinkError::Nonsense("a unit after the last one")),
            Some(Word::Unit(unit)) if unit.unit != self.units => {
                Err(LinkError::Nonsense("units are numbered from 0 without gaps"))
            }
            Some(Word::Unit(unit)) => {
                self.units += 1;
                Ok(Said::Unit { unit: UnitNo(unit.unit), input: payload })
            }
            Some(Word::CloseJob(_)) if self.closed => Err(LinkError::Nonsense("a second last unit")),
            Some(Word::CloseJob(close)) if close.units != self.units => {
                Err(LinkError::Nonsense("it counts its units wrong"))
            }
            Some(Word::CloseJob(_)) => {
                self.closed = true;
                Ok(Said::Closed)
            }
            Some(Word::OpenJob(_)) => Err(LinkError::Nonsense("a second job on one stream")),
            Some(Word::Piece(_) | Word::End(_)) | None => {
                Err(LinkError::Nonsense("a word of a kind that is not known"))
            }
        }
    }
}
