//! Rate limits for strangers (HS-8, HS-12). Endpoints behind one address share their counts: a
//! stranger that reaches several of them gets no more than one that reaches a single one.

use rand_core::CryptoRng;

use super::limits::{HANDSHAKE_SUBNETS, RESET_SUBNETS};
use crate::rate_limit::{SubnetRateLimiter, TokenBucket};

/// The rate-limit state of all endpoints behind one address.
#[derive(Debug)]
pub(super) struct Counts {
    /// Handshakes without a cookie.
    pub all: TokenBucket,
    /// Handshakes without a cookie, from each subnet.
    pub strangers: SubnetRateLimiter,
    /// Handshakes with a cookie, from each subnet.
    pub proven: SubnetRateLimiter,
    /// Resumes from the addresses of their tickets, from each subnet.
    pub returned: SubnetRateLimiter,
    /// Resets to each subnet.
    pub resets: SubnetRateLimiter,
    /// Resumes that are refused, from each subnet.
    pub refused: SubnetRateLimiter,
    /// Refused Resumes from all subnets.
    pub all_refused: TokenBucket,
}

impl Counts {
    pub fn new(rng: &mut impl CryptoRng) -> Self {
        Self {
            all: TokenBucket::default(),
            strangers: SubnetRateLimiter::new(HANDSHAKE_SUBNETS, rng),
            proven: SubnetRateLimiter::new(HANDSHAKE_SUBNETS, rng),
            returned: SubnetRateLimiter::new(HANDSHAKE_SUBNETS, rng),
            resets: SubnetRateLimiter::new(RESET_SUBNETS, rng),
            refused: SubnetRateLimiter::new(RESET_SUBNETS, rng),
            all_refused: TokenBucket::default(),
        }
    }
}
