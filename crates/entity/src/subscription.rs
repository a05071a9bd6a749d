//! The states of a presence subscription and what moves between them: RFC 6121 Appendix A as tables.
//!
//! Seen from one side, the *user*; the other one is the *contact*. Both sides run these tables, each on its own
//! roster. Pure: a lookup, no allocation. [`crate::roster`] applies an outcome to an item.

use State::{Both, From, FromPendingOut, None as Neither, NonePendingIn, NonePendingOut, NonePendingOutIn, To, ToPendingIn};

/// RFC 6121 §A.1: the nine states, from the perspective of the user. A contact who is in no roster is in `None`.
///
/// The number is part of the stored format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// Neither is subscribed, nobody asked.
    #[default]
    None = 0,
    /// The user asked, the contact has not answered.
    NonePendingOut = 1,
    /// The contact asked, the user has not answered.
    NonePendingIn = 2,
    /// Both asked, nobody answered.
    NonePendingOutIn = 3,
    /// The user is subscribed to the contact.
    To = 4,
    /// The user is subscribed to the contact, who has asked for the same.
    ToPendingIn = 5,
    /// The contact is subscribed to the user.
    From = 6,
    /// The contact is subscribed to the user, who has asked for the same.
    FromPendingOut = 7,
    /// Both are subscribed.
    Both = 8,
}

impl State {
    /// All of them, in the order of the tables.
    pub const ALL: [State; 9] = [Neither, NonePendingOut, NonePendingIn, NonePendingOutIn, To, ToPendingIn, From, FromPendingOut, Both];

    /// The state whose stored number is `n`.
    pub fn from_number(n: u8) -> Option<State> {
        State::ALL.get(usize::from(n)).copied()
    }

    /// The user has a subscription to the contact's presence (`to` or `both`).
    pub fn is_to(self) -> bool {
        matches!(self, To | ToPendingIn | Both)
    }

    /// The contact has a subscription to the user's presence (`from` or `both`).
    pub fn is_from(self) -> bool {
        matches!(self, From | FromPendingOut | Both)
    }

    /// The user's request waits for the contact: `ask='subscribe'` (§2.1.2.2).
    pub fn is_pending_out(self) -> bool {
        matches!(self, NonePendingOut | NonePendingOutIn | FromPendingOut)
    }

    /// The contact's request waits for the user. No roster shows it (§A.1).
    pub fn is_pending_in(self) -> bool {
        matches!(self, NonePendingIn | NonePendingOutIn | ToPendingIn)
    }

    /// The value of the `subscription` attribute (§2.1.2.5).
    pub fn subscription(self) -> &'static str {
        match self {
            Neither | NonePendingOut | NonePendingIn | NonePendingOutIn => "none",
            To | ToPendingIn => "to",
            From | FromPendingOut => "from",
            Both => "both",
        }
    }

    /// Whether the user can have approved the next request in advance (§3.4.2): nothing was asked, nothing granted.
    pub fn can_pre_approve(self) -> bool {
        !self.is_from() && !self.is_pending_in()
    }
}

/// The four presence types that manage subscriptions (RFC 6121 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The sender asks to see the recipient's presence.
    Subscribe,
    /// The sender no longer wants to see it.
    Unsubscribe,
    /// The sender lets the recipient see its own presence.
    Subscribed,
    /// The sender refuses that, or takes it back.
    Unsubscribed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Subscribe, Kind::Unsubscribe, Kind::Subscribed, Kind::Unsubscribed];

    /// The kind that a presence stanza's `type` attribute names, if it is one of the four.
    pub fn from_type(presence_type: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.as_str() == presence_type)
    }

    /// The value of the `type` attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Subscribe => "subscribe",
            Kind::Unsubscribe => "unsubscribe",
            Kind::Subscribed => "subscribed",
            Kind::Unsubscribed => "unsubscribed",
        }
    }
}

/// What the contact learns of the user's presence when a subscription of the contact begins or ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Disclosure {
    /// Nothing new.
    #[default]
    Nothing,
    /// The current presence of each of the user's available resources, *after* the `subscribed` (§3.1.5).
    Current,
    /// `unavailable` from each of the user's available resources, *before* any `unsubscribed` (§3.2.2, §3.3.3).
    Unavailable,
}

/// What a stanza that the user sends does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// The state from now on.
    pub next: State,
    /// Whether the contact's next request is approved in advance (§3.4).
    pub approved: bool,
    /// Whether the stanza goes to the contact.
    pub route: bool,
    /// What goes along with it.
    pub disclosure: Disclosure,
}

