//! What only a server may say is taken out of what others say: forwarded copies (XEP-0280 §11, CVE-2017-5589), results of
//! an archive (XEP-0313 §8.2), a delay in the name of one of our domains (XEP-0203 §5). Clients should check; not all do.

use entity::module::{Ctx, Flow, Hook, Module, Phase, Point, Work};
use entity::state::State;
use stanza::Child;
use std::sync::Arc;
use types::{Jid, ns};

/// See the file.
pub const MODULE: Module = Module {
    name: "spoof",
    hooks: &[
        Hook { point: Point::Outbound, phase: Phase::Mark, run: strip },
        Hook { point: Point::Inbound, phase: Phase::Mark, run: strip },
    ],
    ..Module::EMPTY
};

fn strip(ctx: &Ctx<'_>, _: &State, work: &mut Work) -> Flow {
    let forged = |c: &Child| match c.ns.as_str() {
        ns::CARBONS => c.name == "sent" || c.name == "received",
        ns::MAM => true,
        // In whatever spelling: who checks it compares what they parse.
        ns::DELAY => c
            .attr("from")
            .and_then(|from| Jid::parse(&from).ok())
            .is_some_and(|from| from.local().is_none() && ctx.settings.hosts(from.domain())),
        _ => false,
    };
    if work.stanza.children.iter().any(forged) {
        Arc::make_mut(&mut work.stanza).retain_children(|c| !forged(c));
    }
    Flow::Continue
}

#[cfg(test)]
mod tests {
    use crate::check;

    #[test]
    fn forged_payloads_are_removed() {
        for forged in [
            "<received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'/></received>",
            "<c:sent xmlns:c='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'/></c:sent>",
            "<result xmlns='urn:xmpp:mam:2' id='1'/>",
            "<delay xmlns='urn:xmpp:delay' from='X' stamp='2020-01-01T00:00:00Z'/>",
            "<delay xmlns='urn:xmpp:delay' from='x.' stamp='2020-01-01T00:00:00Z'/>",
            "<delay xmlns='urn:xmpp:delay' from='ｘ' stamp='2020-01-01T00:00:00Z'/>",
            "<delay xmlns='urn:xmpp:delay' from='x/y' stamp='2020-01-01T00:00:00Z'/>",
        ] {
            for to in ["romeo@x/orchard", "juliet@x/chamber"] {
                let (name, resource) = to.split_once("@x/").unwrap();
                check(&format!(
                    "
                    juliet/balcony comes
                    {name}/{resource} comes
                    juliet/balcony > <message to='{to}' type='chat'>{forged}<body>hi</body><no-store xmlns='urn:xmpp:hints'/></message>
                    {name}/{resource} < <message from='juliet@x/balcony' to='{to}' type='chat'><body>hi</body>
                        <no-store xmlns='urn:xmpp:hints'/></message>
                    "
                ));
            }
        }
    }

    /// A client may say itself when it wrote something.
    #[test]
    fn own_delay_passes() {
        check(
            "
            juliet/balcony comes
            romeo/orchard comes
            juliet/balcony > <message to='romeo@x' type='headline'>
                <delay xmlns='urn:xmpp:delay' from='juliet@x/balcony' stamp='2020-01-01T00:00:00Z'/></message>
            romeo/orchard < <message from='juliet@x/balcony' to='romeo@x' type='headline'>
                <delay xmlns='urn:xmpp:delay' from='juliet@x/balcony' stamp='2020-01-01T00:00:00Z'/></message>
            ",
        );
    }
}
