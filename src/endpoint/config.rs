//! What distinguishes one endpoint from another.

use std::time::Duration;

use super::{Handshakes, LINK_LIFETIME, WorkerId};
use crate::{
    link::{DATAGRAM_DEFAULT, Redundancy},
    wire::{Protection, RealmId},
};

/// What distinguishes one endpoint from another.
#[derive(Clone, Debug)]
pub struct Config {
    /// What links others may open here; none for a client. Needs the feature `server`.
    pub accept: Option<Protection>,
    /// Under which name to tell strangers who this is; `None` keeps silent.
    pub hello: Option<RealmId>,
    /// Requests may travel in a handshake's first message. Else those that come there wait until the link is
    /// proven.
    pub early_data: bool,
    /// Links that this side opens are resumed, where the other side allows (HS-18).
    pub resumes: bool,
    /// Which of several endpoints behind one address it is.
    pub place: WorkerId,
    /// The largest datagram taken and sent, in bytes; at least [`crate::link::DATAGRAM_MIN`].
    pub max_datagram: usize,
    /// The longest message that is put together from parts, in bytes.
    pub max_message: usize,
    /// Bytes a second that no link exceeds.
    pub rate: Option<u64>,
    /// Whether small packets leave twice.
    pub redundancy: Redundancy,
    /// A link that this side opened, and that is in use, is replaced after so long.
    pub lifetime: Duration,
    /// Links at once.
    pub links_max: usize,
    /// Bytes that the links which others open may hold for them, all together: answers and entries on their way,
    /// messages that come in parts.
    pub memory_max: usize,
    /// How many handshakes begin without a cookie.
    pub handshakes: Handshakes,
    /// A proven link that has been silent for so long is forgotten by its responder.
    pub idle: Duration,
    /// A link that this side opened to a realm and that has been silent for so long is closed.
    pub shared_idle: Duration,
}

/// A client's: it lets nobody in, and nothing bounds it but the links it opens.
impl Default for Config {
    fn default() -> Self {
        Self {
            accept: None,
            hello: None,
            early_data: true,
            resumes: true,
            place: WorkerId::ALONE,
            max_datagram: DATAGRAM_DEFAULT,
            max_message: 65 << 10,
            rate: None,
            redundancy: Redundancy::Auto,
            lifetime: LINK_LIFETIME,
            links_max: usize::MAX,
            memory_max: usize::MAX,
            handshakes: Handshakes::default(),
            idle: Duration::MAX,
            shared_idle: Duration::MAX,
        }
    }
}
