//! The cases of the suite.

use super::client::{Client, delete, lock, pairs, partition, put};
use crate::{Cell, Completion, Read};
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use types::{Batch, Collection, Op, Partition, Ticket};

fn log() -> Partition {
    partition(Collection::Log, b"romeo@example.org/1")
}

fn keys(cells: &[Cell]) -> Vec<&[u8]> {
    cells.iter().map(|c| &c.key[..]).collect()
}

fn abc(c: &mut Client<'_>) -> Partition {
    let p = log();
    c.write(&p, vec![put(b"b", b"2"), put(b"d", b"4"), put(b"a", b"1"), put(b"c", b"3")]);
    p
}

fn read(p: &Partition, from: &'static [u8], to: Option<&'static [u8]>, limit: usize, reverse: bool) -> Read {
    Read { partition: p.clone(), from: Bytes::from_static(from), to: to.map(Bytes::from_static), limit, reverse }
}

pub(super) fn scans_both_ways(c: &mut Client<'_>) {
    let p = abc(c);
    let page = c.read(Ticket::NONE, read(&p, b"", None, 10, false));
    assert_eq!(keys(&page.rows), [b"a", b"b", b"c", b"d"]);
    assert_eq!(&page.rows[1].value[..], b"2");
    assert_eq!(page.rows[0].stamp, (1 << 32) + 1, "the stamp of the batch is kept");
    let page = c.read(Ticket::NONE, read(&p, b"", None, 10, true));
    assert_eq!(keys(&page.rows), [b"d", b"c", b"b", b"a"]);
    assert!(!page.more);
}

pub(super) fn limits_and_more(c: &mut Client<'_>) {
    let p = abc(c);
    for reverse in [false, true] {
        for (limit, rows, more) in [(0, 0, true), (1, 1, true), (3, 3, true), (4, 4, false), (5, 4, false)] {
            let page = c.read(Ticket::NONE, read(&p, b"", None, limit, reverse));
            assert_eq!((page.rows.len(), page.more), (rows, more), "limit {limit} reverse {reverse}");
        }
        let page = c.read(Ticket::NONE, read(&p, b"b", Some(b"d"), 2, reverse));
        assert_eq!((page.rows.len(), page.more), (2, false), "more counts only what is within the bounds");
        let page = c.read(Ticket::NONE, read(&p, b"b", Some(b"b"), 0, reverse));
        assert_eq!((page.rows.len(), page.more), (0, false));
    }
    // The limit of a reverse scan keeps the greatest keys.
    let page = c.read(Ticket::NONE, read(&p, b"", Some(b"d"), 2, true));
    assert_eq!(keys(&page.rows), [b"c", b"b"]);
}

