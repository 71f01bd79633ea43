//! A king that hears changed words of many queens and dukes, and one queen and one duke that are honest.

use std::{
    collections::VecDeque,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use distwasm_king::{
    Reign,
    authority::Identity,
    border::{Border, duke::DukeBorder, queen::QueenBorder},
    budget::Budget,
    inbox::{Happening, LinkError, LinkId, Peer},
    reactor::Reactor,
};
use distwasm_proto::{
    ids::DukeId,
    limits::JOB_RESERVE_BYTES,
    time::Time,
    wire::{
        DukeOrder, DukeWord, FromDuke, FromQueen, QueenNews, QueenWord, VerdictsHeard, duke_order::Order,
        queen_news::News, queen_word,
    },
};
use distwasm_transport::transfer::{OutboxStream, Word};
use fastrand::Rng;
use prost::Message;
use tokio_stream::Stream;

use super::{
    Corpus,
    fields::{self, Seen},
    seeds,
};

/// How many links there are at a time, besides the honest ones.
const LINKS_MAX: usize = 12;

/// The units of the honest queen.
const HONEST_UNITS: u64 = 5;

/// The memory of the king: so little that it is full now and then.
const MEMORY_BYTES: u64 = 64 << 20;

/// One episode.
pub(super) struct Kingdom<'a> {
    reactor: Reactor,
    budget: Budget,
    links: Vec<Link>,
    honest: Honest,
    happenings: Vec<Happening>,
    now: Time,
    next_link: u64,
    corpus: &'a mut Corpus,
    seen: Seen,
    rng: Rng,
}

/// A link of a peer that says anything.
struct Link {
    side: Side,
    /// The attempts that it was given, if it is a duke.
    attempts: Vec<u64>,
    /// How many units it has sent, if it is a queen.
    units: u64,
}

enum Side {
    Duke(Option<Box<DukeBorder>>, OutboxStream<DukeOrder>),
    Queen(Option<Box<QueenBorder>>, OutboxStream<QueenNews>),
}

/// A queen and a duke that do what they should.
struct Honest {
    queen: QueenBorder,
    news: OutboxStream<QueenNews>,
    duke: DukeBorder,
    orders: OutboxStream<DukeOrder>,
    done: u64,
    ended: bool,
}

