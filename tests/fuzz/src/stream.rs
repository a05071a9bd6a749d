//! A client's connection: arbitrary bytes in arbitrary pieces, with plausible and implausible answers of the shard between.
//!
//! - No stanza, and no question about a session, goes to a shard before the client has proved who it is, and none but
//!   resource binding and resumption before there is a session; then all that goes is of that account.
//! - What is submitted is one stanza from the session's own address to a second parser, numbered without a gap, and no more
//!   is held than the limits say.
//! - What is written is well-formed for a second parser, and nothing comes behind the end.
//! - How the network cuts the bytes makes no difference.
//! - Memory stays near what was fed; there is always an end to what is to be done.
//!
//! The first byte says how the connection begins, the second how bytes are cut; then come lines, each a letter and what it
//! needs: see [`World::line`].

use crate::input::pieces;
use crate::memory::within;
use crate::witness::{self, Document, State};
use bytes::Bytes;
use edge::core::{Connection, Output};
use frame::{
    AccountError, Bound, CredentialsAnswer, EdgeMsg, EndReason, Pos, Reattached, Resumed, SessionCopy, ShardMsg, Sm, Soft, ToEdge,
};
use sasl::{Credentials, Password};
use stanza::{Condition, Parsed, Stanza, StanzaError};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use stream::{Settings, TlsInfo};
use types::limit::INPUTS_HELD_MAX;
use types::{Attach, BareJid, ConnId, Epoch, FullJid, Instant, Now, ReqId, SessionId, ShardId, Timestamp, ns};

/// Of juliet, the one account that exists.
const PASSWORD: &str = "r0m30myr0m30";
const SESSION: SessionId = SessionId { epoch: 1, seq: 1 };
/// Lines of one input: what a run does is bounded.
const LINES_MAX: usize = 64;
/// What is due for a line, however many.
const OUTPUTS_MAX: usize = 4_096;
/// Memory of a connection, of what the test notes about it, and of tables that are made once.
const FIXED_BYTES: usize = 4 << 20;
/// Memory for each byte fed: a tree, and what is written for it.
const FACTOR: usize = 512;

static KEYS: LazyLock<Credentials> = LazyLock::new(|| Credentials::derive(PASSWORD, &[5; 32], 4_096).expect("a password"));

/// See the module.
pub fn stream(data: &[u8]) {
    let [begin, cut, lines @ ..] = data else { return };
    LazyLock::force(&KEYS);
    let budget = FIXED_BYTES + FACTOR * data.len();
    let run = |cut, each| within(budget, "a connection", || World::new(*begin).run(lines, cut, each));
    let whole = run(0, false);
    run(*cut, true);
    let pieces = run(*cut, false);
    // What comes with `<starttls/>` in the clear ends the connection, but whether the handshake had begun is chance.
    if !whole.starts_tls {
        assert_eq!(pieces.text, whole.text, "cut by {cut}");
    }
}

/// What a run has said and done.
#[derive(Default)]
struct Transcript {
    text: String,
    starts_tls: bool,
}

/// The last question, which the next answer may answer.
enum Question {
    Credentials { req: ReqId, account: BareJid },
    Account { req: ReqId },
    Bind { req: ReqId, account: BareJid, resource: Option<String> },
    Enable { req: ReqId },
    Resume { req: ReqId, account: BareJid },
    Reattach { req: ReqId, copy: Box<SessionCopy> },
}

struct World {
    c: Connection,
    registration: bool,
    now: Now,
    epoch: Epoch,
    attach: Attach,
    question: Option<Question>,
    verify: Option<(Credentials, Password)>,
    derives: bool,
    /// The right password was given for this account.
    proved: bool,
    /// A session was granted for it.
    jid: Option<FullJid>,
    /// The last input submitted, the last accepted, and the last output.
    n: u64,
    accepted: u64,
    m: u64,
    refuses: bool,
    /// The document that is being written.
    document: Document,
    begun: bool,
    closed: bool,
    transcript: Transcript,
}

