//! XMPP streams as pure state machines: RFC 6120 and the edge side of XEP-0198
