//! The admin interface of a node: health, metrics and a small HTTP API, on the loopback by default.
//!
//! It decides who may call, checks what they say, and hands it to the node through [`Control`]; it holds no accounts and
//! knows no streams. Start with [`control`] for what a node offers, [`api`] for the routes, `guard` for who gets through.

pub mod api;
pub mod client;
pub mod control;
mod guard;
mod listener;
mod metric;

pub use api::{Admin, serve};
pub use control::{BoxFuture, Check, Code, Control, ControlError, Listening, Readiness, Reload, Reloaded};
pub use metric::{InstallError, Metrics};
