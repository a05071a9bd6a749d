//! The interpreter of transcripts.

use crate::core::{Connection, Output};
use bytes::Bytes;
use compact_str::CompactString;
use frame::{
    AccountError, Bound, CredentialsAnswer, EdgeMsg, EndReason, Pos, Reattached, Resumed, SessionCopy, ShardMsg, Sm, Soft, ToEdge,
};
use sasl::Credentials;
use stanza::{Condition, Parsed, Stanza, StanzaError};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use stream::{Settings, TlsInfo};
use types::{Attach, ConnId, Epoch, FullJid, Instant, Now, ReqId, SessionId, ShardId, Timestamp, ns};

const CONN: ConnId = ConnId { node: 1, plane: 2, slot: 3 };
const SESSION: SessionId = SessionId { epoch: 1, seq: 7 };
/// What a browser of transcripts need not read each time.
const HEADER: &str = "<?xml version='1.0'?><stream:stream to='im.example' version='1.0' xmlns='jabber:client' \
                      xmlns:stream='http://etherx.jabber.org/streams'>";

/// The password of everyone here, and its keys.
pub const PASSWORD: &str = "r0m30myr0m30";

pub fn keys() -> &'static Credentials {
    static KEYS: OnceLock<Credentials> = OnceLock::new();
    KEYS.get_or_init(|| Credentials::derive(PASSWORD, &[5; 32], 4_096).unwrap())
}

pub struct Script {
    settings: Settings,
    piece: usize,
    now: Now,
    pub connection: Option<Connection>,
    written: String,
    /// Frames said and not named by the script yet.
    frames: VecDeque<String>,
    /// Other outputs.
    others: VecDeque<String>,
    epoch: Epoch,
    /// The owner that knows what it did with the session.
    adopted_in: Epoch,
    attach: Attach,
    jid: FullJid,
    req: ReqId,
    m: u64,
    verify: Option<(Credentials, sasl::Password)>,
    refuses: bool,
}

impl Script {
    pub fn new(settings: Settings, piece: usize) -> Script {
        Script {
            settings,
            piece,
            now: Now { mono: Instant(1_000_000), wall: Timestamp(1_795_368_840_000) },
            connection: None,
            written: String::new(),
            frames: VecDeque::new(),
            others: VecDeque::new(),
            epoch: Epoch(1),
            adopted_in: Epoch(1),
            attach: Attach(1),
            jid: FullJid::parse("juliet@im.example/balcony").unwrap(),
            req: ReqId(0),
            m: 0,
            verify: None,
            refuses: false,
        }
    }

