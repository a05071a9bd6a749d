//! The parts of a message's way, by time: `cargo bench -p chappe-bench`, or `just bench`. The whole way stands beside them.
//!
//! Times are for comparison within one run. What a regression is held against are counts that no machine changes:
//! allocations (`baseline.txt`, in every test run) and instructions (`instructions.txt`, `just instructions`).

use bytes::{Bytes, BytesMut};
use chappe_bench::path::{Path, Way};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use stanza::{Parsed, Stanza};
use std::sync::mpsc;
use std::time::Duration;
use store::{Completion, Store};
use store_embedded::{Embedded, Options};
use types::{Batch, Collection, Op, Partition, ns};
use xml::{Frame, Framer, Limits};

fn main() {
    divan::main();
}

const HEADER: &str = "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";

/// A chat message with a body of 200 bytes, and a chat marker, as clients write them.
fn message() -> String {
    format!(
        "<message to='juliet@example.org/balcony' type='chat' id='m1'><body>{:<200}</body><active xmlns='http://jabber.org/protocol/chatstates'/>\
         <request xmlns='urn:xmpp:receipts'/></message>",
        "wherefore art thou?"
    )
}

/// Bytes of a socket become the bytes of stanzas. The argument: bytes of one read.
#[divan::bench(args = [64, 1_400, 8_192])]
fn framer(bencher: Bencher<'_, '_>, read: usize) {
    let text = message().repeat(100);
    bencher
        .counter(BytesCount::new(text.len()))
        .with_inputs(|| {
            let mut framer = Framer::new(Limits::default());
            framer.feed(HEADER.as_bytes());
            while let Ok(Some(_)) = framer.next() {}
            framer
        })
        .bench_local_values(|mut framer| {
            let mut stanzas = 0;
            for bytes in text.as_bytes().chunks(read) {
                framer.feed(bytes);
                while let Ok(Some(frame)) = framer.next() {
                    stanzas += usize::from(matches!(frame, Frame::Element(_)));
                }
            }
            assert_eq!(stanzas, 100);
            framer
        });
}

/// The bytes of a stanza become a head and its children, checked.
#[divan::bench]
fn parser(bencher: Bencher<'_, '_>) {
    let bytes = Bytes::from(message());
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| Stanza::parse(black_box(bytes.clone()), ns::CLIENT).is_ok());
}

/// Another `from`, a stanza-id, and out: what a server changes of a message that passes.
#[divan::bench]
fn head_rewriting(bencher: Bencher<'_, '_>) {
    let Ok(Parsed::Stanza(parsed)) = Stanza::parse(Bytes::from(message()), ns::CLIENT) else { unreachable!("a message") };
    let from = types::Jid::parse("romeo@example.org/orchard").unwrap_or_else(|_| unreachable!("an address"));
    let mut out = BytesMut::with_capacity(4_096);
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        out.clear();
        let stanza = parsed.clone().with_from(from.clone());
        stanza.write(&mut out);
        out.len()
    });
}

/// A message from bytes to bytes, through connections, shards, accounts and all modules, without sockets and disk.
#[divan::bench(args = ["chat", "chat-managed", "chat-archived"])]
fn whole_way(bencher: Bencher<'_, '_>, way: &str) {
    let (_, way) = Way::ALL.into_iter().find(|(name, _)| *name == way).unwrap_or_else(|| unreachable!("a way"));
    let mut path = Path::new(way, 50).unwrap_or_else(|e| unreachable!("{e}"));
    bencher.counter(ItemsCount::new(50 * way.burst)).bench_local(|| path.round());
}

/// Groups of so many rows until they are durable: the embedded store on the disk of the temporary folder.
#[divan::bench(args = [1, 16, 256], sample_count = 20)]
fn store_commit(bencher: Bencher<'_, '_>, rows: u64) {
    let folder = tempfile::tempdir().unwrap_or_else(|e| unreachable!("{e}"));
    let store = Embedded::open(folder.path(), Options::default()).unwrap_or_else(|e| unreachable!("{e}"));
    let (said, heard) = mpsc::sync_channel(1_024);
    let plane = store.register(Box::new(move |completion| drop(said.send(completion))));
    let partition = Partition { collection: Collection::Log, key: Bytes::from_static(b"romeo@example.org\0\0\0\0\0\0\0\0\0") };
    let mut row = 0_u64;
    bencher.counter(ItemsCount::new(rows)).bench_local(|| {
        let mut last = types::Ticket::NONE;
        for _ in 0..rows {
            row += 1;
            let ops = [Op::Put { key: Bytes::copy_from_slice(&row.to_be_bytes()), value: Bytes::from(vec![b'x'; 320]) }];
            last = store.commit(plane, row, Batch { partition: partition.clone(), ops: ops.into_iter().collect() });
        }
        while !matches!(heard.recv_timeout(Duration::from_secs(10)), Ok(Completion::Durable(ticket)) if ticket >= last) {}
    });
}
