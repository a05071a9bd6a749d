//! In-band registration (XEP-0077).

use super::{check, check_with, settings};
use stream::Settings;

fn open() -> Settings {
    Settings { registration: true, ..settings() }
}

#[test]
fn an_account_is_made() {
    check_with(
        open(),
        "C: {header}
         S: *</mechanisms><register xmlns='http://jabber.org/features/iq-register'/></stream:features>
         C: <iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>
         S: <iq from='im.example' id='1' type='result'><query xmlns='jabber:iq:register'>
            <instructions>Choose a username and a password.</instructions><username/><password/></query></iq>
         C: <iq type='set' id='2'><query xmlns='jabber:iq:register'><username>Romeo</username><password>secret</password></query></iq>
         - derives secret
         - reads nothing
         - derived
         edge→core: create keys of romeo@im.example
         - owner of epoch 2
         edge→core: create keys of romeo@im.example
         core→edge: (req 1) exists
         core→edge: done
         S: <iq from='im.example' id='2' type='result'/>
         C: <iq type='set' id='3'><query xmlns='jabber:iq:register'><username>romeo</username><password>secret</password></query></iq>
         - derives secret
         - derived
         edge→core: create keys of romeo@im.example
         core→edge: exists
         S: <iq from='im.example' id='3' type='error'><error type='cancel'>
            <conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>",
    );
    let refuses = |query: &str, error: &str| {
        check_with(
            open(),
            &format!(
                "C: {{header}}
                 S: *</stream:features>
                 C: <iq type='set' id='1'><query xmlns='jabber:iq:register'>{query}</query></iq>
                 S: <iq from='im.example' id='1' type='error'><error {error} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
            ),
        );
    };
    refuses("<username>romeo</username>", "type='modify'><bad-request");
    refuses("<username>romeo</username><password/>", "type='modify'><not-acceptable");
    refuses("<username>ro meo</username><password>x</password>", "type='modify'><not-acceptable");
    refuses("<remove/>", "type='auth'><registration-required");
    check_with(
        open(),
        "C: {header}
         S: *</stream:features>
         C: <iq type='set' id='1'><query xmlns='jabber:iq:register'><username>romeo</username><password>\\x7f</password></query></iq>
         - derives \u{7f}
         - underivable
         S: <iq from='im.example' id='1' type='error'><error type='modify'>
            <not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>",
    );
}

/// Off by default, and never in the clear where TLS is required.
#[test]
fn registration_is_where_it_is_allowed() {
    let refused = "C: <iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>
         S: <stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>
         - closes";
    check(&format!("C: {{header}}\nS: *</mechanisms></stream:features>\n{refused}"));
    check_with(open(), &format!("- connects in the clear\nC: {{header}}\nS: *</starttls></stream:features>\n{refused}"));
}

const CHANGE: &str = "<query xmlns='jabber:iq:register'><username>juliet</username><password>secret</password></query>";

/// A password changes in a session, whether or not accounts can be made.
#[test]
fn a_password_is_changed() {
    check(&format!(
        "- binds
         C: <iq type='get' id='1' to='im.example'><query xmlns='jabber:iq:register'/></iq>
         S: <iq to='juliet@im.example/balcony' from='im.example' id='1' type='result'><query xmlns='jabber:iq:register'>
            <registered/><username>juliet</username><password/></query></iq>
         C: <iq type='set' id='2' to='im.example'>{CHANGE}</iq><message/>
         - derives secret
         - derived
         edge→core: set keys
         core→edge: done
         S: <iq to='juliet@im.example/balcony' from='im.example' id='2' type='result'/>
         edge→core: submit 1 <message from='juliet@im.example/balcony'/>
         C: <iq type='set' id='3'><query xmlns='jabber:iq:register'><username>romeo</username><password>x</password></query></iq>
         S: <iq to='juliet@im.example/balcony' from='juliet@im.example' id='3' type='error'><error type='auth'>
            <forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
    ));
    // Counted, it is answered through the account.
    check(&format!(
        "- resumable
         C: <iq type='set' id='2'>{CHANGE}</iq>
         - derives secret
         - derived
         edge→core: set keys
         core→edge: done
         edge→core: submit 1 <iq to='juliet@im.example/balcony' from='juliet@im.example' id='2' type='result'/>"
    ));
    // To somebody else's service it is a stanza like another.
    check("- binds\nC: <iq type='get' id='1' to='irc.example'><query xmlns='jabber:iq:register'/></iq>\nedge→core: submit 1 *");
}

/// §3.2: the result, then `not-authorized`, in whatever order the account says it.
#[test]
fn an_account_is_removed() {
    let remove = "C: <iq type='set' id='1'><query xmlns='jabber:iq:register'><remove/></query></iq>\nedge→core: remove";
    let result = "<iq to='juliet@im.example/balcony' from='juliet@im.example' id='1' type='result'/>";
    let error = "<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>";
    check(&format!("- resumable\n{remove}\ncore→edge: ended not-authorized\nS: {result}{error}\n- closes\n- is done\ncore→edge: done"));
    check(&format!(
        "- resumable\n{remove}\ncore→edge: done\nS: {result}\ncore→edge: ended not-authorized\nS: {error}\n- closes\n- is done"
    ));
}
