//! The threads that list, read and write, and the channels between them and the loop.

use std::sync::Arc;

use distwasm_proto::limits::{MESSAGES_WAITING, REACTOR_QUEUE, READERS, WRITERS};
use tokio::{sync::mpsc, task::JoinSet};

use super::Folders;
use crate::{
    inputs::{
        self, Finding, InputFolder, ReadOrder, Sent,
        post::Post,
        readers::{self, Source},
    },
    king_link::Heard,
    outputs::{self, Stored, WriteOrder, Writing, Written},
    request::InPlaces,
    work_queue::{Giver, queue},
};

/// What the threads and the link tell the loop.
pub(super) struct Channels {
    pub(super) found: mpsc::Receiver<Finding>,
    pub(super) sent: mpsc::Receiver<Sent>,
    pub(super) written: mpsc::Receiver<Vec<Written>>,
    pub(super) stored: mpsc::Receiver<Stored>,
    pub(super) heard: mpsc::Receiver<Heard>,
}

/// What the loop tells the threads, and where the link puts its news.
pub(super) struct Orders {
    pub(super) readers: Giver<ReadOrder>,
    pub(super) post: Arc<Post>,
    pub(super) writers: Giver<WriteOrder>,
    pub(super) news: mpsc::Sender<Heard>,
}

/// Starts all threads of a run.
pub(super) fn start(threads: &mut JoinSet<()>, folders: &Folders, in_places: InPlaces) -> (Orders, Channels) {
    let (readers, orders) = queue(READERS);
    let (sender, sent) = mpsc::channel(REACTOR_QUEUE);
    let post = Arc::new(Post::default());
    let input = Arc::new(InputFolder::new(&folders.input, folders.rules.follows_links));
    for orders in orders {
        let (input, post, sender) = (Arc::clone(&input), Arc::clone(&post), sender.clone());
        threads.spawn_blocking(move || {
            readers::read(Source { folder: &input, in_places }, &orders, &post, &sender);
        });
    }
    let (writers, orders) = queue(WRITERS);
    let (sender, written) = mpsc::channel(REACTOR_QUEUE);
    let (storer, stored) = mpsc::channel(REACTOR_QUEUE);
    for orders in orders {
        let (folders, sender, storer) = (folders.clone(), sender.clone(), storer.clone());
        let in_folders = folders.rules.outputs_are_folders;
        let writing = Writing { sync: folders.sync, in_places, in_folders };
        threads.spawn_blocking(move || outputs::write(&folders.output, writing, &orders, &sender, &storer));
    }
    let (sender, found) = mpsc::channel(REACTOR_QUEUE);
    let folders = folders.clone();
    threads.spawn_blocking(move || inputs::list(&folders, &sender));
    let (news, heard) = mpsc::channel(MESSAGES_WAITING);
    (Orders { readers, post, writers, news }, Channels { found, sent, written, stored, heard })
}
