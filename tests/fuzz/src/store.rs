//! Recovery of the embedded store: a real journal with flipped, overwritten, copied and cut bytes is taken up whole, or its
//! end is cut and that is said, or it is refused. Groups that were durable by the mark are never missing in silence, and a
//! refusal changes nothing.
//!
//! The first byte says whether the engine itself is opened as well (which takes some milliseconds), the second what the mark
//! says; then come changes.

use crate::input::Input;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{LazyLock, Mutex};
use store::{Completion, PlaneId, Read, Store};
use store_embedded::journal::{Damage, Disk, DiskError, RecoverError, Survey, Write, recover};
use store_embedded::{Embedded, OpenError, Options};
use types::{Batch, Collection, Epoch, Op, Partition, ShardId, Ticket};

const GROUPS: u8 = 12;
/// Of the zeros that the engine allocates in advance a few are enough.
const ZEROS: usize = 64;
/// More than the groups need.
const BEGIN_BYTES: u64 = 16 * 1024;

/// A data directory that was closed in good order.
struct Sample {
    /// Every folder, and every file but the journal and the mark.
    folders: Vec<PathBuf>,
    files: Vec<(PathBuf, Vec<u8>)>,
    /// The journal's file, what is in it, and where each group ends; first where the first one begins.
    path: PathBuf,
    journal: Vec<u8>,
    ends: Vec<usize>,
    /// The mark's file for each thing that it can say.
    marks: Vec<Vec<u8>>,
}

static SAMPLE: LazyLock<Sample> = LazyLock::new(Sample::new);

struct Client {
    store: Embedded,
    plane: PlaneId,
    heard: Mutex<Receiver<Completion>>,
}

fn open(dir: &Path) -> Result<Client, OpenError> {
    let options = Options {
        low_space_bytes: 0,
        readers: 1,
        cache_bytes: 1 << 20,
        memory_bytes_max: 1 << 20,
        on_fatal: Box::new(|_| {}),
        ..Options::default()
    };
    let store = Embedded::open(dir, options)?;
    let (tell, heard) = sync_channel(1_024);
    // Whoever listens no more is not told. There is one read or write at a time.
    let plane = store.register(Box::new(move |c| drop(tell.try_send(c))));
    Ok(Client { store, plane, heard: Mutex::new(heard) })
}

/// In memory where there is such a thing: what is looked at here is what was written, not whether it is flushed.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a folder")
}

fn partition() -> Partition {
    Partition { collection: Collection::Log, key: Bytes::from_static(b"p") }
}

impl Client {
    fn wait<T>(&self, found: impl Fn(Completion) -> Option<T>) -> T {
        let heard = self.heard.lock().expect("nobody panics with it");
        loop {
            if let Some(found) = found(heard.recv().expect("the store lives")) {
                return found;
            }
        }
    }

    /// One batch is one group: it waits for it.
    fn write(&self, n: u8) {
        let value = vec![b'a' + n; 10 + 13 * usize::from(n % 5)];
        let ops = vec![Op::Put { key: Bytes::copy_from_slice(&[n]), value: value.into() }];
        let ticket = self.store.commit(self.plane, 1, Batch { partition: partition(), ops: ops.into() });
        self.wait(|c| matches!(c, Completion::Durable(t) if t >= ticket).then_some(()));
    }

    fn keys(&self) -> Vec<u8> {
        self.store.read(self.plane, 1, Ticket::NONE, Read::all(partition()));
        let page = self.wait(|c| if let Completion::Read { result, .. } = c { Some(result) } else { None });
        page.expect("cells that were taken up can be read").rows.iter().map(|r| r.key[0]).collect()
    }
}

fn journal_of(dir: &Path) -> PathBuf {
    let entries = fs::read_dir(dir.join("cells")).expect("the engine's folder").map(|e| e.expect("an entry").path());
    let journals: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "jnl")).collect();
    assert_eq!(journals.len(), 1);
    journals.into_iter().next().expect("there is one")
}

fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1)
}

/// Every folder.
fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(folder) = all.get(next) {
        let entries = fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
        let inner: Vec<PathBuf> = entries.filter(|p| p.is_dir()).collect();
        all.extend(inner);
        next += 1;
    }
    all
}

/// Every file but the lock, which names its holder, and the mark, in which it is noted that it was opened.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for folder in folders(dir) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                continue;
            }
            let name = path.strip_prefix(dir).expect("it is in there").to_owned();
            if name != Path::new("lock") && name != Path::new("mark.redb") {
                all.insert(name, fs::read(&path).expect("a file"));
            }
        }
    }
    all
}

