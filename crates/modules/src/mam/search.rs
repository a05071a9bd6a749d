//! Finding a page in the log: sans-I/O, one bounded read after the other.
//!
//! First the ids that the query names are read: each must be in the archive. Then the time is searched by halving, since
//! stamps never run backwards in a log. Then rows are looked through from one end, until the page is full and it is known
//! whether more would follow.

use super::query::Query;
use bytes::Bytes;
use entity::codec::Corrupt;
use entity::module::{LogScan, Rows};
use entity::row::Kept;
use stanza::{Condition, ErrorType, StanzaError};
use types::{BareJid, Jid, Timestamp};

/// Rows of one read, at most: of a search that leaves none out, no more than the page needs.
const READ_ROWS: usize = 200;
/// Cells of one read that looks for one row: of several epochs, one is valid.
const PROBE_CELLS: usize = 8;
/// Reads of one query. A filter that has found something by then gives that; one that has not is to be narrowed.
const READS_MAX: usize = 2_000;
/// Reads to count what matches, if that is asked for (XEP-0059 §2.7): beyond that the number is not told.
const COUNT_READS_MAX: usize = 50;
/// Bytes of one page; a page holds one item at least.
pub(super) const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// An archived message.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub row: u64,
    pub at: Timestamp,
    /// As it was written when it came.
    pub message: Bytes,
}

/// A page, and what is known of it.
#[derive(Debug)]
pub(super) struct Found {
    /// In chronological order.
    pub items: Vec<Item>,
    /// More matches behind it (before it, if it was asked for backwards).
    pub limited: bool,
    /// Only their number was asked for.
    pub counted_only: bool,
    /// The first item's place in the result, if known.
    pub index: Option<usize>,
    /// Items of the result, if known.
    pub count: Option<usize>,
    pub queryid: Option<String>,
    pub flip: bool,
    backwards: bool,
}

/// See the file.
pub(super) struct Search {
    query: Query,
    own: BareJid,
    /// Rows that can match, both inclusive; empty if `lo > hi`.
    lo: u64,
    hi: u64,
    step: Step,
    /// Ids to be read, the next one last.
    verify: Vec<u64>,
    found: Vec<Item>,
    bytes: usize,
    limited: bool,
    counted: usize,
    uncounted: bool,
    reads: usize,
}

#[derive(Debug)]
enum Step {
    Verify,
    /// The first row taken at this time or later.
    From(Halving),
    /// The first row taken later than this.
    Until(Halving),
    Rows,
    Done,
}

/// The first row of `lo..=hi` whose stamp is at least `at` is looked for in what is left of that range.
#[derive(Clone, Copy, Debug)]
struct Halving {
    at: Timestamp,
    lo: u64,
    /// Exclusive: the row found so far.
    hi: u64,
    /// The next row to be read; behind `middle` if there was none in its bucket.
    next: u64,
}

impl Halving {
    fn new(at: Timestamp, lo: u64, hi: u64) -> Halving {
        let end = hi + 1;
        Halving { at, lo, hi: end, next: lo + (end - lo) / 2 }
    }

    fn scan(&self) -> Option<LogScan> {
        (self.lo < self.hi).then(|| LogScan { first: self.next, last: self.hi - 1, reverse: false, limit: PROBE_CELLS })
    }

    fn take(&mut self, rows: &Rows) {
        let middle = self.lo + (self.hi - self.lo) / 2;
        match (rows.rows.first(), rows.next) {
            (Some((pos, row)), _) if row.at < self.at => self.lo = pos.row + 1,
            (None, Some(next)) => {
                self.next = next;
                return;
            }
            // None between the middle and the row found, or none at all behind the middle.
            (Some(_), _) | (None, None) => self.hi = middle,
        }
        self.next = self.lo + (self.hi - self.lo) / 2;
    }
}

impl Search {
    /// A search in a log whose last row is `last`.
    pub fn new(query: Query, own: &BareJid, last: u64) -> Search {
        let lo = query.after.iter().map(|row| row.saturating_add(1)).max().unwrap_or(1);
        let hi = query.before.iter().map(|row| row.saturating_sub(1)).min().unwrap_or(last);
        let mut verify: Vec<u64> = query.after.iter().chain(&query.before).chain(query.ids.iter().flatten()).copied().collect();
        verify.sort_unstable();
        verify.dedup();
        // An id beyond the log is not in the archive; it need not be read.
        let unknown = verify.iter().any(|row| *row == 0 || *row > last);
        let step = if unknown { Step::Done } else { Step::Verify };
        let mut search = Search {
            query,
            own: own.clone(),
            lo,
            hi: hi.min(last),
            step,
            verify,
            found: Vec::new(),
            bytes: 0,
            limited: false,
            counted: 0,
            uncounted: false,
            reads: 0,
        };
        search.verify.reverse();
        search
    }

