//! What a disk may have of a directory when the power goes.
//!
//! Synced things are there. Of the others, by chance: each sector of a file is as it was when last synced, as it is now, or as
//! between two writes; a file's size likewise, apart from its sectors (what is beyond them is zeros); each change of a folder
//! is kept or undone, and with it what was built on it. So no order holds among things that were not synced, which is less
//! than most file systems promise and all that POSIX does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::log::{Kind, Record, records};

/// Bytes that a disk writes as a whole.
const SECTOR: u64 = 512;

/// What a cut took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Writes that were not durable.
    pub at_risk: u64,
    /// Bytes that were put back to something older.
    pub bytes: u64,
    /// Files of which only a part of the sectors was put back.
    pub torn: u64,
    /// Files whose size was put back.
    pub sizes: u64,
    /// Changes of folders that were undone.
    pub names: u64,
}

impl Dropped {
    /// Whether the power cut differs from a kill.
    pub fn any(&self) -> bool {
        self.bytes > 0 || self.sizes > 0 || self.names > 0
    }
}

impl std::ops::AddAssign for Dropped {
    fn add_assign(&mut self, more: Dropped) {
        self.at_risk += more.at_risk;
        self.bytes += more.bytes;
        self.torn += more.torn;
        self.sizes += more.sizes;
        self.names += more.names;
    }
}

pub(crate) fn cut(directory: &Path, trash: &Path, log: &[u8], seed: u64) -> io::Result<Dropped> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut dropped = Dropped::default();
    let durable = Durable::read(log);
    let mut files: BTreeMap<u64, Vec<Record<'_>>> = BTreeMap::new();
    let mut names = Vec::new();
    for record in records(log) {
        match record.head.kind {
            Kind::Write | Kind::Tail | Kind::Size if !durable.has(record.head.inode, record.place) => {
                files.entry(record.head.inode).or_default().push(record);
            }
            Kind::Create | Kind::MakeDir | Kind::Unlink | Kind::RemoveDir | Kind::Rename => names.push(record),
            _ => {}
        }
    }
    // Files first: they are found by what they are, wherever they stand or lie now.
    let mut places = HashMap::new();
    inodes(directory, &mut places)?;
    inodes(trash, &mut places)?;
    for (inode, records) in files {
        if let Some(path) = places.get(&inode) {
            put_back(path, &records, &mut rng, &mut dropped)?;
        }
    }
    undo_names(&names, &durable, trash, &mut rng, &mut dropped)?;
    Ok(dropped)
}

/// Which changes are durable: for each inode, ranges of places.
#[derive(Default)]
struct Durable {
    ranges: HashMap<u64, Vec<(u64, u64)>>,
    lost_up_to: HashMap<u64, u64>,
    all_up_to: u64,
}

impl Durable {
    fn read(log: &[u8]) -> Durable {
        let mut durable = Durable::default();
        for Record { head, .. } in records(log) {
            match head.kind {
                Kind::Sync => {
                    // What a failed sync gave up, no later one makes durable (the kernel takes the pages for clean).
                    let from = durable.lost_up_to.get(&head.inode).copied().unwrap_or(0);
                    durable.ranges.entry(head.inode).or_default().push((from, head.at));
                }
                Kind::SyncFailed => {
                    durable.lost_up_to.insert(head.inode, head.at);
                }
                Kind::SyncAll => durable.all_up_to = head.at,
                _ => {}
            }
        }
        durable
    }

    fn has(&self, inode: u64, place: u64) -> bool {
        place < self.all_up_to || self.ranges.get(&inode).is_some_and(|all| all.iter().any(|(from, to)| (*from..*to).contains(&place)))
    }
}

fn inodes(folder: &Path, places: &mut HashMap<u64, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            inodes(&entry.path(), places)?;
        } else {
            places.insert(meta.ino(), entry.path());
        }
    }
    Ok(())
}

/// How much of a file is dropped.
#[derive(Clone, Copy)]
enum Taste {
    All,
    Nothing,
    Some(f64),
}

impl Taste {
    fn draw(rng: &mut SmallRng) -> Taste {
        match rng.random_range(0..8) {
            0..3 => Taste::All,
            3 => Taste::Nothing,
            _ => Taste::Some(rng.random_range(0.05..0.95)),
        }
    }

    /// Which of `versions` (the durable one first, the newest last).
    fn version(self, versions: usize, rng: &mut SmallRng) -> usize {
        match self {
            Taste::All => 0,
            Taste::Nothing => versions - 1,
            Taste::Some(share) if !rng.random_bool(share) => versions - 1,
            Taste::Some(_) if versions > 2 && rng.random_ratio(1, 3) => rng.random_range(1..versions - 1),
            Taste::Some(_) => 0,
        }
    }
}

