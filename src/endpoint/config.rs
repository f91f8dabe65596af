//! The configuration of an endpoint.

use std::time::Duration;

use super::worker_id::WorkerId;
use crate::{
    link::{DATAGRAM_DEFAULT, Redundancy},
    rate_limit::RateLimit,
    wire::{Protection, RealmId},
};

/// Age at which a link is replaced.
pub const LINK_LIFETIME: Duration = Duration::from_hours(24);

/// The configuration of an endpoint.
#[derive(Clone, Debug)]
pub struct Config {
    /// The protection of links that others may open here; `None` for a client. Needs the feature
    /// `server`.
    pub accept: Option<Protection>,
    /// The realm id in the answer to a Hello; `None` sends no answer.
    pub hello: Option<RealmId>,
    /// Requests may travel in the first packet of a handshake. If false, this side sends none
    /// there, and requests that arrive there wait until the link is proven.
    pub early_data: bool,
    /// Links that this side opens are resumed, if the other side allows it (HS-18).
    pub resumes: bool,
    /// The worker of the endpoint, among several at one address.
    pub worker: WorkerId,
    /// The largest datagram taken and sent, in bytes; at least [`crate::link::DATAGRAM_MIN`].
    pub max_datagram: usize,
    /// The longest message that is reassembled, in bytes.
    pub max_message: usize,
    /// The largest rate of each link, in bytes per second.
    pub rate: Option<u64>,
    /// Whether small packets are sent twice (LINK-19).
    pub redundancy: Redundancy,
    /// Age at which a link in use that this side opened is replaced.
    pub lifetime: Duration,
    /// The largest number of links that others open.
    pub links_max: usize,
    /// Memory that all links that others open may hold for them, in bytes: answers and entries in
    /// flight, and messages in reassembly.
    pub memory_max: usize,
    /// The rates of handshakes without a cookie.
    pub handshakes: Handshakes,
    /// Silence after which a responder forgets a proven link.
    pub idle: Duration,
    /// Silence after which a link that this side opened to a realm is closed.
    pub shared_idle: Duration,
}

/// A client's configuration: it accepts no links, and only its own links bound it.
impl Default for Config {
    fn default() -> Self {
        Self {
            accept: None,
            hello: None,
            early_data: true,
            resumes: true,
            worker: WorkerId::ALONE,
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

/// The rates of handshakes without a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshakes {
    /// All subnets together.
    pub all: RateLimit,
    /// One subnet: an IPv4 /24, or an IPv6 /64.
    pub per_subnet: RateLimit,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            all: RateLimit::per_second(100),
            per_subnet: RateLimit::per_second(5),
        }
    }
}
