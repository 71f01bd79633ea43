//! Peers that flood a king as fast as it lets them, until this process is killed.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use bytes::Bytes;
use distwasm_process::token_flags::TokenFlags;
use distwasm_proto::{
    PROTOCOL,
    limits::PROGRAM_BYTES_MAX,
    wire::{self, DukeWord, FromQueen, QueenWord, duke_word, queen_word::Word},
};
use distwasm_transport::{
    credentials::Credentials,
    link::{King, KingAddress},
    payload::Payload,
    transfer::Outbox,
};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_stream::StreamExt;

use crate::{
    generator,
    options::{Flood, FloodKind},
    say,
};

/// Any bytes: no duke looks at them.
const PROGRAM: Bytes = Bytes::from_static(b"any");
/// How many peers of a kind there are at a time.
const PEERS: usize = 40;
/// How long each stays before another takes its place.
const STAYS: Duration = Duration::from_secs(1);
/// The size of an input, in bytes.
const INPUT_BYTES: usize = 4 << 20;
/// The number of such inputs that each job sends.
const INPUTS: u64 = 16;
/// How many pieces a message has, where each is of one byte.
const PIECES: usize = 10_000;

/// Floods until this process is killed.
///
/// # Errors
///
/// When the address is not one that a token or its absence fits.
pub fn run(options: &Flood) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(flood(options))
}

async fn flood(options: &Flood) -> Result<ExitCode> {
    let TokenFlags { token_file, insecure } = &options.token;
    let credentials = Credentials::find(&options.king_address, token_file.as_deref(), *insecure)?;
    let address = KingAddress::Remote(options.king_address.clone(), credentials);
    let mut peers = JoinSet::new();
    for number in 0..PEERS {
        let (address, target, kind) = (address.clone(), options.king_address.to_string(), options.kind);
        peers.spawn(async move {
            loop {
                // The king may refuse each of them at any moment.
                let _ended = timeout(STAYS, come_and_stay(kind, &address, &target, number)).await;
                tokio::task::yield_now().await;
            }
        });
    }
    say::result("ready");
    peers.join_next().await;
    bail!("a peer ended")
}

/// One peer, until the king ends its link.
async fn come_and_stay(kind: FloodKind, address: &KingAddress, target: &str, number: usize) -> Result<()> {
    match kind {
        FloodKind::Busy => Ok(()),
        FloodKind::Connections => {
            let _silent = TcpStream::connect(target).await?;
            std::future::pending().await
        }
        FloodKind::Programs => submit(address, tokio_stream::once(begun_opening(number))).await,
        FloodKind::Inputs => submit_inputs(address, number).await,
        FloodKind::Pieces => submit(address, tokio_stream::iter(in_pieces(number))).await,
        FloodKind::Dukes => join_and_ask(address.connect().await?, number).await,
    }
}

/// Says this as a queen, which then stays and reads what the king says.
async fn submit(
    address: &KingAddress,
    messages: impl tokio_stream::Stream<Item = FromQueen> + Send + 'static,
) -> Result<()> {
    let (_words, silence) = Outbox::<QueenWord>::new();
    let mut news = address.connect().await?.submit_job(messages.chain(silence)).await?;
    while news.message().await?.is_some() {}
    Ok(())
}

/// The first message of a queen with a long program, whose rest never comes.
fn begun_opening(number: usize) -> FromQueen {
    let program = wire::Payload { bytes_total: PROGRAM_BYTES_MAX, data: vec![number as u8; 1 << 20].into() };
    let job = wire::OpenJob { program: Some(program), ..generator::opening(&PROGRAM) };
    FromQueen { words: vec![Word::OpenJob(Box::new(job)).into()] }
}

/// Inputs that no duke takes.
async fn submit_inputs(address: &KingAddress, number: usize) -> Result<()> {
    let (outbox, words) = Outbox::<QueenWord>::new();
    open(&outbox);
    let input = Bytes::from(vec![number as u8; INPUT_BYTES]);
    for unit in 0..INPUTS {
        outbox.push_with(Word::Unit(wire::Unit { unit, ..Default::default() }), Payload::from(input.clone()));
    }
    let mut news = address.connect().await?.submit_job(words).await?;
    while news.message().await?.is_some() {}
    Ok(())
}

fn open(outbox: &Outbox<QueenWord>) {
    outbox.push_with(Word::OpenJob(Box::new(unwanted())), Payload::from(PROGRAM));
}

/// A job that no duke takes.
fn unwanted() -> wire::OpenJob {
    let requires = [("flood".to_owned(), "yes".to_owned())].into();
    wire::OpenJob { requires, ..generator::opening(&PROGRAM) }
}

/// A job whose inputs come in pieces of one byte each.
fn in_pieces(number: usize) -> impl Iterator<Item = FromQueen> + Send {
    let program = wire::Payload { bytes_total: PROGRAM.len() as u64, data: PROGRAM };
    let job = wire::OpenJob { program: Some(program), ..unwanted() };
    let piece = move |_| {
        let data = Bytes::from(vec![number as u8]);
        Word::Piece(wire::Piece { data, broken: String::new() }).into()
    };
    let unit = move |unit| {
        let input = Some(wire::Payload { bytes_total: PIECES as u64, data: Bytes::new() });
        let begun: QueenWord = Word::Unit(wire::Unit { unit, input, ..Default::default() }).into();
        FromQueen { words: std::iter::once(begun).chain((0..PIECES).map(piece)).collect() }
    };
    std::iter::once(FromQueen { words: vec![Word::OpenJob(Box::new(job)).into()] }).chain((0..).map(unit))
}

/// A duke that asks for what it may not have again and again, and leaves.
async fn join_and_ask(king: King, number: usize) -> Result<()> {
    let (outbox, words) = Outbox::<DukeWord>::new();
    outbox.push(duke_word::Word::Hello(Box::new(wire::DukeHello {
        protocol: PROTOCOL,
        hostname: format!("flood-{number}"),
        cpus: 1,
        ram_bytes: 1 << 20,
        boot: fastrand::u64(..),
        seat: fastrand::u128(..).to_be_bytes().to_vec().into(),
        link: 1,
        ..wire::DukeHello::default()
    })));
    for _ in 0..400 {
        outbox.push(duke_word::Word::BlobWanted(wire::BlobWanted { digest: vec![0; 32].into() }));
    }
    // A duke that breaks off would be waited for, and so would the units that it has: that is a lie, and not a flood.
    let reason = "the duke is leaving".to_owned();
    outbox.push(duke_word::Word::End(wire::End { reason, come_back: false, refused: false }));
    outbox.close();
    let mut orders = king.volunteer(words).await?;
    while orders.message().await?.is_some() {}
    Ok(())
}
