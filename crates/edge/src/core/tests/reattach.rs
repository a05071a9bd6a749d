//! The edge as a holder: what it hands over, and whom it listens to (`ARCHITECTURE.md`, idea 5 and "When something dies").

use super::check;

/// ◊ From the moment the copy is handed over, frames of the old owner are refused.
#[test]
fn a_new_owner_gets_the_copy() {
    check(
        "- resumable
         C: <message id='1'/><message id='2'/><message id='3'/>
         edge→core: submit 1 *
         edge→core: submit 2 *
         edge→core: submit 3 *
         core→edge: accepted 1
         core→edge: deliver row=4 <message id='a'/>
         S: <message to='juliet@im.example' id='a'/><r xmlns='urn:xmpp:sm:3'/>
         core→edge: deliver <presence id='b'/>
         S: <presence to='juliet@im.example' id='b'/>
         C: <a xmlns='urn:xmpp:sm:3' h='1'/>
         edge→core: acked 1
         S: <r xmlns='urn:xmpp:sm:3'/>
         core→edge: keep carbons
         - owner of epoch 2
         edge→core: re-attach a1 accepted=1 inputs=2,3 m=2 acked=1 row=4 outputs=2 carbons sm
         core→edge: (epoch 1) accepted 3
         core→edge: (epoch 1) deliver m=3 <message id='old'/>
         core→edge: (epoch 1) ended conflict
         core→edge: accepted 3
         # What comes meanwhile waits.
         C: <message id='4'/><a xmlns='urn:xmpp:sm:3' h='2'/>
         core→edge: (req 1) re-attached 3
         core→edge: (attach 1) (epoch 1) again
         core→edge: re-attached 2
         edge→core: acked 2
         # In flight when the owner died: each alone, the second time.
         edge→core: submit 3 (attempt 2) <message from='juliet@im.example/balcony' id='3'/>
         core→edge: (attach 1) accepted 4
         core→edge: accepted 3
         edge→core: submit 4 <message from='juliet@im.example/balcony' id='4'/>
         core→edge: deliver m=3 <message id='c'/>
         S: <message to='juliet@im.example' id='c'/><r xmlns='urn:xmpp:sm:3'/>",
    );
}

/// An input that kills its owner is alone under suspicion; those behind it are not.
#[test]
fn attempts_are_counted_by_dead_owners() {
    check(
        "- binds
         C: <message id='1'/><message id='2'/>
         edge→core: submit 1 *
         edge→core: submit 2 *
         - owner of epoch 2
         edge→core: re-attach a1 *
         core→edge: re-attached 0
         edge→core: submit 1 (attempt 2) *
         - owner of epoch 3
         edge→core: re-attach a2 *
         core→edge: re-attached 0
         edge→core: submit 1 (attempt 3) *
         core→edge: accepted 1
         edge→core: submit 2 (attempt 2) *
         core→edge: accepted 2
         C: <message id='3'/><message id='4'/>
         edge→core: submit 3 *
         edge→core: submit 4 *
         # A renewed link: nobody has died.
         - owner of epoch 3
         edge→core: re-attach a3 accepted=2 inputs=3,4 *
         core→edge: re-attached 3
         edge→core: submit 4 <message from='juliet@im.example/balcony' id='4'/>",
    );
}

/// An owner that cannot take the copy now is asked again, and so is one that cannot bind now.
#[test]
fn busy_owners_are_asked_again() {
    check(
        "- resumable
         - owner of epoch 2
         edge→core: re-attach a1 *
         core→edge: not-now
         - 60 s pass
         edge→core: re-attach a1 *
         core→edge: (req 1) not-now
         core→edge: re-attached 0",
    );
    check(
        "- logs in
         C: <iq type='set' id='1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>
         edge→core: bind anything
         core→edge: not-now
         - 5 s pass
         edge→core: bind anything
         core→edge: bound
         S: <iq id='1' type='result'>*",
    );
}

