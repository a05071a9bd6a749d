//! The messages of SCRAM (RFC 5802 §7), taken apart and put together. No state, no keys.

use crate::condition::Condition;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A longer message is malformed. A name and an authorization identity of full length, escaped, fit.
pub const MESSAGE_BYTES_MAX: usize = 12 * 1024;
/// A longer nonce of a client is malformed; real ones have 16 to 64 bytes.
pub const NONCE_BYTES_MAX: usize = 256;

/// What the first message says of channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BindingFlag<'a> {
    /// `n`: the client cannot.
    Unsupported,
    /// `y`: the client can, and believes that the server cannot.
    NotOffered,
    /// `p=`: bound by this type.
    Used(&'a str),
}

/// client-first-message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst<'a> {
    pub flag: BindingFlag<'a>,
    pub authzid: Option<String>,
    /// Both commas included; comes again in `c=`.
    pub gs2_header: &'a str,
    pub username: String,
    pub nonce: &'a str,
    /// client-first-message-bare, as received.
    pub bare: &'a str,
}

/// client-final-message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFinal<'a> {
    pub binding: Vec<u8>,
    pub nonce: &'a str,
    pub proof: Vec<u8>,
    /// client-final-message-without-proof, as received.
    pub without_proof: &'a str,
}

const MALFORMED: Condition = Condition::MalformedRequest;

/// The text of a message, within bounds and without NUL (`value-char`).
fn text(message: &[u8]) -> Result<&str, Condition> {
    if message.len() > MESSAGE_BYTES_MAX || message.contains(&0) {
        return Err(MALFORMED);
    }
    std::str::from_utf8(message).map_err(|_| MALFORMED)
}

pub(crate) fn client_first(message: &[u8]) -> Result<ClientFirst<'_>, Condition> {
    let message = text(message)?;
    let mut fields = message.splitn(3, ',');
    let (Some(flag), Some(authzid), Some(bare)) = (fields.next(), fields.next(), fields.next()) else {
        return Err(MALFORMED);
    };
    let flag = match flag {
        "n" => BindingFlag::Unsupported,
        "y" => BindingFlag::NotOffered,
        _ => BindingFlag::Used(flag.strip_prefix("p=").filter(|name| is_cb_name(name)).ok_or(MALFORMED)?),
    };
    let authzid = match authzid {
        "" => None,
        _ => Some(saslname(authzid.strip_prefix("a=").ok_or(MALFORMED)?)?),
    };
    // A mandatory extension (`m=`) would stand first; none is known, so authentication fails (§5.1).
    let mut fields = bare.split(',');
    let username = saslname(attribute(fields.next(), "n=")?)?;
    let nonce = attribute(fields.next(), "r=")?;
    if !is_nonce(nonce) || nonce.len() > NONCE_BYTES_MAX {
        return Err(MALFORMED);
    }
    extensions(fields)?;
    Ok(ClientFirst { flag, authzid, gs2_header: &message[..message.len() - bare.len()], username, nonce, bare })
}

pub(crate) fn client_final(message: &[u8]) -> Result<ClientFinal<'_>, Condition> {
    let message = text(message)?;
    let (without_proof, proof) = message.rsplit_once(",p=").ok_or(MALFORMED)?;
    let proof = STANDARD.decode(proof).map_err(|_| MALFORMED)?;
    let mut fields = without_proof.split(',');
    let binding = STANDARD.decode(attribute(fields.next(), "c=")?).map_err(|_| MALFORMED)?;
    let nonce = attribute(fields.next(), "r=")?;
    // The client's part and the server's.
    if !is_nonce(nonce) || nonce.len() > 2 * NONCE_BYTES_MAX {
        return Err(MALFORMED);
    }
    extensions(fields)?;
    Ok(ClientFinal { binding, nonce, proof, without_proof })
}

/// server-first-message.
pub(crate) fn server_first(nonce: &str, salt: &[u8], iterations: u32) -> String {
    format!("r={nonce},s={},i={iterations}", STANDARD.encode(salt))
}

/// server-final-message of a success.
pub(crate) fn server_final(signature: &[u8]) -> String {
    format!("v={}", STANDARD.encode(signature))
}

/// The server's part of the nonce: printable, no comma.
pub(crate) fn server_nonce(random: &[u8; 24]) -> String {
    STANDARD.encode(random)
}

fn attribute<'a>(field: Option<&'a str>, name: &str) -> Result<&'a str, Condition> {
    field.and_then(|f| f.strip_prefix(name)).ok_or(MALFORMED)
}

/// Unknown extensions are ignored, but must look like one; a mandatory one is refused wherever it stands.
fn extensions<'a>(fields: impl Iterator<Item = &'a str>) -> Result<(), Condition> {
    for field in fields {
        match field.as_bytes() {
            [b'm', b'=', ..] => return Err(MALFORMED),
            [name, b'=', _, ..] if name.is_ascii_alphabetic() => {}
            _ => return Err(MALFORMED),
        }
    }
    Ok(())
}

/// `printable`: no space, no comma.
fn is_nonce(nonce: &str) -> bool {
    !nonce.is_empty() && nonce.bytes().all(|b| b.is_ascii_graphic() && b != b',')
}

