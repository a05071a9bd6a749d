//! Where a stanza ends and whom it is for. Messages are found by their end tag alone.

use super::MESSAGE;
use crate::element;
use crate::splitter::{Frame, Splitter};
use anyhow::{Context as _, Result, bail};
use memchr::{memchr, memmem};
use std::ops::Range;

const MESSAGE_END: &[u8] = b"</message>";
/// How every message of this crate's clients begins.
const MESSAGE_TO: &[u8] = b"<message to='";

/// What stands at the start of received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// A message and where in it the recipient stands.
    Message { to: Range<usize>, end: usize },
    /// Another element.
    Other { end: usize },
    /// White space.
    Space { end: usize },
    /// The end of the stream.
    End,
    /// Not yet a whole element.
    Part,
}

/// Looks at what is there. What is not whole is looked at again from its start when there is more.
pub(super) fn cut(bytes: &[u8]) -> Result<Cut> {
    if bytes.starts_with(MESSAGE_TO) {
        let Some(end) = memmem::find(bytes, MESSAGE_END) else { return Ok(Cut::Part) };
        let to = memchr(b'\'', &bytes[MESSAGE_TO.len()..]).context("an attribute without an end")?;
        return Ok(Cut::Message { to: MESSAGE_TO.len()..MESSAGE_TO.len() + to, end: end + MESSAGE_END.len() });
    }
    other(bytes)
}

#[cold]
fn other(bytes: &[u8]) -> Result<Cut> {
    let space = bytes.iter().take_while(|b| b.is_ascii_whitespace()).count();
    if space > 0 {
        return Ok(Cut::Space { end: space });
    }
    if bytes.starts_with(b"</") {
        return Ok(if bytes.contains(&b'>') { Cut::End } else { Cut::Part });
    }
    let Some(end) = element_end(bytes)? else { return Ok(Cut::Part) };
    let stanza = &bytes[..end];
    if element::name(stanza) != &MESSAGE[1..] || !stanza.starts_with(MESSAGE) {
        return Ok(Cut::Other { end });
    }
    let to = element::attr(stanza, b"to").context("a message to nobody")?;
    let start = to.as_ptr() as usize - stanza.as_ptr() as usize;
    Ok(Cut::Message { to: start..start + to.len(), end })
}

/// The end of the element at the start, by the rules of XML.
pub(super) fn element_end(bytes: &[u8]) -> Result<Option<usize>> {
    let mut splitter = Splitter::default();
    splitter.feed(b"<s>");
    splitter.next()?;
    splitter.feed(bytes);
    match splitter.next()? {
        Some(Frame::Element(element)) => Ok(Some(element.len())),
        None => Ok(None),
        Some(_) => bail!("not an element"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, to: &str, rest: &str) {
        let Cut::Message { to: found, end } = cut(text.as_bytes()).unwrap() else { panic!("{text}: no message") };
        assert_eq!((&text[found], &text[end..]), (to, rest));
        for part in 1..end {
            assert_eq!(cut(&text.as_bytes()[..part]).unwrap(), Cut::Part, "{}", &text[..part]);
        }
    }

    #[test]
    fn messages() {
        check("<message to='a@b/c' type='chat'><body>&lt;/message></body></message><m", "a@b/c", "<m");
        check("<message to='a@b/c'></message>", "a@b/c", "");
        check("<message type=\"chat\" id='>'  to = \"a@b/c\"><body/></message> ", "a@b/c", " ");
        check("<message id='1' to='a@b/c'/><", "a@b/c", "<");
    }

    #[test]
    fn what_is_no_message() {
        assert_eq!(cut(b"<presence/><").unwrap(), Cut::Other { end: 11 });
        assert_eq!(cut(b"<messages to=''/>").unwrap(), Cut::Other { end: 17 });
        assert_eq!(cut(b"<iq><message to='a'></message></iq>").unwrap(), Cut::Other { end: 35 });
        assert_eq!(cut(b" \n<").unwrap(), Cut::Space { end: 2 });
        assert_eq!(cut(b"</stream:stream>").unwrap(), Cut::End);
        assert_eq!(cut(b"</stream").unwrap(), Cut::Part);
        assert_eq!(cut(b"").unwrap(), Cut::Part);
        assert!(cut(b"<message id='1'/>").is_err());
        assert!(cut(b"<!DOCTYPE a>").is_err());
    }
}
