//! Nanoseconds to frame, read and write a chat stanza: `cargo run --release -p chappe-stanza --example speed`, with the
//! number of stanzas of one pass as argument, or none.
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use bytes::{Bytes, BytesMut};
use stanza::{Parsed, Stanza};
use std::hint::black_box;
use std::time::{Duration, Instant};
use types::ns;
use xml::{Element, Frame, Framer, Limits};

const PASSES: usize = 9;

fn main() {
    let count = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let stanzas: Vec<String> = (0..count).map(chat).collect();
    let frames: Vec<Bytes> = stanzas.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect();
    let stream = stanzas.concat();
    println!("{count} stanzas of {} bytes on average, best of {PASSES} passes", stream.len() / count);
    measure(count, "frame, segments of 1460 bytes", || frame(stream.as_bytes(), 1460));
    measure(count, "frame, one stanza at a time", || stanzas.iter().map(|s| frame(s.as_bytes(), s.len())).sum());
    measure(count, "Stanza::parse", || frames.iter().map(|f| read(f).children.len()).sum());
    measure(count, "Stanza::decode", || frames.iter().map(|f| Stanza::decode(f.clone()).map_or(0, |s| s.children.len())).sum());
    measure(count, "Element::parse", || frames.iter().map(|f| Element::parse(f, ns::CLIENT).map_or(0, |e| e.children.len())).sum());
    let read: Vec<Stanza> = frames.iter().map(read).collect();
    measure(count, "Stanza::clone", || read.iter().map(|s| black_box(s.clone()).children.len()).sum());
    let mut out = BytesMut::with_capacity(1 << 20);
    measure(count, "Stanza::write", || {
        read.iter()
            .map(|s| {
                out.clear();
                s.write(&mut out);
                out.len()
            })
            .sum()
    });
}

fn chat(i: usize) -> String {
    format!(
        "<message from='romeo{i:05}@montague.example/orchard' to='juliet{i:05}@capulet.example/balcony' id='m-{i:08x}' type='chat'>\
         <body>O &amp; O, she doth teach the torches {i} to burn bright &lt;3</body>\
         <active xmlns='http://jabber.org/protocol/chatstates'/><request xmlns='urn:xmpp:receipts'/></message>"
    )
}

fn frame(bytes: &[u8], segment: usize) -> usize {
    let mut framer = Framer::new(Limits::AUTHENTICATED);
    framer.feed(b"<stream:stream>");
    let mut frames = 0;
    for segment in bytes.chunks(segment) {
        framer.feed(segment);
        while let Ok(Some(frame)) = framer.next() {
            frames += usize::from(matches!(black_box(frame), Frame::Element(_)));
        }
    }
    frames
}

fn read(frame: &Bytes) -> Stanza {
    match Stanza::parse(frame.clone(), ns::CLIENT) {
        Ok(Parsed::Stanza(stanza)) => stanza,
        other => panic!("{other:?}"),
    }
}

fn measure(count: usize, what: &str, mut pass: impl FnMut() -> usize) {
    let mut best = Duration::MAX;
    for _ in 0..PASSES {
        let begin = now();
        black_box(pass());
        best = best.min(now() - begin);
    }
    println!("{what:32} {:6.0} ns", best.as_nanos() as f64 / count as f64);
}

/// CPU time of this thread where the system tells it (Linux), so that a busy machine does not count; else time.
fn now() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = schedstat.and_then(|s| s.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| START.elapsed(), Duration::from_nanos)
}
