//! The threads that list, read and write, and the channels between them and the reactor.

use std::sync::Arc;

use distwasm_proto::limits::{REACTOR_QUEUE, READERS, WRITERS};
use tokio::{sync::mpsc, task::JoinSet};

use super::Folders;
use crate::{
    inputs::{
        Finding, listing,
        readers::{self, Post, ReadOrder, Sent},
    },
    king_link::{KingNews, LinkError},
    outputs::{self, Output, Written},
    work_queue::{Giver, queue},
};

/// Messages from the threads and the link.
pub(super) struct Channels {
    pub(super) found: mpsc::Receiver<Finding>,
    pub(super) sent: mpsc::Receiver<Sent>,
    pub(super) written: mpsc::Receiver<Vec<Written>>,
    pub(super) told: mpsc::Receiver<Result<Vec<KingNews>, LinkError>>,
}

/// Orders for the readers, and their connection to the king.
pub(super) struct Readers {
    pub(super) orders: Giver<ReadOrder>,
    pub(super) post: Arc<Post>,
}

pub(super) fn start_lister(threads: &mut JoinSet<()>, folders: &Folders) -> mpsc::Receiver<Finding> {
    let (sender, found) = mpsc::channel(REACTOR_QUEUE);
    let folders = folders.clone();
    threads.spawn_blocking(move || listing::list(&folders.input, &folders.output, folders.only.as_deref(), &sender));
    found
}

pub(super) fn start_readers(threads: &mut JoinSet<()>, folders: &Folders) -> (Readers, mpsc::Receiver<Sent>) {
    let (orders, takers) = queue(READERS);
    let (sender, sent) = mpsc::channel(REACTOR_QUEUE);
    let post = Arc::new(Post::default());
    for orders in takers {
        let (input, post, sender) = (folders.input.clone(), Arc::clone(&post), sender.clone());
        threads.spawn_blocking(move || readers::read(&input, &orders, &post, &sender));
    }
    (Readers { orders, post }, sent)
}

pub(super) fn start_writers(
    threads: &mut JoinSet<()>,
    folders: &Folders,
) -> (Giver<Output>, mpsc::Receiver<Vec<Written>>) {
    let (outputs, takers) = queue(WRITERS);
    let (sender, written) = mpsc::channel(REACTOR_QUEUE);
    for outputs in takers {
        let (folders, sender) = (folders.clone(), sender.clone());
        threads.spawn_blocking(move || outputs::write(&folders.output, folders.sync, &outputs, &sender));
    }
    (outputs, written)
}
