//! Arbiters and what runs on them.

use crate::address::{Address, Envelope, Queued};
use crate::{Actor, Host};
use actix::dev::channel::{AddressReceiver, channel as actix_channel};
use actix::{Addr, Arbiter, ArbiterHandle, System};
use std::cell::Cell;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

thread_local! {
    static PLANE: Cell<Option<u16>> = const { Cell::new(None) };
}

/// The plane that this thread is, if it is one.
pub fn current_plane() -> Option<u16> {
    PLANE.get()
}

/// Why planes did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No planes were asked for.
    #[error("at least one plane is needed")]
    None,
    /// A thread or its runtime could not be made.
    #[error("cannot start plane threads: {0}")]
    Thread(#[from] std::io::Error),
    /// The thread that starts them panicked.
    #[error("the thread that starts planes ended early")]
    Ended,
}

/// A process's planes. Clones name the same ones.
#[derive(Clone)]
pub struct Planes(Arc<Inner>);

struct Inner {
    arbiters: Vec<ArbiterHandle>,
    system: System,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Planes {
    /// As many planes as there are CPUs that this process may use.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn one_per_cpu() -> Result<Planes, StartError> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Planes::start(u16::try_from(cpus).unwrap_or(u16::MAX))
    }

    /// Start `count` planes.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(count: u16) -> Result<Planes, StartError> {
        if count == 0 {
            return Err(StartError::None);
        }
        let (tell, told) = mpsc::sync_channel(1);
        // actix wants a System on the thread that makes arbiters; this thread only keeps it.
        let thread = std::thread::Builder::new().name("planes".into()).spawn(move || {
            let runner = System::new();
            let arbiters: std::io::Result<Vec<Arbiter>> = runner.block_on(async { (0..count).map(|_| Arbiter::try_new()).collect() });
            let (handles, arbiters) = match arbiters {
                Ok(arbiters) => (Ok(arbiters.iter().map(Arbiter::handle).collect::<Vec<_>>()), arbiters),
                Err(error) => (Err(error), Vec::new()),
            };
            let go_on = handles.is_ok();
            let heard = tell.send(handles.map(|handles| (System::current(), handles))).is_ok();
            if go_on && heard && runner.run().is_err() {
                tracing::error!("the thread that keeps the planes ended with an error");
            }
            for arbiter in arbiters {
                arbiter.stop();
                if arbiter.join().is_err() {
                    tracing::error!("a plane's thread ended with a panic");
                }
            }
        })?;
        let (system, arbiters) = told.recv().map_err(|_| StartError::Ended)??;
        for (plane, arbiter) in (0..).zip(&arbiters) {
            arbiter.spawn_fn(move || PLANE.set(Some(plane)));
        }
        Ok(Planes(Arc::new(Inner { arbiters, system, thread: Mutex::new(Some(thread)) })))
    }

    /// How many there are, at least 1. They are numbered from 0.
    pub fn count(&self) -> u16 {
        u16::try_from(self.0.arbiters.len()).unwrap_or(u16::MAX)
    }

    fn arbiter(&self, plane: u16) -> &ArbiterHandle {
        // A number that does not name a plane is a mistake in the program; it still finds one.
        &self.0.arbiters[usize::from(plane) % self.0.arbiters.len()]
    }

    /// Start an actor on a plane; `make` runs there. Its mailbox holds at most `mailbox_max` unhandled messages.
    ///
    /// After [`Planes::stop`] the address is closed.
    pub fn start_actor<A: Actor>(&self, plane: u16, mailbox_max: usize, make: impl FnOnce() -> A + Send + 'static) -> Address<A::Message> {
        let (receiver, queued, address) = channel::<A>(mailbox_max);
        self.arbiter(plane).spawn_fn(move || run(make(), queued, receiver));
        address
    }

    /// Run `work` on a plane, behind what was asked of it before.
    ///
    /// Meant for start-up and rare commands: the queue behind it has no bound. `false` if the plane has ended.
    pub fn run_on(&self, plane: u16, work: impl FnOnce() + Send + 'static) -> bool {
        self.arbiter(plane).spawn_fn(work)
    }

    /// Arrange for `work` to be run on a plane at the end of a turn: the function returned asks for it, from any thread
    /// and as often as wanted; asking again before it has run changes nothing.
    ///
    /// It runs behind everything that was ready on the plane when it was asked for, so what many actors of one turn
    /// produce is handled at once. If `work` returns a delay it is run again after it, without being asked.
    pub fn at_turn_end(&self, plane: u16, work: Box<dyn Fn() -> Option<Duration> + Send>) -> Box<dyn Fn() + Send + Sync> {
        let asked = Arc::new((AtomicBool::new(false), tokio::sync::Notify::new()));
        let ask = Arc::clone(&asked);
        self.arbiter(plane).spawn(async move {
            // The loop must be a local task: a waker of the same thread then costs no wake-up of another.
            actix::spawn(async move {
                loop {
                    asked.1.notified().await;
                    // Before the work: what is asked for during it is not covered by it.
                    asked.0.store(false, Ordering::Release);
                    while let Some(delay) = work() {
                        tokio::time::sleep(delay).await;
                    }
                }
            });
        });
        Box::new(move || {
            if !ask.0.swap(true, Ordering::AcqRel) {
                ask.1.notify_one();
            }
        })
    }

    /// End all planes and wait for their threads: actors and their futures are dropped where they stand.
    ///
    /// A second call does nothing. Must not be called on a plane.
    pub fn stop(&self) {
        self.0.system.stop();
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread that keeps the planes panicked");
        }
    }
}

/// Run a future on the plane of the caller, not bound to an actor. It must bound itself.
///
/// # Panics
/// If the caller is not on a plane.
pub fn spawn_local(future: impl Future<Output = ()> + 'static) {
    actix::spawn(future);
}

type Receiver<A> = AddressReceiver<Host<A>>;

fn channel<A: Actor>(mailbox_max: usize) -> (Receiver<A>, Queued, Address<A::Message>) {
    // Zero: no bound inside actix. `Address` is the only way in, and counts.
    let (sender, receiver) = actix_channel::<Host<A>>(0);
    let queued = Queued::default();
    let recipient = Addr::new(sender).recipient::<Envelope<A::Message>>();
    let address = Address::new(recipient, queued.clone(), mailbox_max);
    (receiver, queued, address)
}

fn run<A: Actor>(actor: A, queued: Queued, receiver: Receiver<A>) {
    let context = actix::Context::with_receiver(receiver);
    actix::spawn(context.into_future(Host { actor, queued }));
}
