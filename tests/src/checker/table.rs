//! Small histories as words: forty that pass and forty that do not, each with what it breaks.
//!
//! `s1` Juliet sends 1 to Romeo, `s1/2` in her session 2; `a1` it is acknowledged, `h1` by `<failed/>`, `m1` by `<resumed/>`;
//! `r1` it comes by Romeo's stream, `r1/2` in his session 2, `c1/2` by catch-up; `J1`, `R1` it is a row of her, his archive;
//! `J.`, `R.` that archive was read; `+J`, `+R` a resumption, `-3,1` hers is refused with h=3 and leaves 1, `-,1` without h;
//! `!kill` a fault, `up` its end, `=power:5` what it did; `b1` it bounces for want of space, `B1` for another reason; `x` a rule
//! of the protocol is broken.

use super::tests::{J, R, acked, row, s, sent_in};
use super::*;

fn event(word: &str) -> Vec<Event> {
    let (kind, rest) = word.split_at(1);
    let (id, session) = rest.split_once('/').map_or((rest, 1), |(id, n)| (id, n.parse().unwrap()));
    let received = |via| Event::Received {
        client: s(R),
        session,
        via,
        from: s(J),
        id: s(id),
        body: format!("b{id}"),
        stanza_id: Some(format!("romeo-{id}")),
    };
    let by = |by| Event::Acked { client: s(J), id: s(id), by };
    let bounced = |condition| Event::Bounced { client: s(J), id: s(id), condition: s(condition) };
    vec![match kind {
        "u" => Event::Up { n: 1 },
        "s" => sent_in(session, id),
        "a" => acked(id),
        "m" => by(AckBy::Resumed),
        "h" => by(AckBy::Failed),
        "r" => received(Via::Stream),
        "c" => received(Via::Catchup),
        "J" | "R" if rest == "." => Event::ArchiveRead { owner: s(if kind == "J" { J } else { R }) },
        "J" => row(J, rest),
        "R" => row(R, rest),
        "+" => Event::Resumed { client: s(if rest == "J" { J } else { R }), session: 1, resent: 0 },
        "-" => {
            let (h, left) = rest.split_once(',').unwrap();
            Event::ResumeFailed { client: s(J), session: 1, h: h.parse().ok(), left: left.parse().unwrap() }
        }
        "!" => Event::Fault { n: 1, kind: s(rest) },
        "=" => {
            let (fault, count) = rest.split_once(':').unwrap();
            Event::Acted { fault: s(fault), what: s("things"), count: count.parse().unwrap() }
        }
        "b" => bounced("resource-constraint"),
        "B" => bounced("internal-server-error"),
        "x" => Event::Broken { client: s(J), why: s("h=1 after h=2") },
        _ => panic!("{word}"),
    }]
}

/// The rules that a history breaks, each so often.
fn broken(history: &str) -> Vec<(Rule, usize)> {
    let events: Vec<Event> = history.split_whitespace().flat_map(event).collect();
    let verdict = check(&events);
    Rule::ALL.into_iter().map(|r| (r, verdict.count(r))).filter(|(_, n)| *n > 0).collect()
}

