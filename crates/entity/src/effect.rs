//! What an entity asks its shard to do.

use bytes::Bytes;
use frame::{PeerMsg, ShardMsg};
use smallvec::smallvec;
use types::{BareJid, Batch, ConnId, Op, Partition};

/// Names a read that an entity asked for, until it is answered.
pub type ReadId = u64;

/// One wish. The shard carries them out in order; what speaks waits until the writes before it are durable.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Commit this batch.
    Write(Batch),
    /// Commit this batch, in its place. What this one connection hears does not wait for it; all else does.
    Later(ConnId, Batch),
    /// Tell a connection, when everything written so far is durable.
    Edge(ConnId, ShardMsg),
    /// Tell another entity. A [`PeerMsg::Forward`] leaves at once, with its ticket, where one journal orders both ends;
    /// everything else waits as [`Effect::Edge`] does.
    Peer(BareJid, PeerMsg),
    /// Scan a partition once everything written so far is durable; the answer comes as `Account::handle_read`.
    Read(ReadId, Scan),
    /// An obligation arises: mark the entity in the shard's `live` index, before anything that follows.
    Live,
    /// No obligation is left.
    NotLive,
}

/// An ordered scan of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Where.
    pub partition: Partition,
    /// First key, inclusive.
    pub from: Bytes,
    /// Last key, exclusive.
    pub to: Option<Bytes>,
    /// At most so many cells.
    pub limit: usize,
    /// From the end.
    pub reverse: bool,
}

/// The effects of one input, in order.
#[derive(Debug, Default)]
pub struct Effects {
    /// In order.
    pub list: Vec<Effect>,
}

impl Effects {
    /// Append.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Write one cell.
    pub fn put(&mut self, partition: &Partition, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.op(partition, Op::Put { key: key.into(), value: value.into() });
    }

    /// What was written since the list had `from` effects is written [later](Effect::Later).
    pub fn defer(&mut self, from: usize, conn: ConnId) {
        for effect in self.list.iter_mut().skip(from) {
            if let Effect::Write(batch) = effect {
                let empty = Batch { partition: batch.partition.clone(), ops: smallvec![] };
                *effect = Effect::Later(conn, std::mem::replace(batch, empty));
            }
        }
    }

    /// Remove one cell.
    pub fn delete(&mut self, partition: &Partition, key: impl Into<Bytes>) {
        self.op(partition, Op::Delete { key: key.into() });
    }

    /// Add to the batch of this input if the last effect is one for the same partition, else begin one.
    pub fn op(&mut self, partition: &Partition, op: Op) {
        if let Some(Effect::Write(batch)) = self.list.last_mut()
            && batch.partition == *partition
        {
            batch.ops.push(op);
            return;
        }
        self.list.push(Effect::Write(Batch { partition: partition.clone(), ops: smallvec![op] }));
    }
}