    /// The first item of an archive, or the last one.
    pub fn end_of_archive(own: &BareJid, last: u64, backwards: bool) -> Search {
        Search::new(Query { max: 1, backwards, ..Query::default() }, own, last)
    }

    /// The rows to be read next; `None`: [`Search::finish`].
    ///
    /// # Errors
    /// `item-not-found` for an id that cannot be in the archive, `resource-constraint` if nothing was found for too long.
    pub fn next_scan(&mut self) -> Result<Option<LogScan>, StanzaError> {
        if matches!(self.step, Step::Done) && !self.verify.is_empty() {
            return Err(Condition::ItemNotFound.into());
        }
        loop {
            let scan = match &self.step {
                Step::Verify => self.verify.last().map(|row| LogScan { first: *row, last: *row, reverse: false, limit: PROBE_CELLS }),
                Step::From(h) | Step::Until(h) => h.scan(),
                Step::Rows => self.rows_scan()?,
                Step::Done => return Ok(None),
            };
            if scan.is_some() {
                self.reads += 1;
                return Ok(scan);
            }
            self.step = self.next_step();
        }
    }

    fn next_step(&mut self) -> Step {
        let (start, end) = (self.query.start, self.query.end.map(|end| Timestamp(end.0.saturating_add(1))));
        match self.step {
            Step::From(h) => self.lo = h.hi,
            Step::Until(h) => self.hi = h.hi - 1,
            _ => {}
        }
        if self.query.ids.is_some() {
            self.pick();
            return Step::Done;
        }
        if self.lo > self.hi {
            return Step::Done;
        }
        match (&self.step, start, end) {
            (Step::Verify, Some(start), _) => Step::From(Halving::new(start, self.lo, self.hi)),
            (Step::Verify | Step::From(_), _, Some(end)) => Step::Until(Halving::new(end, self.lo, self.hi)),
            (Step::Rows | Step::Done, ..) => Step::Done,
            _ => Step::Rows,
        }
    }

    fn rows_scan(&mut self) -> Result<Option<LogScan>, StanzaError> {
        if self.limited || self.lo > self.hi {
            return Ok(None);
        }
        if self.query.max == 0 && self.counted > 0 && self.reads > COUNT_READS_MAX {
            self.uncounted = true;
            return Ok(None);
        }
        if self.reads >= READS_MAX {
            if self.found.is_empty() {
                let text = "too few of the archive's messages match: ask for a shorter time";
                return Err(Condition::ResourceConstraint.of_type(ErrorType::Wait).with_text(text));
            }
            self.limited = true;
            return Ok(None);
        }
        Ok(Some(LogScan { first: self.lo, last: self.hi, reverse: self.query.backwards, limit: self.read_rows() }))
    }

    /// Each row that is read costs. One more than the page holds says whether there are more, and a few may be of
    /// another epoch, or be in no archive.
    fn read_rows(&self) -> usize {
        let all_match = self.query.with.is_none() && self.query.max > 0;
        if all_match { READ_ROWS.min(self.query.max - self.found.len() + 1 + PROBE_CELLS) } else { READ_ROWS }
    }

    /// The rows that were asked for.
    ///
    /// # Errors
    /// `item-not-found` for an id that is not in the archive.
    pub fn take(&mut self, rows: Rows) -> Result<(), StanzaError> {
        match &mut self.step {
            Step::Verify => return self.verified(rows),
            Step::From(h) | Step::Until(h) => h.take(&rows),
            Step::Rows => {
                match (rows.next, self.query.backwards) {
                    (Some(next), true) => self.hi = next,
                    (Some(next), false) => self.lo = next,
                    // Nothing is left.
                    (None, _) => self.lo = self.hi + 1,
                }
                for (pos, row) in rows.rows {
                    if self.matches(&row).map_err(|_| Condition::InternalServerError)? {
                        self.push(Item { row: pos.row, at: row.at, message: row.message });
                    }
                }
            }
            Step::Done => {}
        }
        Ok(())
    }

    fn verified(&mut self, rows: Rows) -> Result<(), StanzaError> {
        let wanted = self.verify.pop();
        let found = rows.rows.into_iter().find(|(pos, row)| Some(pos.row) == wanted && row.archived);
        let (pos, row) = found.ok_or(Condition::ItemNotFound)?;
        let asked_for = self.query.ids.as_ref().is_some_and(|ids| ids.binary_search(&pos.row).is_ok());
        if asked_for && self.matches(&row).map_err(|_| Condition::InternalServerError)? {
            self.found.push(Item { row: pos.row, at: row.at, message: row.message });
        }
        Ok(())
    }