#[test]
fn good_histories_are_passed() {
    let good = [
        "",
        "s1 a1 r1 J1 R1 J. R.",
        "s1 r1 a1 J1 R1 J. R.",
        "s1 a1 r1 R. R1 J1 J.",
        "s1 s2 a1 a2 r1 r2 J1 J2 J. R1 R2 R.",
        "s1 s2 s3 r1 r2 r3 a1 a2 a3 J1 J2 J3 J. R1 R2 R3 R.",
        "s1 a1 c1/2 J1 R1 J. R.",
        "s1 a1 r1 c1/2 J1 R1 J. R.",
        "s1 a1 r1 r1/2 J1 R1 J. R.",
        "s1 a1 r1 r1/2 r1/3 c1/4 J1 R1 J. R.",
        "s1 +J m1 r1 J1 R1 J. R.",
        "s1 +R r1 a1 J1 R1 J. R.",
        "s1 +J +J +J m1 r1 J1 R1 J. R.",
        "s1 !kill -1,0 h1 up r1 J1 R1 J. R.",
        "s1 !kill up -0,1 s1/2 a1 r1 J1 R1 J. R.",
        "s1 s2 !kill up -1,1 h1 s2/2 a2 r1 r2 J1 J2 J. R1 R2 R.",
        "s1 s2 !kill up -1,1 h1 s2/2 a2 r1 r1/2 r2/2 J1 J2 J. R1 R2 R.",
        "s1 a1 !kill up -,0 r1 J1 R1 J. R.",
        "s1 a1 r1 !kill !kill -1,0 up -1,0 J1 R1 J. R.",
        "s1 a1 r1 !kill up !term up -1,0 J1 R1 J. R.",
        "s1 a1 r1 !kill +J up -1,0 J1 R1 J. R.",
        "s1 a1 r1 +J !kill up -1,0 +J J1 R1 J. R.",
        "s1 a1 r1 !term up +J +R J1 R1 J. R.",
        "s1 a1 r1 !stop up +J J1 R1 J. R.",
        "+J !stop up +J s1 a1 r1 J1 R1 J. R.",
        "s1 a1 r1 !power up -1,0 =power:9 J1 R1 J. R.",
        "s1 a1 r1 !power up -1,0 =power:0 =power:1 J1 R1 J. R.",
        "+J s1 !power up -0,1 s1/2 a1 r1 =power:9 J1 R1 J. R.",
        "s1 !full a1 b1 up =full:1 J. R.",
        "s1 !full b1 a1 up =full:1 s2 a2 r2 J2 J. R2 R.",
        "s1 !full a1 up b1 =full:1 J. R.",
        "!full s1 s2 up a1 a2 b2 r1 =full:3 J1 J. R1 R.",
        "!full s1 b1 a1 up !full s2 b2 a2 up =full:2 s3 a3 r3 J3 J. R3 R.",
        "+J !full up -0,0 =full:1 s1 a1 r1 J1 R1 J. R.",
        "s1 !slow a1 up r1 =slow:4 J1 R1 J. R.",
        "+J !slow up +J =slow:4 s1 a1 r1 J1 R1 J. R.",
        "+J !read-error up -0,0 =read-error:1 s1 a1 r1 J1 R1 J. R.",
        "+J s1 !sync-error up -0,1 =sync-error:1 s1/2 a1 r1 J1 R1 J. R.",
        "s1 !clock up a1 r1 =clock:7 J1 R1 J. R.",
        "s1 !clock up !clock up +J m1 r1 =clock:7 J1 R1 J. R.",
    ];
    assert_eq!(good.len(), 40);
    for history in good {
        assert_eq!(broken(history), [], "{history}");
    }
}

