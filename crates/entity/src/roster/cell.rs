//! A roster's cells in the account's partition: one for each contact, one for the version.

use super::Item;
use crate::codec::{Corrupt, Reader, Writer};
use crate::subscription::State;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use types::BareJid;

/// A contact's cell is `r/` and the bare JID.
pub(super) const ITEM_PREFIX: &[u8] = b"r/";
/// The cell of version and floor.
pub(super) const VERSION_KEY: &[u8] = b"rv";

const FORMAT: u8 = 1;

/// Bits of an item's second byte.
const LISTED: u8 = 1;
const APPROVED: u8 = 2;
const REQUEST: u8 = 4;

pub(super) fn item_key(jid: &BareJid) -> Bytes {
    [ITEM_PREFIX, jid.as_str().as_bytes()].concat().into()
}

/// Format, flags, state, version of the last change; if listed, name and groups; if there is one, the request.
pub(super) fn encode_item(item: &Item) -> Bytes {
    let mut cell = Writer::new(FORMAT);
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    let flags = flag(item.listed, LISTED) | flag(item.approved, APPROVED) | flag(item.request.is_some(), REQUEST);
    cell.u8(flags).u8(item.state as u8).u64(item.changed);
    if item.listed {
        cell.str(&item.name).u64(item.groups.len() as u64);
        for group in &item.groups {
            cell.str(group);
        }
    }
    if let Some(request) = &item.request {
        cell.bytes(request);
    }
    cell.finish()
}

/// `groups` are those met so far, so that items share them.
pub(super) fn decode_item(key: &[u8], value: Bytes, groups: &mut BTreeSet<Arc<str>>) -> Result<Item, Corrupt> {
    let text = key.strip_prefix(ITEM_PREFIX).and_then(|k| std::str::from_utf8(k).ok()).ok_or(Corrupt("roster key"))?;
    let jid = BareJid::parse(text).ok().filter(|jid| jid.as_str() == text).ok_or(Corrupt("roster key"))?;
    let mut item = Item::new(jid);
    let mut cell = Reader::new(value, FORMAT)?;
    let flags = cell.u8()?;
    if flags & !(LISTED | APPROVED | REQUEST) != 0 {
        return Err(Corrupt("roster flags"));
    }
    item.listed = flags & LISTED != 0;
    item.approved = flags & APPROVED != 0;
    item.state = State::from_number(cell.u8()?).ok_or(Corrupt("roster state"))?;
    item.changed = cell.u64()?;
    if item.listed {
        item.name = cell.string()?.into();
        for _ in 0..cell.count()? {
            let group = cell.string()?;
            let shared = groups.get(group.as_str()).cloned().unwrap_or_else(|| group.into());
            groups.insert(Arc::clone(&shared));
            item.groups.push(shared);
        }
    }
    if flags & REQUEST != 0 {
        // A copy, so that a small request does not hold on to the whole scan's memory.
        item.request = Some(Box::new(Bytes::copy_from_slice(&cell.bytes()?)));
    }
    cell.end()?;
    check(&item)?;
    Ok(item)
}

/// What the code never writes was not written by it: a state that grants something must not come from a flipped bit.
fn check(item: &Item) -> Result<(), Corrupt> {
    let unlisted_state = matches!(item.state, State::None | State::NonePendingIn);
    if !item.listed && (!unlisted_state || item.is_void()) {
        return Err(Corrupt("roster item is not listed"));
    }
    if item.listed && item.changed == 0 {
        return Err(Corrupt("roster item has no version"));
    }
    if item.approved && !(item.listed && item.state.can_pre_approve()) {
        return Err(Corrupt("roster approval"));
    }
    if item.request.is_some() != item.state.is_pending_in() {
        return Err(Corrupt("roster request"));
    }
    Ok(())
}

pub(super) fn encode_version(version: u64, floor: u64) -> Bytes {
    Writer::new(FORMAT).u64(version).u64(floor).finish()
}

pub(super) fn decode_version(value: Bytes) -> Result<(u64, u64), Corrupt> {
    let mut cell = Reader::new(value, FORMAT)?;
    let (version, floor) = (cell.u64()?, cell.u64()?);
    cell.end()?;
    // Far from where it could overflow.
    if floor > version || version > u64::MAX / 2 { Err(Corrupt("roster version")) } else { Ok((version, floor)) }
}
