//! What a connection costs while nothing happens.

use super::script::Script;
use super::settings;
use crate::core::Connection;

/// A session that waits holds its state and nothing else: no buffer, no queue, nothing of the negotiation. With JIDs, language
/// and resumption id it was measured at 1,054 bytes of heap, the connection itself included.
#[test]
fn an_idle_connection_is_small() {
    let mut script = Script::new(settings(), usize::MAX);
    script.run(
        "- resumable
         C: <presence/><r xmlns='urn:xmpp:sm:3'/>
         edge→core: submit 1 *
         S: <a xmlns='urn:xmpp:sm:3' h='0'/>
         core→edge: accepted 1
         S: <a xmlns='urn:xmpp:sm:3' h='1'/>
         core→edge: deliver <message/>
         S: <message/><r xmlns='urn:xmpp:sm:3'/>
         C: <a xmlns='urn:xmpp:sm:3' h='1'/>
         edge→core: acked 1
         - is idle",
    );
    let c = script.connection.as_ref().unwrap();
    assert!(c.session.as_ref().is_some_and(|s| s.inputs.capacity() == 0 && s.unacked.capacity() == 0));
    let (connection, session) = (size_of::<Connection>(), size_of::<super::super::session::Session>());
    println!("connection {connection} B, session {session} B");
    assert!(connection <= 512, "{connection}");
    assert!(session <= 384, "{session}");
}