fn is_cb_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
}

/// `=2C` and `=3D` stand for comma and equals sign; any other use of `=` must fail (§5.1).
fn saslname(escaped: &str) -> Result<String, Condition> {
    if escaped.is_empty() {
        return Err(MALFORMED);
    }
    let mut pieces = escaped.split('=');
    let mut name = String::from(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (character, rest) = if let Some(rest) = piece.strip_prefix("2C") {
            (',', rest)
        } else if let Some(rest) = piece.strip_prefix("3D") {
            ('=', rest)
        } else {
            return Err(MALFORMED);
        };
        name.push(character);
        name.push_str(rest);
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refuse_first(message: &str) {
        assert_eq!(client_first(message.as_bytes()), Err(MALFORMED), "{message:?}");
    }

    #[test]
    fn first_message_is_taken_apart() {
        let first = client_first(b"p=tls-exporter,a=x=2Cy=3Dz@b,n=us=3Der,r=a!~,x=1,y==").unwrap();
        assert_eq!(first.flag, BindingFlag::Used("tls-exporter"));
        assert_eq!(first.authzid.as_deref(), Some("x,y=z@b"));
        assert_eq!(first.gs2_header, "p=tls-exporter,a=x=2Cy=3Dz@b,");
        assert_eq!((first.username.as_str(), first.nonce), ("us=er", "a!~"));
        assert_eq!(first.bare, "n=us=3Der,r=a!~,x=1,y==");
        assert_eq!(client_first(b"n,,n=u,r=r").unwrap().flag, BindingFlag::Unsupported);
        assert_eq!(client_first(b"y,,n=u,r=r").unwrap().flag, BindingFlag::NotOffered);
    }

    #[test]
    fn first_message_that_breaks_the_grammar_is_refused() {
        for message in [
            "",
            ",",
            ",,",
            "n",
            "n,",
            "n,,",
            "n,,n=u",
            "n,,n=,r=r",
            "n,,n=u,r=",
            "n,,r=r,n=u",
            "n,,n=u,n=u,r=r",
            "N,,n=u,r=r",
            "x,,n=u,r=r",
            "nn,,n=u,r=r",
            "n=,,n=u,r=r",
            "p,,n=u,r=r",
            "p=,,n=u,r=r",
            "p=a b,,n=u,r=r",
            "p=a_b,,n=u,r=r",
            "n,b,n=u,r=r",
            "n,a=,n=u,r=r",
            "n,a==2c,n=u,r=r",
            "n,,n=a=,r=r",
            "n,,n=a=2,r=r",
            "n,,n=a=2c,r=r",
            "n,,n=a==,r=r",
            "n,,n=a=41,r=r",
            "n,,n=u,r=a b",
            "n,,n=u,r=\u{e4}",
            "n,,n=u,r=r,",
            "n,,n=u,r=r,x",
            "n,,n=u,r=r,x=",
            "n,,n=u,r=r,1=1",
            "n,,n=u,r=r,xx=1",
            "n,,m=1,n=u,r=r",
            "n,,n=u,r=r,m=1",
            "n,,n=u\0,r=r",
            "n,,n=u,r=r,x=\0",
            " n,,n=u,r=r",
        ] {
            refuse_first(message);
        }
        refuse_first(&format!("n,,n=u,r={}", "r".repeat(NONCE_BYTES_MAX + 1)));
        refuse_first(&format!("n,,n=u,r=r,x={}", "x".repeat(MESSAGE_BYTES_MAX)));
        assert!(client_first(format!("n,,n=u,r={}", "r".repeat(NONCE_BYTES_MAX)).as_bytes()).is_ok());
        assert_eq!(client_first(b"n,,n=\xff,r=r"), Err(MALFORMED));
        assert_eq!(client_first(b"n,,n=\xc0\x80,r=r"), Err(MALFORMED));
    }

    #[test]
    fn final_message_is_taken_apart() {
        let message = client_final(b"c=biws,r=abc,x=1,p=AAAA").unwrap();
        assert_eq!((message.binding.as_slice(), message.nonce, message.proof.as_slice()), (&b"n,,"[..], "abc", &[0, 0, 0][..]));
        assert_eq!(message.without_proof, "c=biws,r=abc,x=1");
        for refused in [
            "",
            "c=biws",
            "c=biws,r=abc",
            "c=biws,p=AAAA",
            "r=abc,p=AAAA",
            "r=abc,c=biws,p=AAAA",
            "c=biws,r=,p=AAAA",
            "c=biw,r=abc,p=AAAA",
            "c=bi ws,r=abc,p=AAAA",
            "c=biws,r=abc,p=AAA",
            "c=biws,r=abc,p=AAB=",
            "c=biws,r=abc,p=AAAA,x=1",
            "c=biws,r=abc,p=AAAA,p=!",
            "c=biws,r=a\u{e4},p=AAAA",
            "c=biws,r=abc,m=1,p=AAAA",
            "m=1,c=biws,r=abc,p=AAAA",
            "c=biws,r=abc,,p=AAAA",
            "c=biws,r=abc,x=\0,p=AAAA",
        ] {
            assert_eq!(client_final(refused.as_bytes()), Err(MALFORMED), "{refused:?}");
        }
    }
}
