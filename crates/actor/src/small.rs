//! Actors of which there are very many: a mailbox and turns, in one task each.

use crate::address::{Address, SendError};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// An [`crate::Actor`] without timers and without futures of its own: what it waits for it polls itself.
///
/// Idle, it costs its own size, that of its mailbox (96 bytes) and of a task (about 100): an actor in actix costs 700 bytes
/// more, for queues and lists that stay empty here. A panic ends it alone: it is dropped, and its address is closed.
pub trait SmallActor: Sized + Unpin + 'static {
    /// What its mailbox takes.
    type Message: Send + 'static;

    /// One message. Must not block.
    fn handle(&mut self, message: Self::Message);

    /// The end of a turn: called after the messages at hand were handled, and when a waker taken from `task` fires.
    /// With `Ready` the actor ends, and is dropped: messages still in its mailbox are dropped, later ones are refused.
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<()>;
}

/// Start a small actor on the plane of the caller. Its mailbox holds at most `mailbox_max` messages, those of the turn that
/// is under way not counted.
///
/// # Panics
/// If the caller is not on a plane.
pub fn start_small<A: SmallActor>(mailbox_max: u32, actor: A) -> Address<A::Message> {
    let mailbox =
        Arc::new(Mailbox { mailbox_max, inside: Mutex::new(Inside { open: true, task: None, woken: false, queue: VecDeque::new() }) });
    actix::spawn(Turns { mailbox: Arc::clone(&mailbox), actor });
    Address::small(mailbox)
}

/// What a small actor and its addresses share.
pub(crate) struct Mailbox<M> {
    mailbox_max: u32,
    inside: Mutex<Inside<M>>,
}

struct Inside<M> {
    open: bool,
    /// Whom the first message behind a turn wakes. Kept: a clone for each turn cost as much as the wake.
    task: Option<Waker>,
    /// A message has woken it, and its turn has not begun.
    woken: bool,
    queue: VecDeque<M>,
}

impl<M> Mailbox<M> {
    fn inside(&self) -> MutexGuard<'_, Inside<M>> {
        // No code of an actor runs under the lock.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        let mut inside = self.inside();
        if !inside.open {
            return Err(SendError::Closed(message));
        }
        if inside.queue.len() >= self.mailbox_max as usize {
            return Err(SendError::Full(message));
        }
        inside.queue.push_back(message);
        if !std::mem::replace(&mut inside.woken, true)
            && let Some(task) = &inside.task
        {
            // It is put in a queue of its thread's: nothing of it runs here.
            task.wake_by_ref();
        }
        Ok(())
    }

    pub(crate) fn queued(&self) -> usize {
        self.inside().queue.len()
    }

    pub(crate) fn mailbox_max(&self) -> usize {
        self.mailbox_max as usize
    }

    pub(crate) fn is_open(&self) -> bool {
        self.inside().open
    }

    /// A turn begins: whoever sends from here on wakes `task`. The messages at hand, all with one lock; an idle actor
    /// holds no buffer.
    fn begin(&self, task: &Waker) -> VecDeque<M> {
        let mut inside = self.inside();
        if !inside.task.as_ref().is_some_and(|known| known.will_wake(task)) {
            inside.task = Some(task.clone());
        }
        inside.woken = false;
        std::mem::take(&mut inside.queue)
    }

    fn close(&self) {
        let mut inside = self.inside();
        inside.open = false;
        let rest = (inside.task.take(), std::mem::take(&mut inside.queue));
        drop(inside);
        // What a message does as it is dropped may come back here.
        drop(rest);
    }
}

/// The task of a small actor.
struct Turns<A: SmallActor> {
    mailbox: Arc<Mailbox<A::Message>>,
    actor: A,
}

impl<A: SmallActor> Future for Turns<A> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let turn = self.get_mut();
        // Those that come meanwhile have the next turn, so that it ends.
        for message in turn.mailbox.begin(task.waker()) {
            turn.actor.handle(message);
        }
        turn.actor.poll(task)
    }
}

impl<A: SmallActor> Drop for Turns<A> {
    fn drop(&mut self) {
        // Before the actor itself is dropped: what it does then reaches nobody here any more.
        self.mailbox.close();
    }
}
