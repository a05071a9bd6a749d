//! What is on disk: keys and values of cells, the row that names a group, groups that are young. Version 2.
//!
//! A cell's key is `collection (1) ‖ length of the partition's key (2, big endian) ‖ partition's key ‖ cell's key`, so
//! partitions never run into each other and a partition is one range, ordered by the cell's key. Its value is
//! `1 ‖ crc32 (4) ‖ stamp (8) ‖ value`, numbers little endian; the checksum covers key, stamp and value.

use bytes::Bytes;
use store::{Cell, Page, Read, StoreError};
use types::{Collection, Partition, ShardId};

/// The format that this program writes, and the highest that it reads. 1 had no young groups.
pub const FORMAT: u32 = 2;
/// Bytes before the value itself.
pub const HEAD_BYTES: usize = 13;
/// Where the number of the newest group is. No collection is 0, so no cell is here.
pub const GROUP_KEY: &[u8] = b"\0g";
/// Where young groups are: this, and the group's number, big endian. No cell is here either.
pub const YOUNG_KEY: &[u8] = b"\0r";
/// The cell of an epoch within its partition.
pub const EPOCH_CELL: &[u8] = b"epoch";

/// Bytes that the keys of a partition and a cell can have together: fjall holds keys of 65,535 bytes.
pub const KEYS_BYTES_MAX: usize = 65_535 - 3;
/// Bytes that a value can have.
pub const VALUE_BYTES_MAX: usize = 1 << 30;

const VALUE_VERSION: u8 = 1;

/// The key of a cell, into `out`.
pub fn cell_key(partition: &Partition, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    prefix(partition, out);
    out.extend_from_slice(key);
}

/// A cell's key, split into the partition's part and the rest. None if it is not a cell's.
pub fn split(cell_key: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = u16::from_be_bytes([*cell_key.get(1)?, *cell_key.get(2)?]);
    cell_key.split_at_checked(3 + usize::from(len))
}

/// The key of a young group.
pub fn young_key(group: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(YOUNG_KEY);
    key[2..].copy_from_slice(&group.to_be_bytes());
    key
}

/// The group's number, if this is the key of a young one.
pub fn young_number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.strip_prefix(YOUNG_KEY)?.try_into().ok()?))
}

fn prefix(partition: &Partition, out: &mut Vec<u8>) {
    out.push(partition.collection as u8);
    // Bounded by `KEYS_BYTES_MAX`, which `journal::Queue` holds callers to.
    out.extend_from_slice(&(partition.key.len() as u16).to_be_bytes());
    out.extend_from_slice(&partition.key);
}

/// What comes before a value.
pub fn value_head(cell_key: &[u8], stamp: u64, value: &[u8]) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[0] = VALUE_VERSION;
    head[1..5].copy_from_slice(&checksum(cell_key, stamp, value).to_le_bytes());
    head[5..].copy_from_slice(&stamp.to_le_bytes());
    head
}

fn checksum(cell_key: &[u8], stamp: u64, value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(cell_key);
    crc.update(&stamp.to_le_bytes());
    crc.update(value);
    crc.finalize()
}

/// A cell from its key and what is stored there.
///
/// # Errors
/// What does not match.
pub fn decode(cell_key: &[u8], prefix_len: usize, stored: &[u8]) -> Result<Cell, &'static str> {
    let (head, value) = stored.split_at_checked(HEAD_BYTES).ok_or("shorter than its head")?;
    if head[0] != VALUE_VERSION {
        return Err("unknown version of a value");
    }
    let crc = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    let mut stamp = [0; 8];
    stamp.copy_from_slice(&head[5..]);
    let stamp = u64::from_le_bytes(stamp);
    if checksum(cell_key, stamp, value) != crc {
        return Err("checksum does not match");
    }
    let key = cell_key.get(prefix_len..).ok_or("key of another partition")?;
    Ok(Cell { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value), stamp })
}

/// The group's number as it is stored.
pub fn group_value(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

/// The group's number from what is stored.
pub fn group_number(stored: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(stored.try_into().ok()?))
}

/// Where the epoch of a shard is.
pub fn epoch_partition(shard: ShardId) -> Partition {
    Partition { collection: Collection::Epoch, key: Bytes::copy_from_slice(&shard.0.to_be_bytes()) }
}

/// The range of keys that a read covers: from inclusive, to exclusive, and the length of the partition's prefix.
/// None if it is empty.
pub fn bounds(read: &Read) -> Option<(Vec<u8>, Vec<u8>, usize)> {
    let mut from = Vec::with_capacity(3 + read.partition.key.len() + read.from.len());
    prefix(&read.partition, &mut from);
    let len = from.len();
    let mut to = from.clone();
    match &read.to {
        Some(end) => to.extend_from_slice(end),
        None => {
            // The end of the prefix: its first byte is a collection, so there is always a greater key.
            while to.last() == Some(&u8::MAX) {
                to.pop();
            }
            if let Some(last) = to.last_mut() {
                *last += 1;
            }
        }
    }
    from.extend_from_slice(&read.from);
    (from < to).then_some((from, to, len))
}

/// Read a page from cells that come in the order asked for.
///
/// # Errors
/// The first that the source reports, or a cell that does not match its checksum.
pub fn page<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    read: &Read,
    prefix_len: usize,
    mut cells: impl Iterator<Item = Result<(K, V), String>>,
) -> Result<Page, StoreError> {
    let corrupt = |what: String| StoreError::Corrupt { partition: format!("{:?}", read.partition), what };
    let mut rows = Vec::new();
    while rows.len() < read.limit {
        let Some(cell) = cells.next() else { return Ok(Page { rows, more: false }) };
        let (key, stored) = cell.map_err(corrupt)?;
        let cell = decode(key.as_ref(), prefix_len, stored.as_ref())
            .map_err(|what| corrupt(format!("{what}, key {}", key.as_ref().escape_ascii())))?;
        rows.push(cell);
    }
    Ok(Page { rows, more: cells.next().is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_survives_and_a_flipped_bit_does_not() {
        let p = Partition { collection: Collection::Log, key: Bytes::from_static(b"p\xff") };
        let mut key = Vec::new();
        cell_key(&p, b"k", &mut key);
        let mut stored = value_head(&key, 77, b"value").to_vec();
        stored.extend_from_slice(b"value");
        let cell = decode(&key, 5, &stored).unwrap();
        assert_eq!((&cell.key[..], &cell.value[..], cell.stamp), (&b"k"[..], &b"value"[..], 77));
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&key, 5, &bad).is_err(), "bit {bit}");
        }
        let mut moved = key.clone();
        *moved.last_mut().unwrap() = b'l';
        assert!(decode(&moved, 5, &stored).is_err(), "the checksum covers the key");
        assert!(decode(&key, 5, &stored[..5]).is_err());
    }
}
