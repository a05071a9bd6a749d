//! The open store and its threads.

use crate::clock::Clock;
use crate::dir::{self, DataDir, OpenError};
use crate::engine::{FjallDisk, FjallSource, MarkFile, Tuning, YOUNG_BYTES_MAX};
use crate::journal::{Committer, Disk, DiskError, Entry, MarkTimer, Recovered, recover};
use crate::shared::{OnFatal, ReadJob, Shared, lock};
use crate::source::Source;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use store::{Completion, Health, LATER_MAX, Order, PlaneId, Read, Sink, Store, StoreError};
use types::{Batch, Epoch, ShardId, Ticket};

/// How often the mark and the free space are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// Behind a group of so many entries the next one waits this long for company, at least: who sends that much waits for the disk
/// anyhow, and half of the flushes and of the wakes behind them take a quarter off the CPU of a message.
const BUSY_ENTRIES: usize = 16;
const BUSY_WAIT: Duration = Duration::from_millis(2);

/// What can be set. The defaults suit a single node with some gigabytes free.
pub struct Options {
    /// Microseconds that a group waits for more to come. 0: it takes what waits while the last one is flushed, and waits only
    /// behind large ones.
    pub group_wait_us: u64,
    /// Bytes of one group, about; one batch at least.
    pub group_bytes_max: usize,
    /// Below this many free bytes `health` says `LowSpace`. It must leave room for what is under way and for compaction.
    pub low_space_bytes: u64,
    /// Threads that read, 1 at least.
    pub readers: usize,
    /// Cache of blocks, in bytes.
    pub cache_bytes: u64,
    /// Bytes of newest cells that are kept in memory before they are written to a table. Fixed when a directory is begun.
    pub memory_bytes_max: u64,
    /// Bytes of journal that are kept at most; beyond that what is in memory is written to a table.
    pub journal_bytes_max: u64,
    /// Start although durable data is missing, without it. An operator's decision, once.
    pub accept_loss: bool,
    /// Refuse a directory of another node.
    pub expect_identity: Option<[u8; 16]>,
    /// Called once when nothing more can become durable. By default the process ends with status 70.
    pub on_fatal: OnFatal,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            group_wait_us: 0,
            group_bytes_max: 4 * 1024 * 1024,
            low_space_bytes: 1024 * 1024 * 1024,
            readers: 2,
            cache_bytes: 64 * 1024 * 1024,
            memory_bytes_max: 64 * 1024 * 1024,
            journal_bytes_max: 512 * 1024 * 1024,
            accept_loss: false,
            expect_identity: None,
            on_fatal: Box::new(|_| std::process::exit(70)),
        }
    }
}

/// The embedded store: [`Order::Journal`], durable by group commit.
///
/// Dropping it makes durable what is queued, writes the mark and joins its threads. A sink must not own it.
pub struct Embedded {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
    watch: Option<JoinHandle<()>>,
    recovered: Recovered,
    identity: [u8; 16],
    // Last: the directory is let go when everything else is.
    _dir: Option<DataDir>,
}

impl Embedded {
    /// Open the data directory `dir`, or begin one there.
    ///
    /// # Errors
    /// In use, of a newer format, of another node, corrupt: in words for the operator, and nothing is changed.
    pub fn open(dir: &Path, options: Options) -> Result<Embedded, OpenError> {
        let dir = DataDir::take(dir)?;
        let mark = Arc::new(take_mark(&dir)?);
        let identity = mark.identity();
        if let Some(expected) = options.expect_identity.filter(|e| *e != identity) {
            let (found, expected) = (hex(&identity), hex(&expected));
            return Err(OpenError::OtherNode { dir: dir.path.clone(), found, expected });
        }
        let tuning = Tuning {
            cache_bytes: options.cache_bytes,
            memory_bytes_max: options.memory_bytes_max,
            journal_bytes_max: options.journal_bytes_max,
            young_bytes_max: YOUNG_BYTES_MAX,
            // The first of several leaves compactions to the others, and asks again and again while there is one that all of the
            // others are too busy for: with two it burns a CPU as long as the second works.
            workers: 3,
        };
        let mut disk = FjallDisk::new(&dir.cells(), tuning, mark.clone());
        let recovered = recover(&mut disk, options.accept_loss).map_err(|source| OpenError::Recover { dir: dir.path.clone(), source })?;
        if let Some(damage) = &recovered.cut {
            tracing::warn!(
                group = recovered.group, mark = recovered.mark, %damage,
                "cut the end of the journal: a group was being written when the last run ended; a copy is kept beside it"
            );
        }
        let lost = || OpenError::disk(&dir.path, DiskError("engine: not loaded".into()));
        let source: FjallSource = disk.source().ok_or_else(lost)?;
        let watched = Watched {
            mark,
            path: dir.path.clone(),
            low_space_bytes: options.low_space_bytes,
            timer: MarkTimer::new(recovered.mark, types::Instant(0)),
        };
        // Before anybody asks.
        let low = watched.is_low();
        let mut store =
            Embedded::assemble(disk, source, recovered, options).map_err(|source| OpenError::Io { dir: dir.path.clone(), source })?;
        store.shared.low_space.store(low, Ordering::Relaxed);
        store.identity = identity;
        store.watch = Some(
            spawn("store-watch", &store.shared, move |shared| watch(shared, watched))
                .map_err(|source| OpenError::Io { dir: dir.path.clone(), source })?,
        );
        store._dir = Some(dir);
        Ok(store)
    }