/// Puts a file back, sector by sector. `records` are those of its changes that are not durable, in order.
fn put_back(path: &Path, records: &[Record<'_>], rng: &mut SmallRng, dropped: &mut Dropped) -> io::Result<()> {
    let taste = Taste::draw(rng);
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let now = file.metadata()?.len();
    let resizes: Vec<&Record<'_>> = records.iter().filter(|r| r.head.kind == Kind::Size || grows(r)).collect();
    let kept = taste.version(resizes.len() + 1, rng);
    let size = resizes.get(kept).map_or(now, |r| r.head.size);
    // Changes of the size from here on have not reached the disk.
    let resized_at = resizes.get(kept).map_or(u64::MAX, |r| r.place);
    let longest = records.iter().map(|r| (r.head.at + r.head.len).max(r.head.size)).max().unwrap_or(0).max(now);
    file.set_len(longest)?;
    let mut writes: BTreeMap<u64, usize> = BTreeMap::new();
    for record in records.iter().filter(|r| r.head.kind == Kind::Write) {
        dropped.at_risk += 1;
        for sector in sectors(record) {
            *writes.entry(sector).or_default() += 1;
        }
    }
    // For each sector: how many of its writes, counted from the last, are undone.
    let mut to_undo: HashMap<u64, usize> = HashMap::new();
    for (sector, count) in &writes {
        to_undo.insert(*sector, count - taste.version(count + 1, rng));
    }
    let torn = to_undo.values().any(|n| *n > 0) && to_undo.values().any(|n| *n == 0);
    let mut frozen = HashSet::new();
    for record in records.iter().rev() {
        for sector in sectors(record) {
            match record.head.kind {
                Kind::Write => match to_undo.get_mut(&sector) {
                    Some(n) if *n > 0 => {
                        *n -= 1;
                        dropped.bytes += put_sector(&file, record, sector)?;
                    }
                    _ => drop(frozen.insert(sector)),
                },
                // A size that has not reached the disk cuts nothing off.
                Kind::Tail if size_after(records, record) >= resized_at && !frozen.contains(&sector) => {
                    put_sector(&file, record, sector)?;
                }
                _ => {}
            }
        }
    }
    file.set_len(size)?;
    dropped.torn += u64::from(torn);
    dropped.sizes += u64::from(size != now);
    Ok(())
}

/// The place of the change of size that a tail belongs to.
fn size_after(records: &[Record<'_>], tail: &Record<'_>) -> u64 {
    records.iter().find(|r| r.head.kind == Kind::Size && r.place > tail.place).map_or(u64::MAX, |r| r.place)
}

fn grows(record: &Record<'_>) -> bool {
    record.head.kind == Kind::Write && record.head.at + record.head.len > record.head.size
}

fn sectors(record: &Record<'_>) -> std::ops::Range<u64> {
    if record.head.kind == Kind::Size {
        return 0..0;
    }
    record.head.at / SECTOR..(record.head.at + record.head.len).div_ceil(SECTOR)
}

/// Puts back what a write found in one sector. Gives how many bytes differ.
fn put_sector(file: &File, record: &Record<'_>, sector: u64) -> io::Result<u64> {
    let from = record.head.at.max(sector * SECTOR);
    let to = (record.head.at + record.head.len).min((sector + 1) * SECTOR);
    // Beyond the old end there was nothing, which reads as zeros.
    let byte = |at: u64| record.rest.get((at - record.head.at) as usize).copied().unwrap_or(0);
    let old: Vec<u8> = (from..to).map(byte).collect();
    let mut new = vec![0; old.len()];
    file.read_exact_at(&mut new, from)?;
    file.write_all_at(&old, from)?;
    Ok(old.iter().zip(&new).filter(|(old, new)| old != new).count() as u64)
}

/// Undoes changes of folders.
fn undo_names(names: &[Record<'_>], durable: &Durable, trash: &Path, rng: &mut SmallRng, dropped: &mut Dropped) -> io::Result<()> {
    let taste = Taste::draw(rng);
    let mut undone: Vec<&Record<'_>> = Vec::new();
    let mut touched: Vec<&str> = Vec::new();
    for record in names {
        let paths = paths(record);
        let fixed =
            durable.has(record.head.inode, record.place) && (record.head.kind != Kind::Rename || durable.has(record.head.at, record.place));
        // What was built on something undone goes with it, even if it was synced itself: its folder is not there.
        let built_on = paths.iter().any(|p| touched.iter().any(|t| p == t || Path::new(p).starts_with(t)));
        if built_on || (!fixed && taste.version(2, rng) == 0) {
            touched.extend(paths);
            undone.push(record);
        }
    }
    for record in undone.iter().rev() {
        if undo_name(record, trash)? {
            dropped.names += 1;
        }
    }
    Ok(())
}

/// The paths that a change of a folder is about.
fn paths<'a>(record: &Record<'a>) -> Vec<&'a str> {
    record.names().take(if record.head.kind == Kind::Rename { 2 } else { 1 }).collect()
}

/// Gives whether there was anything to undo: the last change of all may never have begun.
fn undo_name(record: &Record<'_>, trash: &Path) -> io::Result<bool> {
    let mut names = record.names();
    let (first, second, third) = (names.next().unwrap_or_default(), names.next().unwrap_or_default(), names.next().unwrap_or_default());
    let path = Path::new(first);
    let done = match record.head.kind {
        Kind::Create => fs::remove_file(path),
        Kind::MakeDir => fs::remove_dir_all(path),
        Kind::RemoveDir => fs::create_dir(path),
        Kind::Unlink => fs::hard_link(trash.join(second), path),
        Kind::Rename if path.exists() => return Ok(false),
        Kind::Rename => fs::rename(second, path).and_then(|()| match third {
            "" => Ok(()),
            replaced => fs::hard_link(trash.join(replaced), second),
        }),
        _ => Ok(()),
    };
    match done {
        Ok(()) => Ok(true),
        // Its folder is gone with an older change that was undone, or it never came to be.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => Ok(false),
        Err(e) => Err(io::Error::new(e.kind(), format!("{:?} of {first}: {e}", record.head.kind))),
    }
}
