//! Transcripts. Each line of a script is one thing that happens or must happen:
//!
//! ```text
//! C: bytes                  the client sends them
//! S: bytes                  the server has sent exactly these since the last thing that happened (`*`: anything)
//! edge→core: words          the next frame to the account's shard; every frame must be named
//! core→edge: words          a frame from it; `(epoch 1)`, `(attach 1)`, `(req 1)` in front make it an old one
//! - words                   the rest: time passes, the socket breaks, the shell answers; see `Script::event`
//! ```
//!
//! Every script is run with the client's bytes whole, in pieces of seven, and one by one.

mod any;
mod bind;
mod login;
mod reattach;
mod registration;
mod script;
mod size;
mod stanzas;
mod stream_management;
mod streams;

use script::Script;
use stream::Settings;
use types::BareJid;

/// The settings of most scripts: one domain, nothing of modules advertised.
pub(super) fn settings() -> Settings {
    let domains = vec![BareJid::parse("im.example").unwrap(), BareJid::parse("other.example").unwrap()];
    let mut settings = Settings::new(domains);
    settings.iterations = 4_096;
    settings.features.limits = false;
    settings
}

/// Runs a script under the usual settings.
#[track_caller]
fn check(text: &str) {
    check_with(settings(), text);
}

#[track_caller]
fn check_with(settings: Settings, text: &str) {
    for piece in [usize::MAX, 7, 1] {
        Script::new(settings.clone(), piece).run(text);
    }
}
