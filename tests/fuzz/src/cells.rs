//! Stored cells: any bytes are refused, or read as something that is written and read again as the same; memory stays near
//! what was read; what was read can be lived with.
//!
//! The first byte says what the rest is taken for.

use crate::input::Input;
use crate::memory::within;
use bytes::Bytes;
use entity::effect::{Effect, Effects};
use entity::log::{Checkpoint, Cursor, Log};
use entity::privacy::BlockList;
use entity::roster::Roster;
use entity::row::{self, Row};
use entity::seal::Seal;
use entity::session::{SessionRow, TailRow};
use frame::{Output, Pos};
use sasl::Credentials;
use std::collections::BTreeMap;
use store_embedded::format;
use types::{BareJid, Collection, Epoch, Op, Partition, Timestamp};
use xml::Element;

/// Bytes of memory for each byte of a cell. The worst are stanzas of children of four bytes, of which each becomes 80 in a
/// vector that doubles while its old half is still there.
const FACTOR: usize = 96;
const FIXED: usize = 64 * 1024;

/// See the module.
pub fn cells(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let value = Bytes::copy_from_slice(rest);
    let budget = FIXED + FACTOR * rest.len();
    match kind % 12 {
        0 => same(&value, Row::decode, Row::encode),
        1 => same(&value, SessionRow::decode, SessionRow::encode),
        2 => same(&value, TailRow::decode, |(t, by)| TailRow::encode(&Output { m: t.m, pos: t.pos, stanza: t.stanza.clone() }, *by)),
        3 => within(budget, "checkpoint", || checkpoint(value)),
        4 => within(budget, "cursor", || cursor(value)),
        5 => same(&value, Seal::decode, Seal::encode),
        6 => keys(rest),
        7 => roster(rest),
        8 => block_list(rest),
        9 => {
            if let Ok(credentials) = within(budget, "credentials", || Credentials::decode(rest)) {
                assert_eq!(credentials.encode(), rest);
            }
        }
        10 => stored(rest),
        _ => same(&value, row::decode_stanza, |s| s.to_bytes()),
    }
}

/// What decodes is encoded to what decodes to the same.
fn same<T: PartialEq + std::fmt::Debug, E: std::fmt::Debug>(
    value: &Bytes,
    decode: impl Fn(Bytes) -> Result<T, E>,
    encode: impl Fn(&T) -> Bytes,
) {
    let Ok(decoded) = within(FIXED + FACTOR * value.len(), "cell", || decode(value.clone())) else { return };
    let encoded = encode(&decoded);
    // Numbers may have been written longer than they need be, and escapes of a stanza, too.
    let again = decode(encoded.clone()).expect("what was encoded decodes");
    assert_eq!(again, decoded);
    assert_eq!(encode(&again), encoded);
}

fn account() -> BareJid {
    BareJid::parse("juliet@im.example").expect("an address")
}

fn partition() -> Partition {
    Partition { collection: Collection::Account, key: Bytes::from_static(b"juliet@im.example") }
}

/// The value of the one cell that was put.
fn put(fx: &Effects) -> Bytes {
    let ops = fx.list.iter().filter_map(|e| if let Effect::Write(batch) = e { Some(&batch.ops) } else { None });
    let values = ops.flatten().filter_map(|op| if let Op::Put { value, .. } = op { Some(value.clone()) } else { None });
    values.last().expect("a cell is written")
}

/// A checkpoint that is taken up and written again says the same; rows can follow it.
fn checkpoint(value: Bytes) {
    let written = |checkpoint: Checkpoint| {
        let (mut log, mut fx) = (Log::from_checkpoint(checkpoint), Effects::default());
        log.checkpoint(&account(), &partition(), b"c", Timestamp(0), &mut fx);
        (log, put(&fx))
    };
    let Ok(one) = Checkpoint::decode(value) else { return };
    let (last, last_at) = (one.last, one.last_at);
    let (mut log, two) = written(one);
    let two = Checkpoint::decode(two).expect("what was encoded decodes");
    assert_eq!((two.last, two.last_at), (last, last_at));
    let three = Checkpoint::decode(written(two.clone()).1).expect("what was encoded decodes");
    assert_eq!(two, three);
    let stanza = row::decode_stanza(Bytes::from_static(b"<message/>")).expect("a stanza");
    for _ in 0..2 {
        let (at, sender, owed) = (Timestamp(0), account(), [row::OFFLINE].into_iter().collect());
        let row = Row { at, sender, origin: types::Origin::default(), target: None, archived: false, owed, stanza: stanza.clone() };
        log.append(&account(), Epoch(1), row, &mut Effects::default());
    }
    assert_eq!(log.last(), last + 2);
    assert!(!Cursor::decode(log.cursor()).expect("what was encoded decodes").is_open(last));
}

