//! Good and bad histories: what the checker passes, and that it sees each kind of fault, and only that.

use super::*;

pub(super) const J: &str = "juliet@x";
pub(super) const R: &str = "romeo@x";

pub(super) fn s(text: &str) -> String {
    text.to_owned()
}

pub(super) fn sent_in(session: u32, id: &str) -> Event {
    Event::Sent { client: s(J), session, to: s(R), address: s(R), id: s(id), body: format!("b{id}") }
}

fn sent(id: &str) -> Event {
    sent_in(1, id)
}

pub(super) fn acked(id: &str) -> Event {
    Event::Acked { client: s(J), id: s(id), by: AckBy::A }
}

fn received(session: u32, via: Via, id: &str) -> Event {
    Event::Received { client: s(R), session, via, from: s(J), id: s(id), body: format!("b{id}"), stanza_id: Some(format!("romeo-{id}")) }
}

fn live(id: &str) -> Event {
    received(1, Via::Stream, id)
}

pub(super) fn row(owner: &str, id: &str) -> Event {
    let name = owner.split('@').next().unwrap();
    Event::Archived { owner: s(owner), row: format!("{name}-{id}"), from: s(J), to: s(R), id: s(id), body: format!("b{id}") }
}

fn read(owner: &str) -> Event {
    Event::ArchiveRead { owner: s(owner) }
}

/// Three messages, as they should go.
fn good() -> Vec<Event> {
    let mut events = vec![Event::Bound { client: s(J), session: 1 }, Event::Bound { client: s(R), session: 1 }];
    for id in ["1", "2", "3"] {
        events.extend([sent(id), live(id), acked(id)]);
    }
    for owner in [J, R] {
        events.extend(["1", "2", "3"].map(|id| row(owner, id)));
        events.push(read(owner));
    }
    events
}

/// The good history without what matches.
fn without(unwanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    good().into_iter().filter(|e| !unwanted(e)).collect()
}

/// The good history with more, put before the archives.
fn with(more: Vec<Event>) -> Vec<Event> {
    let mut events = good();
    let at = events.iter().position(|e| matches!(e, Event::Archived { .. })).unwrap();
    events.splice(at..at, more);
    events
}

/// Exactly these rules are broken, each so often.
#[track_caller]
fn broken(events: &[Event], expected: &[(Rule, usize)]) {
    let verdict = check(events);
    let mut counts: Vec<(Rule, usize)> = Rule::ALL.into_iter().map(|r| (r, verdict.count(r))).filter(|(_, n)| *n > 0).collect();
    let mut expected = expected.to_vec();
    counts.sort();
    expected.sort();
    assert_eq!(counts, expected, "\n{}", verdict.table(9));
}

#[test]
fn good_histories_pass() {
    broken(&good(), &[]);
    let verdict = check(&good());
    assert_eq!((verdict.sent, verdict.acked, verdict.streamed, verdict.bound), (3, 3, 3, 2));
}

#[test]
fn a_crash_handled_well_passes() {
    // 4 is sent, covered by <failed h/>; 5 is not, and is sent again; the recipient gets 4 twice, but in two sessions, and 5 by catch-up.
    let failed = Event::ResumeFailed { client: s(J), session: 1, h: Some(4), left: 1 };
    let mut events = with(vec![
        sent("4"),
        sent("5"),
        live("4"),
        Event::Fault { n: 1, kind: s("kill") },
        failed,
        Event::Acked { client: s(J), id: s("4"), by: AckBy::Failed },
        Event::Bound { client: s(J), session: 2 },
        sent_in(2, "5"),
        Event::Acked { client: s(J), id: s("5"), by: AckBy::Resumed },
        received(2, Via::Stream, "4"),
        received(2, Via::Catchup, "5"),
        received(2, Via::Catchup, "4"),
    ]);
    for owner in [J, R] {
        let at = events.iter().position(|e| *e == read(owner)).unwrap();
        events.splice(at..at, [row(owner, "4"), row(owner, "5")]);
    }
    broken(&events, &[]);
    let verdict = check(&events);
    assert_eq!((verdict.sent, verdict.sent_again, verdict.resume_failed, verdict.only_catchup), (5, 1, 1, 1));
    assert_eq!(verdict.acked_by, [3, 1, 1]);
}

#[test]
fn an_acked_message_missing_in_the_recipients_archive() {
    broken(&without(|e| *e == row(R, "2")), &[(Rule::LostToRecipientArchive, 1)]);
}

#[test]
fn an_acked_message_missing_in_the_senders_archive() {
    broken(&without(|e| *e == row(J, "3")), &[(Rule::LostToSenderArchive, 1)]);
}

#[test]
fn an_acked_message_never_received() {
    broken(&without(|e| *e == live("1")), &[(Rule::NotReceived, 1)]);
}

#[test]
fn an_acked_message_lost_everywhere() {
    let events = without(|e| [live("3"), row(J, "3"), row(R, "3")].contains(e));
    broken(&events, &[(Rule::NotReceived, 1), (Rule::LostToRecipientArchive, 1), (Rule::LostToSenderArchive, 1)]);
}

#[test]
fn a_message_twice_in_an_archive() {
    for owner in [J, R] {
        let mut events = good();
        let twin = Event::Archived { owner: s(owner), row: s("other"), from: s(J), to: s(R), id: s("2"), body: s("b2") };
        let at = events.iter().position(|e| *e == row(owner, "2")).unwrap();
        events.insert(at + 1, twin);
        broken(&events, &[(Rule::TwiceInArchive, 1)]);
    }
}

