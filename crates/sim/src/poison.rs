//! A module that makes accounts panic, so that what a panic may do is seen.

use crate::book::Poison;
use entity::module::{Ctx, Flow, Hook, Module, Phase, Point, Work};
use entity::state::State;
use stanza::MessageType;
use std::cell::Cell;

/// The namespace of the element that says which account panics.
pub const NS: &str = "urn:chappe:poison";

/// See the module.
pub static MODULE: Module = Module {
    name: "poison",
    hooks: &[
        Hook { point: Point::Outbound, phase: Phase::Guard, run: at_sender },
        Hook { point: Point::Inbound, phase: Phase::Guard, run: at_recipient },
    ],
    ..Module::EMPTY
};

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// Whether an account of this thread has panicked since this was asked last.
pub fn has_panicked() -> bool {
    PANICS.replace(0) > 0
}

fn at_sender(_: &Ctx<'_>, _: &State, work: &mut Work) -> Flow {
    panic_if(work, Poison::Sender)
}

fn at_recipient(_: &Ctx<'_>, _: &State, work: &mut Work) -> Flow {
    panic_if(work, Poison::Recipient)
}

fn panic_if(work: &Work, at: Poison) -> Flow {
    let says = work.stanza.child("poison", NS).and_then(|p| p.attr("for"));
    // Not what comes back, which names the same element.
    if work.stanza.message_type() != MessageType::Error && says == Some(format!("{at:?}")) {
        // Not `panic!`: a hook that prints would print thousands.
        PANICS.set(PANICS.get() + 1);
        std::panic::resume_unwind(Box::new("poison"));
    }
    Flow::Continue
}
