//! What a controller must know to use a worker.

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use std::fmt;
use std::path::Path;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

/// Holds a token, if no file does.
pub const VARIABLE: &str = "LOADTEST_TOKEN";
/// A shorter one can be guessed.
const BYTES_MIN: usize = 16;
/// What fits into a header together with everything else.
const BYTES_MAX: usize = 512;
const HEADER: &str = "authorization";
const SCHEME: &str = "Bearer ";

/// A secret that controllers and workers share.
#[derive(Clone)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Out of a file or, without one, out of [`VARIABLE`].
    ///
    /// # Errors
    /// A file that cannot be read, a token that is too short or too long.
    pub fn read(file: Option<&Path>) -> Result<Option<Token>> {
        let Some(file) = file else {
            return std::env::var(VARIABLE).ok().map(|text| Token::of(&text)).transpose().context(VARIABLE);
        };
        let text = std::fs::read_to_string(file).map_err(Into::into).and_then(|text| Token::of(&text));
        text.map(Some).with_context(|| format!("{}", file.display()))
    }

    /// A new one.
    ///
    /// # Errors
    /// No random numbers.
    pub fn random() -> Result<Token> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes)?;
        Ok(Token(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    fn of(text: &str) -> Result<Token> {
        let text = text.trim();
        ensure!((BYTES_MIN..=BYTES_MAX).contains(&text.len()), "a token has {BYTES_MIN} to {BYTES_MAX} bytes");
        ensure!(text.bytes().all(|b| b.is_ascii_graphic()), "a token has letters, digits and signs of ASCII only");
        Ok(Token(text.to_owned()))
    }

    /// For a process that this one starts.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    /// Puts it into a request.
    ///
    /// # Errors
    /// None with a token that was made here.
    pub(super) fn give(&self, request: &mut MetadataMap) -> Result<()> {
        let mut value: MetadataValue<Ascii> = format!("{SCHEME}{}", self.0).parse()?;
        value.set_sensitive(true);
        request.insert(HEADER, value);
        Ok(())
    }

    /// Whether a request has it.
    pub(super) fn is_in(&self, request: &MetadataMap) -> bool {
        let given = request.get(HEADER).map(|value| value.as_bytes()).unwrap_or_default();
        let given = given.strip_prefix(SCHEME.as_bytes()).unwrap_or_default();
        // Digests are of one length, so that neither the text nor its length shows in the time that this takes.
        let [given, own] = [given, self.0.as_bytes()].map(|text| digest(&SHA256, text));
        verify_slices_are_equal(given.as_ref(), own.as_ref()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_is_the_same() {
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        let mut request = MetadataMap::new();
        assert!(!one.is_in(&request));
        one.give(&mut request).unwrap();
        assert!(one.is_in(&request) && !other.is_in(&request));
        assert_eq!((format!("{one:?}"), format!("{request:?}").contains(&one.0)), ("Token".into(), false));
        request.insert(HEADER, one.0.parse().unwrap());
        assert!(!one.is_in(&request), "without its scheme");
    }

    #[test]
    fn files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Token::read(Some(&file)).map(|t| t.unwrap().0).map_err(|e| format!("{e:#}"))
        };
        assert_eq!(read("0123456789abcdef\n"), Ok("0123456789abcdef".into()));
        assert!(read("0123456789abcde").unwrap_err().ends_with("token: a token has 16 to 512 bytes"));
        assert!(read(&"a".repeat(513)).unwrap_err().ends_with("a token has 16 to 512 bytes"));
        assert!(read("0123456789 abcdef").unwrap_err().contains("letters"));
        assert!(Token::read(Some(Path::new("/nowhere"))).unwrap_err().to_string().contains("/nowhere"));
    }
}
