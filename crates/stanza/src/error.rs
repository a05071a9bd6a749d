//! Stanza errors (RFC 6120 §8.3).

use crate::{Child, Kind, PresenceType, Stanza, Type};
use compact_str::CompactString;
use types::ns;
use xml::Element;

/// A message's children are sent back with an error if they have at most this many bytes together. They are a courtesy
/// (RFC 6120 §8.3.1 rule 6), and whoever sends much should not make the server send much.
const RETURNED_BYTES_MAX: usize = 2 * 1024;

/// What the sender of the stanza can do (RFC 6120 §8.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// Retry after providing credentials.
    Auth,
    /// Do not retry.
    Cancel,
    /// Proceed: only a warning.
    Continue,
    /// Retry after changing the data sent.
    Modify,
    /// Retry after waiting.
    Wait,
}

impl ErrorType {
    /// Value of the `type` attribute.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorType::Auth => "auth",
            ErrorType::Cancel => "cancel",
            ErrorType::Continue => "continue",
            ErrorType::Modify => "modify",
            ErrorType::Wait => "wait",
        }
    }

    /// The type with this value.
    pub fn of_name(name: &str) -> Option<ErrorType> {
        use ErrorType::*;
        [Auth, Cancel, Continue, Modify, Wait].into_iter().find(|t| t.as_str() == name)
    }
}

macro_rules! conditions {
    ($($section:literal $variant:ident = $name:literal $type_:ident;)*) => {
        /// Defined conditions (RFC 6120 §8.3.3).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Condition {
            $(#[doc = concat!("`", $name, "`, RFC 6120 §8.3.3.", $section)] $variant,)*
        }

        impl Condition {
            /// All of them, in the order of RFC 6120.
            pub const ALL: &[Condition] = &[$(Condition::$variant),*];

            /// The element's name.
            pub const fn name(self) -> &'static str {
                match self { $(Condition::$variant => $name),* }
            }

            /// The type that RFC 6120 recommends for it.
            pub const fn default_type(self) -> ErrorType {
                match self { $(Condition::$variant => ErrorType::$type_),* }
            }
        }
    };
}

conditions! {
    1 BadRequest = "bad-request" Modify;
    2 Conflict = "conflict" Cancel;
    3 FeatureNotImplemented = "feature-not-implemented" Cancel;
    4 Forbidden = "forbidden" Auth;
    5 Gone = "gone" Cancel;
    6 InternalServerError = "internal-server-error" Cancel;
    7 ItemNotFound = "item-not-found" Cancel;
    8 JidMalformed = "jid-malformed" Modify;
    9 NotAcceptable = "not-acceptable" Modify;
    10 NotAllowed = "not-allowed" Cancel;
    11 NotAuthorized = "not-authorized" Auth;
    12 PolicyViolation = "policy-violation" Modify;
    13 RecipientUnavailable = "recipient-unavailable" Wait;
    14 Redirect = "redirect" Modify;
    15 RegistrationRequired = "registration-required" Auth;
    16 RemoteServerNotFound = "remote-server-not-found" Cancel;
    17 RemoteServerTimeout = "remote-server-timeout" Wait;
    18 ResourceConstraint = "resource-constraint" Wait;
    19 ServiceUnavailable = "service-unavailable" Cancel;
    20 SubscriptionRequired = "subscription-required" Auth;
    21 UndefinedCondition = "undefined-condition" Modify;
    22 UnexpectedRequest = "unexpected-request" Wait;
}

impl Condition {
    /// The condition whose element has this name.
    pub fn of_name(name: &str) -> Option<Condition> {
        Condition::ALL.iter().copied().find(|c| c.name() == name)
    }

    /// As an error of another type than the recommended one.
    pub fn of_type(self, type_: ErrorType) -> StanzaError {
        StanzaError { type_, ..StanzaError::new(self) }
    }

    /// As an error with a text for humans.
    pub fn with_text(self, text: &str) -> StanzaError {
        StanzaError::new(self).with_text(text)
    }
}

/// A protocol answer, as a value: the stanza was understood and is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StanzaError {
    /// What the sender can do.
    pub type_: ErrorType,
    /// Why.
    pub condition: Condition,
    /// In words, in English if it is ours.
    pub text: Option<CompactString>,
    /// Where to go instead: content of `gone` and `redirect` (RFC 6120 §8.3.3.5, §8.3.3.14).
    pub address: Option<CompactString>,
    /// The application-specific condition.
    pub app: Option<Box<Element>>,
    /// Who found the error, if it says so (RFC 6120 §8.3.1 rule 5).
    pub by: Option<CompactString>,
}

impl From<Condition> for StanzaError {
    fn from(condition: Condition) -> Self {
        StanzaError::new(condition)
    }
}

/// `cancel/item-not-found: no such node`
impl std::fmt::Display for StanzaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.type_.as_str(), self.condition.name())?;
        match &self.text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StanzaError {}

impl StanzaError {
    /// An error of the type that RFC 6120 recommends for `condition`.
    pub const fn new(condition: Condition) -> StanzaError {
        let type_ = condition.default_type();
        StanzaError { type_, condition, text: None, address: None, app: None, by: None }
    }