    /// Of the ids asked for, those of the page.
    fn pick(&mut self) {
        let (start, end) = (self.query.start.unwrap_or_default(), self.query.end.unwrap_or(Timestamp(u64::MAX)));
        let (lo, hi) = (self.lo, self.hi);
        let mut all = std::mem::take(&mut self.found);
        all.retain(|i| (lo..=hi).contains(&i.row) && start <= i.at && i.at <= end);
        if self.query.backwards {
            all.reverse();
        }
        for item in all {
            self.push(item);
        }
    }

    fn push(&mut self, item: Item) {
        self.counted += 1;
        if self.query.max == 0 || self.limited {
            return;
        }
        let bytes = item.message.len();
        let full = self.found.len() >= self.query.max || (!self.found.is_empty() && self.bytes + bytes > PAGE_BYTES_MAX);
        if full {
            self.limited = true;
            return;
        }
        self.bytes += bytes;
        self.found.push(item);
    }

    /// §4.1.1
    fn matches(&self, row: &Kept) -> Result<bool, Corrupt> {
        let Some(with) = self.query.with.as_ref().filter(|_| row.archived) else { return Ok(row.archived) };
        let own = self.own.as_jid();
        let stanza = row.stanza()?;
        let (from, to) = (stanza.from.as_ref().unwrap_or(own), stanza.to.as_ref().unwrap_or(own));
        let same = |jid: &Jid| if with.is_bare() { jid.bare_str() == with.as_str() } else { jid == with };
        // Otherwise every message would match.
        Ok(if with == own { same(from) && same(to) } else { same(from) || same(to) })
    }

    /// The page.
    pub fn finish(self) -> Found {
        let Search { query, mut found, limited, counted, uncounted, .. } = self;
        if query.backwards {
            found.reverse();
        }
        let counted_only = query.max == 0;
        let all = query.whole && !limited && !uncounted;
        Found {
            index: (query.whole && !found.is_empty() && (!query.backwards || all)).then_some(0),
            items: found,
            limited: limited || (counted_only && counted > 0),
            counted_only,
            count: all.then_some(counted),
            queryid: query.queryid,
            flip: query.flip,
            backwards: query.backwards,
        }
    }
}

impl Found {
    /// No more than so many, and so many bytes: what is farthest from where the page begins is left for the next one.
    pub fn limit(&mut self, items_max: usize, bytes_max: usize) {
        let len = |i: &Item| i.message.len();
        let mut bytes: usize = self.items.iter().map(len).sum();
        while self.items.len() > items_max || (bytes > bytes_max && self.items.len() > 1) {
            let gone = if self.backwards { self.items.remove(0) } else { self.items.remove(self.items.len() - 1) };
            bytes -= len(&gone);
            self.limited = true;
            self.count = None;
            self.index = self.index.filter(|_| !self.backwards);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use entity::testing::jid;
    use frame::Pos;
    use stanza::{MessageType, Stanza};
    use types::Epoch;

    /// Answer reads with one row each, archived if `archived` says so, until the search ends; how many there were.
    fn drive(search: &mut Search, archived: impl Fn(u64) -> bool) -> Result<usize, StanzaError> {
        let message = Stanza::message(jid("juliet"), MessageType::Chat).with_from(jid("romeo")).with_body("b").to_bytes();
        let mut reads = 0;
        while let Some(scan) = search.next_scan()? {
            reads += 1;
            let row = Kept { at: Timestamp(1), archived: archived(scan.first), message: message.clone() };
            let next = (scan.first < scan.last).then_some(scan.first + 1);
            search.take(Rows { scan, rows: vec![(Pos { row: scan.first, epoch: Epoch(1) }, row)], next })?;
        }
        Ok(reads)
    }

    fn search(max: usize) -> Search {
        Search::new(Query { max, whole: true, ..Query::default() }, &jid("juliet"), 1_000_000)
    }

    #[test]
    fn reads_are_bounded() {
        // Nothing matches: the client is told to narrow it.
        let mut nothing = search(10);
        let error = drive(&mut nothing, |_| false).unwrap_err();
        assert_eq!((error.type_, error.condition, nothing.reads), (ErrorType::Wait, Condition::ResourceConstraint, READS_MAX));
        // Something matched: that is given, and more may follow.
        let mut some = search(10);
        assert_eq!(drive(&mut some, |row| row == 5), Ok(READS_MAX));
        let found = some.finish();
        assert_eq!((found.items.len(), found.limited, found.count), (1, true, None));
        // Too many to be counted.
        let mut count = search(0);
        assert_eq!(drive(&mut count, |_| true), Ok(COUNT_READS_MAX + 1));
        let found = count.finish();
        assert_eq!((found.items.len(), found.limited, found.count), (0, true, None));
    }
}
