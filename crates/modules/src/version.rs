//! XEP-0092: Software Version. The operating system is nobody's business (§4).

use entity::module::{Answer, At, IqCtx, IqHandler, IqKind, Module, Xep};
use stanza::Stanza;
use types::ns;
use xml::Element;

/// See the file.
pub const MODULE: Module = Module {
    name: "version",
    xeps: &[Xep { number: 92, version: "1.1", title: "Software Version", test: "modules::version::tests::version" }],
    features: &[ns::VERSION],
    iqs: &[IqHandler { ns: ns::VERSION, name: "query", kind: IqKind::Get, at: At::Server, run: version, resume: None }],
    ..Module::EMPTY
};

fn version(cx: &mut IqCtx<'_>, _: &Stanza, _: &Element) -> Answer {
    let field = |name, text| Element::new(name, ns::VERSION).with_text(text);
    let query = Element::new("query", ns::VERSION);
    Answer::Result(Some(query.with_child(field("name", "Chappe")).with_child(field("version", cx.ctx.settings.software_version))))
}

#[cfg(test)]
mod tests {
    use entity::testing::World;

    #[test]
    fn version() {
        let mut world = World::new(crate::pipeline());
        world.settings.software_version = "9.8";
        world.run(
            "
            juliet/balcony binds
            juliet/balcony > <iq id='1' type='get' to='x'><query xmlns='jabber:iq:version'/></iq>
            juliet/balcony < <iq id='1' type='result' from='x' to='juliet@x/balcony'>
                <query xmlns='jabber:iq:version'><name>Chappe</name><version>9.8</version></query></iq>
            ",
        );
    }
}
