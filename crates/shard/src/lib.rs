//! Shards: the actors that run entities
