//! The newest groups, kept as they were written, beside the tables.
//!
//! A row of a log that is acknowledged does not live long. As a cell of the engine it would cost a place among all others twice, when
//! it is written and when it is deleted, and again when tables are made. So the rows of a group are one value in the engine, and are
//! found here; one that is still there when [`YOUNG_BYTES_MAX`] of newer groups stand behind it *settles*: it becomes a cell of the
//! engine in the same batch that removes its group.
//!
//! A cell is here exactly as long as one of the groups here writes it, so what is here counts and what the engine has does not.
//! After a restart the groups are read back in order ([`Young::take_back`]).

use crate::format;
use fjall::Slice;
use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque};
use store::Read;

/// Bytes that are young, about, with what it takes to find their cells. What is in flight between clients that acknowledge has to
/// find room in it some times over; a start reads so much more.
pub(crate) const YOUNG_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What a cell costs beside its bytes in the group: its key again, its place.
const CELL_BYTES: usize = 96;
/// A large group does not keep its room.
const RAW_BYTES_KEPT: usize = 256 * 1024;
/// The lengths before a cell.
const HEAD_BYTES: usize = 6;
/// No value: the cell is deleted.
const DELETED: u32 = u32::MAX;
/// See the module.
pub(crate) struct Young {
    bytes_max: usize,
    /// By the partition's part of the key.
    partitions: HashMap<Box<[u8]>, Cells, RandomState>,
    /// Oldest first.
    groups: VecDeque<Group>,
    /// How many groups have settled.
    first: u64,
    bytes: usize,
}

/// A partition's cells in the order of their keys. They come nearly in that order and leave in it, so both ends are where it moves.
type Cells = VecDeque<Cell>;

struct Cell {
    /// The first bytes of the key, which tell most keys apart.
    first: u64,
    key: Slice,
    newest: Place,
}

struct Group {
    number: u64,
    raw: Slice,
    bytes: usize,
    /// Which of its cells a later group writes, by their order: a bit each.
    replaced: Vec<u64>,
}

/// Where the newest value of a cell is.
#[derive(Clone, Copy)]
struct Place {
    /// Of all groups that were here; the first one now is [`Young::first`].
    group: u64,
    /// Of the group's cells.
    nth: u32,
    /// Where it begins within the group.
    at: u32,
}

/// Whether rows of logs live: those of an archive do, those that a client acknowledges do not.
pub(crate) struct Rows {
    put: usize,
    deleted: usize,
    /// Of so many the share is taken.
    asked: usize,
    /// So many have come.
    known: bool,
}

/// A group's cells as one value: `length of the key (2) ‖ of the stored value (4; all ones: deleted) ‖ key ‖ stored value` each,
/// numbers little endian. Key and stored value are those that the engine would hold.
#[derive(Default)]
pub(crate) struct Raw(Vec<u8>);

impl Raw {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
        self.0.shrink_to(RAW_BYTES_KEPT);
    }

    pub(crate) fn put(&mut self, key: &[u8], stamp: u64, value: &[u8]) {
        let head = format::value_head(key, stamp, value);
        self.head(key, (head.len() + value.len()) as u32);
        self.0.extend_from_slice(&head);
        self.0.extend_from_slice(value);
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        self.head(key, DELETED);
    }

    fn head(&mut self, key: &[u8], len: u32) {
        // Both lengths are bounded by the format (`KEYS_BYTES_MAX`, `VALUE_BYTES_MAX`), which the queue holds callers to.
        self.0.extend_from_slice(&(key.len() as u16).to_le_bytes());
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(key);
    }

    /// None if nothing was written.
    pub(crate) fn finish(&self) -> Option<Slice> {
        (!self.0.is_empty()).then(|| Slice::from(&self.0[..]))
    }
}

/// A cell as a group writes it: none as value if it deletes it.
struct Written<'a> {
    key: &'a [u8],
    stored: Option<&'a [u8]>,
    /// Where the next one begins.
    next: usize,
}

/// The cell that begins there. None at the end and where what stands there is no cell.
fn written(raw: &[u8], at: usize) -> Option<Written<'_>> {
    let (head, rest) = raw.get(at..)?.split_first_chunk::<HEAD_BYTES>()?;
    let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([head[0], head[1]])))?;
    let len = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
    let stored = if len == DELETED { None } else { Some(rest.get(..len as usize)?) };
    Some(Written { key, stored, next: at + HEAD_BYTES + key.len() + stored.map_or(0, <[u8]>::len) })
}

