//! What came of an entry, in the codes of the corpus.

use super::Level;
use crate::ns;
use crate::xml::Element;

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// With a stream error, the stream's end tag and the end of the connection.
    Error(String),
    /// With the stream's end tag and no error.
    Closed,
    /// Without a word.
    Cut,
    /// Otherwise than RFC 6120 §4.4 and §4.9 have it; says how.
    Odd(String),
}

/// What was seen of the server's side.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// First-level elements but those that answer the runner's own questions.
    pub elements: Vec<Element>,
    /// The end, if it came.
    pub end: Option<Finish>,
}

impl Seen {
    /// Takes an element, unless it is none of an answer.
    pub fn add(&mut self, element: Element) {
        let asks = element.is("r", ns::SM) || (element.name == "iq" && element.get("ping", ns::PING).is_some());
        if !asks {
            self.elements.push(element);
        }
    }

    /// All that was seen, as canonical XML.
    pub fn text(&self) -> String {
        self.elements.iter().map(|e| e.write(ns::CLIENT)).collect()
    }

    /// The code.
    pub fn code(&self, level: Level) -> String {
        match &self.end {
            Some(Finish::Error(condition)) => return format!("SE:{condition}"),
            Some(Finish::Closed) => return "END".into(),
            Some(Finish::Cut) => return "CL".into(),
            Some(Finish::Odd(how)) => return how.clone(),
            None => {}
        }
        let mut errors: Vec<String> = Vec::new();
        for error in self.elements.iter().filter_map(error) {
            if !errors.contains(&error) {
                errors.push(error);
            }
        }
        match (errors.is_empty(), self.elements.is_empty()) {
            (false, _) => errors.join("+"),
            (true, false) => "OK".into(),
            (true, true) if level.is_bound() => "IGN".into(),
            (true, true) => "silence".into(),
        }
    }
}

/// The code of an element that says no.
fn error(element: &Element) -> Option<String> {
    let first = |ns: &str| element.children().find(|c| c.ns == ns && c.name != "text").map_or("none", |c| c.name.as_str());
    match (element.ns.as_str(), element.name.as_str()) {
        (ns::SASL, "failure") => Some(format!("SF:{}", first(ns::SASL))),
        (ns::SM, "failed") => Some(format!("SM:{}", first(ns::STANZAS))),
        (ns::CLIENT, _) if element.attr("type") == Some("error") => {
            let error = element.get("error", ns::CLIENT)?;
            Some(format!("ST:{}/{}", error.attr("type").unwrap_or("none"), element.error_condition()?))
        }
        _ => None,
    }
}

/// Whether an outcome is an expected one; several are joined by `or`. What is ignored is taken well, too.
pub fn is(expected: &str, code: &str) -> bool {
    expected.split(" or ").any(|expected| expected == code || (expected == "OK" && code == "IGN"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::parse;

    #[test]
    fn outcomes_have_codes() {
        let check = |elements: &[&str], end: Option<Finish>, code: &str| {
            let mut seen = Seen { end, ..Seen::default() };
            elements.iter().for_each(|e| seen.add(parse(e).unwrap()));
            assert_eq!(seen.code(Level::Bound), code, "{elements:?}");
        };
        let bad = "<message xmlns='jabber:client' type='error'><error type='modify'>\
                   <bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>";
        let failure = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><aborted/></failure>";
        let failed = "<failed xmlns='urn:xmpp:sm:3'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>";
        check(&[], None, "IGN");
        check(&["<message xmlns='jabber:client'/>"], None, "OK");
        check(&[bad, bad], None, "ST:modify/bad-request");
        check(&[failure], None, "SF:aborted");
        check(&[failed], None, "SM:item-not-found");
        check(&[bad], Some(Finish::Error("not-well-formed".into())), "SE:not-well-formed");
        check(&[], Some(Finish::Cut), "CL");
        check(&["<r xmlns='urn:xmpp:sm:3'/>"], None, "IGN");
        assert!(is("OK", "IGN") && !is("IGN", "OK") && !is("CL", "END") && is("CL or END", "END"));
    }
}