    #[track_caller]
    pub fn run(&mut self, text: &str) {
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let begins = ["C:", "S:", "edge→core:", "core→edge:", "- ", "#"].iter().any(|p| line.starts_with(p));
            match lines.last_mut() {
                Some(last) if !begins => {
                    // A line may be broken between attributes.
                    if last.rfind('<') > last.rfind('>') {
                        last.push(' ');
                    }
                    last.push_str(line);
                }
                _ => lines.push(line.to_owned()),
            }
        }
        for (i, line) in lines.iter().enumerate() {
            let piece = self.piece;
            let place = format!("line {} (pieces of {piece}): {line}", i + 1);
            let (kind, rest) = line.split_once([':', ' ']).unwrap_or((line, ""));
            let rest = rest.trim();
            match kind {
                "S" => {
                    let written = std::mem::take(&mut self.written);
                    assert!(matches(rest, &written), "{place}\nwas written: {written}");
                    continue;
                }
                "edge→core" => {
                    let said = self.frames.pop_front();
                    let said = said.as_deref().unwrap_or("nothing");
                    assert!(matches(rest, said), "{place}\nwas said: {said}");
                    continue;
                }
                "-" if ["closes", "is ", "reads", "starts", "derives"].iter().any(|p| rest.starts_with(p)) => {
                    self.expect(rest, &place);
                    continue;
                }
                "#" => continue,
                _ => {}
            }
            self.nothing_left(&place);
            match kind {
                "C" => self.client(rest),
                "core→edge" => self.core(rest),
                "-" => self.event(rest, &place),
                _ => panic!("{place}"),
            }
            self.drain();
        }
        self.nothing_left("at the end");
    }

    fn nothing_left(&mut self, place: &str) {
        assert_eq!(self.written, "", "{place}: written before, and not named");
        assert!(self.frames.is_empty(), "{place}: said to the core before, and not named: {:?}", self.frames);
        assert!(self.others.is_empty(), "{place}: done before, and not named: {:?}", self.others);
    }

    fn connection(&mut self) -> &mut Connection {
        let (settings, now) = (&self.settings, self.now);
        let tls = TlsInfo { sni: None, exporter: None, version13: true };
        self.connection.get_or_insert_with(|| Connection::new(Arc::new(settings.clone()), CONN, [9; 32], now, Some(tls)))
    }

    fn client(&mut self, text: &str) {
        let now = self.now;
        let bytes = unescape(text);
        for piece in bytes.chunks(self.piece) {
            self.connection().handle_bytes(now, piece);
        }
    }

    fn drain(&mut self) {
        let now = self.now;
        while let Some(output) = self.connection().poll_output() {
            match output {
                Output::Write(bytes) => self.written.push_str(std::str::from_utf8(&bytes).unwrap()),
                Output::Frame { .. } if self.refuses => self.connection().handle_unreachable(now),
                Output::Frame { account, body } => {
                    let said = self.show(&body);
                    let own = account == self.jid.bare();
                    self.frames.push_back(if own { said } else { format!("{said} of {account}") });
                }
                Output::StartTls => self.others.push_back("starts tls".to_owned()),
                Output::VerifyPlain { credentials, password } => {
                    self.others.push_back("verifies".to_owned());
                    self.verify = Some((credentials, password));
                }
                Output::Derive { password, .. } => self.others.push_back(format!("derives {}", password.as_str())),
                Output::Close => self.others.push_back("closes".to_owned()),
            }
        }
        if self.verify.is_some() {
            self.others.pop_back();
            let (credentials, password) = self.verify.take().unwrap();
            let ok = credentials.verify_plain(password.as_str());
            self.connection().handle_plain_verified(now, ok);
            self.drain();
        }
    }

    #[track_caller]
    fn expect(&mut self, words: &str, place: &str) {
        let c = self.connection.as_ref().unwrap();
        match words {
            words if words.starts_with("closes") || words.starts_with("starts") || words.starts_with("derives") => {
                assert_eq!(self.others.pop_front().as_deref().unwrap_or("nothing"), words, "{place}")
            }
            "is done" => assert!(c.is_done(), "{place}"),
            "is not done" => assert!(!c.is_done(), "{place}"),
            "is idle" => assert!(c.is_idle(), "{place}"),
            "reads" => assert!(c.wants_read(), "{place}"),
            "reads nothing" => assert!(!c.wants_read(), "{place}"),
            _ => panic!("{place}"),
        }
    }

    /// What happens beside bytes and frames.
    fn event(&mut self, words: &str, place: &str) {
        let now = self.now;
        let mut w = words.split(' ');
        match (w.next().unwrap(), w.collect::<Vec<_>>().as_slice()) {
            ("connects", ["in", "the", "clear"]) => {
                let settings = Arc::new(self.settings.clone());
                self.connection = Some(Connection::new(settings, CONN, [9; 32], now, None));
            }
            ("connects", ["by", "tls", sni @ ..]) => {
                let settings = Arc::new(self.settings.clone());
                let sni = sni.get(1).map(|s| s.to_string());
                let tls = TlsInfo { sni, exporter: Some(vec![3; 32]), version13: true };
                self.connection = Some(Connection::new(settings, CONN, [9; 32], now, Some(tls)));
            }
            ("tls", ["is", "there"]) => {
                let tls = TlsInfo { sni: None, exporter: Some(vec![3; 32]), version13: true };
                self.connection().handle_tls(now, tls);
            }
            ("logs", ["in"]) => self.log_in(),
            ("binds", []) => {
                self.log_in();
                self.bind();
            }
            ("resumable", []) => {
                self.log_in();
                self.bind();
                self.run(
                    "C: <enable xmlns='urn:xmpp:sm:3' resume='true'/>
                     edge→core: enable resume=300
                     core→edge: enabled some-id
                     S: <enabled xmlns='urn:xmpp:sm:3' id='some-id' resume='true' max='300'/>",
                );
            }
            (n, ["s", "pass"]) => self.pass(Duration::from_secs(n.parse().unwrap())),
            (n, ["ms", "pass"]) => self.pass(Duration::from_millis(n.parse().unwrap())),
            ("socket", ["breaks"]) => self.connection().handle_closed(now),
            ("server", ["drains"]) => self.connection().handle_drain(now),
            ("link", ["refuses"]) => self.refuses = true,
            ("link", ["works"]) => self.refuses = false,
            ("owner", ["of", "epoch", epoch]) => {
                self.epoch = Epoch(epoch.parse().unwrap());
                let epoch = self.epoch;
                self.connection().handle_placement(now, ShardId(5), epoch);
            }
            ("derived", []) => {
                self.connection().handle_derived(now, Ok(Bytes::from(keys().encode())));
            }
            ("underivable", []) => self.connection().handle_derived(now, Err(sasl::SaslError::Password)),
            _ => panic!("{place}"),
        }
    }

    /// A header and PLAIN, up to the features of an authenticated stream, which other scripts show.
    fn log_in(&mut self) {
        self.client(HEADER);
        self.drain();
        self.written.clear();
        let auth = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("\0juliet\0{PASSWORD}"));
        self.client(&format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{auth}</auth>"));
        self.drain();
        self.core("keys");
        self.drain();
        self.client(HEADER);
        self.drain();
        assert!(self.written.contains("<success") && self.written.contains("<bind"), "{}", self.written);
        self.written.clear();
        self.frames.clear();
    }

    fn bind(&mut self) {
        self.run(
            "C: <iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>balcony</resource></bind></iq>
             edge→core: bind balcony
             core→edge: bound
             S: <iq id='b' type='result'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>
             <jid>juliet@im.example/balcony</jid></bind></iq>",
        );
    }

    /// Time passes, in the steps that the connection asks for.
    fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        loop {
            let next = self.connection().next_timeout();
            assert!(next > self.now.mono, "a timeout in the past");
            self.now.mono = next.min(end);
            let now = self.now;
            self.connection().handle_timeout(now);
            self.drain();
            if self.now.mono >= end {
                return;
            }
        }
    }

    /// A frame from the account's shard.
    fn core(&mut self, words: &str) {
        let (mut epoch, mut attach, mut req) = (self.epoch, self.attach, self.req);
        let mut rest = words;
        while let Some((what, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(") ")) {
            match what.split_once(' ').unwrap() {
                ("epoch", n) => epoch = Epoch(n.parse().unwrap()),
                ("attach", n) => attach = Attach(n.parse().unwrap()),
                ("req", n) => req = ReqId(n.parse().unwrap()),
                _ => panic!("{words}"),
            }
            rest = after;
        }
        let body = self.shard_msg(rest, attach, req);
        let now = self.now;
        self.connection().handle_frame(now, ToEdge { conn: CONN, shard: ShardId(5), epoch, body });
    }

    fn shard_msg(&mut self, words: &str, attach: Attach, req: ReqId) -> ShardMsg {
        let session = SESSION;
        let (word, rest) = words.split_once(' ').unwrap_or((words, ""));
        match word {
            "keys" => ShardMsg::Credentials { req, answer: CredentialsAnswer::Known(Bytes::from(keys().encode())) },
            "unknown" => ShardMsg::Credentials { req, answer: CredentialsAnswer::Unknown },
            "locked" => ShardMsg::Credentials { req, answer: CredentialsAnswer::Locked },
            "busy" => ShardMsg::Credentials { req, answer: CredentialsAnswer::Busy },
            "bound" => ShardMsg::Bound { req, result: Ok(Bound { session, attach, jid: self.jid.clone() }) },
            "unbound" => {
                let condition = Condition::of_name(rest).unwrap();
                ShardMsg::Bound { req, result: Err(StanzaError::new(condition)) }
            }
            "enabled" => {
                let sm = self.sm(rest);
                ShardMsg::Enabled { req, session, attach, sm }
            }
            "resumed" => ShardMsg::Resumed { req, resumed: Box::new(self.resumed(rest, attach)) },
            "not-resumed" => ShardMsg::ResumeFailed { req, h: rest.parse().ok() },
            "re-attached" => {
                self.attach = Attach(self.attach.0 + 1);
                let (attach, accepted) = (self.attach, rest.parse().unwrap());
                let adopted = self.epoch > self.adopted_in;
                if req == self.req {
                    self.adopted_in = self.epoch;
                }
                ShardMsg::Reattached { req, answer: Some(Reattached { session, attach, accepted, adopted }) }
            }
            "not-now" => ShardMsg::Busy { req },
            "not-re-attached" => ShardMsg::Reattached { req, answer: None },
            "accepted" => ShardMsg::Outcome { session, attach, accepted: rest.parse().unwrap() },
            "refused" => ShardMsg::Refused { session, attach, n: rest.parse().unwrap() },
            "again" => ShardMsg::Again { session },
            "keep" => {
                let soft = Soft { carbons: rest.contains("carbons"), ..Soft::default() };
                ShardMsg::Keep { session, attach, soft: Arc::new(soft) }
            }
            "deliver" => ShardMsg::Deliver { session, attach, output: self.output(rest) },
            "done" => ShardMsg::AccountDone { req, result: Ok(()) },
            "exists" => ShardMsg::AccountDone { req, result: Err(AccountError::Exists) },
            "ended" => ShardMsg::Ended { session, attach, reason: reason(rest) },
            _ => panic!("no such frame: {words}"),
        }
    }

    /// `id` alone, or with `base_n=`, `base_m=`; no id means not resumable.
    fn sm(&mut self, words: &str) -> Sm {
        let mut sm = Sm { base_n: 0, base_m: self.m, previd: None, resume_secs: 300 };
        for word in words.split(' ').filter(|w| !w.is_empty()) {
            match word.split_once('=') {
                Some(("base_n", n)) => sm.base_n = n.parse().unwrap(),
                Some(("base_m", m)) => sm.base_m = m.parse().unwrap(),
                _ => sm.previd = Some(CompactString::new(word)),
            }
        }
        sm
    }

    /// `accepted=` `base_n=` `base_m=` `acked=`, then outputs that are not acknowledged, each as in `deliver`, between `|`.
    fn resumed(&mut self, words: &str, attach: Attach) -> Resumed {
        let mut parts = words.split('|').map(str::trim);
        let (mut accepted, mut m_acked, mut sm) = (0, 0, Sm { base_n: 0, base_m: 0, previd: Some("some-id".into()), resume_secs: 300 });
        for word in parts.next().unwrap_or_default().split(' ').filter(|w| !w.is_empty()) {
            let (name, n) = word.split_once('=').unwrap();
            let n = n.parse().unwrap();
            match name {
                "accepted" => accepted = n,
                "acked" => m_acked = n,
                "base_n" => sm.base_n = n,
                "base_m" => sm.base_m = n,
                _ => panic!("{words}"),
            }
        }
        self.m = m_acked;
        let outputs: Vec<_> = parts.map(|p| self.output(p)).collect();
        let soft = Arc::new(Soft { sm: Some(sm), ..Soft::default() });
        Resumed { session: SESSION, attach, jid: self.jid.clone(), accepted, outputs, m: self.m, m_acked, pos: frame::Pos::default(), soft }
    }

    /// `m=` (else the next one), `row=`, then the stanza.
    fn output(&mut self, words: &str) -> frame::Output {
        let (mut rest, mut pos) = (words, None);
        self.m += 1;
        while !rest.starts_with('<') {
            let (word, after) = rest.split_once(' ').unwrap();
            match word.split_once('=').unwrap() {
                ("m", m) => self.m = m.parse().unwrap(),
                ("row", row) => pos = Some(Pos { row: row.parse().unwrap(), epoch: self.epoch }),
                _ => panic!("{words}"),
            }
            rest = after;
        }
        frame::Output { m: self.m, pos, stanza: Arc::new(parse(rest)) }
    }

    fn show(&mut self, body: &EdgeMsg) -> String {
        if let EdgeMsg::Credentials { req }
        | EdgeMsg::Create { req, .. }
        | EdgeMsg::SetCredentials { req, .. }
        | EdgeMsg::Remove { req }
        | EdgeMsg::Bind { req, .. }
        | EdgeMsg::Enable { req, .. }
        | EdgeMsg::Resume { req, .. }
        | EdgeMsg::Reattach { req, .. } = body
        {
            self.req = *req;
        }
        match body {
            EdgeMsg::Credentials { .. } => "credentials".to_owned(),
            EdgeMsg::LoginEnded { ok } => format!("login {}", if *ok { "succeeded" } else { "failed" }),
            EdgeMsg::Create { credentials, .. } => format!("create {}", are_keys(credentials)),
            EdgeMsg::SetCredentials { credentials, .. } => format!("set {}", are_keys(credentials)),
            EdgeMsg::Remove { .. } => "remove".to_owned(),
            EdgeMsg::Bind { resource, .. } => format!("bind {}", resource.as_deref().unwrap_or("anything")),
            EdgeMsg::Enable { resume_secs: Some(secs), .. } => format!("enable resume={secs}"),
            EdgeMsg::Enable { .. } => "enable".to_owned(),
            EdgeMsg::Resume { previd, h, .. } => format!("resume {previd} h={h}"),
            EdgeMsg::Reattach { copy, .. } => show_copy(copy),
            EdgeMsg::Submit { n, attempt, stanza, .. } => {
                let again = if *attempt == 1 { String::new() } else { format!(" (attempt {attempt})") };
                format!("submit {n}{again} {}", String::from_utf8_lossy(&stanza.to_bytes()))
            }
            EdgeMsg::Acked { m, .. } => format!("acked {m}"),
            EdgeMsg::Active { active, .. } => if *active { "active" } else { "inactive" }.to_owned(),
            EdgeMsg::Ask { .. } => "ask".to_owned(),
            EdgeMsg::Detach { attach, .. } => format!("detach a{}", attach.0),
            EdgeMsg::Close { attach, .. } => format!("close a{}", attach.0),
        }
    }
}

