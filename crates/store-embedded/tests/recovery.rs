//! What is cut at start, what refuses, and that a refusal changes nothing.

use bytes::Bytes;
use chappe_store_embedded::journal::RecoverError;
use chappe_store_embedded::{Embedded, OpenError, Options};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use store::{Completion, Health, Page, PlaneId, Read, Store};
use types::{Batch, Collection, Op, Partition, Ticket};

fn options() -> Options {
    Options { low_space_bytes: 0, readers: 1, on_fatal: Box::new(|_| {}), ..Options::default() }
}

struct Client {
    store: Embedded,
    plane: PlaneId,
    heard: Arc<(Mutex<Vec<Completion>>, Condvar)>,
}

fn open(dir: &Path) -> Result<Client, OpenError> {
    Embedded::open(dir, options()).map(client)
}

fn client(store: Embedded) -> Client {
    let heard: Arc<(Mutex<Vec<Completion>>, Condvar)> = Arc::default();
    let sink = heard.clone();
    let plane = store.register(Box::new(move |c| {
        sink.0.lock().unwrap().push(c);
        sink.1.notify_all();
    }));
    Client { store, plane, heard }
}

fn partition() -> Partition {
    Partition { collection: Collection::Log, key: Bytes::from_static(b"p") }
}

impl Client {
    /// One batch is one group: it waits for it.
    fn write(&self, n: u32, len: usize) {
        let ops = vec![Op::Put { key: Bytes::copy_from_slice(&n.to_be_bytes()), value: vec![b'x'; len].into() }];
        let ticket = self.store.commit(self.plane, 1, Batch { partition: partition(), ops: ops.into() });
        self.wait(|c| matches!(c, Completion::Durable(t) if *t >= ticket));
    }
    fn wait(&self, done: impl Fn(&Completion) -> bool) -> Completion {
        let mut heard = self.heard.0.lock().unwrap();
        loop {
            if let Some(found) = heard.iter().find(|c| done(c)) {
                return found.clone();
            }
            heard = self.heard.1.wait(heard).unwrap();
        }
    }
    fn keys(&self) -> Vec<u32> {
        self.heard.0.lock().unwrap().clear();
        self.store.read(self.plane, 1, Ticket::NONE, Read::all(partition()));
        let Completion::Read { result, .. } = self.wait(|c| matches!(c, Completion::Read { .. })) else { unreachable!() };
        let page: Page = result.unwrap();
        page.rows.iter().map(|r| u32::from_be_bytes(r.key[..].try_into().unwrap())).collect()
    }
}

/// Twenty groups on disk, marked as durable up to the last one, since it is closed in good order.
fn filled(groups: u32, len: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let client = open(dir.path()).unwrap();
    for n in 0..groups {
        client.write(n, len);
    }
    drop(client);
    // Of the zeros that were allocated in advance a few are enough here.
    let path = journal(dir.path());
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(used(&fs::read(&path).unwrap()) as u64 + 4_096).unwrap();
    dir
}

fn journal(dir: &Path) -> PathBuf {
    let mut all: Vec<_> =
        fs::read_dir(dir.join("cells")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "jnl")).collect();
    all.sort();
    assert_eq!(all.len(), 1);
    all.pop().unwrap()
}

fn mark(dir: &Path, group: u64) {
    let db = redb::Database::open(dir.join("mark.redb")).unwrap();
    let write = db.begin_write().unwrap();
    write.open_table(redb::TableDefinition::<&str, u64>::new("mark")).unwrap().insert("group", group).unwrap();
    write.commit().unwrap();
}

/// Every file but the lock, which names its holder, and redb's, which notes that it was opened.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.file_name().is_some_and(|n| n != "lock" && n != "mark.redb") {
                all.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    all
}

fn used(bytes: &[u8]) -> usize {
    let blocks = bytes.rchunks(4_096).take_while(|block| **block == [0; 4_096][..block.len()]).map(<[u8]>::len).sum::<usize>();
    bytes[..bytes.len() - blocks].iter().rposition(|b| *b != 0).unwrap() + 1
}

fn refused(dir: &Path) -> OpenError {
    open(dir).err().expect("it must refuse")
}

#[test]
fn all_is_there_again_and_numbers_go_on() {
    let dir = filled(20, 300);
    for round in 0..3 {
        let client = open(dir.path()).unwrap();
        assert_eq!(client.store.recovered().group, 20 + u64::from(round));
        assert_eq!(client.store.recovered().mark, 20 + u64::from(round), "closing writes the mark");
        assert_eq!(client.store.recovered().cut, None);
        assert_eq!(client.keys(), (0..20 + round).collect::<Vec<_>>());
        client.write(20 + round, 300);
    }
}