impl World {
    fn new(begin: u8) -> World {
        let domains = ["im.example", "other.example"].map(|d| BareJid::from_domain(d).expect("a domain"));
        let mut settings = Settings::new(domains.to_vec());
        settings.iterations = 4_096;
        settings.registration = begin & 2 != 0;
        settings.tls_required = begin & 4 == 0;
        settings.idle_timeout = Duration::from_secs(60);
        if begin & 8 != 0 {
            (settings.stanza_bytes_max, settings.stanza_bytes_unauthenticated_max) = (300, 200);
        }
        let registration = settings.registration;
        let now = Now { mono: Instant(1_000_000), wall: Timestamp(1_795_368_840_000) };
        let tls = (begin & 1 != 0).then(|| TlsInfo { sni: None, exporter: Some(vec![7; 32]), version13: true });
        World {
            c: Connection::new(Arc::new(settings), ConnId::default(), [9; 32], now, tls),
            registration,
            now,
            epoch: Epoch(1),
            attach: Attach(1),
            question: None,
            verify: None,
            derives: false,
            proved: false,
            jid: None,
            n: 0,
            accepted: 0,
            m: 0,
            refuses: false,
            document: Document::new(),
            begun: false,
            closed: false,
            transcript: Transcript::default(),
        }
    }

    fn run(mut self, lines: &[u8], cut: u8, each: bool) -> Transcript {
        for line in lines.split(|b| *b == b'\n').take(LINES_MAX) {
            let Some((&kind, rest)) = line.split_first() else { continue };
            if kind == b'C' {
                for piece in pieces(rest, cut) {
                    // A shell reads no socket that the connection does not want to be read.
                    if each && !self.c.wants_read() {
                        break;
                    }
                    self.c.handle_bytes(self.now, piece);
                    if each {
                        self.drain();
                    }
                }
            } else {
                self.line(kind, rest);
            }
            self.drain();
        }
        self.transcript
    }

    /// What each letter means, beside `C`, whose rest the client sends.
    fn line(&mut self, kind: u8, rest: &[u8]) {
        let now = self.now;
        let number = std::str::from_utf8(rest).ok().and_then(|t| t.trim().parse::<u64>().ok()).unwrap_or(1);
        match kind {
            // The last question is answered: as it is hoped for, or not.
            b'K' => self.answer(true),
            b'k' => self.answer(false),
            b'B' => {
                if let Some(req) = self.question.as_ref().map(Question::req) {
                    self.frame(ShardMsg::Busy { req });
                }
            }
            // An answer to a question that nobody has asked, or not now.
            b'Q' => self.stray(number),
            // The password is compared, or cannot be.
            b'V' => {
                let ok = self.verify.take().is_some_and(|(c, p)| !c.is_decoy() && p.as_str() == PASSWORD);
                let before = self.c.account().is_some();
                self.c.handle_plain_verified(now, ok);
                self.proved |= ok && !before && self.c.account().is_some();
            }
            b'v' => self.c.handle_plain_unavailable(now),
            b'D' => {
                let keys = if number == 0 { Err(sasl::SaslError::Password) } else { Ok(Bytes::from(KEYS.encode())) };
                self.c.handle_derived(now, if self.derives { keys } else { Err(sasl::SaslError::Password) });
            }
            b'T' => self.c.handle_tls(now, TlsInfo { sni: None, exporter: None, version13: false }),
            // What the session hears: inputs accepted, refused, an output with or without a row, state to keep.
            b'O' => {
                // A shard accepts what it was given, no more.
                self.accepted = number.clamp(self.accepted, self.n.max(self.accepted));
                let accepted = self.accepted;
                self.session(|session, attach| ShardMsg::Outcome { session, attach, accepted });
            }
            b'R' => self.session(|session, attach| ShardMsg::Refused { session, attach, n: number }),
            b'M' | b'm' => self.deliver(rest, kind == b'M'),
            b'Y' => {
                let soft = Arc::new(Soft { carbons: number == 1, ..Soft::default() });
                self.session(|session, attach| ShardMsg::Keep { session, attach, soft });
            }
            b'A' => self.frame(ShardMsg::Again { session: SESSION }),
            b'E' => {
                let reasons = [EndReason::Conflict, EndReason::NotAuthorized, EndReason::Internal, EndReason::PolicyViolation];
                let reason = reasons[number as usize % reasons.len()];
                self.session(|session, attach| ShardMsg::Ended { session, attach, reason });
            }
            b'P' => {
                self.epoch = Epoch(self.epoch.0 + 1);
                self.c.handle_placement(now, ShardId(0), self.epoch);
            }
            // The next frame is not taken by the link.
            b'U' => self.refuses = true,
            b'W' => {
                self.now.mono = Instant(now.mono.0 + number.min(1_000_000));
                self.c.handle_timeout(self.now);
            }
            b'X' => self.c.handle_closed(now),
            b'Z' => self.c.handle_drain(now),
            _ => {}
        }
    }

