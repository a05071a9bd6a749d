//! Names and namespaces that come again and again, without an allocation.

use compact_str::CompactString;
use types::ns;

macro_rules! known {
    ($s:expr; $($name:ident)*) => { match $s { $(ns::$name => CompactString::const_new(ns::$name),)* other => CompactString::new(other) } };
}

/// `ns` as a [`CompactString`]; the well-known namespaces are not copied.
pub fn intern(ns: &str) -> CompactString {
    // Short strings are stored inline, so only longer ones gain by the table.
    if ns.len() <= 24 {
        return CompactString::new(ns);
    }
    known!(ns; STREAM TLS SASL BIND SESSION STANZAS STREAMS XML ROSTER_VER PRE_APPROVAL DISCO_INFO DISCO_ITEMS RSM
        REGISTER_FEATURE CAPS BLOCKING_ERRORS CARBONS_RULES MAM_EXTENDED LIMITS CHANNEL_BINDING CHAT_STATES MARKERS MUC_USER)
}