/// All of them, with where they begin.
fn all(raw: &[u8]) -> impl Iterator<Item = (usize, Written<'_>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let cell = written(raw, at)?;
        Some((std::mem::replace(&mut at, cell.next), cell))
    })
}

impl Group {
    /// The cells that no later group writes.
    fn newest(&self) -> impl Iterator<Item = Written<'_>> {
        all(&self.raw).zip(0..).filter(|(_, nth)| !self.is_replaced(*nth)).map(|((_, cell), _)| cell)
    }

    fn is_replaced(&self, nth: u32) -> bool {
        self.replaced[nth as usize / 64] & 1 << (nth % 64) != 0
    }
}

impl Young {
    /// None yet; older ones settle beyond so many bytes, about.
    pub(crate) fn new(bytes_max: usize) -> Young {
        Young { bytes_max, partitions: HashMap::default(), groups: VecDeque::new(), first: 0, bytes: 0 }
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// One of the groups here writes this cell: then what is written to it next has to come here too.
    pub(crate) fn has(&self, key: &[u8]) -> bool {
        let Some((partition, key)) = format::split(key) else { return false };
        self.partitions.get(partition).is_some_and(|cells| find(cells, first(key), key).is_ok())
    }

    /// Take a group that is durable. Its number is greater than those before it.
    pub(crate) fn add(&mut self, number: u64, raw: Slice) {
        let group = self.first + self.groups.len() as u64;
        let mut count = 0;
        for (at, cell) in all(&raw) {
            self.write(cell.key, Place { group, nth: count, at: at as u32 });
            count += 1;
        }
        let bytes = raw.len() + count as usize * CELL_BYTES;
        self.bytes += bytes;
        self.groups.push_back(Group { number, raw, bytes, replaced: vec![0; count.div_ceil(64) as usize] });
    }

    fn write(&mut self, key: &[u8], newest: Place) {
        let Some((partition, key)) = format::split(key) else { return };
        let cells = match self.partitions.get_mut(partition) {
            Some(cells) => cells,
            None => self.partitions.entry(partition.into()).or_default(),
        };
        let first = first(key);
        match find(cells, first, key) {
            Err(n) => cells.insert(n, Cell { first, key: Slice::from(key), newest }),
            Ok(n) => {
                let before = std::mem::replace(&mut cells[n].newest, newest);
                // None: it is the group that comes, which a damaged table could let name a cell twice.
                if let Some(group) = self.groups.get_mut((before.group - self.first) as usize) {
                    group.replaced[before.nth as usize / 64] |= 1 << (before.nth % 64);
                }
            }
        }
    }

    /// As [`Young::add`], for a group that a start has found. Values are not looked at: who reads a damaged one hears of it, as of
    /// any other cell.
    ///
    /// # Errors
    /// It is not a group.
    pub(crate) fn take_back(&mut self, number: u64, raw: Slice) -> Result<(), &'static str> {
        let end = all(&raw).last().map_or(0, |(_, cell)| cell.next);
        let keys = all(&raw).all(|(_, cell)| format::split(cell.key).is_some());
        if end != raw.len() || !keys || self.groups.back().is_some_and(|last| last.number >= number) {
            return Err("a young group is not one");
        }
        self.add(number, raw);
        Ok(())
    }

    /// The oldest groups that are too many once `more` bytes are added: how many.
    pub(crate) fn too_many(&self, more: usize) -> usize {
        let mut bytes = self.bytes + more;
        self.groups
            .iter()
            .take_while(|group| {
                let over = bytes > self.bytes_max;
                bytes -= group.bytes;
                over
            })
            .count()
    }

    /// The numbers of the first `count` groups, and the cells in them that no later group writes: key, and stored value or none.
    pub(crate) fn oldest(&self, count: usize) -> (impl Iterator<Item = u64>, impl Iterator<Item = (&[u8], Option<&[u8]>)>) {
        let groups = self.groups.iter().take(count);
        (groups.clone().map(|group| group.number), groups.flat_map(Group::newest).map(|cell| (cell.key, cell.stored)))
    }

    /// The first `count` groups have settled.
    pub(crate) fn settled(&mut self, count: usize) {
        for _ in 0..count {
            let Some(group) = self.groups.pop_front() else { return };
            self.first += 1;
            self.bytes -= group.bytes;
            for cell in group.newest() {
                self.remove(cell.key);
            }
        }
    }