/// What else makes a session be handed over, or not.
#[test]
fn sessions_are_handed_over_or_end() {
    // Detached behind the edge's back; a second word of it changes nothing.
    check(
        "- resumable
         core→edge: again
         edge→core: re-attach a1 *
         core→edge: again
         core→edge: re-attached 0
         core→edge: deliver m=1 <message/>
         S: <message to='juliet@im.example'/><r xmlns='urn:xmpp:sm:3'/>",
    );
    // By an owner that the edge has not heard of yet.
    check("- resumable\ncore→edge: (epoch 2) again\nedge→core: re-attach a1 *\n- owner of epoch 1");
    // An output is missing.
    check(
        "- resumable
         core→edge: deliver m=1 <message/>
         S: <message to='juliet@im.example'/><r xmlns='urn:xmpp:sm:3'/>
         core→edge: deliver m=1 <message/>
         core→edge: deliver m=3 <message/>
         edge→core: re-attach a1 accepted=0 inputs= m=1 acked=0 row=0 outputs=1 sm",
    );
    // It has ended, or somebody else has it.
    check(
        "- resumable
         - owner of epoch 2
         edge→core: re-attach a1 *
         core→edge: not-re-attached
         S: <stream:error><internal-server-error xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
         - closes
         - is done",
    );
    // Nobody takes the copy: it is offered again.
    check(
        "- resumable
         - link refuses
         - owner of epoch 2
         - 3 s pass
         - link works
         - 4 s pass
         edge→core: re-attach a1 *",
    );
    // Without XEP-0198, what came from the log and is not known to be read is handed over too.
    check(
        "- binds
         core→edge: deliver row=5 <message id='1'/>
         S: *</iq>
         core→edge: deliver <presence/>
         S: <presence to='juliet@im.example'/>
         - owner of epoch 2
         edge→core: re-attach a1 accepted=0 inputs= m=2 acked=0 row=5 outputs=1",
    );
}

/// What was asked when the owner changed is asked again, behind the copy.
#[test]
fn questions_survive_their_owner() {
    check(
        "- binds
         C: <enable xmlns='urn:xmpp:sm:3'/><inactive xmlns='urn:xmpp:csi:0'/>
         edge→core: enable
         - owner of epoch 2
         edge→core: re-attach a1 accepted=0 inputs= m=0 acked=0 row=0 outputs=
         core→edge: (epoch 1) (req 3) enabled
         core→edge: re-attached 0
         edge→core: enable
         core→edge: enabled
         S: <enabled xmlns='urn:xmpp:sm:3'/>
         edge→core: inactive
         - owner of epoch 3
         edge→core: re-attach a2 accepted=0 inputs= m=0 acked=0 row=0 outputs= inactive sm",
    );
}

/// The stream ends while the copy is on its way: the farewell goes to whoever takes it.
#[test]
fn a_session_leaves_its_new_owner() {
    check(
        "- resumable
         - owner of epoch 2
         edge→core: re-attach a1 *
         - socket breaks
         - is not done
         core→edge: re-attached 0
         edge→core: detach a2
         - is done",
    );
    check(
        "- resumable
         - owner of epoch 2
         edge→core: re-attach a1 *
         C: </stream:stream>
         - 10 s pass
         S: </stream:stream>
         - closes
         - is not done
         core→edge: re-attached 0
         edge→core: close a2
         - is done",
    );
    // Nobody answers: after a while it is given up.
    check(
        "- resumable
         - owner of epoch 2
         edge→core: re-attach a1 *
         - socket breaks
         - 59 s pass
         - 1 s pass
         edge→core: detach a1
         - is done",
    );
    // A farewell that the link does not take is said again.
    check(
        "- resumable
         - link refuses
         - socket breaks
         - is not done
         - 1 s pass
         - link works
         - 2 s pass
         edge→core: detach a1
         - is done",
    );
}

/// Whatever the link refuses is said later, once, and in its order.
#[test]
fn what_the_link_refuses_is_said_later() {
    check(
        "- resumable
         core→edge: deliver <message id='a'/>
         S: <message to='juliet@im.example' id='a'/><r xmlns='urn:xmpp:sm:3'/>
         - link refuses
         C: <a xmlns='urn:xmpp:sm:3' h='1'/>
         C: <message id='1'/><inactive xmlns='urn:xmpp:csi:0'/><message id='2'/>
         - 3 s pass
         - reads nothing
         - link works
         - 4 s pass
         edge→core: acked 1
         edge→core: submit 1 <message from='juliet@im.example/balcony' id='1'/>
         edge→core: inactive
         edge→core: submit 2 <message from='juliet@im.example/balcony' id='2'/>
         core→edge: accepted 2
         - link refuses
         C: <active xmlns='urn:xmpp:csi:0'/>
         - link works
         - 1 s pass
         edge→core: active",
    );
}
