//! What a client asks of an archive: the form of XEP-0313 §4.1, and the page.

use crate::rsm;
use entity::row::parse_archive_id;
use stanza::{Condition, StanzaError};
use types::limit::{ARCHIVE_PAGE_MAX, STANZA_ID_BYTES_MAX};
use types::{Jid, Timestamp, ns};
use xml::Element;

const VALIDATE: &str = "http://jabber.org/protocol/xdata-validate";

/// See the file. Ids are rows; whether they are in the archive is not yet known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// Comes back with each result.
    pub queryid: Option<String>,
    /// Messages with this address.
    pub with: Option<Jid>,
    /// Taken then or later.
    pub start: Option<Timestamp>,
    /// Taken then or earlier.
    pub end: Option<Timestamp>,
    /// Behind these rows.
    pub after: Vec<u64>,
    /// Before these rows.
    pub before: Vec<u64>,
    /// These rows, sorted.
    pub ids: Option<Vec<u64>>,
    /// The page ends where the range does.
    pub backwards: bool,
    /// The page's place in the result is known: it was asked for without before and after.
    pub whole: bool,
    /// Items of the page; 0 asks for their number.
    pub max: usize,
    /// The newest first (§4.3.4).
    pub flip: bool,
}

impl Query {
    /// `<query/>` of an IQ set.
    ///
    /// # Errors
    /// `bad-request`, `feature-not-implemented` for an unknown field (§4.1.5), `item-not-found` for an id that is none.
    pub fn parse(payload: &Element) -> Result<Query, StanzaError> {
        if payload.attr("node").is_some() {
            return Err(Condition::ItemNotFound.into());
        }
        if payload.attr("queryid").is_some_and(|id| id.len() > STANZA_ID_BYTES_MAX) {
            // It is written into each result.
            return Err(Condition::BadRequest.into());
        }
        let page = rsm::Request::parse(payload)?;
        let mut query = Query {
            queryid: payload.attr("queryid").map(str::to_owned),
            backwards: page.before.is_some(),
            whole: page.before.as_deref().is_none_or(str::is_empty) && page.after.is_none(),
            max: page.max.unwrap_or(ARCHIVE_PAGE_MAX).min(ARCHIVE_PAGE_MAX),
            flip: payload.child("flip-page", ns::MAM).is_some(),
            ..Query::default()
        };
        if let Some(form) = payload.child("x", ns::DATA) {
            query.read_form(form)?;
        }
        query.before.extend(page.before.filter(|id| !id.is_empty()).map(|id| row_of(&id)).transpose()?);
        query.after.extend(page.after.map(|id| row_of(&id)).transpose()?);
        Ok(query)
    }

    fn read_form(&mut self, form: &Element) -> Result<(), StanzaError> {
        let bad = || StanzaError::new(Condition::BadRequest);
        let fields: Vec<(&str, Vec<String>)> = form
            .children()
            .filter(|c| c.is("field", ns::DATA))
            .map(|f| Some((f.attr("var")?, f.children().filter(|c| c.is("value", ns::DATA)).map(|v| v.text().trim().to_owned()).collect())))
            .collect::<Option<_>>()
            .ok_or_else(bad)?;
        let type_ = fields.iter().find(|(var, _)| *var == "FORM_TYPE").map(|(_, values)| values.concat());
        if form.attr("type") != Some("submit") || type_.as_deref() != Some(ns::MAM) {
            return Err(bad());
        }
        for (var, values) in &fields {
            let one = || values.first().filter(|_| values.len() == 1).ok_or_else(bad);
            let stamp = || one().and_then(|v| Timestamp::parse(v).ok_or_else(bad));
            match *var {
                "FORM_TYPE" => {}
                "with" => self.with = Some(Jid::parse(one()?).map_err(|_| bad())?),
                "start" => self.start = Some(stamp()?),
                "end" => self.end = Some(stamp()?),
                "before-id" => self.before.push(row_of(one()?)?),
                "after-id" => self.after.push(row_of(one()?)?),
                "ids" => {
                    if values.len() > ARCHIVE_PAGE_MAX {
                        return Err(bad());
                    }
                    let mut ids = values.iter().map(|id| row_of(id)).collect::<Result<Vec<u64>, _>>()?;
                    ids.sort_unstable();
                    ids.dedup();
                    self.ids = Some(ids);
                }
                _ => return Err(Condition::FeatureNotImplemented.into()),
            }
        }
        Ok(())
    }
}

/// What is no id of ours is not in the archive either.
fn row_of(id: &str) -> Result<u64, StanzaError> {
    parse_archive_id(id).ok_or(StanzaError::new(Condition::ItemNotFound))
}

/// §4.1.5: the fields that a query can have.
pub(super) fn form() -> Element {
    let field = |type_, var| Element::new("field", ns::DATA).with_attr("type", type_).with_attr("var", var);
    let validate = Element::new("validate", VALIDATE).with_attr("datatype", "xs:string").with_child(Element::new("open", VALIDATE));
    let form = Element::new("x", ns::DATA)
        .with_attr("type", "form")
        .with_child(field("hidden", "FORM_TYPE").with_child(Element::new("value", ns::DATA).with_text(ns::MAM)))
        .with_child(field("jid-single", "with"))
        .with_children(["start", "end", "before-id", "after-id"].map(|var| field("text-single", var)))
        .with_child(field("list-multi", "ids").with_child(validate));
    Element::new("query", ns::MAM).with_child(form)
}
