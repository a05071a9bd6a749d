//! Connection edge: listeners, TLS, and one actor per stream
