//! A run that is one part of a larger one: what it tells whoever holds the parts together, and where it waits for the others.

use crate::histogram::Counts;
use crate::order::Faults;
use anyhow::{Context as _, Result};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// Events that wait to be read. There is about one a second; a part whose events nobody reads waits.
const EVENTS_MAX: usize = 64;

/// What a part tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Everybody is there, and waits for [`Part::go`]. What is done from here on, and what is counted.
    Ready(&'static str, &'static str),
    /// What a second brought.
    Second(Tick),
    /// The measured time begins. Without this, it began when the part went on.
    Measuring,
    /// The measured time is over.
    Finished,
}

/// What one second brought.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// Its end, in seconds since the part went on or, if it came later, since the measured time began.
    pub at: f64,
    /// Its length, in seconds.
    pub length: f64,
    /// What was counted in it.
    pub count: u64,
    /// What went wrong in it.
    pub wrong: u64,
    /// What went wrong until now.
    pub faults: Faults,
    /// Latencies of what was counted in it.
    pub latency: Counts,
}

/// The part's side.
pub struct Part {
    /// The share of the whole load that the parts before this one make; 1 is all.
    pub(super) before: f64,
    /// The share that this one makes.
    pub(super) share: f64,
    events: mpsc::Sender<Event>,
    gone_on: Semaphore,
}

impl Part {
    /// A part, and its events.
    pub fn new(before: f64, share: f64) -> (Arc<Part>, mpsc::Receiver<Event>) {
        let (events, told) = mpsc::channel(EVENTS_MAX);
        (Arc::new(Part { before, share, events, gone_on: Semaphore::new(0) }), told)
    }

    /// All parts are ready: this one goes on.
    pub fn go(&self) {
        self.gone_on.add_permits(1);
    }

    /// Until all are ready.
    pub(super) async fn ready(&self, name: &'static str, unit: &'static str) -> Result<()> {
        self.tell(Event::Ready(name, unit)).await;
        self.gone_on.acquire().await.context("nobody says when to go on")?.forget();
        Ok(())
    }

    pub(super) async fn tell(&self, event: Event) {
        // If nobody listens any more, the run is about to end.
        let _ = self.events.send(event).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn a_part_waits_for_the_others() {
        let (part, mut events) = Part::new(0.0, 1.0);
        for _ in 0..2 {
            let mut ready = std::pin::pin!(part.ready("chat", "messages"));
            assert!(ready.as_mut().now_or_never().is_none());
            assert_eq!(events.recv().await, Some(Event::Ready("chat", "messages")));
            part.go();
            ready.await.unwrap();
        }
    }

    #[tokio::test]
    async fn events_that_nobody_reads_wait() {
        let (part, mut events) = Part::new(0.0, 1.0);
        for _ in 0..EVENTS_MAX {
            part.tell(Event::Finished).now_or_never().unwrap();
        }
        let mut more = std::pin::pin!(part.tell(Event::Measuring));
        assert!(more.as_mut().now_or_never().is_none());
        events.recv().await.unwrap();
        more.await;
        drop(events);
        part.tell(Event::Finished).await;
    }
}