impl Sample {
    fn new() -> Sample {
        let dir = folder();
        let client = open(dir.path()).expect("an empty folder opens");
        let path = journal_of(dir.path());
        // The engine allocates 64 MiB in advance: only the beginning is looked at.
        let begin = || {
            let mut bytes = Vec::new();
            fs::File::open(&path).and_then(|f| f.take(BEGIN_BYTES).read_to_end(&mut bytes)).expect("the journal");
            bytes
        };
        let here = || used(&begin());
        let mut ends = vec![here()];
        for n in 0..GROUPS {
            client.write(n);
            ends.push(here());
        }
        drop(client);
        let mut journal = begin();
        assert_eq!(used(&journal), ends[usize::from(GROUPS)]);
        journal.truncate(used(&journal) + ZEROS);
        let mark = dir.path().join("mark.redb");
        let marks = (0..=GROUPS).map(|group| {
            let db = redb::Database::open(&mark).expect("the mark");
            let write = db.begin_write().expect("a transaction");
            let table = redb::TableDefinition::<&str, u64>::new("mark");
            write.open_table(table).expect("a table").insert("group", u64::from(group)).expect("a number");
            write.commit().expect("it commits");
            drop(db);
            fs::read(&mark).expect("the mark")
        });
        let marks = marks.collect();
        let path = path.strip_prefix(dir.path()).expect("it is in there").to_owned();
        fs::write(dir.path().join(&path), b"").expect("it is not copied");
        let files = contents(dir.path()).into_iter().filter(|(name, _)| *name != path).collect();
        let folders = folders(dir.path()).iter().map(|f| f.strip_prefix(dir.path()).expect("it is in there").to_owned()).collect();
        Sample { folders, files, path, journal, ends, marks }
    }

    /// How many groups are there as they were written, without a gap. No checksum covers a batch's sequence number (its bytes
    /// 5 to 12), which says nothing but the order: it must grow.
    fn intact(&self, journal: &[u8]) -> usize {
        let mut newest = None;
        let groups = self.ends.windows(2).map(|w| w[0]..w[1]);
        let as_written = groups.take_while(|range| {
            let Some(group) = journal.get(range.clone()) else { return false };
            let own = &self.journal[range.clone()];
            let seqno = group[5..13].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
            let grows = newest.replace(seqno).is_none_or(|newest| newest < seqno) && seqno < 1 << 56;
            grows && group[..5] == own[..5] && group[13..] == own[13..]
        });
        as_written.count()
    }

    /// A group behind the first `intact` ones is somewhere in the rest.
    fn beyond(&self, journal: &[u8], intact: usize) -> bool {
        let groups = (intact + 1..self.ends.len() - 1).map(|i| &self.journal[self.ends[i]..self.ends[i + 1]]);
        let rest = &journal[self.ends[intact].min(journal.len())..];
        groups.into_iter().any(|group| rest.windows(group.len()).any(|w| w == group))
    }
}

/// See the module.
pub fn store(data: &[u8]) {
    let mut input = Input(data);
    let engine = input.u8() == 1;
    let mark = input.u8() % (GROUPS + 1);
    let mut journal = SAMPLE.journal.clone();
    for _ in 0..8 {
        if input.is_empty() {
            break;
        }
        change(&mut journal, &mut input);
    }
    let intact = SAMPLE.intact(&journal);
    let dir = folder();
    let file = dir.path().join(&SAMPLE.path);
    fs::create_dir_all(file.parent().expect("it is in one")).expect("a folder");
    fs::write(&file, &journal).expect("a file");
    let survey = store_embedded::survey(file.parent().expect("it is in one")).expect("a journal can be read");
    check_survey(&survey, &journal, intact);
    let mut disk = Surveyed { survey: survey.clone(), mark: mark.into(), group: intact as u64, cut: false };
    let judged = recover(&mut disk, false);
    check_judged(&judged, &disk, &journal, intact, mark);
    if engine {
        check_engine(dir.path(), mark, intact, &judged);
    }
}

fn change(journal: &mut Vec<u8>, input: &mut Input<'_>) {
    let len = journal.len();
    if len == 0 {
        return;
    }
    let kind = input.u8();
    let at = usize::from(input.u16()) % len;
    let n = usize::from(input.u8());
    let ends = &SAMPLE.ends;
    let group = |n: usize| ends[n % (ends.len() - 1)]..ends[n % (ends.len() - 1) + 1];
    match kind % 10 {
        0 => journal[at] ^= 1 << (n % 8),
        1 => journal[at] = n as u8,
        2 => journal[at..len.min(at + n)].fill(0),
        3 => journal[at..len.min(at + n)].fill(0xa5),
        4 => journal.truncate(at),
        5 => journal[at..].fill(0),
        6 => journal.truncate(ends[n % ends.len()]),
        // A write that went to another place: a group over another one's beginning; and one that is gone. Not the first:
        // a journal can begin with any group, since the engine drops what is in its tables.
        7 => {
            let from = SAMPLE.journal[group(n)].to_vec();
            let to = group(at).start.min(len);
            let end = len.min(to + from.len());
            if to > 0 {
                journal[to..end].copy_from_slice(&from[..end - to]);
            }
        }
        8 if group(n).start > 0 => drop(journal.drain(group(n).start.min(len)..group(n).end.min(len))),
        8 => {}
        _ => journal.extend(std::iter::repeat_n(at as u8, n)),
    }
}

