//! What an entry sends, as text with calls in braces.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What stands for `{name}`.
pub type Vars = HashMap<String, String>;

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token<'t> {
    Text(&'t str),
    /// `{name}` or `{name:argument}`.
    Call(&'t str, Option<&'t str>),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Send these.
    Send(Vec<u8>),
    /// Wait for a first-level element of this name.
    Wait(String),
    /// Wait so long.
    Pause(Duration),
    /// Reset the connection.
    Cut,
    /// Close the direction of sending.
    Fin,
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        if open > 0 {
            tokens.push(Token::Text(&rest[..open]));
        }
        let mut depth = 0;
        let end = rest[open..].bytes().position(|b| {
            depth += i32::from(b == b'{') - i32::from(b == b'}');
            depth == 0
        });
        let inner = &rest[open + 1..open + end.with_context(|| format!("no end of {rest:?}"))?];
        rest = &rest[open + inner.len() + 2..];
        let (name, argument) = inner.split_once(':').map_or((inner, None), |(name, argument)| (name, Some(argument)));
        tokens.push(Token::Call(name, argument));
    }
    if !rest.is_empty() {
        tokens.push(Token::Text(rest));
    }
    Ok(tokens)
}

/// Reads a template up to what waits; gives that, and what is behind it. Variables may be set between two calls.
pub struct Reader<'t> {
    rest: std::vec::IntoIter<Token<'t>>,
    pending: Option<Op>,
}

impl<'t> Reader<'t> {
    /// Reads `text`.
    pub fn new(text: &'t str) -> Result<Reader<'t>> {
        Ok(Reader { rest: tokens(text)?.into_iter(), pending: None })
    }

    /// The next thing to do.
    pub fn next(&mut self, vars: &Vars) -> Result<Option<Op>> {
        if let Some(op) = self.pending.take() {
            return Ok(Some(op));
        }
        let mut out = Bytes::default();
        for token in self.rest.by_ref() {
            let op = match token {
                Token::Call("wait", Some(name)) => Op::Wait(name.into()),
                Token::Call("pause", Some(ms)) => Op::Pause(Duration::from_millis(ms.parse()?)),
                Token::Call("cut", None) => Op::Cut,
                Token::Call("fin", None) => Op::Fin,
                token => {
                    write(&mut out, token, vars)?;
                    continue;
                }
            };
            let bytes = out.finish()?;
            if bytes.is_empty() {
                return Ok(Some(op));
            }
            self.pending = Some(op);
            return Ok(Some(Op::Send(bytes)));
        }
        let bytes = out.finish()?;
        Ok((!bytes.is_empty()).then_some(Op::Send(bytes)))
    }
}

#[derive(Default)]
struct Bytes {
    bytes: Vec<u8>,
    /// Where what is to be filled stands, with what, and how long the whole is to be.
    fill: Option<(usize, u8, usize)>,
}

impl Bytes {
    fn finish(self) -> Result<Vec<u8>> {
        let mut bytes = self.bytes;
        if let Some((at, byte, total)) = self.fill {
            ensure!(bytes.len() <= total, "{} bytes already, {total} wanted", bytes.len());
            let more = total - bytes.len();
            bytes.splice(at..at, std::iter::repeat_n(byte, more));
        }
        Ok(bytes)
    }
}

fn write(out: &mut Bytes, token: Token<'_>, vars: &Vars) -> Result<()> {
    match token {
        Token::Text(text) => out.bytes.extend_from_slice(text.as_bytes()),
        Token::Call("hex", Some(hex)) => {
            let digits: Vec<u8> = expand(hex, vars)?.into_iter().filter(|b| !b.is_ascii_whitespace()).collect();
            for pair in digits.chunks(2) {
                out.bytes.push(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
            }
        }
        Token::Call("body", Some(text)) => {
            let body = expand(text, vars)?;
            out.bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            out.bytes.extend(body);
        }
        Token::Call("base64", Some(text)) => out.bytes.extend_from_slice(STANDARD.encode(expand(text, vars)?).as_bytes()),
        Token::Call("repeat", Some(argument)) => {
            let (times, text) = argument.split_once(':').context("repeat:TIMES:TEXT")?;
            if !text.contains('{') {
                out.bytes.extend(text.repeat(times.parse()?).bytes());
                return Ok(());
            }
            let mut vars = vars.clone();
            for i in 0..times.parse::<usize>()? {
                vars.insert("i".into(), i.to_string());
                out.bytes.extend(expand(text, &vars)?);
            }
        }
        Token::Call("fill", Some(argument)) => {
            let (total, text) = argument.split_once(':').context("fill:BYTES:CHARACTER")?;
            ensure!(text.len() == 1 && out.fill.is_none(), "one fill, of one character");
            out.fill = Some((out.bytes.len(), text.as_bytes()[0], total.parse()?));
        }
        Token::Call("noise", Some(count)) => {
            // Always the same: an xorshift of a fixed seed.
            let mut x = 0x9E37_79B9_7F4A_7C15_u64;
            for _ in 0..count.parse::<usize>()? {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                out.bytes.push((x >> 32) as u8);
            }
        }
        Token::Call(name, None) => {
            let value = vars.get(name).with_context(|| format!("{{{name}}} has no value"))?;
            out.bytes.extend(if name == "each" { expand(value, vars)? } else { value.clone().into_bytes() });
        }
        Token::Call(name, _) => bail!("{{{name}:…}} is not known"),
    }
    Ok(())
}

/// Text without anything that waits.
pub fn expand(text: &str, vars: &Vars) -> Result<Vec<u8>> {
    let mut out = Bytes::default();
    for token in tokens(text)? {
        write(&mut out, token, vars)?;
    }
    out.finish()
}

/// As [`expand`], of what has to be text.
pub fn expand_text(text: &str, vars: &Vars) -> Result<String> {
    Ok(String::from_utf8(expand(text, vars)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_read() -> Result<()> {
        let vars = Vars::from([("peer".into(), "juliet@localhost/a".into()), ("each".into(), "{hex:00}".into())]);
        let check = |text: &str, want: &[Op]| -> Result<()> {
            let mut reader = Reader::new(text)?;
            let mut ops = Vec::new();
            while let Some(op) = reader.next(&vars)? {
                ops.push(op);
            }
            assert_eq!(ops, want, "{text}");
            Ok(())
        };
        let send = |text: &str| Op::Send(text.as_bytes().to_vec());
        check("", &[])?;
        check("<a to='{peer}'/>", &[send("<a to='juliet@localhost/a'/>")])?;
        check("{hex:c0 AF}x{each}", &[Op::Send(vec![0xC0, 0xAF, b'x', 0])])?;
        check("{base64:\0a{hex:00}b}", &[send("AGEAYg==")])?;
        check("{repeat:3:<i{i}/>}", &[send("<i0/><i1/><i2/>")])?;
        check("a{fill:6:x}b{wait:features}c{cut}", &[send("axxxxb"), Op::Wait("features".into()), send("c"), Op::Cut])?;
        check("{pause:5}", &[Op::Pause(Duration::from_millis(5))])?;
        assert!(Reader::new("{nobody").is_err());
        assert!(Reader::new("{nobody}")?.next(&vars).is_err());
        Ok(())
    }
}