    /// Start the threads over any disk.
    pub(crate) fn assemble<D, S>(disk: D, source: S, recovered: Recovered, options: Options) -> std::io::Result<Embedded>
    where
        D: Disk + Send + 'static,
        S: Source + Clone + 'static,
    {
        let shared = Arc::new(Shared::new(recovered.group, options.on_fatal));
        let committer = Committer::new(disk, recovered.group);
        let (wait, bytes_max) = (Duration::from_micros(options.group_wait_us), options.group_bytes_max);
        // Built first, so that a thread that does not start leaves none behind.
        let mut store = Embedded { shared, writer: None, readers: Vec::new(), watch: None, recovered, identity: [0; 16], _dir: None };
        for n in 0..options.readers.max(1) {
            let source = source.clone();
            store.readers.push(spawn(&format!("store-read-{n}"), &store.shared, move |shared| read_jobs(shared, &source))?);
        }
        store.writer = Some(spawn("store-write", &store.shared, move |shared| {
            let run = catch_unwind(AssertUnwindSafe(|| write_groups(shared, committer, wait, bytes_max)));
            if run.is_err() {
                shared.fail("the writer panicked");
            }
        })?);
        Ok(store)
    }

    /// How the journal was taken up: its newest group, the mark, what was cut.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Who this node is: random, drawn when the directory was begun.
    pub fn identity(&self) -> [u8; 16] {
        self.identity
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        lock(&self.shared.commits).closed = true;
        self.shared.work.notify_all();
        self.shared.room.notify_all();
        // A thread that panicked has said so.
        let _ = self.writer.take().map(JoinHandle::join);
        let mut reads = lock(&self.shared.reads);
        reads.closed = true;
        drop(reads);
        self.shared.reads_work.notify_all();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        // The last mark is written when every group is durable.
        if let Some(watch) = self.watch.take() {
            watch.thread().unpark();
            let _ = watch.join();
        }
    }
}

impl Store for Embedded {
    fn order(&self) -> Order {
        Order::Journal
    }

    fn register(&self, sink: Sink) -> PlaneId {
        self.shared.register(sink.into())
    }

    fn commit(&self, _plane: PlaneId, stamp: u64, batch: Batch) -> Ticket {
        self.shared.push(Entry::Batch { stamp, batch }, false)
    }

    fn commit_later(&self, _plane: PlaneId, stamp: u64, batch: Batch) -> Ticket {
        self.shared.push(Entry::Batch { stamp, batch }, true)
    }

    fn hurry(&self, ticket: Ticket) {
        self.shared.hurry(ticket);
    }

    fn read(&self, plane: PlaneId, id: u64, after: Ticket, read: Read) {
        self.shared.ask(after, ReadJob { plane, id, read });
    }

    fn raise_epoch(&self, plane: PlaneId, shard: ShardId, expected: Option<Epoch>, to: Epoch) {
        self.shared.push(Entry::Epoch { plane, shard, expected, to }, false);
    }

    fn health(&self) -> Health {
        if self.shared.failed.load(Ordering::Acquire) {
            Health::Failed
        } else if self.shared.low_space.load(Ordering::Relaxed) {
            Health::LowSpace
        } else if self.shared.high.load(Ordering::Relaxed) {
            Health::Busy
        } else {
            Health::Ok
        }
    }
}

fn spawn(name: &str, shared: &Arc<Shared>, run: impl FnOnce(&Shared) + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    let shared = shared.clone();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&shared))
}