#[test]
fn a_torn_end_is_cut_and_reported() {
    let whole = filled(20, 300);
    let bytes = fs::read(journal(whole.path())).unwrap();
    let end = used(&bytes);
    let group = end / 20;
    // Within the last group's end, its value, its head, and all but one byte of it.
    for torn in [1, 5, 200, group - 30, group - 2] {
        let dir = filled(20, 300);
        let path = journal(dir.path());
        mark(dir.path(), 15);
        let mut bytes = fs::read(&path).unwrap();
        bytes[end - torn..].fill(0);
        fs::write(&path, &bytes).unwrap();
        let client = open(dir.path()).unwrap();
        let recovered = client.store.recovered().clone();
        assert_eq!((recovered.group, recovered.mark), (19, 15), "torn {torn}");
        let cut = recovered.cut.expect("it says what it cut");
        assert!(cut.bytes > 0 && cut.at + cut.bytes <= end as u64, "{cut:?}");
        assert_eq!(client.keys(), (0..19).collect::<Vec<_>>());
        // The number of the lost group is used again, which is right: nobody was told of it.
        client.write(99, 300);
        drop(client);
        let client = open(dir.path()).unwrap();
        assert_eq!((client.store.recovered().group, client.store.recovered().cut.is_none()), (20, true));
        assert_eq!(client.keys().last(), Some(&99));
        let aside: Vec<_> = contents(dir.path()).into_keys().filter(|p| p.to_string_lossy().contains(".damaged.")).collect();
        assert_eq!(aside.len(), 1, "a copy of what was cut is kept");
    }
}

#[test]
fn a_journal_that_ends_early_is_cut_too() {
    let dir = filled(20, 300);
    let path = journal(dir.path());
    mark(dir.path(), 19);
    let end = used(&fs::read(&path).unwrap());
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(end as u64 - 100).unwrap();
    let client = open(dir.path()).unwrap();
    assert_eq!(client.store.recovered().group, 19);
    assert!(client.store.recovered().cut.is_some());
}

