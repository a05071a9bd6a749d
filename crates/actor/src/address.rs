//! Addresses that count.

use crate::small::Mailbox;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where to send messages for one actor. Clones share one sender and one count.
pub struct Address<M: Send + 'static>(To<M>);

enum To<M: Send + 'static> {
    Actor(Arc<Inner<M>>),
    Small(Arc<Mailbox<M>>),
}

struct Inner<M: Send + 'static> {
    recipient: actix::Recipient<Envelope<M>>,
    queued: Queued,
    mailbox_max: usize,
}

/// A message on its way.
pub(crate) struct Envelope<M>(pub(crate) M);

impl<M: Send + 'static> actix::Message for Envelope<M> {
    type Result = ();
}

/// Messages sent and not yet handled.
#[derive(Clone, Default)]
pub(crate) struct Queued(Arc<AtomicUsize>);

impl Queued {
    pub(crate) fn took_one(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a message was not taken; it is handed back.
#[derive(thiserror::Error)]
pub enum SendError<M> {
    /// The actor has as many unhandled messages as its mailbox may hold. It may take this one later.
    #[error("mailbox is full")]
    Full(M),
    /// The actor has ended.
    #[error("actor has ended")]
    Closed(M),
}

impl<M> std::fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SendError::Full(_) => "Full",
            SendError::Closed(_) => "Closed",
        })
    }
}

impl<M: Send + 'static> Clone for Address<M> {
    fn clone(&self) -> Self {
        Address(match &self.0 {
            To::Actor(inner) => To::Actor(Arc::clone(inner)),
            To::Small(mailbox) => To::Small(Arc::clone(mailbox)),
        })
    }
}

impl<M: Send + 'static> std::fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mailbox_max = match &self.0 {
            To::Actor(inner) => inner.mailbox_max,
            To::Small(mailbox) => mailbox.mailbox_max(),
        };
        f.debug_struct("Address").field("queued", &self.queued()).field("mailbox_max", &mailbox_max).finish()
    }
}

impl<M: Send + 'static> Address<M> {
    pub(crate) fn new(recipient: actix::Recipient<Envelope<M>>, queued: Queued, mailbox_max: usize) -> Self {
        Address(To::Actor(Arc::new(Inner { recipient, queued, mailbox_max })))
    }

    pub(crate) fn small(mailbox: Arc<Mailbox<M>>) -> Self {
        Address(To::Small(mailbox))
    }

    /// Put a message into the mailbox. From one thread, messages arrive in the order sent.
    ///
    /// A message taken is lost only if the actor ends before it gets to it.
    ///
    /// # Errors
    /// [`SendError`], with the message.
    pub fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        match &self.0 {
            To::Actor(inner) => inner.try_send(message),
            To::Small(mailbox) => mailbox.try_send(message),
        }
    }

    /// Messages that wait to be handled now.
    pub fn queued(&self) -> usize {
        match &self.0 {
            To::Actor(inner) => inner.queued.0.load(Ordering::Relaxed),
            To::Small(mailbox) => mailbox.queued(),
        }
    }

    /// Whether the actor is alive.
    pub fn is_open(&self) -> bool {
        match &self.0 {
            To::Actor(inner) => inner.recipient.connected(),
            To::Small(mailbox) => mailbox.is_open(),
        }
    }
}

impl<M: Send + 'static> Inner<M> {
    fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        if self.queued.0.fetch_add(1, Ordering::Relaxed) >= self.mailbox_max {
            self.queued.took_one();
            return Err(if self.recipient.connected() { SendError::Full(message) } else { SendError::Closed(message) });
        }
        // actix's queue has no bound of its own here (`planes::channel`), so this refuses only for an actor that ended.
        self.recipient.try_send(Envelope(message)).map_err(|error| {
            self.queued.took_one();
            SendError::Closed(error.into_inner().0)
        })
    }
}
