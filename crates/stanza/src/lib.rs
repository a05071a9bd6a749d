//! Stanzas: a parsed head over child bytes, error stanzas, and the rule by which children pass
