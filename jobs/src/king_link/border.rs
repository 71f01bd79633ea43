//! The border of a queen: turns the king's messages into news that cannot be wrong, without waiting.

use std::time::Duration;

use bytes::Bytes;
use distwasm_proto::{
    failure::Failure,
    ids::{AttemptId, UnitNo},
    limits::{ATTEMPTS_AT_UNIT_MAX, FILE_BYTES_MAX, TRANSFER_WINDOW_BYTES, UNIT_BYTES_MAX},
    wire::{self, QueenNews, queen_news::News},
};
use distwasm_transport::{
    payload::Payload,
    transfer::{Arrived, Assembler},
};

use super::{error::LinkError, room::Room};

/// The king's first word on a link.
#[derive(Debug)]
pub struct Welcome {
    /// The king's number for the job.
    pub job: u64,
    /// How many units may be without a verdict at a time.
    pub window_units: u32,
    /// How many bytes of inputs may be without a verdict at a time.
    pub window_bytes: u64,
    /// How long an input may be.
    pub input_bytes_max: u64,
    /// After a reconnect: units without a verdict that the king has.
    pub known: Vec<UnitNo>,
}

/// News from the king.
#[derive(Debug)]
pub enum KingNews {
    /// The king took the job, or took it back.
    Welcome(Welcome),
    /// How a unit ended.
    Verdict(Verdict),
    /// How the job goes.
    JobState(JobState),
    /// A part of a streamed input is wanted.
    PartWanted(PartWanted),
    /// A streamed result may be had.
    OutputOffered(OutputOffered),
    /// A part of a streamed result. It is not empty.
    OutputPart {
        /// The king's number for the transfer.
        transfer: u64,
        /// The number of the first byte.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// The job is over.
    JobEnded(JobEnd),
}

/// A part of a streamed input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartWanted {
    /// Whose input it is.
    pub unit: UnitNo,
    /// The king's number for the transfer.
    pub transfer: u64,
    /// The numbers of its first byte, and of that behind its last. There is at least one, and at most
    /// [`TRANSFER_WINDOW_BYTES`].
    pub from: u64,
    #[expect(missing_docs, reason = "described with the field above")]
    pub until: u64,
}

/// A streamed result that may be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputOffered {
    /// Whose result it is.
    pub unit: UnitNo,
    /// The attempt that led to it.
    pub attempt: AttemptId,
    /// The king's number for the transfer, which is not 0.
    pub transfer: u64,
    /// Its size, at least 1.
    pub bytes: u64,
    /// All attempts at the unit that are not over. It is one of them.
    pub attempts: Vec<AttemptId>,
}

/// How a job ended, as the king tells it.
#[derive(Debug)]
pub enum JobEnd {
    /// Every unit has its verdict.
    Complete,
    /// Its program cannot run, for this reason.
    Unfit(Failure),
    /// Somebody has cancelled it.
    Cancelled,
}

/// How a job goes.
#[derive(Debug)]
pub struct JobState {
    /// Slots that serve it.
    pub slots: u32,
    /// Dukes that the king has.
    pub dukes: u32,
    /// Why it waits; empty if it does not.
    pub waits_for: String,
    /// The unit that has been running longest, if one has been running for long.
    pub longest: Option<LongestUnit>,
    /// How many bytes of inputs may be without a verdict from now on.
    pub window_bytes: u64,
    /// The duke that compiles its program, if one does.
    pub compiling: Option<Compilation>,
}

/// A duke compiles the job's program.
#[derive(Debug)]
pub struct Compilation {
    /// Its host.
    pub duke: String,
    /// How long it had been compiling when the king said so.
    pub running: Duration,
}

/// The unit that has been running longest.
#[derive(Debug)]
pub struct LongestUnit {
    /// Which.
    pub unit: UnitNo,
    /// The host that it runs on.
    pub duke: String,
    /// How long it had been running when the king named it.
    pub running: Duration,
}

/// How a unit ended.
#[derive(Debug)]
pub struct Verdict {
    /// Which.
    pub unit: UnitNo,
    /// Its result, or why it has none.
    pub outcome: Result<Payload, Failure>,
    /// The result is that of this attempt, which has come in parts.
    pub stored: Option<AttemptId>,
    /// The room that the result takes until it is written.
    pub room: Room,
    /// How often it was tried.
    pub attempts: u32,
    /// The host on which it was tried last.
    pub duke: String,
    /// How long that took, in microseconds, if it is known.
    pub run_us: Option<u64>,
}

/// Checks what arrives over one link. See the module's documentation.
#[derive(Debug)]
pub struct Border {
    assembler: Assembler<QueenNews>,
    welcomed: bool,
    /// The king has said that the job is over; only the end of the link follows.
    over: bool,
}

