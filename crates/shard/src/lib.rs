//! Shards: they run the entities of a slice of the JID space.
//!
//! [`core::Host`] runs the shards of one plane, without I/O of its own: frames, completions of the store and time come
//! in, frames go out, and the only thing it calls is the [`store::Store`], which never blocks. [`host`] is the actor
//! around it. A shard commits, then speaks: what an entity says waits until what it wrote before is durable.
//!
//! It never opens a socket and knows nothing of streams. Start with [`core::shard`].

pub mod core;
pub mod host;