pub(super) fn range_bounds(c: &mut Client<'_>) {
    let p = abc(c);
    type Bound = (&'static [u8], Option<&'static [u8]>, &'static str);
    let want: [Bound; 9] = [
        (b"b", Some(b"d"), "bc"),
        (b"b", None, "bcd"),
        (b"b\0", None, "cd"),
        (b"", Some(b"a"), ""),
        (b"", Some(b"a\0"), "a"),
        (b"c", Some(b"b"), ""),
        (b"b", Some(b"b"), ""),
        (b"e", None, ""),
        (b"d", Some(b"zzz"), "d"),
    ];
    for (from, to, found) in want {
        let page = c.read(Ticket::NONE, read(&p, from, to, 10, false));
        assert_eq!(keys(&page.rows).concat(), found.as_bytes(), "{from:?} to {to:?}");
        let page = c.read(Ticket::NONE, read(&p, from, to, 10, true));
        let turned: String = found.chars().rev().collect();
        assert_eq!(keys(&page.rows).concat(), turned.as_bytes(), "{from:?} to {to:?}, reverse");
    }
    let one = c.read(Ticket::NONE, Read::one(p.clone(), Bytes::from_static(b"b")));
    assert_eq!((keys(&one.rows), one.more), (vec![&b"b"[..]], false));
}

pub(super) fn key_order(c: &mut Client<'_>) {
    let p = log();
    let order: [&[u8]; 9] = [b"", b"\0", b"\0\0", b"\0\xff", b"a", b"a\0", b"\x7f", b"\x80", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"];
    let ops = order.iter().rev().map(|k| put(k, k)).collect();
    c.write(&p, ops);
    let page = c.read(Ticket::NONE, Read::all(p));
    assert_eq!(keys(&page.rows), order);
    assert!(page.rows.iter().all(|r| r.key == r.value));
}

pub(super) fn last_operation(c: &mut Client<'_>) {
    let p = log();
    c.write(&p, vec![put(b"a", b"first"), put(b"b", b"x"), put(b"a", b"last"), delete(b"b"), delete(b"c"), put(b"c", b"y")]);
    assert_eq!(c.all(&p), [("a".into(), "last".into()), ("c".into(), "y".into())] as [(Bytes, Bytes); 2]);
}

pub(super) fn empty_batch(c: &mut Client<'_>) {
    let p = log();
    c.write(&p, Vec::new());
    assert_eq!(c.all(&p), []);
}

pub(super) fn later_write(c: &mut Client<'_>) {
    let p = log();
    let s = 9 << 32;
    let mut write = |stamp: u64, ops: Vec<Op>| {
        let ticket = c.commit_at(stamp, &p, ops);
        c.wait_for(ticket);
        c.all(&p).first().map(|(_, v)| v.clone())
    };
    assert_eq!(write(s + 5, vec![put(b"k", b"five")]).as_deref(), Some(&b"five"[..]));
    let lower = write(s + 4, vec![put(b"k", b"four")]);
    let deleted = write(s + 3, vec![delete(b"k")]);
    let newest = write(s + 7, vec![put(b"k", b"seven")]);
    assert_eq!(newest.as_deref(), Some(&b"seven"[..]));
    assert_eq!(write(s + 8, vec![delete(b"k")]), None);
    let buried = write(s + 6, vec![put(b"k", b"six")]);
    if c.journal() {
        assert_eq!(lower.as_deref(), Some(&b"four"[..]), "the order decides, not the stamp");
        assert_eq!(deleted, None);
        assert_eq!(buried.as_deref(), Some(&b"six"[..]));
    } else {
        assert_eq!(lower.as_deref(), Some(&b"five"[..]), "a lower stamp loses");
        assert_eq!(deleted.as_deref(), Some(&b"five"[..]), "an older delete loses");
        assert_eq!(buried, None, "a put older than the tombstone loses");
    }
}

pub(super) fn deletes(c: &mut Client<'_>) {
    let p = abc(c);
    c.write(&p, vec![delete(b"b"), delete(b"nothing"), delete(b"d")]);
    let page = c.read(Ticket::NONE, read(&p, b"", None, 2, false));
    assert_eq!(keys(&page.rows), [b"a", b"c"]);
    assert!(!page.more, "a deleted cell is not one more");
    c.write(&p, vec![put(b"b", b"again")]);
    assert_eq!(c.all(&p).len(), 3);
    c.write(&p, vec![delete(b"a"), delete(b"b"), delete(b"c")]);
    assert_eq!(c.all(&p), []);
}

pub(super) fn read_after_ticket(c: &mut Client<'_>) {
    let p = log();
    let mut asked = Vec::new();
    for n in 0..100u64 {
        let ticket = c.commit(&p, vec![put(b"k", &n.to_be_bytes())]);
        asked.push((n, c.ask(ticket, Read::one(p.clone(), Bytes::from_static(b"k")))));
    }
    for (n, id) in asked {
        match c.answer(id) {
            Ok(page) => {
                let seen = page.rows.first().map(|r| u64::from_be_bytes(r.value[..].try_into().expect("eight bytes")));
                assert!(seen.is_some_and(|seen| seen >= n), "a read after the ticket of {n} saw {seen:?}");
            }
            Err(e) => assert!(!c.journal(), "{e}"),
        }
    }
}

pub(super) fn atomicity(c: &mut Client<'_>) {
    let p = log();
    let mut asked = Vec::new();
    for n in 0..200u64 {
        c.commit(&p, (0..8u8).map(|k| put(&[k], &n.to_be_bytes())).collect());
        asked.push(c.ask(Ticket::NONE, Read::all(p.clone())));
        if n % 20 == 0 {
            let mut turns = 0;
            c.wait(&mut || {
                turns += 1;
                turns > 3
            });
        }
    }
    for id in asked {
        let Ok(page) = c.answer(id) else { continue };
        let values: BTreeSet<_> = page.rows.iter().map(|r| r.value.clone()).collect();
        assert!(page.rows.is_empty() || (page.rows.len() == 8 && values.len() == 1), "torn: {:?}", page.rows);
    }
}

pub(super) fn big_values(c: &mut Client<'_>) {
    let p = log();
    // Not compressible, and not the same all over.
    let mut rng = SmallRng::seed_from_u64(1);
    let mut big = vec![0u8; types::limit::CELL_VALUE_BYTES_MAX];
    rng.fill(&mut big[..]);
    let ticket = c.write(&p, vec![put(b"big", &big), put(b"none", b"")]);
    for n in 0..20u8 {
        c.commit(&p, vec![put(&[n], &big[usize::from(n) * 1000..][..200_000])]);
    }
    let last = c.write(&p, Vec::new());
    let page = c.read(ticket.max(last), Read::one(p.clone(), Bytes::from_static(b"big")));
    assert!(page.rows[0].value[..] == big[..], "the big value came back changed");
    let none = c.read(Ticket::NONE, Read::one(p.clone(), Bytes::from_static(b"none")));
    assert_eq!(none.rows[0].value.len(), 0);
    if c.journal() {
        let page = c.read(Ticket::NONE, read(&p, b"", Some(b"\x14"), 100, false));
        assert_eq!(page.rows.len(), 20);
        assert!(page.rows.iter().enumerate().all(|(n, r)| r.value[..] == big[n * 1000..][..200_000]));
    }
}

pub(super) fn many_partitions(c: &mut Client<'_>) {
    let of = |n: u32| partition(Collection::Account, format!("user{n}@example.org").as_bytes());
    let tickets: Vec<_> = (0..1_000).map(|n| c.commit(&of(n), vec![put(b"n", &n.to_be_bytes())])).collect();
    for ticket in &tickets {
        if !c.journal() || Some(ticket) == tickets.last() {
            c.wait_for(*ticket);
        }
    }
    for n in (0..1_000).step_by(37) {
        assert_eq!(c.all(&of(n)), [(Bytes::from_static(b"n"), Bytes::copy_from_slice(&n.to_be_bytes()))]);
    }
    assert_eq!(c.all(&of(1_000)), []);
}

pub(super) fn partitions_apart(c: &mut Client<'_>) {
    // Keys that would run into each other if partition and cell were only joined.
    let cells: [(&[u8], &[u8]); 8] =
        [(b"", b"ab"), (b"a", b"b"), (b"a", b""), (b"ab", b""), (b"a\0", b"b"), (b"a", b"\0b"), (b"\xff", b"\xff"), (b"\xff\xff", b"")];
    for collection in Collection::ALL {
        if collection == Collection::Epoch {
            continue; // epochs are the store's own
        }
        for (key, cell) in cells {
            let value = [&[collection as u8], key, b"|", cell].concat();
            c.write(&partition(collection, key), vec![put(cell, &value)]);
        }
    }
    for collection in Collection::ALL.into_iter().filter(|c| *c != Collection::Epoch) {
        let mut expected: BTreeMap<&[u8], BTreeMap<&[u8], Vec<u8>>> = BTreeMap::new();
        for (key, cell) in cells {
            expected.entry(key).or_default().insert(cell, [&[collection as u8], key, b"|", cell].concat());
        }
        for (key, row) in expected {
            for reverse in [false, true] {
                let mut seen = pairs(c.read(Ticket::NONE, Read { reverse, ..Read::all(partition(collection, key)) }));
                if reverse {
                    seen.reverse();
                }
                let want: Vec<(Bytes, Bytes)> = row.iter().map(|(k, v)| (Bytes::copy_from_slice(k), v.clone().into())).collect();
                assert_eq!(seen, want, "{collection:?} {key:?} reverse {reverse}");
            }
        }
    }
}

pub(super) fn epochs(c: &mut Client<'_>) {
    assert_eq!(c.raise(7, Some(1), 2), Err(None), "it was never raised");
    assert_eq!(c.raise(7, None, 1), Ok(1));
    assert_eq!(c.raise(7, None, 2), Err(Some(1)));
    assert_eq!(c.raise(7, Some(1), 5), Ok(5));
    assert_eq!(c.raise(7, Some(1), 5), Ok(5), "a repeat of what was done");
    assert_eq!(c.raise(7, Some(1), 6), Err(Some(5)));
    assert_eq!(c.raise(7, Some(5), 4), Err(Some(5)), "never down");
    assert_eq!(c.raise(8, None, 3), Ok(3), "each shard by itself");
    assert_eq!(c.raise(7, Some(5), 6), Ok(6));
}

pub(super) fn tickets(c: &mut Client<'_>) {
    let (other, _) = c.other_plane();
    let mut seen = Vec::new();
    for n in 0..100u64 {
        seen.push(c.commit(&log(), vec![put(b"mine", &n.to_be_bytes())]));
        let batch = Batch { partition: log(), ops: vec![put(b"theirs", &n.to_be_bytes())].into() };
        seen.push(c.store().commit(other, (2 << 32) + n, batch));
    }
    assert!(seen.iter().all(|t| *t > Ticket::NONE));
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "a ticket was given twice");
    if c.journal() {
        assert!(seen.is_sorted(), "tickets rise in the order of calls, over all planes");
    }
}

pub(super) fn answered(c: &mut Client<'_>) {
    let (other, theirs) = c.other_plane();
    let mine: Vec<_> = (0..50u8).map(|n| c.commit(&log(), vec![put(&[n], b"x")])).collect();
    let batch = Batch { partition: log(), ops: vec![put(b"theirs", b"x")].into() };
    let last = c.store().commit(other, 5 << 32, batch);
    if c.journal() {
        c.wait_for(last);
        let heard_there = theirs.clone();
        c.wait(&mut || lock(&heard_there).contains(&Completion::Durable(last)));
        for heard in [c.heard(), lock(&theirs)] {
            let durable: Vec<_> = heard.into_iter().map(|h| if let Completion::Durable(t) = h { t } else { panic!("{h:?}") }).collect();
            assert!(durable.is_sorted() && durable.windows(2).all(|w| w[0] < w[1]), "{durable:?}");
            assert_eq!(durable.last(), Some(&last), "nothing beyond what was committed");
        }
    } else {
        for ticket in &mine {
            c.wait_for(*ticket);
        }
        let heard_there = theirs.clone();
        c.wait(&mut || lock(&heard_there).contains(&Completion::Committed(last)));
        let committed: Vec<_> =
            c.heard().into_iter().filter_map(|h| if let Completion::Committed(t) = h { Some(t) } else { None }).collect();
        assert_eq!(committed.len(), mine.len(), "each once, and none of another plane");
        assert_eq!(committed.into_iter().collect::<BTreeSet<_>>(), mine.into_iter().collect());
    }
}

pub(super) fn two_planes(c: &mut Client<'_>) {
    let p = abc(c);
    let (other, theirs) = c.other_plane();
    c.store().read(other, 77, Ticket::NONE, Read::all(p.clone()));
    let mine = c.ask(Ticket::NONE, read(&p, b"", None, 1, false));
    c.wait(&mut || lock(&theirs).iter().any(|h| matches!(h, Completion::Read { .. })));
    let page = c.answer(mine);
    assert!(page.is_err() || page.is_ok_and(|p| p.rows.len() == 1));
    let heard: Vec<u64> = c.heard().iter().filter_map(|h| if let Completion::Read { id, .. } = h { Some(*id) } else { None }).collect();
    assert!(!heard.contains(&77), "an answer for another plane");
}

pub(super) fn paging(c: &mut Client<'_>) {
    let p = log();
    let rows: Vec<(Bytes, Bytes)> =
        (0..57u64).map(|n| (Bytes::copy_from_slice(&n.to_be_bytes()), Bytes::from(format!("row {n}")))).collect();
    c.write(&p, rows.iter().map(|(k, v)| put(k, v)).collect());
    for reverse in [false, true] {
        let mut seen = Vec::new();
        let (mut from, mut to) = (Bytes::new(), None);
        loop {
            let page = c.read(Ticket::NONE, Read { partition: p.clone(), from: from.clone(), to: to.clone(), limit: 10, reverse });
            let more = page.more;
            seen.extend(pairs(page));
            let Some((last, _)) = seen.last() else { break };
            if reverse {
                to = Some(last.clone());
            } else {
                from = [&last[..], b"\0"].concat().into();
            }
            if !more {
                break;
            }
        }
        if reverse {
            seen.reverse();
        }
        assert_eq!(seen, rows, "reverse {reverse}");
    }
}

pub(super) fn random(c: &mut Client<'_>) {
    let mut rng = SmallRng::seed_from_u64(42);
    let mut model: BTreeMap<u8, BTreeMap<Bytes, Bytes>> = BTreeMap::new();
    let key = |rng: &mut SmallRng| -> Bytes {
        let len = rng.random_range(0..3usize);
        (0..len).map(|_| [0, b'a', b'b', 255][rng.random_range(0..4usize)]).collect::<Vec<u8>>().into()
    };
    for round in 0..300u32 {
        let of = rng.random_range(0..4u8);
        let p = partition(Collection::Account, &[of]);
        let mut ops = Vec::new();
        for _ in 0..rng.random_range(1..6) {
            let (row, key) = (model.entry(of).or_default(), key(&mut rng));
            if rng.random_bool(0.3) {
                row.remove(&key);
                ops.push(Op::Delete { key });
            } else {
                let value = Bytes::from(format!("{round}"));
                row.insert(key.clone(), value.clone());
                ops.push(Op::Put { key, value });
            }
        }
        let ticket = c.commit(&p, ops);
        if rng.random_bool(0.5) {
            let (from, to) = (key(&mut rng), rng.random_bool(0.5).then(|| key(&mut rng)));
            let (limit, reverse) = (rng.random_range(0..8), rng.random_bool(0.5));
            let read = Read { partition: p.clone(), from, to, limit, reverse };
            c.wait_for(ticket);
            let page = c.read(ticket, read.clone());
            let mut want: Vec<_> = model[&of].iter().filter(|(k, _)| read.contains(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
            if reverse {
                want.reverse();
            }
            let more = want.len() > limit;
            want.truncate(limit);
            assert_eq!((page.more, pairs(page)), (more, want), "round {round}: {read:?}");
        } else if !c.journal() {
            c.wait_for(ticket);
        }
    }
}

pub(super) fn reopened(c: &mut Client<'_>) {
    let p = abc(c);
    c.write(&p, vec![delete(b"b"), put(b"e", b"5")]);
    assert_eq!(c.raise(3, None, 4), Ok(4));
    let before = c.all(&p);
    for round in 0..3u8 {
        if !c.reopen() {
            return;
        }
        assert_eq!(c.all(&p).len(), before.len() + usize::from(round));
        assert_eq!(c.all(&p)[..before.len()], before);
        c.write(&p, vec![put(&[b'x', round], b"more")]);
    }
    assert_eq!(c.raise(3, None, 1), Err(Some(4)), "the epoch was kept");
}
