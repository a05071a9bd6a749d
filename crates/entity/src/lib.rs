//! Entities: the owners of a JID's state, as pure state machines

pub mod subscription;
