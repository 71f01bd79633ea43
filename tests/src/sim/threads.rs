//! A queen's lister, readers and writers: threads that are as slow as its disk.

use distwasm_jobs::{
    inputs::{Finding, Input, ReadOrder, Sent, numbers::Gate},
    king_link::{
        PartWanted,
        words::{self, Way},
    },
    outputs::{Arrived, Output, WriteError, WriteOrder, Written},
    reactor::Happening,
    request::InPlaces,
};
use distwasm_proto::{
    failure::{Failure, FailureKind},
    ids::{JobId, UnitNo},
    limits::{PART_BYTES_MAX, READERS},
};
use distwasm_transport::payload::Payload;

use super::{
    oracle::{input_of, place_of},
    weather::{EVIDENCE_BYTES, Nature},
    wires::{Said, part_of, payload},
    world::{Due, QueenDue, Sender, World},
};

/// Inputs that the lister finds at once.
const FOUND_TOGETHER: usize = 64;

impl World {
    /// How long a queen's disk takes this time.
    pub(super) fn disk_us(&mut self, job: JobId) -> u64 {
        let disk_us = self.queens.get(&job).map_or(0, |queen| queen.plan().disk_us);
        self.dice.below(disk_us + 1)
    }

    // ---- The lister -----------------------------------------------------------------------------------------------

