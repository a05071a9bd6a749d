//! XEP-0202: Entity Time, of the server. It keeps UTC.

use entity::module::{Answer, At, IqCtx, IqHandler, IqKind, Module, Xep};
use stanza::Stanza;
use types::ns;
use xml::Element;

/// See the file.
pub const MODULE: Module = Module {
    name: "time",
    xeps: &[Xep { number: 202, version: "2.0", title: "Entity Time", test: "modules::time::tests::time" }],
    features: &[ns::TIME],
    iqs: &[IqHandler { ns: ns::TIME, name: "time", kind: IqKind::Get, at: At::Server, run: time, resume: None }],
    ..Module::EMPTY
};

fn time(cx: &mut IqCtx<'_>, _: &Stanza, _: &Element) -> Answer {
    let field = |name, text: &str| Element::new(name, ns::TIME).with_text(text);
    let utc = cx.ctx.now.wall.to_string();
    Answer::Result(Some(Element::new("time", ns::TIME).with_child(field("tzo", "+00:00")).with_child(field("utc", &utc))))
}

#[cfg(test)]
mod tests {
    use crate::check;

    #[test]
    fn time() {
        check(
            "
            juliet/balcony binds
            wait 61
            juliet/balcony > <iq id='1' type='get' to='x'><time xmlns='urn:xmpp:time'/></iq>
            juliet/balcony < <iq id='1' type='result' from='x' to='juliet@x/balcony'>
                <time xmlns='urn:xmpp:time'><tzo>+00:00</tzo><utc>2026-11-22T10:01:01.000Z</utc></time></iq>
            ",
        );
    }
}