    fn frame(&mut self, body: ShardMsg) {
        let frame = ToEdge { conn: ConnId::default(), shard: ShardId(0), epoch: self.epoch, body };
        self.c.handle_frame(self.now, frame);
    }

    fn session(&mut self, body: impl FnOnce(SessionId, Attach) -> ShardMsg) {
        let attach = self.attach;
        self.frame(body(SESSION, attach));
    }

    fn deliver(&mut self, rest: &[u8], row: bool) {
        let Ok(Parsed::Stanza(stanza)) = Stanza::parse(Bytes::copy_from_slice(rest), ns::CLIENT) else { return };
        self.m += 1;
        let pos = row.then_some(Pos { row: self.m, epoch: Epoch(1) });
        let output = frame::Output { m: self.m, pos, stanza: Arc::new(stanza) };
        self.session(|session, attach| ShardMsg::Deliver { session, attach, output });
    }

    fn answer(&mut self, yes: bool) {
        let Some(question) = self.question.take() else { return };
        let full = |account: &BareJid, resource: Option<&str>| account.with_resource(resource.unwrap_or("r")).expect("a resource");
        let body = match question {
            Question::Credentials { req, account } => {
                let known = account.as_str() == "juliet@im.example";
                let answer = match (yes, known) {
                    (true, true) => CredentialsAnswer::Known(Bytes::from(KEYS.encode())),
                    (true, false) => CredentialsAnswer::Unknown,
                    (false, _) => CredentialsAnswer::Locked,
                };
                ShardMsg::Credentials { req, answer }
            }
            Question::Account { req } => ShardMsg::AccountDone { req, result: if yes { Ok(()) } else { Err(AccountError::Exists) } },
            Question::Bind { req, account, resource } => {
                let jid = full(&account, resource.as_deref());
                let result = if yes {
                    (self.n, self.accepted, self.m) = (0, 0, 0);
                    self.jid = Some(jid.clone());
                    Ok(Bound { session: SESSION, attach: self.attach, jid })
                } else {
                    Err(StanzaError::new(Condition::ResourceConstraint))
                };
                ShardMsg::Bound { req, result }
            }
            Question::Enable { req } if yes => {
                let sm = Sm { base_n: self.n, base_m: self.m, previd: Some("x".into()), resume_secs: 600 };
                ShardMsg::Enabled { req, session: SESSION, attach: self.attach, sm }
            }
            Question::Enable { req } => ShardMsg::Busy { req },
            Question::Resume { req, account } if yes => {
                let sm = Some(Sm { base_n: 0, base_m: 0, previd: Some("x".into()), resume_secs: 600 });
                let jid = full(&account, None);
                self.jid = Some(jid.clone());
                (self.n, self.accepted, self.m) = (3, 3, 2);
                let soft = Arc::new(Soft { sm, ..Soft::default() });
                let stanza = Arc::new(Stanza::presence(None));
                let outputs = vec![frame::Output { m: 2, pos: None, stanza }];
                let pos = Pos::default();
                let (session, attach) = (SESSION, self.attach);
                let resumed = Box::new(Resumed { session, attach, jid, accepted: 3, outputs, m: 2, m_acked: 1, pos, soft });
                ShardMsg::Resumed { req, resumed }
            }
            Question::Resume { req, .. } => ShardMsg::ResumeFailed { req, h: Some(3) },
            Question::Reattach { req, copy } => {
                self.attach = Attach(self.attach.0 + 1);
                self.accepted = self.accepted.max(copy.accepted + copy.inputs.len() as u64 / 2);
                let (session, attach, accepted) = (SESSION, self.attach, self.accepted);
                self.m = copy.m;
                ShardMsg::Reattached { req, answer: yes.then_some(Reattached { session, attach, accepted, adopted: accepted % 2 == 1 }) }
            }
        };
        self.frame(body);
    }

