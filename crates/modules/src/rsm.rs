//! XEP-0059: Result Set Management: which page is wanted, and which one is given.

use stanza::{Condition, StanzaError};
use types::ns;
use xml::Element;

/// The page that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// At most so many items; 0 asks for their number (§2.7).
    pub max: Option<usize>,
    /// The page that ends before this item; empty: the last page (§2.5).
    pub before: Option<String>,
    /// The page that begins behind this item.
    pub after: Option<String>,
}

impl Request {
    /// From the `<set/>` within `query`, if there is one.
    ///
    /// # Errors
    /// `bad-request` if `max` is no number, `feature-not-implemented` for a page by index (§2.6).
    pub fn parse(query: &Element) -> Result<Request, StanzaError> {
        let Some(set) = query.child("set", ns::RSM) else { return Ok(Request::default()) };
        if set.child("index", ns::RSM).is_some() {
            return Err(Condition::FeatureNotImplemented.into());
        }
        let text = |name| set.child(name, ns::RSM).map(|c| c.text().trim().to_owned());
        let max = match text("max") {
            None => None,
            Some(max) => {
                let ok = !max.is_empty() && max.bytes().all(|b| b.is_ascii_digit());
                if !ok {
                    return Err(Condition::BadRequest.into());
                }
                // More than fits is more than anybody gives.
                Some(max.parse().unwrap_or(usize::MAX))
            }
        };
        Ok(Request { max, before: text("before"), after: text("after").filter(|id| !id.is_empty()) })
    }
}

/// The page that is given: its first and last item, and what is known of the whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// The first and the last item.
    pub ends: Option<(String, String)>,
    /// The first item's place in the whole.
    pub index: Option<usize>,
    /// Items of the whole.
    pub count: Option<usize>,
}

impl Page {
    /// `<set/>`
    pub fn to_element(&self) -> Element {
        let field = |name, text: &str| Element::new(name, ns::RSM).with_text(text);
        let mut set = Element::new("set", ns::RSM);
        if let Some((first, last)) = &self.ends {
            let index = self.index.map(|i| i.to_string());
            set = set.with_child(field("first", first).with_attr_opt("index", index)).with_child(field("last", last));
        }
        set.with_children(self.count.map(|n| field("count", &n.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read() {
        let check = |inner: &str, wanted: Result<Request, Condition>| {
            let text = format!("<q xmlns='q'><set xmlns='http://jabber.org/protocol/rsm'>{inner}</set></q>");
            let query = Element::parse(text.as_bytes(), "").unwrap();
            assert_eq!(Request::parse(&query).map_err(|e| e.condition), wanted, "{inner}");
        };
        let some = |text: &str| Some(text.to_owned());
        check("", Ok(Request::default()));
        check("<max>10</max>", Ok(Request { max: Some(10), ..Request::default() }));
        check("<max> 0 </max><before/>", Ok(Request { max: Some(0), before: some(""), after: None }));
        check("<after>a</after><before>b</before>", Ok(Request { max: None, before: some("b"), after: some("a") }));
        check("<after/>", Ok(Request::default()));
        check("<max>99999999999999999999999</max>", Ok(Request { max: Some(usize::MAX), ..Request::default() }));
        for bad in ["-1", "abc", "", "+1", "1e3", "١"] {
            check(&format!("<max>{bad}</max>"), Err(Condition::BadRequest));
        }
        check("<index>3</index>", Err(Condition::FeatureNotImplemented));
    }
}