#[test]
fn a_message_twice_in_a_session() {
    broken(&with(vec![live("3")]), &[(Rule::TwiceInSession, 1)]);
    // After a resumption it is the same session.
    broken(&with(vec![Event::Resumed { client: s(R), session: 1, resent: 0 }, live("1")]), &[(Rule::TwiceInSession, 1)]);
    // In another one it is not.
    broken(&with(vec![received(2, Via::Stream, "3")]), &[]);
}

#[test]
fn an_archive_out_of_order() {
    let mut events = good();
    let at = events.iter().position(|e| *e == row(R, "1")).unwrap();
    events.swap(at, at + 1);
    broken(&events, &[(Rule::ArchiveOrder, 1)]);
}

#[test]
fn a_session_out_of_order() {
    let mut events = without(|e| *e == live("1"));
    let at = events.iter().position(|e| *e == live("2")).unwrap();
    events.insert(at + 1, live("1"));
    broken(&events, &[(Rule::SessionOrder, 1)]);
}

#[test]
fn order_in_a_session_is_to_one_address() {
    // 2 went to the full JID and overtakes 1, which waited for presence; the archive has them in order.
    let mut events: Vec<Event> = without(|e| *e == live("1"))
        .into_iter()
        .map(|e| match e {
            Event::Sent { client, session, to, id, body, .. } if id == "2" => {
                Event::Sent { client, session, to, address: s("romeo@x/orchard"), id, body }
            }
            e => e,
        })
        .collect();
    let at = events.iter().position(|e| *e == live("2")).unwrap();
    events.insert(at + 1, live("1"));
    broken(&events, &[]);
}

#[test]
fn a_message_nobody_sent() {
    broken(&with(vec![live("9")]), &[(Rule::Altered, 1)]);
}

#[test]
fn a_message_with_another_text() {
    let events: Vec<Event> = good()
        .into_iter()
        .map(|e| match e {
            Event::Archived { owner, row, from, to, id, .. } if owner == R && id == "2" => {
                Event::Archived { owner, row, from, to, id, body: s("b1") }
            }
            e => e,
        })
        .collect();
    broken(&events, &[(Rule::Altered, 1)]);
}

#[test]
fn a_message_from_another_sender() {
    let event =
        Event::Received { client: s(R), session: 2, via: Via::Stream, from: s("paris@x"), id: s("1"), body: s("b1"), stanza_id: None };
    broken(&with(vec![event]), &[(Rule::Altered, 1)]);
}

#[test]
fn a_message_in_a_strangers_archive() {
    let event = Event::Archived { owner: s("paris@x"), row: s("p"), from: s(J), to: s(R), id: s("1"), body: s("b1") };
    broken(&with(vec![event]), &[(Rule::Altered, 1)]);
}

#[test]
fn a_stanza_id_that_the_archive_does_not_know() {
    let event =
        Event::Received { client: s(R), session: 2, via: Via::Stream, from: s(J), id: s("1"), body: s("b1"), stanza_id: Some(s("zzz")) };
    broken(&with(vec![event]), &[(Rule::StanzaId, 1)]);
}

#[test]
fn a_bounce() {
    broken(&with(vec![Event::Bounced { client: s(J), id: s("1"), condition: s("internal-server-error") }]), &[(Rule::Bounced, 1)]);
}

#[test]
fn a_number_that_goes_back() {
    broken(&with(vec![Event::Broken { client: s(J), why: s("h=1 after h=2") }]), &[(Rule::Protocol, 1)]);
}

#[test]
fn an_acknowledgement_twice_or_of_nothing() {
    broken(&with(vec![acked("1")]), &[(Rule::Protocol, 1)]);
    broken(&with(vec![acked("7")]), &[(Rule::Protocol, 1)]);
}

#[test]
fn an_acknowledged_message_sent_again() {
    broken(&with(vec![sent_in(2, "1")]), &[(Rule::Protocol, 1)]);
}

#[test]
fn a_refusal_without_a_number() {
    let kill = Event::Fault { n: 1, kind: s("kill") };
    let refusal = |left| Event::ResumeFailed { client: s(J), session: 1, h: None, left };
    broken(&with(vec![kill.clone(), refusal(2)]), &[(Rule::FailedWithoutH, 1)]);
    broken(&with(vec![kill, refusal(0)]), &[]);
}

#[test]
fn a_refusal_without_a_crash() {
    let fault = |kind| Event::Fault { n: 1, kind: s(kind) };
    let refusal = Event::ResumeFailed { client: s(J), session: 1, h: Some(3), left: 0 };
    let resumed = Event::Resumed { client: s(J), session: 1, resent: 0 };
    broken(&with(vec![refusal.clone()]), &[(Rule::ResumeRefused, 1)]);
    broken(&with(vec![fault("term"), refusal.clone()]), &[(Rule::ResumeRefused, 1)]);
    broken(&with(vec![fault("kill"), refusal.clone()]), &[]);
    // A crash before a planned restart still excuses; a resumption between them ends the excuse.
    broken(&with(vec![fault("kill"), fault("term"), refusal.clone()]), &[]);
    let up = Event::Up { n: 1 };
    broken(&with(vec![fault("kill"), up.clone(), resumed.clone(), fault("term"), refusal.clone()]), &[(Rule::ResumeRefused, 1)]);
    // Told while the server was being killed: it may have been before.
    broken(&with(vec![fault("kill"), resumed, up, refusal]), &[]);
}

#[test]
fn a_message_never_acknowledged() {
    broken(&without(|e| *e == acked("2")), &[(Rule::NeverAcked, 1)]);
}

#[test]
fn an_archive_not_read() {
    broken(&without(|e| *e == read(J)), &[(Rule::NoEvidence, 1)]);
    // An archive that is empty says so, and everything acknowledged is lost to it.
    let events = without(|e| matches!(e, Event::Archived { owner, .. } if owner == R));
    broken(&events, &[(Rule::LostToRecipientArchive, 3)]);
}