impl Default for Border {
    fn default() -> Border {
        Border { assembler: Assembler::new(UNIT_BYTES_MAX), welcomed: false, over: false }
    }
}

impl Border {
    /// The news of a message. The first news of a link is a welcome. A result whose pieces have not all arrived is
    /// news of a later message.
    ///
    /// # Errors
    ///
    /// When the king ends the link before the job, or its words are impossible. Nothing more is to be taken then.
    pub fn take(&mut self, message: wire::ToQueen) -> Result<Vec<KingNews>, LinkError> {
        let mut news = Vec::with_capacity(message.news.len());
        for word in message.news {
            if let Some(arrived) = self.assembler.accept(word)? {
                news.extend(self.check_news(arrived)?);
            }
        }
        Ok(news)
    }

    /// Whether the job is over, so that no more news follows.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The word as the reactor knows it; `None` for the last word.
    fn check_news(&mut self, (word, payload): Arrived<QueenNews>) -> Result<Option<KingNews>, LinkError> {
        let payload = payload.map_err(|_| LinkError::Nonsense("it broke off in a result"))?;
        match word.news {
            Some(News::Welcome(_)) if self.welcomed => Err(LinkError::Nonsense("a second welcome")),
            Some(News::Welcome(wire::QueenWelcome {
                job, window_units, window_bytes, known, input_bytes_max, ..
            })) => {
                self.welcomed = true;
                let known = known.into_iter().map(UnitNo).collect();
                let welcome = Welcome { job, window_units, window_bytes, input_bytes_max, known };
                Ok(Some(KingNews::Welcome(welcome)))
            }
            Some(News::End(_)) if self.over => Ok(None),
            Some(News::End(end)) => Err(LinkError::Ended { reason: end.reason, come_back: end.come_back }),
            _ if !self.welcomed => Err(LinkError::Nonsense("its first word is not a welcome")),
            Some(News::Verdict(verdict)) => {
                let outcome = match (verdict.done, verdict.failure) {
                    (true, _) => Ok(payload),
                    (false, Some(failure)) => Err((*failure).into()),
                    (false, None) => return Err(LinkError::Nonsense("a failure without a reason")),
                };
                let (unit, room) = (UnitNo(verdict.unit), Room::default());
                let (attempts, duke, run_us) = (verdict.attempts, verdict.duke, verdict.run_us);
                let stored = verdict.stored.map(AttemptId);
                Ok(Some(KingNews::Verdict(Verdict { unit, outcome, stored, room, attempts, duke, run_us })))
            }
            Some(News::JobState(wire::JobState { slots, dukes, waits_for, longest, window_bytes, compiling })) => {
                let longest = longest.map(|longest| LongestUnit {
                    unit: UnitNo(longest.unit),
                    duke: longest.duke,
                    running: Duration::from_millis(longest.running_ms),
                });
                let compiling = compiling.map(|wire::Compilation { duke, running_ms }| Compilation {
                    duke,
                    running: Duration::from_millis(running_ms),
                });
                let state = JobState { slots, dukes, waits_for, longest, window_bytes, compiling };
                Ok(Some(KingNews::JobState(state)))
            }
            Some(News::UnitPartWanted(wire::UnitPartWanted { unit, transfer, from, until })) => {
                if until.checked_sub(from).is_none_or(|bytes| bytes == 0 || bytes > TRANSFER_WINDOW_BYTES) {
                    return Err(LinkError::Nonsense("it asks for a part that cannot be"));
                }
                Ok(Some(KingNews::PartWanted(PartWanted { unit: UnitNo(unit), transfer, from, until })))
            }
            Some(News::OutputOffered(offered)) => Ok(Some(KingNews::OutputOffered(check_offered(offered)?))),
            Some(News::OutputPart(wire::OutputPart { transfer, offset, data })) => {
                if data.is_empty() {
                    return Err(LinkError::Nonsense("a part of a result without bytes"));
                }
                Ok(Some(KingNews::OutputPart { transfer, offset, data }))
            }
            Some(News::JobEnded(ended)) => {
                self.over = true;
                Ok(Some(KingNews::JobEnded(match ended.failure {
                    _ if ended.cancelled => JobEnd::Cancelled,
                    Some(failure) => JobEnd::Unfit(failure.into()),
                    None => JobEnd::Complete,
                })))
            }
            Some(News::Piece(_)) | None => Err(LinkError::Nonsense("a word of a kind that is not known")),
        }
    }
}

