//! XEP-0313: Message Archive Management, of accounts, with pages by XEP-0059 and preferences by XEP-0441.
//!
//! The archive is the account's log: a row that is archived is an item, its number is the item's id. `prefs` says what is
//! archived, `query` reads what is asked, `search` finds it, a bounded number of rows at a time.

mod prefs;
mod query;
mod search;
#[cfg(test)]
mod tests;

use crate::csi::is_chat_state_only;
use crate::{forward, hints, rsm};
use entity::module::{Action, Answer, At, Ctx, Flow, Hook, IqCtx, IqHandler, IqKind, Module, Phase, Point, Rows, Work, Xep};
use entity::row::archive_id;
use entity::session::{TAIL_BYTES_MAX, tail_stanzas_max};
use entity::state::State;
use prefs::Prefs;
use query::Query;
use search::{Found, Search};
use stanza::{Condition, IqType, Kind, MessageType, Stanza, StanzaError};
use std::any::Any;
use std::sync::Arc;
use types::{Jid, SessionId, ns};
use xml::Element;

/// See the file.
pub const MODULE: Module = Module {
    name: "mam",
    xeps: &[
        Xep { number: 313, version: "1.1.3", title: "Message Archive Management", test: "modules::mam::tests::both_sides_are_archived" },
        Xep { number: 59, version: "1.0", title: "Result Set Management", test: "modules::mam::tests::pages" },
        Xep { number: 441, version: "0.2.0", title: "Message Archive Management Preferences", test: "modules::mam::tests::preferences" },
    ],
    account_features: &[ns::MAM, ns::MAM_EXTENDED],
    hooks: &[
        Hook { point: Point::Outbound, phase: Phase::Store, run: sent },
        Hook { point: Point::Inbound, phase: Phase::Store, run: received },
    ],
    iqs: &[
        IqHandler { ns: ns::MAM, name: "query", kind: IqKind::Both, at: At::Account, run: query, resume: Some(resume_query) },
        IqHandler { ns: ns::MAM, name: "metadata", kind: IqKind::Get, at: At::Account, run: metadata, resume: Some(resume_metadata) },
        IqHandler { ns: ns::MAM, name: "prefs", kind: IqKind::Both, at: At::Account, run: prefs, resume: None },
    ],
    ..Module::EMPTY
};

/// §6.1.1, XEP-0441 §2.3.2
fn sent(ctx: &Ctx<'_>, state: &State, work: &mut Work) -> Flow {
    work.archive = keeps(ctx, state, work, work.stanza.to.as_ref());
    Flow::Continue
}

/// §6.1.1, XEP-0441 §2.3.3
fn received(ctx: &Ctx<'_>, state: &State, work: &mut Work) -> Flow {
    work.archive = keeps(ctx, state, work, work.stanza.from.as_ref());
    Flow::Continue
}

fn keeps(ctx: &Ctx<'_>, state: &State, work: &Work, peer: Option<&Jid>) -> bool {
    if work.passing || !is_conversation(&work.stanza) || hints::has(&work.stanza, "no-permanent-store") {
        return false;
    }
    let peer = peer.unwrap_or(state.jid.as_jid());
    Prefs::of(state, ctx.settings).keeps(peer, &state.roster)
}

/// All that a client needs to show a conversation again: not only bodies, but receipts, corrections, reactions, what is
/// encrypted; not chat states, which are over.
fn is_conversation(stanza: &Stanza) -> bool {
    let ordinary = matches!(stanza.message_type(), MessageType::Chat | MessageType::Normal);
    ordinary && (hints::has(stanza, "store") || !stanza.children.is_empty() && !is_chat_state_only(stanza))
}

/// Only the owner reads an archive (§8.1); the same for everything below.
fn owner(cx: &IqCtx<'_>) -> Result<SessionId, StanzaError> {
    cx.session.ok_or(StanzaError::new(Condition::Forbidden))
}

fn query(cx: &mut IqCtx<'_>, iq: &Stanza, payload: &Element) -> Answer {
    if let Err(error) = owner(cx) {
        return Answer::Error(error);
    }
    if iq.iq_type() == Some(IqType::Get) {
        return Answer::Result(Some(query::form()));
    }
    match Query::parse(payload) {
        Err(error) => Answer::Error(error),
        Ok(query) => go_on(cx, Search::new(query, &cx.state.jid, cx.state.log.last())),
    }
}

fn resume_query(cx: &mut IqCtx<'_>, _: &Stanza, data: Box<dyn Any + Send>, rows: Rows) -> Answer {
    let Ok(mut search) = data.downcast::<Search>() else {
        return Answer::Error(Condition::InternalServerError.into());
    };
    match search.take(rows) {
        Ok(()) => go_on(cx, *search),
        Err(error) => Answer::Error(error),
    }
}

fn go_on(cx: &mut IqCtx<'_>, mut search: Search) -> Answer {
    match search.next_scan() {
        Err(error) => Answer::Error(error),
        Ok(Some(scan)) => Answer::Read(scan, Box::new(search)),
        Ok(None) => match owner(cx) {
            Ok(session) => give(cx, session, search),
            Err(error) => Answer::Error(error),
        },
    }
}