fn show_copy(copy: &SessionCopy) -> String {
    let inputs: Vec<_> = copy.inputs.iter().map(|(n, _)| n.to_string()).collect();
    let outputs: Vec<_> = copy.outputs.iter().map(|o| o.m.to_string()).collect();
    format!(
        "re-attach a{} accepted={} inputs={} m={} acked={} row={} outputs={}{}{}{}",
        copy.attach.0,
        copy.accepted,
        inputs.join(","),
        copy.m,
        copy.m_acked,
        copy.pos.row,
        outputs.join(","),
        if copy.soft.carbons { " carbons" } else { "" },
        if copy.soft.inactive { " inactive" } else { "" },
        if copy.soft.sm.is_some() { " sm" } else { "" },
    )
}

fn are_keys(bytes: &Bytes) -> &'static str {
    if Credentials::decode(bytes).as_ref() == Ok(keys()) { "keys" } else { "nonsense" }
}

fn reason(words: &str) -> EndReason {
    match words {
        "conflict" => EndReason::Conflict,
        "not-authorized" => EndReason::NotAuthorized,
        "resource-constraint" => EndReason::ResourceConstraint,
        "policy-violation" => EndReason::PolicyViolation,
        _ => EndReason::Internal,
    }
}

fn parse(text: &str) -> Stanza {
    match Stanza::parse(Bytes::copy_from_slice(text.as_bytes()), ns::CLIENT).unwrap() {
        Parsed::Stanza(stanza) => stanza,
        other => panic!("{other:?}"),
    }
}

/// `\xNN` is a byte; `{header}` the usual header; `{50000 spaces}` and the like are long things.
fn unescape(text: &str) -> Vec<u8> {
    let text = text.replace("{header}", HEADER);
    let mut out = Vec::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(['\\', '{']) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        if let Some(hex) = rest.strip_prefix("\\x") {
            out.push(u8::from_str_radix(&hex[..2], 16).unwrap());
            rest = &hex[2..];
        } else if let Some((n, unit)) = rest[1..].split_once('}').and_then(|(inside, _)| inside.split_once(' ')) {
            let unit_bytes: &[u8] = if unit == "spaces" { b" " } else { unit.as_bytes() };
            out.extend(unit_bytes.repeat(n.parse().unwrap()));
            rest = &rest[rest.find('}').unwrap() + 1..];
        } else {
            out.extend_from_slice(&rest.as_bytes()[..1]);
            rest = &rest[1..];
        }
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let parts: Vec<_> = parts.collect();
    for (i, part) in parts.iter().enumerate() {
        if i + 1 == parts.len() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}
