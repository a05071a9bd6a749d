//! What must come, held against what came.
//!
//! A pattern is the XML itself. In attribute values and texts `{name}` stands for something that the test cannot know: where it is
//! first met it takes what came, afterwards it must be the same. `{any}` takes anything each time. The text `{...}` in an
//! element says that more children may stand there.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::ns;
use crate::xml::{Element, Item, Node, StreamParser, escape};

/// What the names of a script stand for.
pub type Vars = BTreeMap<String, String>;

/// Elements as they stand in a stream.
pub fn parse(xml: &str) -> Result<Vec<Element>> {
    let mut parser = StreamParser::default();
    let header = format!("<stream:stream xmlns='{}' xmlns:stream='{}'>", ns::CLIENT, ns::STREAM);
    parser.feed(header.as_bytes())?;
    parser.feed(xml.as_bytes())?;
    let mut elements = Vec::new();
    while let Some(item) = parser.next_item() {
        if let Item::Element(element) = item {
            elements.push(element);
        }
    }
    ensure!(parser.is_empty() && !elements.is_empty(), "not whole elements: {xml}");
    Ok(elements)
}

/// Says where the two differ. Names are learnt in `vars` only as far as they agree.
pub fn compare(pattern: &Element, came: &Element, vars: &mut Vars) -> Result<(), String> {
    at(&format!("<{}/>", pattern.name), pattern, came, vars)
}

fn at(path: &str, pattern: &Element, came: &Element, vars: &mut Vars) -> Result<(), String> {
    if (&pattern.name, &pattern.ns) != (&came.name, &came.ns) {
        return Err(format!("{path}: expected <{} xmlns='{}'>, came <{} xmlns='{}'>", pattern.name, pattern.ns, came.name, came.ns));
    }
    for (name, value) in &pattern.attrs {
        match came.attr(name) {
            Some(got) if text(value, got, vars) => {}
            got => return Err(format!("{path}: attribute {name}: expected '{}', came {}", shown(value, vars), quoted(got))),
        }
    }
    if let Some((name, value)) = came.attrs.iter().find(|(name, _)| pattern.attr(name).is_none()) {
        return Err(format!("{path}: nothing was said of the attribute {name}='{value}'"));
    }
    let open = pattern.nodes.iter().any(|n| matches!(n, Node::Text(t) if t.trim() == "{...}"));
    let mut rest = came.children();
    for child in pattern.children() {
        let inner = format!("{path}<{}/>", child.name);
        if open {
            let is_like = |c: &&Element| at(&inner, child, c, &mut vars.clone()).is_ok();
            match came.children().find(is_like) {
                Some(c) => at(&inner, child, c, vars)?,
                None => return Err(format!("{inner}: is not there, or not so")),
            }
        } else {
            match rest.next() {
                Some(c) => at(&inner, child, c, vars)?,
                None => return Err(format!("{inner}: is missing")),
            }
        }
    }
    if open {
        return Ok(());
    }
    if let Some(more) = rest.next() {
        return Err(format!("{path}: nothing was said of its child {}", more.write(&came.ns)));
    }
    let (wanted, got) = (words(pattern), words(came));
    if text(&wanted, &got, vars) { Ok(()) } else { Err(format!("{path}: text: expected '{}', came '{got}'", shown(&wanted, vars))) }
}

/// The text of an element; of white space between child elements nothing is said.
fn words(element: &Element) -> String {
    let text = element.own_text();
    if element.children().next().is_some() { text.trim().to_owned() } else { text }
}

fn quoted(value: Option<&str>) -> String {
    value.map_or_else(|| "nothing".into(), |v| format!("'{v}'"))
}

/// Cuts at the first name: what is before it, the name, what is behind.
fn cut(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(open) = text[from..].find('{').map(|i| i + from) {
        if let Some(len) = text[open + 1..].find('}') {
            let name = &text[open + 1..open + 1 + len];
            let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
            if is_name {
                return Some((&text[..open], name, &text[open + len + 2..]));
            }
        }
        from = open + 1;
    }
    None
}

fn text(pattern: &str, came: &str, vars: &mut Vars) -> bool {
    let mut learnt = vars.clone();
    let fits = fits(pattern, came, &mut learnt);
    if fits {
        *vars = learnt;
    }
    fits
}

