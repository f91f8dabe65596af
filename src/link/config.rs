//! The configuration of a link.

use core::time::Duration;

use super::Redundancy;

/// The smallest limit on datagrams that a party may set, in bytes (LINK-10).
pub const DATAGRAM_MIN: usize = 160;
/// The limit on datagrams unless a party sets another, in bytes.
pub const DATAGRAM_DEFAULT: usize = 1200;

/// The configuration of a link.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The largest datagram that this side receives and sends, in bytes; at least [`DATAGRAM_MIN`].
    pub max_datagram: usize,
    /// The longest message that is reassembled from fragments, in bytes.
    pub max_message: usize,
    /// The hard limit on the sending rate, in bytes per second.
    pub rate: Option<u64>,
    /// Whether small packets are sent twice.
    pub redundancy: Redundancy,
    /// The initial round-trip time estimate.
    pub rtt: Option<Duration>,
    /// The seed for timer jitter; not secret.
    pub seed: u64,
}
