//! Threads for work that would block a plane: deriving keys from passwords (a millisecond and more of CPU each).

use actor::Address;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Jobs that wait. At two milliseconds each on two threads, a quarter of a second: a login that would wait longer is
/// answered `temporary-auth-failure` at once (RFC 6120 §6.5.11), and the client tries again later.
pub(crate) const JOBS_WAITING_MAX: usize = 256;

type Job = Box<dyn FnOnce() + Send>;

/// A bounded pool. Its threads end when it is dropped.
pub(crate) struct Pool(SyncSender<Job>);

impl Pool {
    pub(crate) fn start(threads: usize) -> std::io::Result<Pool> {
        let (jobs, queue) = sync_channel::<Job>(JOBS_WAITING_MAX);
        let queue = Arc::new(Mutex::new(queue));
        for n in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name(format!("passwords-{n}")).spawn(move || work(&queue))?;
        }
        Ok(Pool(jobs))
    }

    /// Run `job` on a thread of the pool and send what it gives to `to`. `false`: too many wait already; nothing is run.
    pub(crate) fn run<M: Send + 'static>(&self, to: Address<M>, job: impl FnOnce() -> M + Send + 'static) -> bool {
        let job: Job = Box::new(move || {
            // A stream that has ended meanwhile wants no answer, and one that takes no messages is about to end.
            let _ = to.try_send(job());
        });
        self.0.try_send(job).is_ok()
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        // The lock is held while waiting: the others wait for it instead.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else {
            return;
        };
        // A panic of one job ends that login by its timeout, not the pool.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            tracing::error!("a job on a password thread panicked");
        }
    }
}