/// What a stanza that the contact sent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The state from now on.
    pub next: State,
    /// Whether the contact's next request is approved in advance (§3.4).
    pub approved: bool,
    /// Whether the user's resources get the stanza.
    pub deliver: bool,
    /// What the server answers on behalf of the user, from bare JID to bare JID.
    pub auto_reply: Option<Kind>,
    /// What goes along with that.
    pub disclosure: Disclosure,
}

/// For each existing state, in the order of [`State::ALL`]: is the stanza routed (or delivered), and the new state.
type Table = [(bool, State); 9];

/// RFC 6121 §A.2.1, table 2.
const OUTBOUND_SUBSCRIBE: Table = [
    (true, NonePendingOut),
    (true, NonePendingOut),
    (true, NonePendingOutIn),
    (true, NonePendingOutIn),
    (true, To),
    (true, ToPendingIn),
    (true, FromPendingOut),
    (true, FromPendingOut),
    (true, Both),
];

/// RFC 6121 §A.2.2, table 3.
const OUTBOUND_UNSUBSCRIBE: Table = [
    (true, Neither),
    (true, Neither),
    (true, NonePendingIn),
    (true, NonePendingIn),
    (true, Neither),
    (true, NonePendingIn),
    (true, From),
    (true, From),
    (true, From),
];

/// RFC 6121 §A.2.3, table 4; where it says "pre-approval", see [`outbound`].
const OUTBOUND_SUBSCRIBED: Table = [
    (false, Neither),
    (false, NonePendingOut),
    (true, From),
    (true, FromPendingOut),
    (false, To),
    (true, Both),
    (false, From),
    (false, FromPendingOut),
    (false, Both),
];

/// RFC 6121 §A.2.4, table 5.
const OUTBOUND_UNSUBSCRIBED: Table = [
    (false, Neither),
    (false, NonePendingOut),
    (true, Neither),
    (true, NonePendingOut),
    (false, To),
    (true, To),
    (true, Neither),
    (true, NonePendingOut),
    (true, To),
];

/// RFC 6121 §A.3.1, table 6; its footnotes are in [`inbound`].
const INBOUND_SUBSCRIBE: Table = [
    (true, NonePendingIn),
    (true, NonePendingOutIn),
    (false, NonePendingIn),
    (false, NonePendingOutIn),
    (true, ToPendingIn),
    (false, ToPendingIn),
    (false, From),
    (false, FromPendingOut),
    (false, Both),
];

/// RFC 6121 §A.3.2, table 7.
const INBOUND_UNSUBSCRIBE: Table = [
    (false, Neither),
    (false, NonePendingOut),
    (true, Neither),
    (true, NonePendingOut),
    (false, To),
    (true, To),
    (true, Neither),
    (true, NonePendingOut),
    (true, To),
];

/// RFC 6121 §A.3.3, table 8.
const INBOUND_SUBSCRIBED: Table = [
    (false, Neither),
    (true, To),
    (false, NonePendingIn),
    (true, ToPendingIn),
    (false, To),
    (false, ToPendingIn),
    (false, From),
    (true, Both),
    (false, Both),
];

/// RFC 6121 §A.3.4, table 9.
const INBOUND_UNSUBSCRIBED: Table = [
    (false, Neither),
    (true, Neither),
    (false, NonePendingIn),
    (true, NonePendingIn),
    (true, Neither),
    (true, NonePendingIn),
    (false, From),
    (true, From),
    (true, From),
];

/// RFC 6121 §A.2 and §3.4: a stanza from one of the user's clients.
///
/// `approved` is the pre-approval that the user has given so far. A presence of type `unsubscribed` that the *server*
/// generates in answer to a probe must not come through here: it must not cancel a pre-approval (§4.3.2).
pub fn outbound(state: State, approved: bool, kind: Kind) -> Outbound {
    let table = match kind {
        Kind::Subscribe => &OUTBOUND_SUBSCRIBE,
        Kind::Unsubscribe => &OUTBOUND_UNSUBSCRIBE,
        Kind::Subscribed => &OUTBOUND_SUBSCRIBED,
        Kind::Unsubscribed => &OUTBOUND_UNSUBSCRIBED,
    };
    let (route, next) = table[state as usize];
    let approved = match kind {
        Kind::Subscribe | Kind::Unsubscribe => approved,
        // §3.4.2 rules 3 and 4; where something was asked or granted, `subscribed` is an answer or nothing (1 and 2).
        Kind::Subscribed => state.can_pre_approve(),
        Kind::Unsubscribed => false,
    };
    Outbound { next, approved, route, disclosure: disclosure(state, next) }
}

