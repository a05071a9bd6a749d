//! One row of an entity's log, and where it lies.

use crate::codec::{Corrupt, Reader, Writer};
use bytes::Bytes;
use frame::{Pos, SharedStanza};
use smallvec::SmallVec;
use stanza::Stanza;
use std::sync::Arc;
use types::limit::BUCKET_ROWS_MAX;
use types::{BareJid, Collection, Epoch, Jid, Origin, Partition, SessionId, Timestamp};

/// To whom a row is owed: sessions of the account, or [`OFFLINE`].
pub type Owed = SmallVec<[SessionId; 2]>;

/// Owed to whichever session comes next (XEP-0160).
pub const OFFLINE: SessionId = SessionId::ACCOUNT;

/// A message, written once per account (`ARCHITECTURE.md`, One log).
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// When the account took it; never runs backwards within a log.
    pub at: Timestamp,
    /// Who sent it: the forward's sender, or the account itself.
    pub sender: BareJid,
    /// The forward's name (an own message: its name as a forward to come).
    pub origin: Origin,
    /// The next hop, if this row is in the outbox until that hop confirms.
    pub target: Option<Jid>,
    /// Part of the archive.
    pub archived: bool,
    /// To whom it is owed when written.
    pub owed: Owed,
    /// The message, with `from` and `to`.
    pub stanza: SharedStanza,
}

const VERSION: u8 = 1;
const ARCHIVED: u8 = 1;
const OUTBOX: u8 = 2;
/// Bytes of a row's flags, time, origin, counts and lengths, at most about; of a session that it is owed to.
const NUMBERS: usize = 48;
const SESSION: usize = 10;

impl Row {
    /// The cell's value.
    pub fn encode(&self) -> Bytes {
        let names = self.sender.as_str().len() + self.target.as_ref().map_or(0, |t| t.as_str().len());
        let mut w = Writer::with_room(VERSION, self.stanza.encoded_len_hint() + names + NUMBERS + self.owed.len() * SESSION);
        let flags = u8::from(self.archived) * ARCHIVED + u8::from(self.target.is_some()) * OUTBOX;
        w.u8(flags).u64(self.at.0).str(self.sender.as_str()).origin(self.origin);
        if let Some(target) = &self.target {
            w.str(target.as_str());
        }
        w.u64(self.owed.len() as u64);
        for s in &self.owed {
            w.session(*s);
        }
        w.appended(|out| self.stanza.write(out));
        w.finish()
    }

    /// Reverses [`Row::encode`].
    pub fn decode(value: Bytes) -> Result<Row, Corrupt> {
        let mut r = Reader::new(value, VERSION)?;
        let flags = r.u8()?;
        let at = Timestamp(r.u64()?);
        let sender = r.bare_jid()?;
        let origin = r.origin()?;
        let target = if flags & OUTBOX != 0 { Some(r.jid()?) } else { None };
        let mut owed = Owed::new();
        for _ in 0..r.count()? {
            owed.push(r.session()?);
        }
        let stanza = decode_stanza(r.bytes()?)?;
        r.end()?;
        Ok(Row { at, sender, origin, target, archived: flags & ARCHIVED != 0, owed, stanza })
    }
}

/// A row as its archive passes it on: the message stays as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// See [`Row::at`].
    pub at: Timestamp,
    /// See [`Row::archived`].
    pub archived: bool,
    /// What [`Stanza::write`] wrote.
    pub message: Bytes,
}

impl Kept {
    /// What [`Row::encode`] wrote; neither addresses nor the message are read, which is most of what [`Row::decode`] costs.
    pub fn decode(value: Bytes) -> Result<Kept, Corrupt> {
        let mut r = Reader::new(value, VERSION)?;
        let flags = r.u8()?;
        let at = Timestamp(r.u64()?);
        let _sender = r.bytes()?;
        r.origin()?;
        if flags & OUTBOX != 0 {
            r.bytes()?;
        }
        for _ in 0..r.count()? {
            r.session()?;
        }
        let message = r.bytes()?;
        r.end()?;
        Ok(Kept { at, archived: flags & ARCHIVED != 0, message })
    }

    /// The message, read.
    pub fn stanza(&self) -> Result<Stanza, Corrupt> {
        Stanza::decode(self.message.clone()).map_err(|_| Corrupt("stanza"))
    }
}

/// A stanza that this server wrote.
pub fn decode_stanza(bytes: Bytes) -> Result<SharedStanza, Corrupt> {
    Stanza::decode(bytes).map(Arc::new).map_err(|_| Corrupt("stanza"))
}

/// The partition of the bucket that holds `row`.
pub fn bucket(account: &BareJid, row: u64) -> Partition {
    let number = row / BUCKET_ROWS_MAX;
    let mut key = Vec::with_capacity(account.as_str().len() + 9);
    key.extend_from_slice(account.as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(&number.to_be_bytes());
    Partition { collection: Collection::Log, key: key.into() }
}

/// The partition of the log's seal: behind every bucket.
pub fn seal(account: &BareJid) -> Partition {
    let mut key = account.as_str().as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(&u64::MAX.to_be_bytes());
    Partition { collection: Collection::Log, key: key.into() }
}

/// The cell's key: row, then epoch, so that rows of a stale owner never overwrite.
pub fn cell_key(pos: Pos) -> Bytes {
    let mut key = [0u8; 12];
    key[..8].copy_from_slice(&pos.row.to_be_bytes());
    key[8..].copy_from_slice(&pos.epoch.0.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// Reverses [`cell_key`].
pub fn parse_key(key: &[u8]) -> Result<Pos, Corrupt> {
    let (row, epoch) = key.split_first_chunk::<8>().ok_or(Corrupt("row key"))?;
    let epoch: [u8; 4] = epoch.try_into().map_err(|_| Corrupt("row key"))?;
    Ok(Pos { row: u64::from_be_bytes(*row), epoch: Epoch(u32::from_be_bytes(epoch)) })
}

/// The id that a row has in the archive (XEP-0313) and as `stanza-id` (XEP-0359): grows with the row, under any clock.
pub fn archive_id(row: u64) -> String {
    format!("{row:012x}")
}

/// Reverses [`archive_id`]: a row has one id, so more zeros in front make none.
pub fn parse_archive_id(id: &str) -> Option<u64> {
    let ok = matches!(id.len(), 12..=16) && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let row = ok.then(|| u64::from_str_radix(id, 16).ok())??;
    (id.len() == 12 || row >> 48 != 0 && !id.starts_with('0')).then_some(row)
}
