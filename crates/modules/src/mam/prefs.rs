//! What an account wants archived (XEP-0441). Kept in one cell; one that cannot be read archives nothing.

use bytes::Bytes;
use entity::codec::{Corrupt, Reader, Writer};
use entity::module::{ArchiveDefault, IqCtx, Settings};
use entity::roster::Roster;
use entity::state::{State, cell};
use stanza::{Condition, StanzaError};
use types::{Jid, ns};
use xml::Element;

/// The module's cell.
const NAME: &str = "mam";
const FORMAT: u8 = 1;
/// Addresses of both lists together.
pub(super) const JIDS_MAX: usize = 1_000;

/// See the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prefs {
    default: ArchiveDefault,
    /// Sorted.
    always: Vec<Jid>,
    /// Sorted.
    never: Vec<Jid>,
}

impl Prefs {
    /// The account's, or the domain's.
    pub fn of(state: &State, settings: &Settings) -> Prefs {
        let lists = |default| Prefs { default, always: Vec::new(), never: Vec::new() };
        match state.cells.get(NAME) {
            None => lists(settings.archive_default),
            Some(value) => Prefs::decode(value.clone()).unwrap_or_else(|_| lists(ArchiveDefault::Never)),
        }
    }

    /// Are messages with `peer` archived? (§2.3.1)
    pub fn keeps(&self, peer: &Jid, roster: &Roster) -> bool {
        let listed = |list: &[Jid]| [peer.as_str(), peer.bare_str()].iter().any(|t| list.binary_search_by(|j| j.as_str().cmp(t)).is_ok());
        // Who is in both lists: the wish for privacy counts.
        if listed(&self.never) {
            return false;
        }
        listed(&self.always)
            || match self.default {
                ArchiveDefault::Always => true,
                ArchiveDefault::Never => false,
                ArchiveDefault::Roster => roster.item(&peer.to_bare()).is_some(),
            }
    }

    /// `<prefs/>` of an IQ set.
    ///
    /// # Errors
    /// `bad-request` without a known default, `jid-malformed`, `resource-constraint` beyond [`JIDS_MAX`].
    pub fn parse(prefs: &Element) -> Result<Prefs, StanzaError> {
        let default = prefs.attr("default").and_then(default_of).ok_or(Condition::BadRequest)?;
        let prefs = Prefs { default, always: jids(prefs, "always")?, never: jids(prefs, "never")? };
        if prefs.always.len() + prefs.never.len() > JIDS_MAX {
            return Err(Condition::ResourceConstraint.into());
        }
        Ok(prefs)
    }

    /// `<prefs/>`, both lists present even if empty (§2.1).
    pub fn to_element(&self) -> Element {
        let list = |name, jids: &[Jid]| {
            let jid = |j: &Jid| Element::new("jid", ns::MAM).with_text(j.as_str());
            Element::new(name, ns::MAM).with_children(jids.iter().map(jid))
        };
        Element::new("prefs", ns::MAM)
            .with_attr("default", name_of(self.default))
            .with_child(list("always", &self.always))
            .with_child(list("never", &self.never))
    }

    /// Write the cell.
    pub fn put(&self, cx: &mut IqCtx<'_>) {
        let value = self.encode();
        cx.state.cells.make().insert(NAME.to_owned(), value.clone());
        cx.put([cell::MODULE, NAME.as_bytes()].concat(), value);
    }

    fn encode(&self) -> Bytes {
        let mut w = Writer::new(FORMAT);
        w.str(name_of(self.default));
        for list in [&self.always, &self.never] {
            w.u64(list.len() as u64);
            for jid in list {
                w.str(jid.as_str());
            }
        }
        w.finish()
    }

    fn decode(value: Bytes) -> Result<Prefs, Corrupt> {
        let mut r = Reader::new(value, FORMAT)?;
        let default = default_of(&r.string()?).ok_or(Corrupt("archive default"))?;
        let mut lists = [Vec::new(), Vec::new()];
        for list in &mut lists {
            for _ in 0..r.count()? {
                list.push(r.jid()?);
            }
        }
        r.end()?;
        let [always, never] = lists;
        Ok(Prefs { default, always, never })
    }
}

fn default_of(name: &str) -> Option<ArchiveDefault> {
    [ArchiveDefault::Always, ArchiveDefault::Roster, ArchiveDefault::Never].into_iter().find(|d| name_of(*d) == name)
}

fn name_of(default: ArchiveDefault) -> &'static str {
    match default {
        ArchiveDefault::Always => "always",
        ArchiveDefault::Roster => "roster",
        ArchiveDefault::Never => "never",
    }
}

fn jids(prefs: &Element, list: &str) -> Result<Vec<Jid>, StanzaError> {
    let list = prefs.child(list, ns::MAM);
    let texts = list.into_iter().flat_map(Element::children).filter(|c| c.is("jid", ns::MAM)).map(Element::text);
    let mut jids: Vec<Jid> = texts.map(|t| Jid::parse(t.trim())).collect::<Result<_, _>>().map_err(|_| Condition::JidMalformed)?;
    jids.sort_unstable();
    jids.dedup();
    Ok(jids)
}
