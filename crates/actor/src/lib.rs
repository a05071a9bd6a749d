//! Actors behind bounded addresses: the only crate that names actix.
//!
//! A *plane* is one arbiter: a thread with a current-thread runtime, on which actors live and never move. [`Planes`]
//! starts them; [`Planes::start_actor`] puts an actor on one and gives its [`Address`], the only bridge between threads.
//! A [`SmallActor`] is one of very many: it is started by [`start_small`], from the plane that it lives on, and is a task of
//! its own beside actix, because an idle one must cost little.
//!
//! What this crate never does: queue without a bound (an address counts what its actor has not handled yet, and refuses
//! beyond the maximum given at start; actix's own bound grows with every clone of an `Addr`, so it is not used), wait for
//! an answer, or restart an actor. A panic ends that actor alone: its address is [`SendError::Closed`] from then on.
//!
//! Start with [`Actor`], then [`Planes`]; `small` is the other kind. [`clock`] is the one place where shells read clocks.

mod address;
pub mod clock;
mod planes;
mod small;

#[cfg(test)]
mod tests;

pub use address::{Address, SendError};
pub use clock::Clock;
pub use planes::{Planes, StartError, current_plane, spawn_local};
pub use small::{SmallActor, start_small};

use actix::{ActorContext, ActorFuture, ActorFutureExt, AsyncContext};
use address::{Envelope, Queued};
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// State that one thread owns, driven by messages, timers and its own futures, one at a time.
///
/// Handlers must not block: everything else on the plane waits for them.
pub trait Actor: Sized + Unpin + 'static {
    /// What its mailbox takes.
    type Message: Send + 'static;

    /// Whether [`Actor::poll`] is called. Off by default: it costs a small allocation per actor.
    const POLLED: bool = false;

    /// Called once, before any message.
    fn started(&mut self, context: &mut Context<'_, Self>) {
        let _ = context;
    }

    /// One message.
    fn handle(&mut self, context: &mut Context<'_, Self>, message: Self::Message);

    /// The end of a turn: called after the messages at hand were handled, and when a waker taken from `task` fires.
    ///
    /// This is where an actor drives its own I/O (poll for readiness, flush what the turn produced). Only if
    /// [`Actor::POLLED`].
    fn poll(&mut self, context: &mut Context<'_, Self>, task: &mut std::task::Context<'_>) {
        let _ = (context, task);
    }

    /// Called once at the end, also after a panic in another method. Must not panic.
    fn stopped(&mut self) {}
}

/// What an actor can do to itself.
pub struct Context<'a, A: Actor>(&'a mut actix::Context<Host<A>>);

impl<A: Actor> Context<'_, A> {
    /// End the actor after this turn. Messages still in its mailbox are dropped; later ones are refused as closed.
    pub fn stop(&mut self) {
        self.0.stop();
    }

    /// Run `then` on this actor after `delay` (resolution 1 ms), unless the actor has ended.
    pub fn after(&mut self, delay: Duration, then: impl FnOnce(&mut A, &mut Context<'_, A>) + 'static) {
        self.spawn(tokio::time::sleep(delay), move |actor, context, ()| then(actor, context));
    }

    /// Run a future on this plane, bound to this actor: it is dropped with it, and its output is handled as a message is.
    pub fn spawn<F>(&mut self, future: F, then: impl FnOnce(&mut A, &mut Context<'_, A>, F::Output) + 'static)
    where
        F: Future + 'static,
    {
        let bound =
            actix::fut::wrap_future::<_, Host<A>>(future).map(move |output, host: &mut Host<A>, context: &mut actix::Context<Host<A>>| {
                then(&mut host.actor, &mut Context(context), output);
            });
        self.0.spawn(bound);
    }
}

/// An [`Actor`] as actix sees it.
pub(crate) struct Host<A: Actor> {
    pub(crate) actor: A,
    pub(crate) queued: Queued,
}

impl<A: Actor> actix::Actor for Host<A> {
    type Context = actix::Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.actor.started(&mut Context(context));
        if A::POLLED {
            context.spawn(PollActor);
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.actor.stopped();
    }
}

impl<A: Actor> actix::Handler<Envelope<A::Message>> for Host<A> {
    type Result = ();

    fn handle(&mut self, message: Envelope<A::Message>, context: &mut Self::Context) {
        self.queued.took_one();
        self.actor.handle(&mut Context(context), message.0);
    }
}

/// Never done: actix polls it at the end of each turn of its actor.
struct PollActor;

impl<A: Actor> ActorFuture<Host<A>> for PollActor {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        host: &mut Host<A>,
        context: &mut actix::Context<Host<A>>,
        task: &mut std::task::Context<'_>,
    ) -> Poll<()> {
        host.actor.poll(&mut Context(context), task);
        Poll::Pending
    }
}
