//! Admin HTTP interface, metrics and health