    /// Names something that is not, an older request, attach or epoch.
    fn stray(&mut self, number: u64) {
        let (session, attach, req) = (SESSION, Attach(self.attach.0.wrapping_sub(1)), ReqId(number / 8));
        let jid = FullJid::parse("romeo@im.example/r").expect("an address");
        let stanza = Arc::new(Stanza::presence(None));
        let answered = self.question.as_ref().is_some_and(|q| q.req() == req);
        if answered {
            // It would not be a stray one.
            return;
        }
        let body = match number % 8 {
            0 => ShardMsg::Credentials { req, answer: CredentialsAnswer::Known(Bytes::from(KEYS.encode())) },
            1 => ShardMsg::Bound { req, result: Ok(Bound { session: SessionId { epoch: 9, seq: 9 }, attach, jid }) },
            2 => ShardMsg::ResumeFailed { req, h: None },
            3 => ShardMsg::Reattached { req, answer: None },
            4 => ShardMsg::Outcome { session, attach, accepted: number },
            5 => ShardMsg::Deliver { session, attach, output: frame::Output { m: number, pos: None, stanza } },
            6 => ShardMsg::AccountDone { req, result: Ok(()) },
            _ => ShardMsg::Refused { session, attach, n: number },
        };
        self.frame(body);
    }

    fn drain(&mut self) {
        for _ in 0..OUTPUTS_MAX {
            let Some(output) = self.c.poll_output() else {
                assert!(self.c.next_timeout() > self.now.mono, "a timer that never moves");
                return;
            };
            match output {
                Output::Write(bytes) => self.written(&bytes),
                Output::Frame { .. } if std::mem::take(&mut self.refuses) => self.c.handle_unreachable(self.now),
                Output::Frame { account, body } => self.said(&account, body),
                Output::StartTls => {
                    self.transcript.starts_tls = true;
                    self.begun = false;
                }
                Output::VerifyPlain { credentials, password } => {
                    assert!(!self.proved);
                    self.verify = Some((credentials, password));
                }
                Output::Derive { .. } => {
                    assert!(self.registration || self.proved, "nobody may register");
                    self.derives = true;
                }
                Output::Close => {
                    self.closed = true;
                    self.transcript.text.push_str("\n- closes");
                }
            }
        }
        panic!("outputs without end");
    }

    fn written(&mut self, bytes: &[u8]) {
        assert!(!self.closed, "written behind the end: {:?}", bytes.escape_ascii().to_string());
        let text = std::str::from_utf8(bytes).expect("UTF-8");
        self.transcript.text.push_str(text);
        let mut rest = text;
        while !rest.is_empty() {
            // A new stream begins with a declaration, which nothing else can hold.
            if rest.starts_with("<?xml") {
                assert!(!self.begun || self.document.state == State::Incomplete);
                (self.document, self.begun) = (Document::new(), true);
            }
            let end = rest[1..].find("<?xml").map_or(rest.len(), |n| n + 1);
            assert_eq!(self.document.state, State::Incomplete, "written behind the end: {rest}");
            self.document.feed(&rest.as_bytes()[..end]);
            assert_ne!(self.document.state, State::Failed, "ill-formed: {rest}");
            assert_eq!(self.document.text_behind, None, "text between stanzas: {rest}");
            rest = &rest[end..];
        }
    }