fn take_mark(dir: &DataDir) -> Result<MarkFile, OpenError> {
    let path = dir.mark();
    if path.exists() {
        return MarkFile::open(&path).map_err(|e| OpenError::disk(&dir.path, e));
    }
    if dir.cells().exists() {
        let what = "mark.redb is missing, but there are cells: what must be there cannot be told. Restore a backup".to_owned();
        return Err(OpenError::NotOurs { dir: dir.path.clone(), what });
    }
    let io = |source| OpenError::Io { dir: dir.path.clone(), source };
    let mut identity = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").map_err(io)?, &mut identity).map_err(io)?;
    MarkFile::create(&path, identity).map_err(|e| OpenError::disk(&dir.path, e))
}

/// The writer's thread: a group of all that waits, again and again, until closed and empty, or failed.
fn write_groups<D: Disk>(shared: &Shared, mut committer: Committer<D>, wait: Duration, bytes_max: usize) {
    let mut busy = false;
    while let Some((last, entries)) = next_group(shared, if busy { wait.max(BUSY_WAIT) } else { wait }, bytes_max) {
        busy = entries.len() >= BUSY_ENTRIES;
        let done = match committer.begin(last, entries).and_then(|()| committer.finish()) {
            Ok(Some(done)) => done,
            Ok(None) => continue,
            Err(e) => return shared.fail(&e.to_string()),
        };
        shared.durable(done.durable, done.group);
        for (plane, shard, result) in done.epochs {
            shared.tell(plane, Completion::Epoch { shard, result });
        }
    }
}

fn next_group(shared: &Shared, wait: Duration, bytes_max: usize) -> Option<(Ticket, Vec<Entry>)> {
    let mut commits = lock(&shared.commits);
    while commits.queue.is_empty() {
        if commits.closed || shared.failed.load(Ordering::Acquire) {
            return None;
        }
        commits = shared.work.wait(commits).unwrap_or_else(PoisonError::into_inner);
    }
    let clock = Clock::start();
    while commits.may_wait() && commits.queue.bytes() < bytes_max && !commits.closed && !shared.failed.load(Ordering::Acquire) {
        let left = clock.left(LATER_MAX);
        if left.is_zero() {
            break;
        }
        commits = shared.work.wait_timeout(commits, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    let clock = (!wait.is_zero()).then(Clock::start);
    while let Some(left) = clock.as_ref().map(|c| c.left(wait)).filter(|left| !left.is_zero()) {
        if commits.closed || commits.queue.bytes() >= bytes_max {
            break;
        }
        commits = shared.work.wait_timeout(commits, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    let group = commits.queue.take(bytes_max);
    shared.high.store(commits.queue.is_high(), Ordering::Relaxed);
    let held = commits.held > 0;
    drop(commits);
    if held {
        shared.room.notify_all();
    }
    group
}

/// A reader's thread.
fn read_jobs(shared: &Shared, source: &impl Source) {
    loop {
        let mut reads = lock(&shared.reads);
        let job = loop {
            if let Some(job) = reads.ready.pop_front() {
                break job;
            }
            if reads.closed {
                return;
            }
            reads = shared.reads_work.wait(reads).unwrap_or_else(PoisonError::into_inner);
        };
        drop(reads);
        // The engine may panic on a corrupt table; the read is answered and the thread goes on.
        let result = catch_unwind(AssertUnwindSafe(|| source.read(&job.read))).unwrap_or_else(|_| {
            let partition = format!("{:?}", job.read.partition);
            Err(StoreError::Corrupt { partition, what: "the engine panicked".into() })
        });
        if let Err(e) = &result {
            tracing::error!(error = %e, "a read failed");
        }
        shared.tell(job.plane, Completion::Read { id: job.id, result });
    }
}

struct Watched {
    mark: Arc<MarkFile>,
    path: PathBuf,
    low_space_bytes: u64,
    timer: MarkTimer,
}

impl Watched {
    fn is_low(&self) -> bool {
        dir::free_bytes(&self.path).is_ok_and(|free| free < self.low_space_bytes)
    }
}

/// The watch's thread: writes the mark behind the groups, and looks at the free space.
fn watch(shared: &Shared, mut watched: Watched) {
    let clock = Clock::start();
    loop {
        let closing = lock(&shared.reads).closed;
        let now = if closing { types::Instant::NEVER } else { clock.now() };
        if let Some(group) = watched.timer.due(now, shared.group.load(Ordering::Acquire))
            && let Err(e) = watched.mark.write(group)
        {
            return shared.fail(&e.to_string());
        }
        let low = watched.is_low();
        if low != shared.low_space.swap(low, Ordering::Relaxed) {
            tracing::warn!(low, limit = watched.low_space_bytes, "free space of the data directory crossed the low-water mark");
        }
        if closing {
            return;
        }
        std::thread::park_timeout(WATCH_EVERY);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
