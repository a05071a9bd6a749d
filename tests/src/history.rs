//! What happened in a run, one JSON object a line, so that it can be judged afterwards and kept as evidence.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// As it was sent, or later with a delay (XEP-0203), by the stream of a session.
    Stream,
    /// By asking the archive (XEP-0313) after a new session was bound.
    Catchup,
}

/// What acknowledged a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckBy {
    /// `<a/>`.
    A,
    /// `<resumed/>`.
    Resumed,
    /// `<failed/>` with a number.
    Failed,
}

/// One thing that happened. `client` is a bare JID; each client of a run is an account of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A client bound a session; `session` counts those of the client.
    Bound {
        /// Who.
        client: String,
        /// Which session of it.
        session: u32,
    },
    /// A client resumed its session.
    Resumed {
        /// Who.
        client: String,
        /// Which session of it.
        session: u32,
        /// How many stanzas were sent again.
        resent: usize,
    },
    /// The server refused to resume a session.
    ResumeFailed {
        /// Who.
        client: String,
        /// Which session of it.
        session: u32,
        /// The number that came with the refusal.
        h: Option<u32>,
        /// How many stanzas it did not cover.
        left: usize,
    },
    /// A message was handed to the stream for the first time in a session. After a refused resumption it is sent in another session too.
    Sent {
        /// By whom.
        client: String,
        /// In which session.
        session: u32,
        /// To which bare JID.
        to: String,
        /// To which address: that bare JID, or a full JID of it.
        address: String,
        /// The message's id, unique in the run.
        id: String,
        /// What it says.
        body: String,
    },
    /// A message was acknowledged to its sender.
    Acked {
        /// The sender.
        client: String,
        /// The message.
        id: String,
        /// By what.
        by: AckBy,
    },
    /// A message came.
    Received {
        /// To whom.
        client: String,
        /// In which session.
        session: u32,
        /// How.
        via: Via,
        /// From which bare JID.
        from: String,
        /// Its id.
        id: String,
        /// What it says.
        body: String,
        /// The archive's id that it carries (XEP-0359).
        stanza_id: Option<String>,
    },
    /// A message came back as an error.
    Bounced {
        /// To whom.
        client: String,
        /// The message.
        id: String,
        /// The error's condition.
        condition: String,
    },
    /// The server, or the client's reading of it, broke a rule of the protocol.
    Broken {
        /// Who saw it.
        client: String,
        /// What was seen.
        why: String,
    },
    /// A row of an archive, in its order, read when all was over.
    Archived {
        /// Whose archive.
        owner: String,
        /// The archive's id of it.
        row: String,
        /// From which bare JID.
        from: String,
        /// To which bare JID.
        to: String,
        /// The message's id.
        id: String,
        /// What it says.
        body: String,
    },
    /// An archive was read to its end: an owner without this line has no evidence.
    ArchiveRead {
        /// Whose.
        owner: String,
    },
    /// A fault was made.
    Fault {
        /// Its number, from 1.
        n: u32,
        /// Which.
        kind: String,
    },
    /// What a fault did, over the whole run. One that did nothing proves nothing.
    Acted {
        /// Which fault.
        fault: String,
        /// What.
        what: String,
        /// How often, or how much.
        count: u64,
    },
    /// The server takes clients again.
    Up {
        /// After which fault.
        n: u32,
    },
    /// From here on nobody says anything new; what is owed is settled.
    Drain {},
}

/// An event and when, in milliseconds from the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    t: u64,
    #[serde(flatten)]
    event: Event,
}

/// A history that is being written. Clones write the same one.
#[derive(Clone)]
pub struct History {
    start: Instant,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    events: Vec<Event>,
    file: Option<BufWriter<File>>,
}

impl History {
    /// A history, kept in a file too if one is named.
    pub fn new(file: Option<&Path>) -> Result<History> {
        let file = file.map(|p| File::create(p).with_context(|| format!("{}", p.display()))).transpose()?.map(BufWriter::new);
        Ok(History { start: Instant::now(), inner: Arc::new(Mutex::new(Inner { events: Vec::new(), file })) })
    }

    /// Adds an event.
    pub fn add(&self, event: Event) {
        let t = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        // A poisoned lock means that a client panicked, which fails the run anyhow; the history up to there stays useful.
        let mut inner = self.inner.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(file) = inner.file.as_mut() {
            let line = serde_json::to_string(&Line { t, event: event.clone() }).unwrap_or_default();
            let _ = writeln!(file, "{line}");
        }
        inner.events.push(event);
    }

    /// All that happened so far.
    pub fn events(&self) -> Vec<Event> {
        let mut inner = self.inner.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(file) = inner.file.as_mut() {
            let _ = file.flush();
        }
        inner.events.clone()
    }
}

/// Reads a history from its file.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let parse = |(n, line): (usize, std::io::Result<String>)| -> Result<Event> {
        Ok(serde_json::from_str::<Line>(&line?).with_context(|| format!("line {}", n + 1))?.event)
    };
    BufReader::new(file).lines().enumerate().map(parse).collect()
}
