//! Load generator for any XMPP server
