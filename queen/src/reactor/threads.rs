//! The threads that list, read and write, and the ways between them and the reactor.

use std::sync::{Arc, Mutex, mpsc as blocking};

use distwasm_proto::limits::{REACTOR_QUEUE, READERS, READING_MAX, WRITERS};
use tokio::{sync::mpsc, task::JoinSet};

use super::Folders;
use crate::{
    king_link::{LinkError, Told},
    listing::{self, Found},
    output::{self, Output, Written},
    readers::{self, Order, Post, Sent},
};

/// Orders that may wait for the writers; what is more waits at the reactor, bounded in bytes by `king_link`.
const WRITE_ORDERS: usize = 2 * WRITERS;

/// What the threads and the link say.
pub(super) struct Channels {
    pub(super) found: mpsc::Receiver<Found>,
    pub(super) sent: mpsc::Receiver<Sent>,
    pub(super) written: mpsc::Receiver<Vec<Written>>,
    pub(super) told: mpsc::Receiver<Result<Vec<Told>, LinkError>>,
}

/// The way to the readers.
pub(super) struct Readers {
    pub(super) orders: blocking::SyncSender<Order>,
    pub(super) post: Arc<Post>,
}

pub(super) fn start_lister(threads: &mut JoinSet<()>, folders: &Folders) -> mpsc::Receiver<Found> {
    let (sender, found) = mpsc::channel(REACTOR_QUEUE);
    let folders = folders.clone();
    threads.spawn_blocking(move || listing::list(&folders.input, &folders.output, folders.only.as_deref(), &sender));
    found
}

pub(super) fn start_readers(threads: &mut JoinSet<()>, folders: &Folders) -> (Readers, mpsc::Receiver<Sent>) {
    let (orders, queue) = blocking::sync_channel(READING_MAX + READERS + 2);
    let (sender, sent) = mpsc::channel(REACTOR_QUEUE);
    let (queue, post) = (Arc::new(Mutex::new(queue)), Arc::new(Post::default()));
    for _ in 0..READERS {
        let (input, queue, post, sender) =
            (folders.input.clone(), Arc::clone(&queue), Arc::clone(&post), sender.clone());
        threads.spawn_blocking(move || readers::read(&input, &queue, &post, &sender));
    }
    (Readers { orders, post }, sent)
}

pub(super) fn start_writers(
    threads: &mut JoinSet<()>,
    folders: &Folders,
) -> (blocking::SyncSender<Vec<Output>>, mpsc::Receiver<Vec<Written>>) {
    let (orders, queue) = blocking::sync_channel(WRITE_ORDERS);
    let (sender, written) = mpsc::channel(REACTOR_QUEUE);
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..WRITERS {
        let (folders, queue, sender) = (folders.clone(), Arc::clone(&queue), sender.clone());
        threads.spawn_blocking(move || output::write(&folders.output, folders.sync, &queue, &sender));
    }
    (orders, written)
}
