//! Named maxima that more than one crate must agree on. Each is the default of a setting or a bound of the format.

use std::time::Duration;

/// A longer stanza closes the stream with `policy-violation`. RFC 6120 §13.12: not below 10,000.
pub const STANZA_BYTES_MAX: usize = 256 * 1024;
/// The same before authentication.
pub const STANZA_BYTES_UNAUTHENTICATED_MAX: usize = 10_000;
/// Depth of elements within a stanza.
pub const XML_DEPTH_MAX: usize = 64;
/// Attributes of one element.
pub const XML_ATTRIBUTES_MAX: usize = 64;
/// Bytes of one element or attribute name.
pub const XML_NAME_BYTES_MAX: usize = 256;
/// Bytes of one attribute value.
pub const XML_ATTRIBUTE_BYTES_MAX: usize = 16 * 1024;
/// Namespace declarations in scope within one stanza.
pub const XML_NAMESPACES_MAX: usize = 256;
/// Direct children of one stanza.
pub const STANZA_CHILDREN_MAX: usize = 1_024;
/// Bytes of a stanza's `id`.
pub const STANZA_ID_BYTES_MAX: usize = 1_023;

/// RFC 7622 §3.1: bytes of each part of a JID.
pub const JID_PART_BYTES_MAX: usize = 1_023;

/// Inputs that an edge keeps until they are accepted; then it stops reading the socket.
pub const INPUTS_HELD_MAX: usize = 64;
/// The same in bytes.
pub const INPUTS_HELD_BYTES_MAX: usize = 256 * 1024;
/// Stanzas of a session's tail; beyond that durable ones stay in the log alone, others end the session.
pub const TAIL_STANZAS_MAX: usize = 500;
/// Inputs that wait while an entity loads; beyond that they are refused and their holder retries.
pub const PARKED_INPUTS_MAX: usize = 64;
/// Forwards of one account that are under way, unconfirmed.
pub const FORWARD_WINDOW_MAX: usize = 64;
/// Forwards of one account that no next hop has confirmed; beyond that a stanza gets `resource-constraint`.
pub const OUTBOX_ROWS_MAX: usize = 4_096;
/// Sessions of one account.
pub const SESSIONS_MAX: usize = 20;
/// Items of one roster.
pub const ROSTER_ITEMS_MAX: usize = 5_000;
/// Groups of one roster item, and bytes of a group's or an item's name.
pub const ROSTER_GROUPS_MAX: usize = 32;
/// Bytes of a group's or item's name.
pub const ROSTER_NAME_BYTES_MAX: usize = 1_023;
/// Addresses that one account can block.
pub const BLOCKED_MAX: usize = 1_000;
/// Addresses that one session can send directed presence to.
pub const DIRECTED_PRESENCE_MAX: usize = 1_000;
/// Rows of one log bucket.
pub const BUCKET_ROWS_MAX: u64 = 10_000;
/// Rows of one page of an archive.
pub const ARCHIVE_PAGE_MAX: usize = 250;
/// Messages that wait for an account that has no session (XEP-0160); beyond that a sender gets `service-unavailable`.
pub const OFFLINE_ROWS_MAX: usize = 10_000;

/// Bytes of a partition's key: a bare JID and a bucket number.
pub const PARTITION_KEY_BYTES_MAX: usize = 2 * JID_PART_BYTES_MAX + 64;
/// Bytes of a cell's key: a full JID and a prefix.
pub const CELL_KEY_BYTES_MAX: usize = 3 * JID_PART_BYTES_MAX + 64;
/// Bytes of a cell's value: a stanza with its row's head, or a detached session's row.
pub const CELL_VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long a session outlives its stream, by default and at most.
pub const RESUME_TIMEOUT: Duration = Duration::from_secs(300);
/// The longest that a client can ask for.
pub const RESUME_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// How long a new owner waits for the edges of its sessions.
pub const ATTACHING_MAX: Duration = Duration::from_secs(5);
/// A detached session's row is written no later than this.
pub const DETACH_ROW_WITHIN: Duration = Duration::from_secs(2);
/// The sender of a forward gives up, with an error.
pub const FORWARD_GIVE_UP: Duration = Duration::from_secs(24 * 3_600);
/// The receiver of a forward forgets its origin.
pub const ORIGIN_FORGET: Duration = Duration::from_secs(48 * 3_600);