fn cursor(value: Bytes) {
    let Ok(cursor) = Cursor::decode(value) else { return };
    assert!(cursor.is_open(cursor.last.saturating_add(1)) || cursor.last == u64::MAX);
    for (first, last) in &cursor.open {
        assert!(first <= last && cursor.is_open(*first) && cursor.is_open(*last));
    }
}

/// Keys of rows, and ids of the archive: each has one spelling.
fn keys(bytes: &[u8]) {
    if let Ok(pos) = row::parse_key(bytes) {
        assert_eq!(row::cell_key(pos), bytes);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(row) = row::parse_archive_id(text)
    {
        assert_eq!(row::archive_id(row), text);
    }
    let _ = TailRow::session_of_key(bytes);
    let mut input = Input(bytes);
    let pos = Pos { row: input.u16().into(), epoch: Epoch(input.u16().into()) };
    assert_eq!(row::parse_key(&row::cell_key(pos)), Ok(pos));
}

/// Cells as pieces: a key, a value, a key, a value.
fn map(bytes: &[u8], prefix: &[u8]) -> BTreeMap<Bytes, Bytes> {
    let mut input = Input(bytes);
    let mut cells = BTreeMap::new();
    while !input.is_empty() {
        let key = [prefix, input.piece()].concat();
        cells.insert(key.into(), Bytes::copy_from_slice(input.piece()));
    }
    cells
}

fn apply(cells: &mut BTreeMap<Bytes, Bytes>, writes: &[Op]) {
    for op in writes {
        match op {
            Op::Put { key, value } => drop(cells.insert(key.clone(), value.clone())),
            Op::Delete { key } => drop(cells.remove(key)),
        }
    }
}

/// A roster that was read can be shown and changed, and what is written of the change is read as the changed one.
fn roster(bytes: &[u8]) {
    let mut input = Input(bytes);
    let version = Bytes::copy_from_slice(input.piece());
    let mut cells = map(input.0, b"r/");
    cells.insert(Bytes::from_static(b"rv"), version);
    let load = |cells: &BTreeMap<Bytes, Bytes>| Roster::load(account(), cells.clone());
    let Ok(mut roster) = within(FIXED + FACTOR * bytes.len(), "roster", || load(&cells)) else { return };
    assert_eq!(load(&cells).as_ref(), Ok(&roster));
    let _ = roster.get(None);
    let contacts: Vec<BareJid> = roster.items().map(|i| i.jid().clone()).take(4).collect();
    for contact in contacts {
        for subscription in ["none", "remove"] {
            let item = Element::new("item", types::ns::ROSTER).with_attr("jid", contact.as_str()).with_attr("subscription", subscription);
            let query = Element::new("query", types::ns::ROSTER).with_child(item);
            if let Ok(change) = roster.set(&query, &entity::roster::Limits::default()) {
                apply(&mut cells, &change.writes);
                assert_eq!(load(&cells).as_ref(), Ok(&roster));
            }
        }
    }
}

/// A block list that cannot be read blocks everybody; one that was read is the same when it is read again.
fn block_list(bytes: &[u8]) {
    let cells = map(bytes, b"b/");
    let mut list = within(FIXED + FACTOR * bytes.len(), "block list", || BlockList::load(account(), cells.clone()));
    let stranger = types::Jid::parse("stranger@elsewhere.example/x").expect("an address");
    if list.is_broken() {
        assert!(list.blocks(&stranger) && list.list().is_err());
    } else {
        assert_eq!(list.list().map(|l| l.children().count()), Ok(cells.len()));
    }
    let mut cells = cells;
    let unblock = Element::new("unblock", types::ns::BLOCKING);
    if let Ok(change) = list.unblock(&unblock) {
        apply(&mut cells, &change.writes);
        assert!(cells.is_empty() && list.is_empty() && !list.blocks(&stranger));
    }
}

/// A cell of the embedded store: key, value, checksum.
fn stored(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (prefix_len, key) = (usize::from(input.u8()), input.piece());
    let value = input.0;
    if let Ok(cell) = format::decode(key, prefix_len, value) {
        let head = format::value_head(key, cell.stamp, &cell.value);
        assert_eq!([&head[..], &cell.value].concat(), value);
        assert_eq!(cell.key, key[prefix_len..]);
    }
    let made = [&format::value_head(key, 7, value)[..], value].concat();
    let cell = format::decode(key, 0, &made).expect("what was encoded decodes");
    assert_eq!((&cell.key[..], &cell.value[..], cell.stamp), (key, value, 7));
}