    fn remove(&mut self, key: &[u8]) {
        let Some((partition, key)) = format::split(key) else { return };
        let Some(cells) = self.partitions.get_mut(partition) else { return };
        if let Ok(n) = find(cells, first(key), key) {
            cells.remove(n);
            if cells.is_empty() {
                self.partitions.remove(partition);
            }
        }
    }

    /// What counts before the engine's cells in a page: keys with stored values, or none where a cell is deleted, in the order of
    /// the page, up to where they alone fill it.
    pub(crate) fn page(&self, read: &Read, prefix: &[u8]) -> Vec<(Slice, Option<Slice>)> {
        let mut found = Vec::new();
        let Some(cells) = self.partitions.get(prefix) else { return found };
        let from = cells.partition_point(|cell| cell.key[..] < read.from[..]);
        let to = read.to.as_ref().map_or(cells.len(), |to| cells.partition_point(|cell| cell.key[..] < to[..]));
        let mut range = cells.range(from..to.max(from));
        let mut live = 0;
        while live <= read.limit
            && let Some(Cell { key, newest, .. }) = if read.reverse { range.next_back() } else { range.next() }
        {
            let value = self.value(*newest);
            live += usize::from(value.is_some());
            found.push(([prefix, key].concat().into(), value.map(Slice::from)));
        }
        found
    }

    fn value(&self, place: Place) -> Option<&[u8]> {
        let group = self.groups.get((place.group - self.first) as usize)?;
        written(&group.raw, place.at as usize)?.stored
    }
}

