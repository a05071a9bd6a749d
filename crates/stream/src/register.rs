//! In-band registration (XEP-0077): what a client asks, and the forms that answer it.

use sasl::Password;
use stanza::{Condition, StanzaError};
use types::ns;
use xml::Element;

/// What an `<iq/>` with a `jabber:iq:register` query asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Which fields are wanted?
    Fields,
    /// Create the account, or change its password.
    Set {
        /// As written.
        username: String,
        /// As written.
        password: Password,
    },
    /// Remove the account.
    Remove,
}

impl Request {
    /// Reads the query of an IQ; `set`: its type is set, not get.
    ///
    /// # Errors
    /// `bad-request` if fields are missing (XEP-0077 §3.3), `not-acceptable` if they are empty (§3.1.1).
    pub fn parse(query: &Element, set: bool) -> Result<Request, StanzaError> {
        if !set {
            return Ok(Request::Fields);
        }
        if query.child("remove", ns::REGISTER).is_some() {
            // §3.2: it stands alone.
            let alone = query.children().count() == 1;
            return if alone { Ok(Request::Remove) } else { Err(Condition::BadRequest.into()) };
        }
        let field = |name| query.child(name, ns::REGISTER).map(|f| f.text().into_owned());
        let (Some(username), Some(password)) = (field("username"), field("password")) else {
            return Err(Condition::BadRequest.into());
        };
        if username.is_empty() || password.is_empty() {
            return Err(Condition::NotAcceptable.into());
        }
        Ok(Request::Set { username, password: Password::new(password) })
    }
}

/// The form: whom it is for, if the client is authenticated.
pub fn fields(registered: Option<&str>) -> Element {
    let query = Element::new("query", ns::REGISTER);
    let empty = |name| Element::new(name, ns::REGISTER);
    match registered {
        Some(username) => {
            query.with_child(empty("registered")).with_child(empty("username").with_text(username)).with_child(empty("password"))
        }
        None => query
            .with_child(empty("instructions").with_text("Choose a username and a password."))
            .with_child(empty("username"))
            .with_child(empty("password")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read() {
        let check = |inner: &str, set: bool, wanted: Result<Request, Condition>| {
            let text = format!("<query xmlns='jabber:iq:register'>{inner}</query>");
            let query = Element::parse(text.as_bytes(), ns::CLIENT).unwrap();
            assert_eq!(Request::parse(&query, set).map_err(|e| e.condition), wanted, "{text}");
        };
        let both = "<username>juliet</username><password>R0m30</password>";
        check(both, false, Ok(Request::Fields));
        check(both, true, Ok(Request::Set { username: "juliet".into(), password: Password::new("R0m30".into()) }));
        check("<remove/>", true, Ok(Request::Remove));
        check("<remove/><username>juliet</username>", true, Err(Condition::BadRequest));
        check("<username>juliet</username>", true, Err(Condition::BadRequest));
        check("<username>juliet</username><password/>", true, Err(Condition::NotAcceptable));
        check("", true, Err(Condition::BadRequest));
    }
}