fn fits(pattern: &str, came: &str, vars: &mut Vars) -> bool {
    let Some((before, name, behind)) = cut(pattern) else { return pattern == came };
    let Some(rest) = came.strip_prefix(before) else { return false };
    if name != "any"
        && let Some(value) = vars.get(name).cloned()
    {
        return rest.strip_prefix(&value).is_some_and(|rest| fits(behind, rest, vars));
    }
    // An unknown name takes as little as it can, and something.
    for (end, _) in rest.char_indices().skip(1).chain([(rest.len(), ' ')]).filter(|(end, _)| *end > 0) {
        let mut tried = vars.clone();
        if name != "any" {
            tried.insert(name.to_owned(), rest[..end].to_owned());
        }
        if fits(behind, &rest[end..], &mut tried) {
            *vars = tried;
            return true;
        }
    }
    false
}

/// With the names that are known filled in.
fn shown(pattern: &str, vars: &Vars) -> String {
    fill(pattern, vars, false).0
}

/// Puts known names into a text to send, escaped as XML. An unknown one is an error of the script.
pub fn filled(xml: &str, vars: &Vars) -> Result<String> {
    let (text, unknown) = fill(xml, vars, true);
    ensure!(unknown.is_none(), "nothing has told what {{{}}} is", unknown.unwrap_or_default());
    Ok(text)
}

fn fill(text: &str, vars: &Vars, escaped: bool) -> (String, Option<String>) {
    let (mut out, mut rest, mut unknown) = (String::new(), text, None);
    while let Some((before, name, behind)) = cut(rest) {
        out.push_str(before);
        match vars.get(name) {
            Some(value) if escaped => out.push_str(&escape(value)),
            Some(value) => out.push_str(value),
            None => {
                unknown = Some(name.to_owned());
                out.push_str(&rest[before.len()..rest.len() - behind.len()]);
            }
        }
        rest = behind;
    }
    out.push_str(rest);
    (out, unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, came: &str) -> Result<Vars, String> {
        let mut vars = Vars::new();
        let (p, c) = (parse(pattern).unwrap(), parse(came).unwrap());
        compare(&p[0], &c[0], &mut vars).map(|()| vars)
    }

    #[test]
    fn order_of_attributes_is_nothing_and_everything_else_counts() {
        assert!(check("<a b='1' c='2'><d/> <e/></a>", "<a c='2' b='1'><d/><e/></a>").is_ok());
        for came in [
            "<a b='1'><d/><e/></a>",
            "<a b='1' c='3'><d/><e/></a>",
            "<a b='1' c='2' f=''><d/><e/></a>",
            "<a b='1' c='2'><e/><d/></a>",
            "<a b='1' c='2'><d/></a>",
            "<a b='1' c='2'><d/><e/><e/></a>",
            "<a b='1' c='2'><d/><e>t</e></a>",
            "<a b='1' c='2'>t<d/><e/></a>",
            "<a b='1' c='2'><d xmlns='x'/><e/></a>",
            "<aa b='1' c='2'><d/><e/></aa>",
        ] {
            assert!(check("<a b='1' c='2'><d/><e/></a>", came).is_err(), "{came}");
        }
    }

    #[test]
    fn names_take_and_hold() {
        let vars = check("<a b='x{one}y' c='{one}'>{any}</a>", "<a b='xzy' c='z'>t</a>").unwrap();
        assert_eq!(vars.get("one").unwrap(), "z");
        assert!(check("<a b='{one}' c='{one}'/>", "<a b='1' c='2'/>").is_err());
        assert!(check("<a b='{any}' c='{any}'/>", "<a b='1' c='2'/>").is_ok());
        assert!(check("<a b='{any}'/>", "<a b=''/>").is_err());
        assert_eq!(filled("<a>{one}{\"j\":1}</a>", &vars).unwrap(), "<a>z{\"j\":1}</a>");
        assert!(filled("{two}", &vars).is_err());
    }

    #[test]
    fn dots_leave_room() {
        assert!(check("<a><c/>{...}</a>", "<a>t<b/><c/></a>").is_ok());
        assert!(check("<a><c/>{...}</a>", "<a><b/></a>").is_err());
    }
}