/// RFC 6121 §A.3 and §3.4: a stanza from the contact.
///
/// A pre-approval approves one request: §3.4.2 leaves it to the server whether the record outlives that, and a
/// contact who left and asks again should be seen by the user.
pub fn inbound(state: State, approved: bool, kind: Kind) -> Inbound {
    let table = match kind {
        Kind::Subscribe if approved && state.can_pre_approve() => {
            // §3.4.2 and note 1 of table 6: as if the request had come and the user had answered it.
            let (_, asked) = INBOUND_SUBSCRIBE[state as usize];
            let (_, next) = OUTBOUND_SUBSCRIBED[asked as usize];
            let auto_reply = Some(Kind::Subscribed);
            return Inbound { next, approved: false, deliver: false, auto_reply, disclosure: Disclosure::Current };
        }
        Kind::Subscribe => &INBOUND_SUBSCRIBE,
        Kind::Unsubscribe => &INBOUND_UNSUBSCRIBE,
        Kind::Subscribed => &INBOUND_SUBSCRIBED,
        Kind::Unsubscribed => &INBOUND_UNSUBSCRIBED,
    };
    let (deliver, next) = table[state as usize];
    // §3.1.3 rule 2: who is subscribed and asks again has lost its side; it needs the answer and the presence.
    let granted = kind == Kind::Subscribe && state.is_from();
    let auto_reply = match kind {
        Kind::Subscribe if granted => Some(Kind::Subscribed),
        Kind::Unsubscribe if deliver => Some(Kind::Unsubscribed),
        _ => None,
    };
    let disclosure = if granted { Disclosure::Current } else { disclosure(state, next) };
    Inbound { next, approved, deliver, auto_reply, disclosure }
}

