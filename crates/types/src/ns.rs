//! XML namespaces, each written once.

macro_rules! namespaces { ($($(#[$m:meta])* $name:ident = $uri:literal;)*) => { $($(#[$m])* #[doc = concat!("`", $uri, "`")] pub const $name: &str = $uri;)* } }

namespaces! {
    STREAM = "http://etherx.jabber.org/streams";
    CLIENT = "jabber:client";
    SERVER = "jabber:server";
    TLS = "urn:ietf:params:xml:ns:xmpp-tls";
    SASL = "urn:ietf:params:xml:ns:xmpp-sasl";
    BIND = "urn:ietf:params:xml:ns:xmpp-bind";
    SESSION = "urn:ietf:params:xml:ns:xmpp-session";
    STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas";
    STREAMS = "urn:ietf:params:xml:ns:xmpp-streams";
    XML = "http://www.w3.org/XML/1998/namespace";
    ROSTER = "jabber:iq:roster";
    ROSTER_VER = "urn:xmpp:features:rosterver";
    PRE_APPROVAL = "urn:xmpp:features:pre-approval";
    DISCO_INFO = "http://jabber.org/protocol/disco#info";
    DISCO_ITEMS = "http://jabber.org/protocol/disco#items";
    RSM = "http://jabber.org/protocol/rsm";
    REGISTER = "jabber:iq:register";
    REGISTER_FEATURE = "http://jabber.org/features/iq-register";
    VERSION = "jabber:iq:version";
    CAPS = "http://jabber.org/protocol/caps";
    BLOCKING = "urn:xmpp:blocking";
    BLOCKING_ERRORS = "urn:xmpp:blocking:errors";
    SM = "urn:xmpp:sm:3";
    PING = "urn:xmpp:ping";
    TIME = "urn:xmpp:time";
    DELAY = "urn:xmpp:delay";
    CARBONS = "urn:xmpp:carbons:2";
    CARBONS_RULES = "urn:xmpp:carbons:rules:0";
    FORWARD = "urn:xmpp:forward:0";
    MAM = "urn:xmpp:mam:2";
    MAM_EXTENDED = "urn:xmpp:mam:2#extended";
    HINTS = "urn:xmpp:hints";
    CSI = "urn:xmpp:csi:0";
    SID = "urn:xmpp:sid:0";
    LIMITS = "urn:xmpp:stream-limits:0";
    CHANNEL_BINDING = "urn:xmpp:sasl-cb:0";
    DATA = "jabber:x:data";
    OFFLINE = "msgoffline";
    CHAT_STATES = "http://jabber.org/protocol/chatstates";
    RECEIPTS = "urn:xmpp:receipts";
    MARKERS = "urn:xmpp:chat-markers:0";
    MUC_USER = "http://jabber.org/protocol/muc#user";
}
