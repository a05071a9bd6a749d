//! What a connection costs while nothing happens.

use super::script::Script;
use super::settings;
use crate::core::Connection;

/// The session, two JIDs, soft state; and the settings, which connections share.
const HEAP_BYTES_MAX: i64 = 880;
const HEAP_PIECES_MAX: i64 = 9;

/// A session that waits holds its state and nothing else: no buffer, no queue, nothing of the negotiation.
#[test]
fn an_idle_connection_is_small() {
    let mut script = Script::new(settings(), usize::MAX);
    script.run(
        "- resumable
         C: <presence/><r xmlns='urn:xmpp:sm:3'/>
         edge→core: submit 1 *
         core→edge: accepted 1
         S: <a xmlns='urn:xmpp:sm:3' h='1'/>
         core→edge: deliver <message/>
         S: <message to='juliet@im.example'/><r xmlns='urn:xmpp:sm:3'/>
         C: <a xmlns='urn:xmpp:sm:3' h='1'/>
         edge→core: acked 1
         - is idle",
    );
    let c = script.connection.as_ref().unwrap();
    assert!(c.session.as_ref().is_some_and(|s| s.inputs.capacity() == 0 && s.unacked.capacity() == 0));
}

/// Words that every connection has, idle or not. Who needs another one says so here.
#[test]
fn what_every_connection_has_is_bounded() {
    for (what, bytes, bytes_max) in [
        ("connection", size_of::<Connection>(), 408),
        ("session", size_of::<super::super::session::Session>(), 304),
        ("actor", crate::connection::ACTOR_BYTES, 152),
        ("TLS", size_of::<crate::tls::Tls>(), 1_128),
        ("slot", size_of::<crate::plane::Slot>(), 48),
    ] {
        println!("{what}: {bytes} B");
        assert!(bytes <= bytes_max, "{what}: {bytes} B, at most {bytes_max}");
    }
}

/// What is on the heap for one bound session, without its socket, its actor and its TLS.
#[test]
fn an_idle_connection_leaves_little_on_the_heap() {
    let bound = || {
        let mut script = Script::new(settings(), usize::MAX);
        script.run(
            "- binds
             C: <presence/>
             edge→core: submit 1 *
             core→edge: accepted 1
             - is idle",
        );
        script.connection.take()
    };
    // What is made once for all is not counted.
    drop(bound());
    let mut connection = None;
    let heap = allocation_counter::measure(|| connection = bound());
    println!("{} B in {} pieces", heap.bytes_current, heap.count_current);
    assert!(connection.is_some_and(|c| c.is_idle()));
    assert!(heap.bytes_current <= HEAP_BYTES_MAX && heap.count_current <= HEAP_PIECES_MAX, "{heap:?}");
}