/// The first bytes of a key as a number in the keys' order; those that differ in what follows, and some short ones, are equal.
fn first(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = key.len().min(8);
    bytes[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(bytes)
}

fn find(cells: &Cells, first: u64, key: &[u8]) -> Result<usize, usize> {
    let order = |cell: &Cell| cell.first.cmp(&first).then_with(|| cell.key[..].cmp(key));
    // Mostly it goes behind them all.
    let (Some(oldest), Some(last)) = (cells.front(), cells.back()) else { return Err(0) };
    if order(last).is_lt() {
        return Err(cells.len());
    }
    // Rows follow one another, so it stands where its number says, if it is here: a look instead of a dozen. Counted from the
    // oldest, or from the last one if some that were older are gone.
    let from_oldest = usize::try_from(first.wrapping_sub(oldest.first)).unwrap_or(usize::MAX);
    let from_last = usize::try_from(last.first.wrapping_sub(first)).unwrap_or(usize::MAX);
    let places = [Some(from_oldest), (cells.len() - 1).checked_sub(from_last)];
    for place in places.into_iter().flatten() {
        if cells.get(place).is_some_and(|cell| order(cell).is_eq()) {
            return Ok(place);
        }
    }
    cells.binary_search_by(order)
}

impl Rows {
    /// Nothing is known, so they die. What is found later is the share of those deleted among some times as many as can be young:
    /// many are put at a time before the first of them is deleted, which says nothing yet.
    pub(crate) fn new(young_bytes_max: usize) -> Rows {
        Rows { put: 0, deleted: 0, asked: young_bytes_max / CELL_BYTES, known: false }
    }

    /// Count a row that is put or deleted, and say whether rows live: less than half of them are deleted, so it would only cost
    /// to write them twice.
    pub(crate) fn live_after(&mut self, is_put: bool) -> bool {
        if is_put {
            self.put += 1;
        } else {
            self.deleted += 1;
        }
        if self.put + self.deleted >= self.asked {
            self.put /= 2;
            self.deleted /= 2;
            self.known = true;
        }
        self.known && self.deleted < self.put / 2
    }
}

/// A page's cells out of both: in the order of the page, the young one of two for the same cell, without those deleted.
pub(crate) fn merged<T>(
    young: Vec<(Slice, Option<Slice>)>,
    tables: T,
    reverse: bool,
) -> impl Iterator<Item = Result<(Slice, Slice), String>>
where
    T: Iterator<Item = Result<(Slice, Slice), String>>,
{
    let mut young = young.into_iter().peekable();
    let mut tables = tables.peekable();
    std::iter::from_fn(move || {
        loop {
            let order = match (young.peek(), tables.peek()) {
                (None, _) => return tables.next(),
                (Some(_), Some(Err(_))) => return tables.next(),
                (Some(_), None) => std::cmp::Ordering::Less,
                (Some((young, _)), Some(Ok((table, _)))) if reverse => table[..].cmp(&young[..]),
                (Some((young, _)), Some(Ok((table, _)))) => young[..].cmp(&table[..]),
            };
            if order.is_gt() {
                return tables.next();
            }
            if order.is_eq() {
                tables.next();
            }
            if let Some((key, Some(stored))) = young.next() {
                return Some(Ok((key, stored)));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use types::{Collection, Partition};

    fn raw(cells: &[(&[u8], Option<&[u8]>)]) -> Vec<u8> {
        let partition = Partition { collection: Collection::Log, key: Bytes::from_static(b"p") };
        let (mut raw, mut key) = (Raw::default(), Vec::new());
        for (name, value) in cells {
            format::cell_key(&partition, name, &mut key);
            match value {
                Some(value) => raw.put(&key, 7, value),
                None => raw.delete(&key),
            }
        }
        raw.finish().map(|raw| raw.to_vec()).unwrap_or_default()
    }

    #[test]
    fn what_is_no_group_is_refused() {
        let whole = raw(&[(b"a", Some(b"one")), (b"", None), (b"bb", Some(&[9; 300]))]);
        let take = |number, bytes: &[u8]| Young::new(usize::MAX).take_back(number, Slice::from(bytes));
        assert_eq!(take(1, &whole), Ok(()));
        for len in (1..whole.len())
            .filter(|len| ![raw(&[(b"a", Some(b"one"))]).len(), raw(&[(b"a", Some(b"one")), (b"", None)]).len()].contains(len))
        {
            assert!(take(1, &whole[..len]).is_err(), "cut at {len}");
        }
        // Whatever stands there: taken or refused, and what is taken can settle.
        for at in 0..whole.len() {
            for bits in [1, 0x80, 0xff] {
                let mut bad = whole.clone();
                bad[at] ^= bits;
                let mut young = Young::new(0);
                if young.take_back(1, Slice::from(&bad[..])).is_ok() {
                    assert!(young.oldest(1).1.count() <= 3);
                    young.settled(1);
                    assert!(young.partitions.is_empty(), "{at} {bits}");
                }
            }
        }
        let mut young = Young::new(usize::MAX);
        assert_eq!(young.take_back(5, Slice::from(&whole[..])), Ok(()));
        assert!(young.take_back(5, Slice::from(&whole[..])).is_err(), "the same again");
    }

    #[test]
    fn rows_die_until_it_is_known_that_they_live() {
        let young = 1024 * CELL_BYTES;
        let mut rows = Rows::new(young);
        // All that can be in flight before the first of it is acknowledged.
        assert!(!(0..400).any(|_| rows.live_after(true)));
        // Acknowledged in bursts.
        assert!(!(0..400).any(|_| rows.live_after(false)));
        assert!(!(0..9).any(|_| (0..200).any(|_| rows.live_after(true)) || (0..200).any(|_| rows.live_after(false))));
        // An archive, from then on.
        assert!((0..2_000).map(|_| rows.live_after(true)).last().unwrap());
        // And none again.
        assert!(!(0..4_000).map(|n| rows.live_after(n % 2 == 0)).last().unwrap());
    }

    #[test]
    fn the_newest_counts_until_the_last_group_that_writes_it_settles() {
        let mut young = Young::new(0);
        let prefix = {
            let mut key = Vec::new();
            format::cell_key(&Partition { collection: Collection::Log, key: Bytes::from_static(b"p") }, b"", &mut key);
            key
        };
        young.add(3, Slice::from(raw(&[(b"a", Some(b"one")), (b"b", Some(b"two"))])));
        young.add(8, Slice::from(raw(&[(b"a", None)])));
        assert_eq!(young.too_many(0), 2);
        let settles = |young: &Young, count| {
            let (numbers, cells) = young.oldest(count);
            (numbers.collect::<Vec<_>>(), cells.map(|(key, stored)| (key[prefix.len()..].to_vec(), stored.is_some())).collect::<Vec<_>>())
        };
        assert_eq!(settles(&young, 1), (vec![3], vec![(b"b".to_vec(), true)]));
        young.settled(1);
        let has = |young: &Young, name: &[u8]| young.has(&[&prefix, name].concat());
        assert!(has(&young, b"a") && !has(&young, b"b"));
        assert_eq!(settles(&young, 1), (vec![8], vec![(b"a".to_vec(), false)]));
        young.settled(1);
        assert!(!has(&young, b"a") && young.bytes == 0);
    }
}