impl<'a> Kingdom<'a> {
    pub(super) fn new(corpus: &'a mut Corpus, mut rng: Rng) -> Kingdom<'a> {
        let reign = Reign::with_memory(MEMORY_BYTES);
        let budget = Budget::new(MEMORY_BYTES);
        let (peer, orders) = Peer::new(Identity::Trusted, None);
        let duke = DukeBorder::new(DukeId(1), peer, &budget);
        let (peer, news) = Peer::new(Identity::Trusted, None);
        let queen = QueenBorder::new(LinkId(2), peer, &budget);
        let mut kingdom = Kingdom {
            reactor: Reactor::new(Time::default(), reign),
            budget,
            links: Vec::new(),
            honest: Honest { queen, news, duke, orders, done: 0, ended: false },
            happenings: Vec::new(),
            now: Time::default(),
            next_link: 3,
            corpus,
            seen: Seen::default(),
            rng: rng.fork(),
        };
        let words = vec![seeds::hello(true).into()];
        kingdom.hear_honest_duke(FromDuke { words });
        let mut words: Vec<QueenWord> = vec![seeds::open_job(true).into()];
        words.extend((0..HONEST_UNITS).map(|unit| seeds::unit(unit).into()));
        words.push(seeds::close(HONEST_UNITS).into());
        for word in words {
            kingdom.hear_honest_queen(FromQueen { words: vec![word] });
        }
        kingdom
    }

    /// Something happens.
    pub(super) fn step(&mut self) {
        match self.rng.u8(..20) {
            0 if self.links.len() < LINKS_MAX => self.connect(),
            1 => self.lose_link(),
            2 | 3 => {
                self.now = Time(self.now.0 + (self.rng.u64(..30_000_000) >> self.rng.u32(..20)));
                self.happenings.push(Happening::Tick);
            }
            4..8 => self.read(),
            _ => self.say(),
        }
        self.react();
    }

    /// Lets the reactor handle all that has happened, and the honest peers answer.
    fn react(&mut self) {
        self.reactor.handle(self.now, &mut self.happenings);
        self.reactor.check();
        let (taken, most) = (self.budget.inputs.taken(), self.budget.inputs.most());
        let reserved = (self.links.len() as u64 + 1) * JOB_RESERVE_BYTES;
        assert!(taken <= most + reserved, "inputs_of_all_jobs_have_a_bound: {taken}");
        assert!(self.budget.programs.taken() <= self.budget.programs.most(), "programs_of_all_jobs_have_a_bound");
        self.honest_duke_works();
        self.honest_queen_listens();
    }

    /// Ends all links but the honest ones, and checks that the honest ones get to the end.
    pub(super) fn end(mut self) {
        for mut link in std::mem::take(&mut self.links) {
            self.happenings.extend(link.end(Ok(())));
        }
        for _ in 0..1000 {
            if self.honest.ended {
                break;
            }
            self.now = Time(self.now.0 + 100_000);
            self.happenings.push(Happening::Tick);
            self.react();
        }
        assert!(self.honest.ended, "honest_job_ends");
        assert_eq!(self.honest.done, HONEST_UNITS, "honest_units_are_done");
    }

    fn connect(&mut self) {
        let number = self.next_link;
        self.next_link += 1;
        let address = IpAddr::from([10, 0, 0, self.rng.u8(1..4)]);
        let side = if self.rng.bool() {
            let (peer, orders) = Peer::new(Identity::Trusted, Some(address));
            Side::Duke(Some(Box::new(DukeBorder::new(DukeId(number), peer, &self.budget))), orders)
        } else {
            let (peer, news) = Peer::new(Identity::Trusted, Some(address));
            Side::Queen(Some(Box::new(QueenBorder::new(LinkId(number), peer, &self.budget))), news)
        };
        self.links.push(Link { side, attempts: Vec::new(), units: 0 });
        // Most begin as they should.
        let place = self.links.len() - 1;
        if self.rng.u8(..8) > 0 {
            let bytes = match self.links[place].side {
                Side::Duke(..) => FromDuke { words: vec![seeds::hello(false).into()] }.encode_to_vec(),
                Side::Queen(..) => FromQueen { words: vec![seeds::open_job(false).into()] }.encode_to_vec(),
            };
            self.hear(place, &bytes);
        }
    }

    fn lose_link(&mut self) {
        if !self.links.is_empty() {
            let place = self.rng.usize(..self.links.len());
            self.happenings.extend(self.links.swap_remove(place).end(Err(LinkError::Silent)));
        }
    }

    /// Takes what the king has for one of the links, and learns from it.
    fn read(&mut self) {
        let Some(place) = self.any_link() else { return };
        let link = &mut self.links[place];
        let messages: Vec<Vec<u8>> = match &mut link.side {
            Side::Duke(_, orders) => {
                let orders = drain(orders);
                let words = orders.iter().flat_map(|message| &message.orders);
                link.attempts.extend(words.filter_map(|word| match &word.order {
                    Some(Order::StartAttempt(start)) => Some(start.attempt),
                    _ => None,
                }));
                orders.iter().map(Message::encode_to_vec).collect()
            }
            Side::Queen(_, news) => drain(news).iter().map(Message::encode_to_vec).collect(),
        };
        for message in messages {
            self.seen.learn(&fields::read(&message).unwrap_or_default(), &mut self.rng);
        }
    }

    /// Has one of the links say something.
    fn say(&mut self) {
        let Some(place) = self.any_link() else { return };
        let link = &mut self.links[place];
        let is_duke = matches!(link.side, Side::Duke(..));
        // What fits its state, now and then.
        let fitting = match (is_duke, self.rng.u8(..3)) {
            (true, 0) => link.attempts.pop().map(|attempt| {
                let word = if self.rng.bool() { seeds::done(attempt) } else { seeds::offered(attempt) };
                FromDuke { words: vec![word.into()] }.encode_to_vec()
            }),
            (false, 0) => {
                let unit = link.units;
                link.units += 1;
                Some(FromQueen { words: vec![seeds::unit(unit).into()] }.encode_to_vec())
            }
            _ => None,
        };
        let mut bytes = fitting.unwrap_or_else(|| self.corpus.pick(is_duke, &mut self.rng));
        let other = self.corpus.pick(is_duke, &mut self.rng);
        let other = fields::read(&other).unwrap_or_default();
        if let Some(mut tree) = fields::read(&bytes) {
            for _ in 0..self.rng.u8(..4) {
                fields::mutate(&mut tree, &other, &self.seen, &mut self.rng);
            }
            bytes = fields::write(&tree);
        }
        self.hear(place, &bytes);
    }

    /// A message arrives over a link. It is kept in the corpus if the answer is one that was not seen before.
    fn hear(&mut self, place: usize, bytes: &[u8]) {
        let link = &mut self.links[place];
        let is_duke = matches!(link.side, Side::Duke(..));
        let heard = match &mut link.side {
            Side::Duke(Some(border), _) => FromDuke::decode(bytes).ok().map(|message| border.take(message)),
            Side::Queen(Some(border), _) => FromQueen::decode(bytes).ok().map(|message| border.take(message)),
            Side::Duke(None, _) | Side::Queen(None, _) => None,
        };
        let answer = match heard {
            None => return,
            Some(Ok(heard)) => {
                let kinds: Vec<String> =
                    heard.happenings.iter().map(|happening| kind_of(&format!("{happening:?}"))).collect();
                self.happenings.extend(heard.happenings);
                if heard.leaves {
                    self.happenings.extend(self.links.swap_remove(place).end(Ok(())));
                }
                kinds.concat()
            }
            Some(Err(error)) => {
                let told = error.to_string();
                self.happenings.extend(self.links.swap_remove(place).end(Err(error)));
                told
            }
        };
        self.corpus.learn(is_duke, bytes, &answer, &mut self.rng);
    }

    fn any_link(&mut self) -> Option<usize> {
        (!self.links.is_empty()).then(|| self.rng.usize(..self.links.len()))
    }

    // ---- The honest ones ------------------------------------------------------------------------------------------

    fn hear_honest_duke(&mut self, message: FromDuke) {
        let heard = self.honest.duke.take(message).expect("honest_duke_is_not_turned_away");
        self.reactor.handle(self.now, &mut { heard.happenings });
    }

    fn hear_honest_queen(&mut self, message: FromQueen) {
        let heard = self.honest.queen.take(message).expect("honest_queen_is_not_turned_away");
        self.reactor.handle(self.now, &mut { heard.happenings });
    }

    fn honest_duke_works(&mut self) {
        let mut orders: VecDeque<DukeOrder> =
            drain(&mut self.honest.orders).into_iter().flat_map(|m| m.orders).collect();
        while let Some(order) = orders.pop_front() {
            let words: Vec<DukeWord> = match order.order {
                Some(Order::StartAttempt(start)) => vec![seeds::done(start.attempt).into()],
                Some(Order::ReleaseSlots(release)) => vec![seeds::released(release.job, release.slots).into()],
                Some(Order::End(end)) => panic!("honest_duke_is_not_sent_away: {}", end.reason),
                _ => Vec::new(),
            };
            self.hear_honest_duke(FromDuke { words });
        }
    }

    fn honest_queen_listens(&mut self) {
        for message in drain(&mut self.honest.news) {
            for news in message.news {
                match news.news {
                    Some(News::Verdict(verdict)) => {
                        assert!(verdict.done, "honest_unit_is_done: {verdict:?}");
                        self.honest.done += 1;
                        let heard = VerdictsHeard { verdicts: 1 };
                        self.hear_honest_queen(FromQueen {
                            words: vec![queen_word::Word::VerdictsHeard(heard).into()],
                        });
                    }
                    Some(News::JobEnded(ended)) => {
                        assert!(ended.failure.is_none(), "honest_job_is_not_unfit: {ended:?}");
                        self.honest.ended = true;
                    }
                    Some(News::End(end)) if !self.honest.ended => {
                        panic!("honest_queen_is_not_sent_away: {}", end.reason)
                    }
                    _ => {}
                }
            }
        }
    }
}

impl Link {
    fn end(&mut self, leaving: Result<(), LinkError>) -> Option<Happening> {
        match &mut self.side {
            Side::Duke(border, _) => border.take().map(|border| border.end(leaving)),
            Side::Queen(border, _) => border.take().map(|border| border.end(leaving)),
        }
    }
}

/// The name of what happened, and of the words in it.
fn kind_of(happening: &str) -> String {
    happening.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| word.len() > 3).take(12).collect()
}

fn drain<W: Word>(stream: &mut OutboxStream<W>) -> Vec<W::Message> {
    let next = || match Pin::new(&mut *stream).poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(message) => message,
        Poll::Pending => None,
    };
    std::iter::from_fn(next).collect()
}
