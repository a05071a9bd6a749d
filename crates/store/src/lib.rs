//! The store contract, its conformance suite and the hostile memory store
