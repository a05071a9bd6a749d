//! actix behind bounded addresses
