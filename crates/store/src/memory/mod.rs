//! Stores in memory: [`Plain`] for unit tests of others, [`Hostile`] for simulations.

mod cells;
mod hostile;
mod hostility;
mod plain;

pub use hostile::{Hostile, REPLICAS};
pub use hostility::Hostility;
pub use plain::Plain;
