//! The tokenizer against rxml, a second strict parser: both accept the same, and read the same in it.

mod support;

use proptest::prelude::*;
use support::{any_element, any_mutation, config, mutate, sorted, witness};
use types::ns;
use xml::{Element, Frame, Framer, Limits, Scope, Tokens, XmlError};

/// What this crate reads, as the witness would show it.
fn ours(xml: &[u8]) -> Result<Element, XmlError> {
    Element::parse_in(xml, &Scope::of_stream(ns::CLIENT)).map(sorted)
}

/// Both must agree; a limit of ours is no disagreement.
fn compare(xml: &str) -> Result<(), TestCaseError> {
    match (ours(xml.as_bytes()), witness(xml.as_bytes(), ns::CLIENT)) {
        (Ok(a), Some(b)) => prop_assert_eq!(a, b, "{}", xml),
        (Err(_), None) | (Err(XmlError::PolicyViolation), Some(_)) => {}
        (a, b) => return Err(TestCaseError::fail(format!("{xml:?}\nours: {a:?}\nwitness: {b:?}"))),
    }
    Ok(())
}

/// The framer cuts out of a stream what the tokenizer accepts, and nothing that the tokenizer would accept is refused.
fn framed(xml: &str, cuts: &[usize]) -> Result<Element, XmlError> {
    let mut framer = Framer::new(Limits::AUTHENTICATED);
    framer.feed(b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>");
    framer.next()?;
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (xml.len() + 1)).collect();
    cuts.extend([0, xml.len()]);
    cuts.sort_unstable();
    let mut elements = Vec::new();
    for cut in cuts.windows(2) {
        framer.feed(&xml.as_bytes()[cut[0]..cut[1]]);
        while let Some(frame) = framer.next()? {
            match frame {
                Frame::Element(bytes) => elements.push(bytes),
                _ => return Err(XmlError::BadFormat),
            }
        }
    }
    match (&elements[..], framer.has_buffered()) {
        ([only], false) if only == xml => ours(only),
        _ => Err(XmlError::NotWellFormed),
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn well_formed_or_nearly(xml in any_element()) {
        compare(&xml)?;
    }

    #[test]
    fn mutated(xml in any_element(), mutations in prop::collection::vec(any_mutation(), 1..3)) {
        compare(&mutate(&xml, &mutations))?;
    }

    #[test]
    fn framer_and_tokenizer_agree(
        xml in any_element(),
        mutations in prop::collection::vec(any_mutation(), 0..2),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let xml = mutate(&xml, &mutations);
        prop_assert_eq!(framed(&xml, &cuts).ok(), ours(xml.as_bytes()).ok(), "{}", xml);
    }

    #[test]
    fn written_is_read_alike_by_both(xml in any_element(), parent in prop::sample::select(vec![ns::CLIENT, "urn:other"])) {
        let Ok(element) = ours(xml.as_bytes()) else { return Ok(()) };
        let bytes = element.to_bytes(parent);
        prop_assert_eq!(Element::parse(&bytes, parent).map(sorted), Ok(element.clone()));
        prop_assert_eq!(witness(&bytes, parent), Some(element.clone()));
        // Writing without a tree gives the same bytes but for the order of attributes, which the tree here has changed.
        let scope = Scope::of_stream(ns::CLIENT);
        let mut again = Vec::new();
        xml::rewrite(Tokens::new(xml.as_bytes(), &scope).unwrap(), parent, &mut again).unwrap();
        let plain = Element::parse_in(xml.as_bytes(), &scope).unwrap();
        prop_assert_eq!(&plain.to_bytes(parent)[..], &again[..]);
        // What is canonical stays as it is.
        let canonical = Element::parse(&again, parent).unwrap().to_bytes(parent);
        prop_assert_eq!(&canonical[..], &again[..]);
    }

    #[test]
    fn any_text_survives(text in any::<String>(), value in any::<String>()) {
        let kept = |s: &str| s.chars().filter(|&c| xml::chars::is_char(c)).collect::<String>();
        let element = Element::new("a", ns::CLIENT).with_attr("b", &value).with_text(&text);
        let want = Element::new("a", ns::CLIENT).with_attr("b", kept(&value)).with_text(kept(&text));
        let bytes = element.to_bytes(ns::CLIENT);
        prop_assert_eq!(Element::parse(&bytes, ns::CLIENT), Ok(want.clone()));
        prop_assert_eq!(witness(&bytes, ns::CLIENT), Some(want));
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in any::<usize>()) {
        let _ = Element::parse(&bytes, ns::CLIENT);
        let _ = xml::Header::parse(&bytes);
        let mut framer = Framer::new(Limits::UNAUTHENTICATED);
        let cut = cut % (bytes.len() + 1);
        for part in [&bytes[..cut], &bytes[cut..]] {
            framer.feed(part);
            while let Ok(Some(_)) = framer.next() {}
        }
    }

    #[test]
    fn any_markup_does_no_harm(text in "[<>/!?&;='\" \\[\\]axCDAT:-]{0,60}") {
        compare(&text)?;
        prop_assert_eq!(framed(&text, &[]).ok(), ours(text.as_bytes()).ok());
    }
}
