//! The three kinds of stanzas and their types.

use compact_str::CompactString;

/// Which of the three stanzas (RFC 6120 §8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `<message/>`
    Message,
    /// `<presence/>`
    Presence,
    /// `<iq/>`
    Iq,
}

impl Kind {
    /// The element's name.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Message => "message",
            Kind::Presence => "presence",
            Kind::Iq => "iq",
        }
    }

    /// The kind whose element has this name.
    pub fn of_name(name: &str) -> Option<Kind> {
        match name {
            "message" => Some(Kind::Message),
            "presence" => Some(Kind::Presence),
            "iq" => Some(Kind::Iq),
            _ => None,
        }
    }
}

macro_rules! types {
    ($($variant:ident = $text:literal;)*) => {
        /// The `type` attribute as it was written. What it means depends on the kind: see `message_type`, `presence_type`,
        /// `iq_type` of [`crate::Stanza`].
        #[derive(Clone, Debug, PartialEq, Eq, Default)]
        pub enum Type {
            /// No `type`.
            #[default]
            Absent,
            $(#[doc = concat!("`", $text, "`")] $variant,)*
            /// A value that no specification knows.
            Other(CompactString),
        }

        impl Type {
            /// The attribute's value, if there is one.
            pub fn as_str(&self) -> Option<&str> {
                match self {
                    Type::Absent => None,
                    $(Type::$variant => Some($text),)*
                    Type::Other(text) => Some(text),
                }
            }
        }

        impl From<&str> for Type {
            fn from(text: &str) -> Type {
                match text {
                    $($text => Type::$variant,)*
                    other => Type::Other(other.into()),
                }
            }
        }
    };
}

types! {
    Normal = "normal";
    Chat = "chat";
    Groupchat = "groupchat";
    Headline = "headline";
    Error = "error";
    Get = "get";
    Set = "set";
    Result = "result";
    Unavailable = "unavailable";
    Subscribe = "subscribe";
    Subscribed = "subscribed";
    Unsubscribe = "unsubscribe";
    Unsubscribed = "unsubscribed";
    Probe = "probe";
}

/// Type of a message (RFC 6121 §5.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// One-to-one chat.
    Chat,
    /// To or from a room.
    Groupchat,
    /// An alert that expects no answer.
    Headline,
    /// Also for no type and for an unknown one.
    Normal,
    /// An error.
    Error,
}

/// Type of a presence other than available (RFC 6121 §4.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PresenceType {
    /// No longer available.
    Unavailable,
    /// Wishes to subscribe.
    Subscribe,
    /// Allows a subscription.
    Subscribed,
    /// Ends the sender's subscription.
    Unsubscribe,
    /// Denies or cancels the recipient's subscription.
    Unsubscribed,
    /// Asks for the current presence.
    Probe,
    /// An error.
    Error,
    /// A value that RFC 6121 does not know; to be answered with `bad-request`.
    Unknown,
}

/// Type of an IQ (RFC 6120 §8.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IqType {
    /// Asks.
    Get,
    /// Changes.
    Set,
    /// Answers.
    Result,
    /// Answers with an error.
    Error,
}

impl From<MessageType> for Type {
    fn from(t: MessageType) -> Type {
        match t {
            MessageType::Chat => Type::Chat,
            MessageType::Groupchat => Type::Groupchat,
            MessageType::Headline => Type::Headline,
            // The default needs no attribute (RFC 6121 §5.2.2).
            MessageType::Normal => Type::Absent,
            MessageType::Error => Type::Error,
        }
    }
}

impl From<PresenceType> for Type {
    fn from(t: PresenceType) -> Type {
        match t {
            PresenceType::Unavailable => Type::Unavailable,
            PresenceType::Subscribe => Type::Subscribe,
            PresenceType::Subscribed => Type::Subscribed,
            PresenceType::Unsubscribe => Type::Unsubscribe,
            PresenceType::Unsubscribed => Type::Unsubscribed,
            PresenceType::Probe => Type::Probe,
            PresenceType::Error => Type::Error,
            PresenceType::Unknown => Type::Absent,
        }
    }
}

impl From<IqType> for Type {
    fn from(t: IqType) -> Type {
        match t {
            IqType::Get => Type::Get,
            IqType::Set => Type::Set,
            IqType::Result => Type::Result,
            IqType::Error => Type::Error,
        }
    }
}