    /// A frame to the shard.
    fn said(&mut self, account: &BareJid, body: EdgeMsg) {
        use std::fmt::Write as _;
        let _ = write!(self.transcript.text, "\n- {account}: ");
        if let EdgeMsg::Submit { n, attempt, stanza, .. } = &body {
            let _ = write!(self.transcript.text, "{n} {attempt} {:?}", stanza.to_bytes());
        } else {
            let _ = write!(self.transcript.text, "{:?}", std::mem::discriminant(&body));
        }
        assert!(["im.example", "other.example"].contains(&account.domain()), "{account} is not served here");
        let own = self.jid.as_ref().is_some_and(|jid| jid.bare() == *account);
        match body {
            EdgeMsg::Credentials { req } => {
                assert!(!self.proved);
                self.question = Some(Question::Credentials { req, account: account.clone() });
            }
            EdgeMsg::LoginEnded { ok } => assert!(self.proved || !ok),
            EdgeMsg::Create { req, .. } => {
                assert!(self.registration && !self.proved && self.derives);
                self.question = Some(Question::Account { req });
            }
            EdgeMsg::SetCredentials { req, .. } | EdgeMsg::Remove { req } => {
                assert!(self.proved && own);
                self.question = Some(Question::Account { req });
            }
            EdgeMsg::Bind { req, resource, .. } => {
                assert!(self.proved && self.c.account() == Some(account));
                self.question = Some(Question::Bind { req, account: account.clone(), resource: resource.map(Into::into) });
            }
            EdgeMsg::Resume { req, .. } => {
                assert!(self.proved && self.c.account() == Some(account));
                self.question = Some(Question::Resume { req, account: account.clone() });
            }
            EdgeMsg::Enable { req, .. } => {
                assert!(self.proved && own);
                self.question = Some(Question::Enable { req });
            }
            EdgeMsg::Reattach { req, copy } => {
                assert!(own && copy.inputs.len() <= INPUTS_HELD_MAX + 1);
                let numbers = copy.inputs.iter().map(|(n, _)| *n);
                assert!(numbers.eq((copy.accepted + 1..).take(copy.inputs.len())), "a gap");
                self.n = self.n.max(copy.accepted + copy.inputs.len() as u64);
                self.question = Some(Question::Reattach { req, copy });
            }
            EdgeMsg::Submit { n, attempt, stanza, .. } => self.submitted(own, n, attempt, &stanza),
            EdgeMsg::Acked { m, .. } => assert!(own && m <= self.m),
            EdgeMsg::Active { .. } | EdgeMsg::Ask { .. } => assert!(own),
            // Also what came too late is given back.
            EdgeMsg::Detach { .. } | EdgeMsg::Close { .. } => {}
        }
    }

    fn submitted(&mut self, own: bool, n: u64, attempt: u8, stanza: &Stanza) {
        assert!(self.proved && own, "{n} is submitted before its time");
        assert!((1..=3).contains(&attempt));
        assert!(n > self.accepted && n <= self.n + 1, "{n} is submitted behind {}", self.n);
        assert!(n - self.accepted <= INPUTS_HELD_MAX as u64 + 1, "{n} is submitted, {} are accepted", self.accepted);
        self.n = self.n.max(n);
        let jid = self.jid.as_ref().expect("there is a session");
        // The edge's own answers come from the account, and go to the session.
        let from = stanza.from.as_ref().expect("every stanza says whose it is");
        assert!(*from == *jid || (*from == jid.bare() || from.local().is_none()) && stanza.to.as_ref().is_some_and(|to| *to == *jid));
        let bytes = stanza.to_bytes();
        if bytes.len() <= witness::TEXT_BYTES_MAX && !witness::is_blind_to(&bytes) {
            let seen = witness::element(&bytes, ns::CLIENT).expect("one stanza");
            assert_eq!(seen.attr("from"), Some(from.as_str()));
        }
    }
}

impl Question {
    fn req(&self) -> ReqId {
        match self {
            Question::Credentials { req, .. }
            | Question::Account { req }
            | Question::Bind { req, .. }
            | Question::Enable { req }
            | Question::Resume { req, .. }
            | Question::Reattach { req, .. } => *req,
        }
    }
}