fn check_offered(offered: wire::OutputOffered) -> Result<OutputOffered, LinkError> {
    let wire::OutputOffered { unit, attempt, transfer, bytes, attempts } = offered;
    let is_one = attempts.contains(&attempt) && attempts.len() <= ATTEMPTS_AT_UNIT_MAX;
    if transfer == 0 || !(1..=FILE_BYTES_MAX).contains(&bytes) || !is_one {
        return Err(LinkError::Nonsense("it offers a result that cannot be"));
    }
    let attempts = attempts.into_iter().map(AttemptId).collect();
    Ok(OutputOffered { unit: UnitNo(unit), attempt: AttemptId(attempt), transfer, bytes, attempts })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(news: impl IntoIterator<Item = News>) -> wire::ToQueen {
        wire::ToQueen { news: news.into_iter().map(|news| QueenNews { news: Some(news) }).collect() }
    }

    fn welcome() -> News {
        News::Welcome(wire::QueenWelcome::default())
    }

    fn end() -> News {
        News::End(wire::End { reason: "because".to_owned(), come_back: true, refused: false })
    }

    #[test]
    fn news_begins_with_one_welcome() {
        let state = || News::JobState(wire::JobState::default());
        assert!(matches!(Border::default().take(message([state()])), Err(LinkError::Nonsense(_))));
        let mut border = Border::default();
        let news = border.take(message([welcome(), state()])).unwrap();
        assert!(matches!(news[..], [KingNews::Welcome(_), KingNews::JobState(_)]), "{news:?}");
        assert!(matches!(border.take(message([welcome()])), Err(LinkError::Nonsense(_))));
    }

    #[test]
    fn a_king_may_end_the_link_once_the_job_is_over() {
        assert!(matches!(Border::default().take(message([end()])), Err(LinkError::Ended { come_back: true, .. })));
        let mut border = Border::default();
        border.take(message([welcome()])).unwrap();
        assert!(matches!(border.take(message([end()])), Err(LinkError::Ended { .. })));
        assert!(!border.is_over());
        let ended = News::JobEnded(wire::JobEnded::default());
        assert!(matches!(border.take(message([ended, end()])).unwrap()[..], [KingNews::JobEnded(JobEnd::Complete)]));
        assert!(border.is_over());
    }

    #[test]
    fn a_wanted_part_has_a_byte_and_no_more_than_a_window() {
        let wanted = |from, until| {
            let wanted = wire::UnitPartWanted { unit: 1, transfer: 1, from, until };
            Border::default().take(message([welcome(), News::UnitPartWanted(wanted)])).map(|news| news.len())
        };
        assert!(matches!(wanted(7, 7 + TRANSFER_WINDOW_BYTES), Ok(2)));
        for (from, until) in [(7, 7), (7, 6), (7, 8 + TRANSFER_WINDOW_BYTES), (0, u64::MAX)] {
            assert!(matches!(wanted(from, until), Err(LinkError::Nonsense(_))), "{from}, {until}");
        }
    }

    #[test]
    fn an_offered_result_is_one_of_few_attempts_at_its_unit() {
        let offered = |transfer, bytes, attempts: &[u64]| {
            let attempts = attempts.to_vec();
            let offered = News::OutputOffered(wire::OutputOffered { unit: 1, attempt: 3, transfer, bytes, attempts });
            Border::default().take(message([welcome(), offered])).map(|news| news.len())
        };
        assert!(matches!(offered(1, 1, &[2, 3]), Ok(2)));
        let many: Vec<u64> = (0..=ATTEMPTS_AT_UNIT_MAX as u64).collect();
        for (transfer, bytes, attempts) in
            [(0, 1, [3].as_slice()), (1, 0, &[3]), (1, u64::MAX, &[3]), (1, 1, &[2]), (1, 1, &many)]
        {
            assert!(matches!(offered(transfer, bytes, attempts), Err(LinkError::Nonsense(_))), "{attempts:?}");
        }
    }

    #[test]
    fn a_failure_has_a_reason_and_a_result_is_whole() {
        let verdict = |done| News::Verdict(wire::Verdict { done, ..wire::Verdict::default() });
        let mut border = Border::default();
        assert_eq!(border.take(message([welcome(), verdict(true)])).unwrap().len(), 2);
        assert!(matches!(border.take(message([verdict(false)])), Err(LinkError::Nonsense(_))));
        let result = Some(wire::Payload { bytes_total: 2, data: "a".into() });
        let begun = News::Verdict(wire::Verdict { done: true, result, ..wire::Verdict::default() });
        let broken = News::Piece(wire::Piece { broken: "gone".to_owned(), ..wire::Piece::default() });
        assert!(border.take(message([begun])).unwrap().is_empty());
        assert!(matches!(border.take(message([broken])), Err(LinkError::Nonsense("it broke off in a result"))));
    }
}