    /// With another type.
    pub fn with_type(mut self, type_: ErrorType) -> StanzaError {
        self.type_ = type_;
        self
    }

    /// With a text for humans, in English.
    pub fn with_text(mut self, text: &str) -> StanzaError {
        self.text = Some(CompactString::new(text));
        self
    }

    /// With an address to go to instead; only for `gone` and `redirect`.
    pub fn with_address(mut self, address: &str) -> StanzaError {
        self.address = Some(CompactString::new(address));
        self
    }

    /// With an application-specific condition.
    pub fn with_app(mut self, app: Element) -> StanzaError {
        self.app = Some(Box::new(app));
        self
    }

    /// The `<error/>` element, in `jabber:client`.
    pub fn to_element(&self) -> Element {
        let mut condition = Element::new(self.condition.name(), ns::STANZAS);
        if let (Condition::Gone | Condition::Redirect, Some(address)) = (self.condition, &self.address) {
            condition = condition.with_text(address);
        }
        let text = self.text.as_ref().map(|t| Element::new("text", ns::STANZAS).with_attr("xml:lang", "en").with_text(t));
        Element::new("error", ns::CLIENT)
            .with_attr_opt("by", self.by.as_ref())
            .with_attr("type", self.type_.as_str())
            .with_child(condition)
            .with_children(text)
            .with_children(self.app.as_deref().cloned())
    }

    /// Reads an `<error/>` element. What is missing or unknown becomes `undefined-condition` (RFC 6120 §8.3.2).
    pub fn from_element(error: &Element) -> StanzaError {
        let found = error.children().find(|c| c.ns == ns::STANZAS && c.name != "text");
        let condition = found.and_then(|c| Condition::of_name(&c.name)).unwrap_or(Condition::UndefinedCondition);
        let type_ = error.attr("type").and_then(ErrorType::of_name).unwrap_or(condition.default_type());
        let text = error.child("text", ns::STANZAS).map(|t| CompactString::new(t.text()));
        let address = match condition {
            Condition::Gone | Condition::Redirect => found.map(|c| c.text()).filter(|t| !t.is_empty()),
            _ => None,
        };
        let app = error.children().find(|c| c.ns != ns::STANZAS).cloned().map(Box::new);
        let by = error.attr("by").map(CompactString::new);
        StanzaError { type_, condition, text, address: address.map(CompactString::new), app, by }
    }

    /// Reads the error that a stanza of type `error` holds; `None` for another stanza. An error stanza without a readable
    /// `<error/>` is an `undefined-condition`.
    pub fn from_stanza(stanza: &Stanza) -> Option<StanzaError> {
        if !stanza.is_error() {
            return None;
        }
        let element = stanza.child("error", ns::CLIENT).and_then(|c| c.element().ok());
        Some(element.map_or(StanzaError::new(Condition::UndefinedCondition), |e| StanzaError::from_element(&e)))
    }

    /// Whether a stanza may be answered by an error. Not: an error (RFC 6120 §8.3.1 rule 8), an IQ result, and a presence that
    /// only notifies, which RFC 6121 §8.5.1 has ignored. A presence of an unknown type is answered (§4.7.1), and so are
    /// available presence and `subscribe`, whose sender waits for something (a room, a remote server); whether it is meant to
    /// be told is for the caller to decide.
    pub fn may_answer(stanza: &Stanza) -> bool {
        match (stanza.kind, &stanza.type_) {
            (_, Type::Error) | (Kind::Iq, Type::Result) => false,
            (Kind::Presence, _) => {
                matches!(stanza.presence_type(), None | Some(PresenceType::Subscribe | PresenceType::Unknown))
            }
            _ => true,
        }
    }

    /// The error stanza that answers `stanza`, or `None` if it must not be answered: see [`StanzaError::may_answer`].
    /// Addresses are swapped, the id is kept, the children of a small message are sent back (RFC 6120 §8.3.1).
    pub fn reply_to(&self, stanza: &Stanza) -> Option<Stanza> {
        if !StanzaError::may_answer(stanza) {
            return None;
        }
        let mut reply = Stanza::new(stanza.kind, Type::Error);
        reply.to = stanza.from.clone();
        reply.from = stanza.to.clone();
        reply.id = stanza.id.clone();
        // An IQ needs an id; if the request had none, it is empty (RFC 6120 §8.3.1 rule 3).
        if stanza.kind == Kind::Iq && reply.id.is_none() {
            reply.id = Some(CompactString::default());
        }
        let returned: usize = stanza.children.iter().map(|c| c.bytes.len()).sum();
        if stanza.kind == Kind::Message && returned <= RETURNED_BYTES_MAX {
            // An `<error/>` has no business in a stanza of another type (rule 7), and would be mistaken for ours.
            reply.children.extend(stanza.children.iter().filter(|c| !c.is("error", ns::CLIENT)).cloned());
        }
        reply.children.push(Child::from(self.to_element()));
        Some(reply)
    }
}