    pub(super) fn queen_lists_later(&mut self, job: JobId) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        if !queen.listing_ended && queen.reactor.wants_inputs() && !std::mem::replace(&mut queen.lists, true) {
            let in_us = self.disk_us(job);
            self.later(in_us, Due::Queen(job, QueenDue::Lists));
        }
    }

    /// Lists a few inputs, or finds that there are no more.
    pub(super) fn queen_lists(&mut self, job: JobId) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        queen.lists = false;
        let units = &queen.plan().units;
        let places = queen.listed..units.len().min(queen.listed + FOUND_TOGETHER);
        let is_unusable = |place: &usize| units[*place].nature == Nature::Broken && place % 3 == 1;
        let (unusable, usable): (Vec<usize>, Vec<usize>) = places.clone().partition(is_unusable);
        let inputs = usable.into_iter().map(|place| input_of(queen.plan(), place)).collect();
        let failed = unusable.into_iter().map(|place| Finding::Unusable {
            path: input_of(queen.plan(), place).path,
            failure: Failure::new(FailureKind::Input, "it is a link"),
        });
        let found: Vec<Finding> = failed.chain([Finding::Inputs(inputs)]).collect();
        queen.listing_ended = places.is_empty();
        queen.listed = places.end;
        if queen.listing_ended {
            queen.happens.push_back(Happening::ListingEnded);
        } else {
            queen.happens.extend(found.into_iter().map(Happening::Found));
        }
        self.queen_goes_on(job);
    }

    // ---- The readers ----------------------------------------------------------------------------------------------

    pub(super) fn readers_work_later(&mut self, job: JobId) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let is_open = matches!(queen.numbers.gate(), Gate::Open(_));
        let is_needed = !queen.sent.is_empty() || (is_open && !queen.orders.is_empty());
        if is_needed && !std::mem::replace(&mut queen.reads, true) {
            let in_us = self.disk_us(job);
            self.later(in_us, Due::Queen(job, QueenDue::ReadersWork));
        }
    }

    /// The reactor hears what the readers have done before, and the readers go on while there is a link.
    pub(super) fn readers_work(&mut self, job: JobId) {
        let Some(queen) = self.queens.get_mut(&job) else { return };
        queen.reads = false;
        let (sent, is_slow) = (std::mem::take(&mut queen.sent), queen.plan().disk_us > 0);
        queen.happens.extend(sent.into_iter().map(Happening::Sent));
        self.queen_goes_on(job);
        let mut orders = if is_slow { 1 + self.dice.below(20) } else { u64::MAX };
        let mut inputs = Vec::new();
        while let Some(queen) = self.queens.get_mut(&job)
            && matches!(queen.numbers.gate(), Gate::Open(_))
            && !queen.orders.is_empty()
            && orders > 0
        {
            orders -= 1;
            // Each reader takes orders from the queue, and may be faster than another.
            let place = if is_slow { self.dice.below(READERS.min(queen.orders.len()) as u64) as usize } else { 0 };
            match queen.orders.remove(place) {
                Some(ReadOrder::Input(input)) => {
                    let place = place_of(&input.path);
                    let plan = queen.plan();
                    if plan.units[place].nature == Nature::Broken && place.is_multiple_of(3) && !plan.dukes_read {
                        queen.sent.push_back(Sent::Unreadable(input, "it is gone".to_owned()));
                    } else {
                        inputs.push(input);
                    }
                }
                Some(ReadOrder::Again(link, units)) if queen.numbers.carries(link) => {
                    units.iter().for_each(|(unit, input)| self.send_unit(job, *unit, input));
                }
                Some(ReadOrder::Close(link, units)) if queen.numbers.carries(link) => {
                    self.queen_says(0, job, words::close_job(units));
                }
                Some(ReadOrder::Part(link, part, input, _)) if queen.numbers.carries(link) => {
                    self.send_part(job, part, &input);
                }
                Some(ReadOrder::Again(..) | ReadOrder::Part(..) | ReadOrder::Close(..)) | None => {}
            }
        }
        self.send_inputs(job, inputs);
        let Some(queen) = self.queens.get_mut(&job) else { return };
        if !is_slow {
            let sent = std::mem::take(&mut queen.sent);
            queen.happens.extend(sent.into_iter().map(Happening::Sent));
            self.queen_goes_on(job);
        }
        self.readers_work_later(job);
    }

    /// Gives inputs their numbers, and sends them.
    fn send_inputs(&mut self, job: JobId, inputs: Vec<Input>) {
        let Some(queen) = self.queens.get_mut(&job).filter(|_| !inputs.is_empty()) else { return };
        let units = queen.numbers.number(inputs);
        for (unit, input) in &units {
            let place = place_of(&input.path);
            if unit.0 == queen.units.len() as u64 {
                queen.units.push(place);
            }
            assert_eq!(queen.units.get(unit.0 as usize), Some(&place), "units_are_numbered_once: {job}, {unit}");
        }
        queen.sent.push_back(Sent::Units(units.clone()));
        units.iter().for_each(|(unit, input)| self.send_unit(job, *unit, input));
    }

    fn send_unit(&mut self, job: JobId, unit: UnitNo, input: &Input) {
        let Some(queen) = self.queens.get(&job) else { return };
        let is_broken = queen.plan().units[place_of(&input.path)].nature == Nature::Broken;
        let streamed = InPlaces::of(&queen.request).streams(input);
        let content = match (queen.plan().dukes_read || streamed, is_broken) {
            (true, _) => Some(input.bytes.to_le_bytes().to_vec().into()),
            (false, true) => None,
            (false, false) => Some(payload(input.bytes)),
        };
        self.tell_king_unit(job, unit, input.name(), content, streamed);
    }

    /// Sends a unit with this content; without one, an input that does not come whole.
    pub(super) fn tell_king_unit(
        &mut self,
        job: JobId,
        unit: UnitNo,
        name: &[u8],
        content: Option<Payload>,
        streamed: bool,
    ) {
        let Some(queen) = self.queens.get(&job) else { return };
        let Some(outbox) = &queen.link.outbox else { return };
        let (sender, name) = (Sender::Queen(job, queen.link.number), name.to_vec().into());
        if let Some(content) = content {
            let plan = queen.plan();
            let in_places = plan.dukes_read || plan.dukes_write;
            let way = Way { in_places, streamed };
            outbox.push_with(words::begin_unit(unit, name, content.bytes(), way), content);
            return self.carry_to_king(0, sender);
        }
        // Outboxes have only whole payloads.
        let words = words::broken_unit(unit, name, "x".repeat(EVIDENCE_BYTES as usize));
        for parcel in self.parcels(words.into_iter().map(Into::into).collect()) {
            self.send(sender, true, Due::ToKing(sender, Said::Queen(parcel)));
        }
    }

    /// Reads a part of a streamed input, and sends it in pieces. That of a broken unit breaks off.
    fn send_part(&mut self, job: JobId, part: PartWanted, input: &Input) {
        let PartWanted { unit, transfer, from, until } = part;
        let Some(queen) = self.queens.get(&job) else { return };
        let is_broken = queen.plan().units[place_of(&input.path)].nature == Nature::Broken;
        let end = if is_broken { from + (until - from) / 2 } else { until };
        let mut next = from;
        while next < end {
            let most = (end - next).min(PART_BYTES_MAX as u64);
            let bytes = if self.dice.permille(800) { most } else { 1 + self.dice.below(most) };
            let data = part_of(unit, next, bytes);
            self.tally.parts_sent += 1;
            self.queen_says(0, job, words::unit_part(transfer, next, data));
            next += bytes;
        }
        if is_broken {
            self.tally.parts_broken += 1;
            self.queen_says(0, job, words::broken_part(transfer, end, "it was cut".to_owned()));
        }
    }

    // ---- The writers ----------------------------------------------------------------------------------------------

    pub(super) fn queen_writes(&mut self, job: JobId, orders: Vec<WriteOrder>) {
        let is_idle = self.queens.get(&job).is_some_and(|queen| queen.unwritten.is_empty());
        for order in orders {
            match order {
                WriteOrder::Output(output) => self.queen_writes_output(job, output),
                WriteOrder::Parts(input, parts) => self.queen_stores(job, &input, parts),
            }
        }
        if is_idle {
            self.writers_work_later(job);
        }
    }

    fn queen_writes_output(&mut self, job: JobId, Output { unit, input, result, .. }: Output) {
        let path = input.path;
        let mut fails = self.faults_go_on() && self.dice.permille(self.weather.outputs_fail);
        let hopeless = self.dice.permille(300);
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let place = place_of(&path);
        assert_eq!(queen.units.get(unit.0 as usize), Some(&place), "results_are_of_their_inputs: {job}, {unit}");
        let expected = queen.plan().units[place].result_bytes;
        let mut why = WriteError { why: "the disk is broken".to_owned(), hopeless };
        let (result, bytes) = match result {
            Arrived::Whole(result) => {
                let in_folder = queen.plan().dukes_write.then(|| self.folders.bytes_of(&name_of(&result)));
                // What is not there fails when it is to get its name.
                let bytes = in_folder.map_or_else(|| result.bytes(), |bytes| bytes.unwrap_or(expected));
                (result, bytes)
            }
            Arrived::InFile(file) => {
                self.tally.outputs_in_parts += 1;
                let found = queen.results.values().find(|result| result.file.is_same(&file));
                let whole = found.filter(|result| result.is_whole).map(|result| result.bytes);
                let Some(bytes) = whole else { panic!("result_in_parts_is_whole_at_its_verdict: {job}, {unit}") };
                (Payload::default(), bytes)
            }
            Arrived::Lost(reason) => {
                (fails, why) = (true, reason);
                (Payload::default(), expected)
            }
        };
        queen.reactor.reporter_mut().writes(place, bytes);
        let outcome = if fails { Err(why) } else { Ok(bytes) };
        self.tally.outputs_failed += u64::from(fails);
        queen.unwritten.push_back((result, Written { unit, path, outcome }));
    }

    fn writers_work_later(&mut self, job: JobId) {
        if self.queens.get(&job).is_some_and(|queen| !queen.unwritten.is_empty()) {
            let in_us = self.disk_us(job);
            self.later(in_us, Due::Queen(job, QueenDue::Writes));
        }
    }

    /// Some outputs are in their places.
    pub(super) fn writers_work(&mut self, job: JobId) {
        let count = 1 + self.dice.below(20) as usize;
        let Some(queen) = self.queens.get_mut(&job) else { return };
        let count = count.min(queen.unwritten.len());
        let dukes_write = queen.plan().dukes_write;
        // A liar writes nothing, and what belongs to a job that the king ends is removed.
        let may_be_gone = !self.liars.is_empty() || queen.plan().lies || queen.was_cancelled;
        let mut written = Vec::new();
        for (result, mut output) in queen.unwritten.drain(..count) {
            if dukes_write {
                let named = self.folders.take(&name_of(&result));
                assert!(named.is_some() || may_be_gone, "what_a_duke_wrote_is_there_until_it_has_its_name: {job}");
                self.tally.results_named += u64::from(named.is_some());
                let gone = || WriteError { why: "it is gone".to_owned(), hopeless: false };
                output.outcome = output.outcome.and(named.ok_or_else(gone));
            }
            written.push(output);
        }
        self.writers_work_later(job);
        self.queen_happens(job, Happening::Written(written));
        self.queen_reads_later(job);
    }
}

/// The name of a file that a duke has written.
fn name_of(result: &Payload) -> String {
    String::from_utf8_lossy(&result.contiguous()).into_owned()
}
