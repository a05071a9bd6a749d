//! Frames between edges and shards, and the Link that carries them
