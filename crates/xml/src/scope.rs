//! Namespaces that are in force where a fragment begins.

use compact_str::CompactString;
use types::ns;

/// Namespace declarations around a fragment: those of the stream header, or of an outer element.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Scope {
    /// (prefix, namespace); the empty prefix is the default namespace. A later entry hides an earlier one.
    pub(crate) declarations: Vec<(CompactString, CompactString)>,
}

impl Scope {
    /// Only a default namespace.
    pub fn of_default(ns: &str) -> Scope {
        Scope { declarations: vec![(CompactString::default(), CompactString::new(ns))] }
    }

    /// What an ordinary stream declares: `content_ns` by default, and the prefix `stream`.
    pub fn of_stream(content_ns: &str) -> Scope {
        Scope::of_default(content_ns).with("stream", ns::STREAM)
    }

    /// Adds a declaration that hides an earlier one of `prefix`.
    pub fn with(mut self, prefix: &str, ns: &str) -> Scope {
        self.declarations.push((CompactString::new(prefix), CompactString::new(ns)));
        self
    }

    /// The namespace of `prefix` (the default namespace for the empty prefix).
    pub fn resolve(&self, prefix: &str) -> Option<&str> {
        self.declarations.iter().rev().find(|(p, _)| p == prefix).map(|(_, ns)| ns.as_str())
    }
}