fn disclosure(before: State, after: State) -> Disclosure {
    match (before.is_from(), after.is_from()) {
        (false, true) => Disclosure::Current,
        (true, false) => Disclosure::Unavailable,
        _ => Disclosure::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// A state by the RFC's spelling.
    fn state(name: &str) -> State {
        match name {
            "None" => Neither,
            "None + Pending Out" => NonePendingOut,
            "None + Pending In" => NonePendingIn,
            "None + Pending Out+In" => NonePendingOutIn,
            "To" => To,
            "To + Pending In" => ToPendingIn,
            "From" => From,
            "From + Pending Out" => FromPendingOut,
            "Both" => Both,
            other => panic!("no state {other:?}"),
        }
    }

    /// Run each row of a table of Appendix A, copied as it stands there, against the code.
    ///
    /// `run` gives: does the stanza pass, the new state, pre-approval set, the automatic reply.
    fn check(table: &str, run: impl Fn(State) -> (bool, State, bool, Option<Kind>)) {
        let mut seen = Vec::new();
        for row in table.lines().map(str::trim).filter(|l| l.starts_with("|  \"")) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [existing, passes, new] = cells[..] else { panic!("row {row:?}") };
            let existing = state(existing.trim_matches('"'));
            let note = passes.split_once(" [").or(new.split_once(" [")).map(|(_, n)| n.trim_end_matches(']'));
            let new = new.split_once(" [").map_or(new, |(n, _)| n);
            let (next, approves) = match new {
                "no state change" => (existing, false),
                "pre-approval" => (existing, true),
                named => (state(named.trim_matches('"')), false),
            };
            let passes = match passes.split(" [").next().unwrap() {
                "MUST" => true,
                "S.N." | "M.N." => false,
                other => panic!("{other:?}"),
            };
            // The only notes about automatic replies: table 6 note 2 and table 7 note 1.
            let reply = match note {
                Some("2") => Some(Kind::Subscribed),
                Some("1") if table.contains("inbound \"unsubscribe\"") => Some(Kind::Unsubscribed),
                _ => None,
            };
            assert_eq!(run(existing), (passes, next, approves, reply), "{row}");
            seen.push(existing);
        }
        assert_eq!(seen, State::ALL, "the table has a row for each state");
    }

    fn check_outbound(kind: Kind, table: &str) {
        check(table, |s| {
            let o = outbound(s, false, kind);
            (o.route, o.next, o.approved, None)
        });
    }

    fn check_inbound(kind: Kind, table: &str) {
        check(table, |s| {
            let i = inbound(s, false, kind);
            (i.deliver, i.next, i.approved, i.auto_reply)
        });
    }

    #[test]
    fn a_2_1_outbound_subscribe() {
        check_outbound(
            Kind::Subscribe,
            r#"Table 2: Processing of outbound "subscribe" stanzas
            |  "None"                  |  MUST [1] |  "None + Pending Out"     |
            |  "None + Pending Out"    |  MUST     |  no state change          |
            |  "None + Pending In"     |  MUST [1] |  "None + Pending Out+In"  |
            |  "None + Pending Out+In" |  MUST     |  no state change          |
            |  "To"                    |  MUST     |  no state change          |
            |  "To + Pending In"       |  MUST     |  no state change          |
            |  "From"                  |  MUST [1] |  "From + Pending Out"     |
            |  "From + Pending Out"    |  MUST     |  no state change          |
            |  "Both"                  |  MUST     |  no state change          |"#,
        );
    }

    #[test]
    fn a_2_2_outbound_unsubscribe() {
        check_outbound(
            Kind::Unsubscribe,
            r#"Table 3: Processing of outbound "unsubscribe" stanzas
            |  "None"                  |  MUST    |  no state change          |
            |  "None + Pending Out"    |  MUST    |  "None"                   |
            |  "None + Pending In"     |  MUST    |  no state change          |
            |  "None + Pending Out+In" |  MUST    |  "None + Pending In"      |
            |  "To"                    |  MUST    |  "None"                   |
            |  "To + Pending In"       |  MUST    |  "None + Pending In"      |
            |  "From"                  |  MUST    |  no state change          |
            |  "From + Pending Out"    |  MUST    |  "From"                   |
            |  "Both"                  |  MUST    |  "From"                   |"#,
        );
    }

    #[test]
    fn a_2_3_outbound_subscribed() {
        check_outbound(
            Kind::Subscribed,
            r#"Table 4: Processing of outbound "subscribed" stanzas
            |  "None"                  |  M.N.    |  pre-approval [1]         |
            |  "None + Pending Out"    |  M.N.    |  pre-approval [1]         |
            |  "None + Pending In"     |  MUST    |  "From"                   |
            |  "None + Pending Out+In" |  MUST    |  "From + Pending Out"     |
            |  "To"                    |  M.N.    |  pre-approval [1]         |
            |  "To + Pending In"       |  MUST    |  "Both"                   |
            |  "From"                  |  M.N.    |  no state change          |
            |  "From + Pending Out"    |  M.N.    |  no state change          |
            |  "Both"                  |  M.N.    |  no state change          |"#,
        );
    }

    #[test]
    fn a_2_4_outbound_unsubscribed() {
        check_outbound(
            Kind::Unsubscribed,
            r#"Table 5: Processing of outbound "unsubscribed" stanzas
            |  "None"                  |  S.N.    |  no state change [1]      |
            |  "None + Pending Out"    |  S.N.    |  no state change [1]      |
            |  "None + Pending In"     |  MUST    |  "None"                   |
            |  "None + Pending Out+In" |  MUST    |  "None + Pending Out"     |
            |  "To"                    |  S.N.    |  no state change [1]      |
            |  "To + Pending In"       |  MUST    |  "To"                     |
            |  "From"                  |  MUST    |  "None"                   |
            |  "From + Pending Out"    |  MUST    |  "None + Pending Out"     |
            |  "Both"                  |  MUST    |  "To"                     |"#,
        );
    }

    #[test]
    fn a_3_1_inbound_subscribe() {
        check_inbound(
            Kind::Subscribe,
            r#"Table 6: Processing of inbound "subscribe" stanzas
            |  "None"                  |  MUST [1]  |  "None + Pending In"     |
            |  "None + Pending Out"    |  MUST      |  "None + Pending Out+In" |
            |  "None + Pending In"     |  S.N.      |  no state change         |
            |  "None + Pending Out+In" |  S.N.      |  no state change         |
            |  "To"                    |  MUST      |  "To + Pending In"       |
            |  "To + Pending In"       |  S.N.      |  no state change         |
            |  "From"                  |  S.N. [2]  |  no state change         |
            |  "From + Pending Out"    |  S.N. [2]  |  no state change         |
            |  "Both"                  |  S.N. [2]  |  no state change         |"#,
        );
    }

    #[test]
    fn a_3_2_inbound_unsubscribe() {
        check_inbound(
            Kind::Unsubscribe,
            r#"Table 7: Processing of inbound "unsubscribe" stanzas
            |  "None"                  |  S.N.      |  no state change         |
            |  "None + Pending Out"    |  S.N.      |  no state change         |
            |  "None + Pending In"     |  MUST [1]  |  "None"                  |
            |  "None + Pending Out+In" |  MUST [1]  |  "None + Pending Out"    |
            |  "To"                    |  S.N.      |  no state change         |
            |  "To + Pending In"       |  MUST [1]  |  "To"                    |
            |  "From"                  |  MUST [1]  |  "None"                  |
            |  "From + Pending Out"    |  MUST [1]  |  "None + Pending Out"    |
            |  "Both"                  |  MUST [1]  |  "To"                    |"#,
        );
    }

    #[test]
    fn a_3_3_inbound_subscribed() {
        check_inbound(
            Kind::Subscribed,
            r#"Table 8: Processing of inbound "subscribed" stanzas
            |  "None"                  |  S.N.      |  no state change         |
            |  "None + Pending Out"    |  MUST      |  "To"                    |
            |  "None + Pending In"     |  S.N.      |  no state change         |
            |  "None + Pending Out+In" |  MUST      |  "To + Pending In"       |
            |  "To"                    |  S.N.      |  no state change         |
            |  "To + Pending In"       |  S.N.      |  no state change         |
            |  "From"                  |  S.N.      |  no state change         |
            |  "From + Pending Out"    |  MUST      |  "Both"                  |
            |  "Both"                  |  S.N.      |  no state change         |"#,
        );
    }

    #[test]
    fn a_3_4_inbound_unsubscribed() {
        check_inbound(
            Kind::Unsubscribed,
            r#"Table 9: Processing of inbound "unsubscribed" stanzas
            |  "None"                  |  S.N.      |  no state change         |
            |  "None + Pending Out"    |  MUST      |  "None"                  |
            |  "None + Pending In"     |  S.N.      |  no state change         |
            |  "None + Pending Out+In" |  MUST      |  "None + Pending In"     |
            |  "To"                    |  MUST      |  "None"                  |
            |  "To + Pending In"       |  MUST      |  "None + Pending In"     |
            |  "From"                  |  S.N.      |  no state change         |
            |  "From + Pending Out"    |  MUST      |  "From"                  |
            |  "Both"                  |  MUST      |  "From"                  |"#,
        );
    }

    /// RFC 6121 §3.4.2, §3.2.2 rule 2, §3.1.3 rule 2: what a pre-approval changes. (state, kind) → row.
    #[test]
    fn pre_approval() {
        // The contact asks: not delivered, answered, and the state of an approved request.
        for (before, after) in [(Neither, From), (NonePendingOut, FromPendingOut), (To, Both)] {
            let disclosure = Disclosure::Current;
            let expected = Inbound { next: after, approved: false, deliver: false, auto_reply: Some(Kind::Subscribed), disclosure };
            assert_eq!(inbound(before, true, Kind::Subscribe), expected, "{before:?}");
        }
        for state in State::ALL {
            // Whatever else the contact sends leaves the pre-approval and the table's row alone.
            for kind in [Kind::Unsubscribe, Kind::Subscribed, Kind::Unsubscribed] {
                let with = inbound(state, true, kind);
                assert_eq!(with, Inbound { approved: true, ..inbound(state, false, kind) }, "{state:?} {kind:?}");
            }
            // The user's own subscription does not touch it; `unsubscribed` takes it back in every state.
            for kind in [Kind::Subscribe, Kind::Unsubscribe] {
                let with = outbound(state, true, kind);
                assert_eq!(with, Outbound { approved: true, ..outbound(state, false, kind) }, "{state:?} {kind:?}");
            }
            assert_eq!(outbound(state, true, Kind::Unsubscribed), outbound(state, false, Kind::Unsubscribed));
            assert!(!outbound(state, true, Kind::Unsubscribed).approved);
        }
    }

    /// RFC 6121 §3.1.5, §3.2.2, §3.3.3, §3.1.3 rule 2: when the contact gets presence or `unavailable`.
    #[test]
    fn disclosures() {
        use Disclosure::{Current, Nothing, Unavailable};
        for state in State::ALL {
            let granted = if state.is_pending_in() { Current } else { Nothing };
            let revoked = if state.is_from() { Unavailable } else { Nothing };
            let again = if state.is_from() { Current } else { Nothing };
            for (kind, out, inn) in [
                (Kind::Subscribe, Nothing, again),
                (Kind::Unsubscribe, Nothing, revoked),
                (Kind::Subscribed, granted, Nothing),
                (Kind::Unsubscribed, revoked, Nothing),
            ] {
                assert_eq!(outbound(state, false, kind).disclosure, out, "outbound {kind:?} in {state:?}");
                assert_eq!(inbound(state, false, kind).disclosure, inn, "inbound {kind:?} in {state:?}");
            }
        }
    }

    /// §A.1: what each state shows in a roster.
    #[test]
    fn attributes() {
        let shown: Vec<String> =
            State::ALL.iter().map(|s| format!("{}{}", s.subscription(), if s.is_pending_out() { "+ask" } else { "" })).collect();
        assert_eq!(shown, ["none", "none+ask", "none", "none+ask", "to", "to", "from", "from+ask", "both"]);
        for (n, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(State::from_number(n as u8), Some(state));
            assert_eq!(state as usize, n);
        }
        assert_eq!(State::from_number(9), None);
        for kind in Kind::ALL {
            assert_eq!(Kind::from_type(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::from_type("probe"), None);
    }

    /// One of two peers: state and pre-approval towards the other, and what is under way from it.
    #[derive(Default)]
    struct Peer {
        state: State,
        approved: bool,
        sent: VecDeque<Kind>,
        /// The user said `subscribed` later than `unsubscribed`.
        consents: bool,
    }

    impl Peer {
        fn send(&mut self, kind: Kind) {
            let o = outbound(self.state, self.approved, kind);
            (self.state, self.approved) = (o.next, o.approved);
            self.sent.extend(o.route.then_some(kind));
            match kind {
                Kind::Subscribed => self.consents = true,
                Kind::Unsubscribed => self.consents = false,
                _ => (),
            }
        }

        fn receive(&mut self, kind: Kind) {
            let i = inbound(self.state, self.approved, kind);
            (self.state, self.approved) = (i.next, i.approved);
            self.sent.extend(i.auto_reply);
        }
    }

    /// Hand over one stanza from peer `i`; false if there is none.
    fn step(peers: &mut [Peer; 2], i: usize) -> bool {
        let Some(kind) = peers[i].sent.pop_front() else { return false };
        peers[1 - i].receive(kind);
        true
    }

    /// One direction of a pair: what the subscriber's side and the other side say of the same subscription.
    fn agrees(subscriber: State, publisher: State) -> bool {
        subscriber.is_to() == publisher.is_from() && subscriber.is_pending_out() == publisher.is_pending_in()
    }

    fn any_kind() -> impl Strategy<Value = Kind> {
        prop::sample::select(&Kind::ALL[..])
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// When each stanza has arrived before the next is sent, the two rosters always say the same, and it settles.
        #[test]
        fn peers_agree(script in prop::collection::vec((0..2usize, any_kind()), 0..40)) {
            let mut peers = [Peer::default(), Peer::default()];
            for (who, kind) in script {
                peers[who].send(kind);
                let mut steps = 0;
                while step(&mut peers, 0) || step(&mut peers, 1) {
                    steps += 1;
                    prop_assert!(steps < 8, "replies go round in circles");
                }
                let (a, b) = (peers[0].state, peers[1].state);
                prop_assert!(agrees(a, b) && agrees(b, a), "{who} sent {kind:?}: {a:?} and {b:?}");
            }
        }

        /// However stanzas cross: nobody sees a presence without consent, a pre-approval stands only where it can,
        /// and everything settles.
        #[test]
        fn crossing_stanzas_never_disclose(script in prop::collection::vec((0..2usize, prop::option::of(any_kind())), 0..60)) {
            let mut peers = [Peer::default(), Peer::default()];
            for (who, what) in script {
                match what {
                    Some(kind) => peers[who].send(kind),
                    None => _ = step(&mut peers, who),
                }
                for p in &peers {
                    prop_assert!(p.consents || !p.state.is_from(), "{:?} without consent", p.state);
                    prop_assert!(!p.approved || p.state.can_pre_approve(), "approved in {:?}", p.state);
                }
            }
            let mut steps = 0;
            while step(&mut peers, 0) || step(&mut peers, 1) {
                steps += 1;
                prop_assert!(steps < 1_000);
            }
        }
    }
}