#[test]
fn bad_histories_are_flagged() {
    use Rule::*;
    let bad: [(&str, &[(Rule, usize)]); 40] = [
        ("s1 a1 r1 J1 J. R.", &[(LostToRecipientArchive, 1)]),
        ("s1 a1 r1 R1 J. R.", &[(LostToSenderArchive, 1)]),
        ("s1 a1 J1 R1 J. R.", &[(NotReceived, 1)]),
        ("s1 a1 J. R.", &[(LostToRecipientArchive, 1), (LostToSenderArchive, 1), (NotReceived, 1)]),
        ("s1 s2 a1 a2 r1 r2 J1 J2 J. R1 R.", &[(LostToRecipientArchive, 1)]),
        ("s1 s2 a1 a2 r1 r2 J1 J2 J. R2 R.", &[(LostToRecipientArchive, 1)]),
        ("s1 !kill -1,0 h1 up r1 J1 J. R.", &[(LostToRecipientArchive, 1)]),
        ("s1 !kill -1,0 h1 up J1 R1 J. R.", &[(NotReceived, 1)]),
        ("s1 +J m1 J1 R1 J. R.", &[(NotReceived, 1)]),
        ("s1 a1 r1 !power up =power:9 J. R.", &[(LostToRecipientArchive, 1), (LostToSenderArchive, 1)]),
        ("s1 a1 r1 J1 R1 R1 J. R.", &[(TwiceInArchive, 1)]),
        ("s1 a1 r1 J1 J1 R1 J. R.", &[(TwiceInArchive, 1)]),
        ("s1 a1 r1 J1 J1 J1 R1 R1 J. R.", &[(TwiceInArchive, 3)]),
        ("s1 !kill up -0,1 s1/2 a1 r1 J1 R1 R1 J. R.", &[(TwiceInArchive, 1)]),
        ("s1 a1 r1 r1 J1 R1 J. R.", &[(TwiceInSession, 1)]),
        ("s1 a1 r1 +R r1 J1 R1 J. R.", &[(TwiceInSession, 1)]),
        ("s1 a1 r1/2 r1/2 J1 R1 J. R.", &[(TwiceInSession, 1)]),
        ("s1 s2 a1 a2 r1 r2 J1 J2 J. R2 R1 R.", &[(ArchiveOrder, 1)]),
        ("s1 s2 a1 a2 r1 r2 J2 J1 J. R2 R1 R.", &[(ArchiveOrder, 2)]),
        ("s1 s2 s3 a1 a2 a3 r1 r2 r3 J1 J2 J3 J. R3 R1 R2 R.", &[(ArchiveOrder, 2)]),
        ("s1 s2 a1 a2 r2 r1 J1 J2 J. R1 R2 R.", &[(SessionOrder, 1)]),
        ("s1 s2 a1 a2 r2 +R r1 J1 J2 J. R1 R2 R.", &[(SessionOrder, 1)]),
        ("s1 a1 r1 r9 J1 R1 J. R.", &[(Altered, 1)]),
        ("s1 a1 r1 J1 R1 R9 J. R.", &[(Altered, 1)]),
        ("r1 s1 a1 J1 R1 J. R.", &[(Altered, 1)]),
        ("s1 a1 r1 B1 J1 R1 J. R.", &[(Bounced, 1)]),
        ("s1 a1 r1 b1 J1 R1 J. R.", &[(Bounced, 1)]),
        ("!full up s1 a1 r1 b1 =full:1 J1 R1 J. R.", &[(Bounced, 1)]),
        ("!full s1 a1 B1 up r1 =full:1 J1 R1 J. R.", &[(Bounced, 1)]),
        ("!full s1 a1 b1 up =full:1 R1 J. R.", &[(Bounced, 1)]),
        ("!full s1 a1 b1 r1 up =full:1 J. R.", &[(Bounced, 1)]),
        ("s1 a1 r1 x J1 R1 J. R.", &[(Protocol, 1)]),
        ("s1 a1 a1 r1 J1 R1 J. R.", &[(Protocol, 1)]),
        ("s1 a1 a2 r1 J1 R1 J. R.", &[(Protocol, 1)]),
        ("s1 a1 s1/2 r1 J1 R1 J. R.", &[(Protocol, 1)]),
        ("s1 !kill up -,1 s1/2 a1 r1 J1 R1 J. R.", &[(FailedWithoutH, 1)]),
        ("+J !term up -1,0 s1 a1 r1 J1 R1 J. R.", &[(ResumeRefused, 1)]),
        ("+J !slow up -0,0 =slow:1 s1 a1 r1 J1 R1 J. R.", &[(ResumeRefused, 1)]),
        ("s1 r1 J1 R1 J. R.", &[(NeverAcked, 1)]),
        ("s1 a1 r1 !power up -1,0 =power:0 J1 R1 J.", &[(NoEvidence, 2)]),
    ];
    for (history, expected) in bad {
        let mut expected = expected.to_vec();
        expected.sort();
        let mut found = broken(history);
        found.sort();
        assert_eq!(found, expected, "{history}");
    }
}
