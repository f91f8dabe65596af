//! The configuration of a link.

use core::time::Duration;

use super::Redundancy;

/// The configuration of a link.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The largest datagram that this side receives and sends, in bytes; at least
    /// [`super::DATAGRAM_MIN`].
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
