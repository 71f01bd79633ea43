//! Does what the king's borders and reactor do with the words of dukes and queens before the scheduler hears of them.
//!
//! It repeats `king/src/service` and `king/src/reactor` in the same order, without payloads.

use std::collections::{BTreeMap, BTreeSet};

use distwasm_king::scheduler::{Event, Outcome};
use distwasm_proto::{
    ids::{AttemptId, DukeId, JobId, UnitNo},
    limits::{RESULT_PATIENCE, RESULT_UNASKED_BYTES_MAX, UNIT_BYTES_MAX, WINDOW_BYTES},
};

use super::{
    king::{Evidence, Job, Said},
    weather::EVIDENCE_BYTES,
    world::{Joining, KingWord, Opening, QueenNews, Sender, World, queen_of},
};

/// What was said over each link, as far as the check of the next word needs it.
#[derive(Debug, Default)]
pub(super) struct Borders {
    offers: BTreeMap<DukeId, BTreeMap<AttemptId, u64>>,
    progress: BTreeMap<Sender, Progress>,
}

/// The units of a queen's link.
#[derive(Debug, Default)]
struct Progress {
    units: u64,
    /// Units that may be sent again.
    again: BTreeSet<UnitNo>,
    closed: bool,
}

impl Borders {
    /// Checks that a large result has the size that it was offered with.
    fn check_duke(&mut self, link: DukeId, event: &Event) -> Result<(), &'static str> {
        let offers = self.offers.entry(link).or_default();
        match event {
            Event::ResultOffered { attempt, bytes, .. } => {
                offers.insert(*attempt, *bytes);
                let is_offer = *bytes > RESULT_UNASKED_BYTES_MAX && *bytes <= UNIT_BYTES_MAX;
                is_offer.then_some(()).ok_or("it offers a result of a size that is not to be offered")
            }
            Event::AttemptEnded { attempt, outcome, .. } => {
                let offered = offers.remove(attempt);
                match outcome {
                    Outcome::Done { bytes } if *bytes > RESULT_UNASKED_BYTES_MAX && offered != Some(*bytes) => {
                        Err("it sends a large result of another size than it offered")
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Checks that units come in order, and that none comes after the last.
    fn check_queen(&mut self, sender: Sender, word: &KingWord) -> Result<(), &'static str> {
        // Words for an earlier king may still arrive.
        let Some(progress) = self.progress.get_mut(&sender) else { return Ok(()) };
        match word {
            KingWord::Unit { unit, .. } if progress.again.remove(unit) => Ok(()),
            KingWord::Unit { .. } if progress.closed => Err("a unit after the last one"),
            KingWord::Unit { unit, .. } if unit.0 != progress.units => Err("units are numbered without gaps"),
            KingWord::Unit { .. } => {
                progress.units += 1;
                Ok(())
            }
            KingWord::Closed(_) if progress.closed => Err("a second last unit"),
            KingWord::Closed(units) if *units != progress.units => Err("it counts its units wrong"),
            KingWord::Closed(_) => {
                progress.closed = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The number of the unit that may come next over a queen's link.
    pub(super) fn next_unit(&self, sender: Sender) -> UnitNo {
        UnitNo(self.progress.get(&sender).map_or(0, |progress| progress.units))
    }
}

impl World {
    /// Handles one word. The scheduler gets it with the rest of the batch.
    pub(super) fn king_takes(&mut self, sender: Sender, word: KingWord) {
        match (sender, word) {
            (Sender::Duke(link), KingWord::Joins(joining)) => self.duke_joins(link, *joining),
            (Sender::Duke(link), KingWord::Event(event)) => self.duke_said(link, event),
            (Sender::Queen(..), KingWord::Opens(opening)) => self.queen_joins(sender, *opening),
            (Sender::Queen(..), KingWord::Leaves) => {
                if let Some(job) = self.job_of(sender) {
                    self.forget_job(job);
                }
                self.king.links.remove(&sender);
            }
            (Sender::Queen(..), word) => self.queen_said(sender, &word),
            (Sender::Duke(_), word) => panic!("dukes say what dukes say: {word:?}"),
        }
    }

    // ---- Dukes ----------------------------------------------------------------------------------------------------

    fn duke_joins(&mut self, link: DukeId, joining: Joining) {
        self.king_settles();
        let Joining { machine, after, cpus, ram_bytes, zone, holds } = joining;
        if let Some(lost) = after.and_then(|after| self.king.seats.remove(&after)) {
            self.king.events.push(Event::DukeLost { duke: lost });
        }
        if self.king.seats.get(&machine).is_some_and(|last| *last > link) {
            // The hello of a broken link may arrive after that of the next one.
            return self.king_settles();
        }
        let was = self.king.seats.insert(machine, link);
        self.king.leases.extend(holds.iter().map(|lease| (link, lease.job)));
        let labels = [("zone".to_owned(), zone.to_string())].into_iter().collect();
        self.tally.attempts_kept += holds.iter().map(|lease| lease.attempts.len() as u64).sum::<u64>();
        self.king.events.push(Event::DukeJoined { duke: link, cpus, ram_bytes, labels, was, holds });
        self.king_settles();
    }

    fn duke_said(&mut self, link: DukeId, event: Event) {
        if !self.is_known(link) {
            return;
        }
        if let Err(why) = self.king.borders.check_duke(link, &event) {
            return self.expel_duke(link, why);
        }
        match event {
            Event::AttemptEnded { outcome: Outcome::Returned { .. }, .. } => {}
            Event::AttemptEnded { duke, attempt, outcome, .. } => {
                // An attempt that was given up is never believed.
                if !self.king.scheduler.expects(duke, attempt) || self.king.evidence.contains_key(&attempt) {
                    return self.king.settled.push((duke, attempt));
                }
                let bytes = match outcome {
                    Outcome::Done { bytes } | Outcome::Failed { bytes } | Outcome::Killed { bytes } => bytes,
                    Outcome::Returned { .. } => 0,
                };
                let fetched = self.king.fetched.remove(&attempt);
                let late = fetched.is_some_and(|at| at.after(RESULT_PATIENCE) <= self.now);
                self.king.evidence.insert(attempt, Evidence { duke, bytes, late });
            }
            Event::DukeLost { .. } => self.king.seats.retain(|_, seated| *seated != link),
            Event::ProgramUnfit { job, .. } if self.is_liar(link) && self.king.leases.contains(&(link, job)) => {
                if let Some(queen) = self.queens.get_mut(&queen_of(job)) {
                    queen.slandered = true;
                }
            }
            _ => {}
        }
        self.king.events.push(event);
    }

    /// Whether this is the last link of its machine, as far as the king knows.
    fn is_known(&self, link: DukeId) -> bool {
        self.machines.get(&link).and_then(|machine| self.king.seats.get(machine)) == Some(&link)
    }

    fn is_liar(&self, link: DukeId) -> bool {
        self.machines.get(&link).is_some_and(|machine| self.liars.contains(machine))
    }

    /// Expels a duke, which must have lied.
    pub(super) fn expel_duke(&mut self, link: DukeId, why: &'static str) {
        // It may have been expelled already: several of its words may be lies.
        if !self.is_known(link) {
            return;
        }
        assert!(self.is_liar(link), "honest_duke_is_not_expelled: {link}: {why}");
        self.king.seats.retain(|_, seated| *seated != link);
        self.king.events.push(Event::DukeLost { duke: link });
        self.tally.dukes_expelled += 1;
        self.liar_is_sent_away(link);
    }

    // ---- Queens ---------------------------------------------------------------------------------------------------

    /// A queen opens a job, or comes back to it.
    fn queen_joins(&mut self, sender: Sender, opening: Opening) {
        // The queen's job may end with the events before this one.
        self.king_settles();
        let Opening { key, spec, resumes } = opening;
        let Sender::Queen(queen, link) = sender else { return };
        let resumed = resumes.as_ref().map(|(_, resumes)| resumes.clone()).unwrap_or_default();
        let again = resumed.lacking.iter().copied().collect();
        self.king.borders.progress.insert(sender, Progress { units: resumed.sent, again, closed: false });
        let job = match resumes {
            Some((job, _)) if self.may_have(queen, job, key) => job,
            // If the job was dropped, or is another queen's, the queen gets a new one.
            _ => self.next_job(queen),
        };
        self.king.links.insert(sender, job);
        match self.king.jobs.get(&job) {
            // The first word of a broken connection may arrive after that of the next one.
            Some(known) if known.link >= link => return,
            _ => {}
        }
        let mut resumes = resumed;
        let (numbered, lacking) = (resumes.sent, resumes.lacking.iter().copied().collect::<BTreeSet<UnitNo>>());
        if let Some(known) = self.king.jobs.get_mut(&job) {
            known.link = link;
        } else {
            let said = self.king.unclaimed.remove(&job).unwrap_or_default();
            let (held, broken, awaited) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
            self.king.jobs.insert(job, Job { key, link, held, broken, numbered, awaited, said });
        }
        // Units whose verdicts the queen has yet to hear have their verdicts.
        let said = self.king.jobs.get(&job).into_iter().flat_map(|job| &job.said);
        let said: BTreeSet<UnitNo> = said.map(|said| said.unit).collect();
        resumes.lacking.retain(|unit| !said.contains(unit));
        self.king.events.push(Event::JobOpened { job, key, spec, resumes });
        self.welcome(job, numbered, &lacking);
        self.king_settles();
    }

    /// Whether a queen with this key may have the job. In the simulation job numbers name their queens, so a job of
    /// another queen that this king does not know is not given away.
    fn may_have(&self, queen: JobId, job: JobId, key: u64) -> bool {
        let is_hers = |known: &Job| known.key == key;
        let may_resume = || queen_of(job) == queen && self.king.scheduler.may_resume(job, key);
        self.king.jobs.get(&job).map_or_else(may_resume, is_hers)
    }

    fn next_job(&mut self, queen: JobId) -> JobId {
        loop {
            let job = self.number_job(queen);
            if !self.king.jobs.contains_key(&job) && !self.king.scheduler.has_job(job) {
                return job;
            }
        }
    }

    /// Tells a queen which units need not be sent again, and the verdicts that it has not heard.
    fn welcome(&mut self, id: JobId, numbered: u64, lacking: &BTreeSet<UnitNo>) {
        let Some(job) = self.king.jobs.get_mut(&id) else { return };
        let lacks = |said: &Said| lacking.contains(&said.unit);
        let (said, heard): (Vec<Said>, Vec<Said>) = job.said.drain(..).partition(lacks);
        job.said = said.into();
        let of_said = job.said.iter().map(|said| said.unit);
        let known: BTreeSet<UnitNo> = job.held.keys().chain(&job.broken).copied().chain(of_said).collect();
        (job.numbered, job.awaited) = (numbered, lacking.difference(&known).copied().collect());
        let known = known.into_iter().collect();
        let link = job.link;
        let news: Vec<QueenNews> = std::iter::once(QueenNews::Welcome { number: id, known })
            .chain(job.said.iter().map(|said| QueenNews::Verdict { unit: said.unit, done: said.done }))
            .collect();
        for news in news {
            self.tell_queen(id, link, news);
        }
        self.forget_said(id, &heard);
    }

    /// The job of a link, unless its queen has a newer link or the job has ended.
    fn job_of(&self, sender: Sender) -> Option<JobId> {
        let (Sender::Queen(queen, link), job) = (sender, *self.king.links.get(&sender)?) else { return None };
        let is_hers = |known: &Job| queen_of(job) == queen && known.link == link;
        self.king.jobs.get(&job).is_some_and(is_hers).then_some(job)
    }

    fn queen_said(&mut self, sender: Sender, word: &KingWord) {
        let job = self.job_of(sender);
        if let Err(why) = self.king.borders.check_queen(sender, word) {
            return self.turn_away(sender, why);
        }
        // The queen may still be sending while news of its job's failure is in transit; so may its earlier link.
        let Some(job) = job else { return };
        match *word {
            KingWord::Unit { unit, bytes } => self.unit_comes(sender, job, unit, bytes),
            KingWord::Closed(_) => self.king.events.push(Event::JobClosed { job }),
            KingWord::Heard(verdicts) => {
                let Some(of_job) = self.king.jobs.get_mut(&job) else { return };
                let count = usize::try_from(verdicts).unwrap_or(usize::MAX);
                if count > of_job.said.len() {
                    return self.turn_away(sender, "it heard more verdicts than it was told");
                }
                let heard: Vec<Said> = of_job.said.drain(..count).collect();
                self.forget_said(job, &heard);
            }
            KingWord::Event(_) | KingWord::Joins(_) | KingWord::Opens(_) | KingWord::Leaves => {
                panic!("queens say what queens say: {word:?}")
            }
        }
    }

    fn unit_comes(&mut self, sender: Sender, id: JobId, unit: UnitNo, bytes: Option<u64>) {
        let Some(job) = self.king.jobs.get_mut(&id) else { return };
        if unit.0 < job.numbered && !job.awaited.remove(&unit) {
            // A duke that came back had this unit, and it has its verdict.
            return;
        }
        let held_bytes: u64 = job.held.values().sum();
        let (open, window) = (job.held.len() + job.broken.len(), self.weather.window_units as usize);
        let is_full = open >= window || open + job.said.len() >= 2 * window;
        if is_full || (held_bytes > 0 && held_bytes + bytes.unwrap_or(0) > WINDOW_BYTES) {
            return self.turn_away(sender, "it sent more units than its window allows");
        }
        if job.held.contains_key(&unit) || job.broken.contains(&unit) {
            return self.turn_away(sender, "it sent a unit twice");
        }
        self.king.events.push(match bytes {
            Some(bytes) => {
                job.held.insert(unit, bytes);
                Event::UnitAdded { job: id, unit, bytes }
            }
            None => {
                job.broken.insert(unit);
                Event::UnitBroken { job: id, unit, bytes: EVIDENCE_BYTES }
            }
        });
    }

    /// Drops verdicts that the queen has heard, here and at the dukes.
    fn forget_said(&mut self, job: JobId, heard: &[Said]) {
        if heard.is_empty() {
            return;
        }
        self.king.settled.extend(heard.iter().filter_map(|said| said.by));
        let (verdicts, bytes) = (heard.len() as u64, heard.iter().map(|said| said.bytes).sum());
        self.king.events.push(Event::VerdictsHeard { job, verdicts, bytes });
    }

    fn forget_job(&mut self, job: JobId) {
        self.king.ended.insert(job);
        self.king.unclaimed.remove(&job);
        self.king.jobs.remove(&job);
        self.king.events.push(Event::QueenLost { job });
    }

    /// Turns a queen away, which must have lied.
    fn turn_away(&mut self, sender: Sender, why: &'static str) {
        let Sender::Queen(queen, link) = sender else { return };
        let lies = self.queens.get(&queen).is_some_and(|queen| queen.plan().lies);
        assert!(lies, "honest_queen_is_not_expelled: {queen}, {link}: {why}");
        if let Some(job) = self.job_of(sender) {
            self.forget_job(job);
        }
        self.king.links.remove(&sender);
        self.tally.queens_expelled += 1;
        self.queen_is_sent_away(queen, link);
    }

    // ---- Links that break -----------------------------------------------------------------------------------------

    /// The king notices that a link is broken, if there is no newer one.
    pub(super) fn king_misses(&mut self, sender: Sender) {
        match sender {
            Sender::Duke(link) => {
                if self.is_known(link) {
                    self.king.events.push(Event::DukeAway { duke: link });
                }
            }
            Sender::Queen(..) => {
                if let Some(job) = self.job_of(sender) {
                    self.king.events.push(Event::QueenAway { job });
                }
            }
        }
    }
}
