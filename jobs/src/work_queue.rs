//! A queue of work for a few threads. An idle thread takes all items that wait, up to a batch; one more thread is woken
//! only when many items wait. So a flood is handled in large batches by few threads, and slow work, such as on a
//! network file system, by all of them.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// Items that may wait for each thread at work before one more is woken.
const WAITING_PER_THREAD: usize = 16;

/// The end of the queue where work is put in. Dropping it closes the queue.
#[derive(Debug)]
pub struct Giver<T>(Arc<Queue<T>>);

/// The end of the queue where a thread takes its work.
#[derive(Debug)]
pub struct Taker<T>(Arc<Queue<T>>);

#[derive(Debug)]
struct Queue<T> {
    state: Mutex<Waiting<T>>,
    wake: Condvar,
}

#[derive(Debug)]
struct Waiting<T> {
    items: VecDeque<T>,
    /// The number of idle threads, and of all threads.
    idle: usize,
    threads: usize,
    closed: bool,
}

/// A queue for this many threads.
pub fn queue<T>(threads: usize) -> (Giver<T>, impl Iterator<Item = Taker<T>>) {
    let state = Waiting { items: VecDeque::new(), idle: 0, threads, closed: false };
    let queue = Arc::new(Queue { state: Mutex::new(state), wake: Condvar::new() });
    let takers = Arc::clone(&queue);
    (Giver(queue), (0..threads).map(move |_| Taker(Arc::clone(&takers))))
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_if_worth_it(&self, state: &Waiting<T>) {
        let at_work = state.threads.saturating_sub(state.idle);
        if state.idle > 0 && state.items.len() > at_work * WAITING_PER_THREAD {
            self.wake.notify_one();
        }
    }
}

impl<T> Giver<T> {
    /// Adds work at the end of the queue.
    pub fn give(&self, items: impl IntoIterator<Item = T>) {
        let mut state = self.0.lock();
        state.items.extend(items);
        self.0.wake_if_worth_it(&state);
    }

    /// Closes the queue: no more work will be given.
    pub fn close(&self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<T> Taker<T> {
    /// Waits for work, and takes up to `most` of it; `None` when the queue is closed and empty.
    pub fn take(&self, most: usize) -> Option<Vec<T>> {
        let mut state = self.0.lock();
        loop {
            if !state.items.is_empty() {
                let count = state.items.len().min(most);
                let batch = state.items.drain(..count).collect();
                self.0.wake_if_worth_it(&state);
                return Some(batch);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.0.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_given_is_taken_once_and_then_there_is_an_end() {
        let (giver, takers) = queue::<u32>(4);
        let threads: Vec<_> = takers
            .map(|taker| {
                std::thread::spawn(move || {
                    let mut taken = Vec::new();
                    while let Some(batch) = taker.take(7) {
                        assert!((1..=7).contains(&batch.len()));
                        taken.extend(batch);
                    }
                    taken
                })
            })
            .collect();
        (0..100).for_each(|number| giver.give(number * 10..(number + 1) * 10));
        drop(giver);
        let mut taken: Vec<u32> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        taken.sort_unstable();
        assert!(taken.into_iter().eq(0..1000));
    }
}