/// The page as messages, then `<fin/>` (§4.2, §4.3).
fn give(cx: &mut IqCtx<'_>, session: SessionId, search: Search) -> Answer {
    let (items_max, bytes_max) = room(cx.state, session);
    let mut found = search.finish();
    found.limit(items_max, bytes_max);
    if found.items.is_empty() && found.limited && !found.counted_only {
        // The client must acknowledge what it has before it gets more.
        return Answer::Error(Condition::ResourceConstraint.into());
    }
    let fin = fin(&found);
    let (own, to) = (cx.state.jid.to_jid(), cx.from.clone());
    let result = |item: &search::Item| {
        let id = archive_id(item.row);
        let mut attrs = vec![("id", id.as_str())];
        attrs.extend(found.queryid.as_deref().map(|q| ("queryid", q)));
        let child = forward::wrapped("result", ns::MAM, &attrs, Some(item.at), &item.message);
        Stanza::new(Kind::Message, stanza::Type::Absent).with_from(own.clone()).with_to(to.clone()).with_child(child)
    };
    let mut results: Vec<Stanza> = found.items.iter().map(result).collect();
    if found.flip {
        results.reverse();
    }
    cx.actions.extend(results.into_iter().map(|r| Action::Send(session, Arc::new(r))));
    Answer::Result(Some(fin))
}

fn fin(found: &Found) -> Element {
    let ends = found.items.first().zip(found.items.last());
    let page =
        rsm::Page { ends: ends.map(|(first, last)| (archive_id(first.row), archive_id(last.row))), index: found.index, count: found.count };
    let complete = (!found.limited).then_some("true");
    Element::new("fin", ns::MAM).with_attr_opt("complete", complete).with_child(page.to_element())
}

/// Room in a session's tail that no query touches.
const TAIL_RESERVE: usize = 50;

/// What the session can take before it acknowledges: half of what its tail has room for, so that other messages find
/// theirs and no query ends a session.
fn room(state: &State, session: SessionId) -> (usize, usize) {
    let Some(s) = state.session(session).filter(|s| s.acknowledges()) else { return (usize::MAX, usize::MAX) };
    let stanzas = tail_stanzas_max().saturating_sub(s.tail.len());
    let bytes = TAIL_BYTES_MAX.saturating_sub(s.tail_bytes);
    // A page has one item at least, whatever its size.
    let some = stanzas > TAIL_RESERVE && bytes > search::PAGE_BYTES_MAX;
    if some { (stanzas / 2, bytes / 2) } else { (0, 0) }
}

/// §5: the first item and the last one.
struct Ends {
    search: Search,
    first: Option<search::Item>,
    has_first: bool,
}

fn metadata(cx: &mut IqCtx<'_>, _: &Stanza, _: &Element) -> Answer {
    if let Err(error) = owner(cx) {
        return Answer::Error(error);
    }
    let search = Search::end_of_archive(&cx.state.jid, cx.state.log.last(), false);
    ends(cx, Ends { search, first: None, has_first: false })
}

fn resume_metadata(cx: &mut IqCtx<'_>, _: &Stanza, data: Box<dyn Any + Send>, rows: Rows) -> Answer {
    let Ok(mut so_far) = data.downcast::<Ends>() else {
        return Answer::Error(Condition::InternalServerError.into());
    };
    match so_far.search.take(rows) {
        Ok(()) => ends(cx, *so_far),
        Err(error) => Answer::Error(error),
    }
}

fn ends(cx: &mut IqCtx<'_>, mut so_far: Ends) -> Answer {
    match so_far.search.next_scan() {
        Err(error) => return Answer::Error(error),
        Ok(Some(scan)) => return Answer::Read(scan, Box::new(so_far)),
        Ok(None) => {}
    }
    let last = cx.state.log.last();
    if !so_far.has_first {
        let search = std::mem::replace(&mut so_far.search, Search::end_of_archive(&cx.state.jid, last, true));
        so_far.first = search.finish().items.pop();
        so_far.has_first = true;
        if so_far.first.is_some() {
            return ends(cx, so_far);
        }
    }
    let end = |name, item: &search::Item| {
        Element::new(name, ns::MAM).with_attr("id", archive_id(item.row)).with_attr("timestamp", item.at.to_string())
    };
    let mut metadata = Element::new("metadata", ns::MAM);
    if let Some(first) = &so_far.first {
        let last = so_far.search.finish().items.pop();
        metadata = metadata.with_child(end("start", first)).with_child(end("end", last.as_ref().unwrap_or(first)));
    }
    Answer::Result(Some(metadata))
}

/// XEP-0441
fn prefs(cx: &mut IqCtx<'_>, iq: &Stanza, payload: &Element) -> Answer {
    if let Err(error) = owner(cx) {
        return Answer::Error(error);
    }
    if iq.iq_type() == Some(IqType::Get) {
        return Answer::Result(Some(Prefs::of(cx.state, cx.ctx.settings).to_element()));
    }
    if cx.ctx.low_space {
        return Answer::Error(Condition::ResourceConstraint.into());
    }
    match Prefs::parse(payload) {
        Err(error) => Answer::Error(error),
        Ok(prefs) => {
            prefs.put(cx);
            Answer::Result(Some(prefs.to_element()))
        }
    }
}
