//! Where shards are.

use arc_swap::{ArcSwap, Cache, Guard};
use std::sync::Arc;
use types::{Epoch, ShardId};

/// The shard that an address belongs to, of `shards` (at least 1) in all. Takes the bare JID in canonical form.
///
/// This is part of the on-disk format: it never changes, and neither does a cluster's number of shards. FNV-1a (64 bit)
/// over the bytes, then the finaliser of SplitMix64 (FNV alone is uneven in its low bits for short names that differ in
/// one digit), then the remainder.
pub fn shard_of(bare_jid: &str, shards: u16) -> ShardId {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bare_jid.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    // The remainder is below a u16, so nothing is cut.
    ShardId((hash % u64::from(shards.max(1))) as u16)
}

/// Who runs a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The core node's number.
    pub node: u16,
    /// The plane on that node.
    pub plane: u16,
    /// Its epoch.
    pub epoch: Epoch,
}

/// Every shard's owner at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    /// Indexed by shard; `None`: nobody owns it now.
    pub owners: Vec<Option<Owner>>,
}

impl ShardMap {
    /// All `shards` on one node, dealt to its `planes` in turn, with one epoch.
    pub fn on_one_node(node: u16, shards: u16, planes: u16, epoch: Epoch) -> ShardMap {
        let owners = (0..shards).map(|shard| Some(Owner { node, plane: shard % planes.max(1), epoch })).collect();
        ShardMap { owners }
    }

    /// How many shards the cluster has.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.owners.len()).unwrap_or(u16::MAX)
    }

    /// The owner of a shard.
    pub fn owner(&self, shard: ShardId) -> Option<Owner> {
        self.owners.get(usize::from(shard.0)).copied().flatten()
    }

    /// The shard of a bare JID, and its owner.
    pub fn locate(&self, bare_jid: &str) -> (ShardId, Option<Owner>) {
        let shard = shard_of(bare_jid, self.shards());
        (shard, self.owner(shard))
    }
}

/// The shard map that everybody reads; a new one replaces it whole. Reading takes no lock.
#[derive(Debug)]
pub struct Placement {
    map: Arc<ArcSwap<ShardMap>>,
    /// The same in every map.
    shards: u16,
}

impl Placement {
    /// Begin with this map. How many shards it has stays so for good.
    pub fn new(map: ShardMap) -> Placement {
        Placement { shards: map.shards(), map: Arc::new(ArcSwap::from_pointee(map)) }
    }

    /// The map as it is now.
    pub fn current(&self) -> Guard<Arc<ShardMap>> {
        self.map.load()
    }

    /// The shard of a bare JID, for which no map is looked at.
    pub fn shard_of(&self, bare_jid: &str) -> ShardId {
        shard_of(bare_jid, self.shards)
    }

    /// For whoever looks at every frame.
    pub fn reader(&self) -> PlacementReader {
        PlacementReader(Cache::new(self.map.clone()))
    }

    /// Replace the map. Returns the shards whose owner or epoch is another one now, so that connections can be told.
    ///
    /// Meant for one writer: the one that follows the placement group.
    pub fn replace(&self, map: ShardMap) -> Vec<ShardId> {
        debug_assert_eq!(map.shards(), self.shards, "a cluster keeps its shards");
        let old = self.map.swap(Arc::new(map));
        let new = self.map.load();
        (0..new.shards()).map(ShardId).filter(|&shard| new.owner(shard) != old.owner(shard)).collect()
    }
}

/// Holds on to the newest map that it saw, and sees at each look whether there is a newer one: cheaper than [`Placement::current`].
pub struct PlacementReader(Cache<Arc<ArcSwap<ShardMap>>, Arc<ShardMap>>);

impl PlacementReader {
    /// The map as it is now.
    pub fn current(&mut self) -> &ShardMap {
        self.0.load()
    }
}