#[test]
fn a_zeroed_sector_in_the_last_group_is_cut_if_above_the_mark() {
    let dir = filled(10, 3_000);
    let path = journal(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    let end = used(&bytes);
    let sector = (end - 1_500) / 512 * 512;
    bytes[sector..sector + 512].fill(0);
    fs::write(&path, &bytes).unwrap();
    // The mark says that the last group was durable: this is no crash, it is a bad disk.
    let before = contents(dir.path());
    let error = refused(dir.path());
    assert!(matches!(&error, OpenError::Recover { source: RecoverError::Lost { mark: 10, found: 9, damage: Some(_) }, .. }), "{error}");
    assert!(error.to_string().contains("Restore a backup"), "{error}");
    assert!(contents(dir.path()) == before, "a refusal changes nothing");
    mark(dir.path(), 9);
    let client = open(dir.path()).unwrap();
    assert_eq!(client.store.recovered().group, 9);
    assert!(client.store.recovered().cut.is_some());
    assert_eq!(client.keys(), (0..9).collect::<Vec<_>>());
}

#[test]
fn an_overwritten_middle_refuses_even_above_the_mark() {
    for at_part in [3, 10, 17] {
        for mark_at in [0, 20] {
            let dir = filled(20, 300);
            let path = journal(dir.path());
            mark(dir.path(), mark_at);
            let mut bytes = fs::read(&path).unwrap();
            let at = used(&bytes) * at_part / 20;
            bytes[at..at + 20].fill(0xa5);
            fs::write(&path, &bytes).unwrap();
            let before = contents(dir.path());
            let error = refused(dir.path());
            let OpenError::Recover { source: RecoverError::Middle(damage), .. } = &error else { panic!("{error}") };
            assert!(damage.beyond.is_some_and(|g| g <= 20) && damage.at <= at as u64, "{damage:?}");
            assert!(error.to_string().contains("corrupt in the middle"), "{error}");
            assert!(contents(dir.path()) == before, "a refusal changes nothing");
        }
    }
}

#[test]
fn groups_missing_below_the_mark_refuse() {
    let dir = filled(20, 300);
    let path = journal(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    let end = used(&bytes);
    // Exactly at the end of a group, so that nothing looks damaged.
    let group = end / 20;
    bytes[group * 12..].fill(0);
    fs::write(&path, &bytes).unwrap();
    let before = contents(dir.path());
    let error = refused(dir.path());
    assert!(matches!(&error, OpenError::Recover { source: RecoverError::Lost { mark: 20, .. }, .. }), "{error}");
    assert!(contents(dir.path()) == before);
    // All of it.
    fs::write(&path, vec![0; bytes.len()]).unwrap();
    let error = refused(dir.path());
    assert!(matches!(&error, OpenError::Recover { source: RecoverError::Lost { mark: 20, found: 0, .. }, .. }), "{error}");
    fs::remove_dir_all(dir.path().join("cells")).unwrap();
    let error = refused(dir.path());
    assert!(matches!(&error, OpenError::Recover { source: RecoverError::Lost { mark: 20, found: 0, .. }, .. }), "{error}");
    assert!(!dir.path().join("cells").exists());
}

#[test]
fn tables_and_new_journals_keep_count() {
    let dir = tempfile::tempdir().unwrap();
    let with = || Options { memory_bytes_max: 64 * 1024, ..options() };
    let mut groups = 0usize;
    for round in 0..3u32 {
        let client = client(Embedded::open(dir.path(), with()).unwrap());
        assert_eq!(client.store.recovered().group, u64::try_from(groups).unwrap());
        for n in 0..300 {
            client.write(round * 1_000 + n, 1_000);
        }
        groups += 300;
        assert_eq!(client.keys().len(), groups);
    }
    let tables = contents(dir.path()).into_keys().filter(|p| p.to_string_lossy().contains("/tables/")).count();
    assert!(tables > 0, "memory was never written to a table");
}

#[test]
fn an_operator_can_accept_the_loss_once() {
    let dir = filled(20, 300);
    let path = journal(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    let at = used(&bytes) / 2;
    bytes[at..at + 20].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    refused(dir.path());
    let store = Embedded::open(dir.path(), Options { accept_loss: true, ..options() }).unwrap();
    assert_eq!(store.recovered().group, 21, "no number is used twice");
    drop(store);
    let client = open(dir.path()).unwrap();
    let keys = client.keys();
    assert!(!keys.is_empty() && keys.len() < 20 && keys.iter().copied().eq(0..keys.len() as u32), "{keys:?}");
    client.write(7_000, 10);
}

#[test]
fn n08_a_newer_format_is_refused_and_left_alone() {
    let dir = filled(3, 10);
    let file = dir.path().join("format.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("format = 2", "format = 3")).unwrap();
    let (before, lock) = (contents(dir.path()), fs::read(dir.path().join("lock")).unwrap());
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::Newer { found: 3, .. }), "{error}");
    assert!(error.to_string().contains("start the newer program again"), "{error}");
    assert!(contents(dir.path()) == before);
    assert_eq!(fs::read(dir.path().join("lock")).unwrap(), lock);
}

#[test]
fn a_directory_that_is_not_ours_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    assert!(matches!(refused(dir.path()), OpenError::NotOurs { .. }));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let dir = filled(3, 10);
    fs::write(dir.path().join("format.toml"), "format = one").unwrap();
    assert!(matches!(refused(dir.path()), OpenError::NotOurs { .. }));
    let dir = filled(3, 10);
    fs::remove_file(dir.path().join("mark.redb")).unwrap();
    let error = refused(dir.path());
    assert!(error.to_string().contains("mark.redb is missing"), "{error}");
}

#[test]
fn n09_a_second_opening_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let client = open(dir.path()).unwrap();
    let error = refused(dir.path());
    assert!(matches!(&error, OpenError::Locked { holder: Some(pid), .. } if *pid == std::process::id().to_string()), "{error}");
    drop(client);
    open(dir.path()).unwrap();
}

#[test]
fn n10_another_nodes_directory_is_refused() {
    let (one, two) = (filled(1, 10), filled(1, 10));
    let identity = open(one.path()).unwrap().store.identity();
    assert_ne!(identity, open(two.path()).unwrap().store.identity());
    assert_eq!(identity, open(one.path()).unwrap().store.identity());
    let with = |dir: &Path| Embedded::open(dir, Options { expect_identity: Some(identity), ..options() });
    assert!(matches!(with(two.path()), Err(OpenError::OtherNode { .. })));
    with(one.path()).unwrap();
}

#[test]
fn low_space_is_said_early_and_work_under_way_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options { low_space_bytes: u64::MAX, ..options() }).unwrap();
    assert_eq!(store.health(), Health::LowSpace);
    assert!(!store.health().takes_work());
    drop(store);
    let client = open(dir.path()).unwrap();
    assert_eq!(client.store.health(), Health::Ok);
    client.write(1, 10);
}