fn check_survey(survey: &Survey, journal: &[u8], intact: usize) {
    assert_eq!(survey.last.unwrap_or(0), intact as u64, "{survey:?}");
    let end = SAMPLE.ends[intact];
    match &survey.damage {
        Some(damage) => {
            assert!(damage.bytes > 0 && damage.at + damage.bytes == used(journal) as u64, "{damage:?}");
            assert!(damage.at <= end as u64, "{damage:?}");
            assert!(!damage.sealed);
        }
        None => assert!(used(journal) <= end, "there is more, and nobody says so"),
    }
}

/// What the survey says is judged without the engine.
struct Surveyed {
    survey: Survey,
    mark: u64,
    group: u64,
    cut: bool,
}

impl Disk for Surveyed {
    fn survey(&mut self) -> Result<Survey, DiskError> {
        Ok(self.survey.clone())
    }
    fn mark(&mut self) -> Result<u64, DiskError> {
        Ok(self.mark)
    }
    fn cut(&mut self, damage: &Damage) -> Result<(), DiskError> {
        assert_eq!(Some(damage), self.survey.damage.as_ref());
        self.cut = true;
        Ok(())
    }
    fn load(&mut self) -> Result<u64, DiskError> {
        Ok(self.group)
    }
    fn epoch(&mut self, _: ShardId) -> Result<Option<Epoch>, DiskError> {
        Ok(None)
    }
    fn append(&mut self, _: u64, _: &[Write<'_>]) -> Result<(), DiskError> {
        panic!("nothing is written when nothing may be lost")
    }
    fn sync(&mut self) -> Result<(), DiskError> {
        panic!("nothing is written when nothing may be lost")
    }
}

type Judged = Result<store_embedded::journal::Recovered, RecoverError>;

fn check_judged(judged: &Judged, disk: &Surveyed, journal: &[u8], intact: usize, mark: u8) {
    let (below, beyond) = (intact < usize::from(mark), SAMPLE.beyond(journal, intact));
    match judged {
        Ok(recovered) => {
            assert!(!below, "groups below the mark are missing: {recovered:?}");
            assert!(!beyond, "a durable group is thrown away: {recovered:?}");
            assert_eq!(recovered.group, intact as u64);
            assert_eq!(recovered.cut.is_some(), disk.survey.damage.is_some());
            assert_eq!(recovered.cut.is_some(), disk.cut);
        }
        Err(RecoverError::Lost { mark: m, found, .. }) => {
            assert!(below && *m == u64::from(mark) && *found == intact as u64, "{judged:?}");
        }
        // A group that a flipped bit has made of another one's number is none: only one that stands behind counts.
        Err(RecoverError::Middle(damage)) => assert!(damage.beyond.is_some(), "{damage:?}"),
        Err(RecoverError::Disk(e)) => panic!("{e}"),
    }
}

/// The engine takes up what the survey saw, and nothing is changed where it refuses.
fn check_engine(dir: &Path, mark: u8, intact: usize, judged: &Judged) {
    for folder in &SAMPLE.folders {
        fs::create_dir_all(dir.join(folder)).expect("a folder");
    }
    for (name, bytes) in &SAMPLE.files {
        fs::write(dir.join(name), bytes).expect("a file");
    }
    fs::write(dir.join("mark.redb"), &SAMPLE.marks[usize::from(mark)]).expect("a file");
    let before = contents(dir);
    match open(dir) {
        Ok(client) => {
            assert!(judged.is_ok());
            assert_eq!(client.store.recovered().group, intact as u64);
            assert_eq!(client.keys(), (0..GROUPS).take(intact).collect::<Vec<u8>>());
        }
        Err(OpenError::Recover { source, .. }) => {
            assert!(judged.is_err(), "the engine refuses: {source}");
            let after = contents(dir);
            // Without a group in the journal only the engine can tell what is in its tables, and it prepares its journal
            // while it opens. The journal that was there is still there, or beside it.
            let journal = &before[&SAMPLE.path];
            let kept = || intact == 0 && after.values().any(|a| a.starts_with(&journal[..used(journal)]));
            assert!(after == before || kept(), "a refusal changes nothing");
        }
        Err(e) => panic!("{e}"),
    }
}
