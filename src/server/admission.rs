//! Admission control: limits how many commands of a listener are in progress at once, and the rate
//! of commands per link and per subnet. Runs before all other work on a command.

use rand::CryptoRng;

use super::limits::{LINKS_COUNTED, SUBNETS_COUNTED};
use crate::{
    endpoint::LinkId,
    link::Time,
    rate_limit::{RateLimit, RateLimiter, SubnetRateLimiter},
    subnet::Subnet,
    wire::Refusal,
};

/// The retry delay for a client when too many commands are in progress, in milliseconds.
const BUSY_MS: u64 = 500;

/// The work limits of one listener.
#[derive(Clone, Copy, Debug)]
pub struct WorkLimits {
    /// The largest number of commands in progress at once.
    pub commands_max: usize,
    /// The longest message, in bytes.
    pub max_message: usize,
    /// The rate limit of commands per link.
    pub per_link: RateLimit,
    /// The rate limit of commands per subnet.
    pub per_subnet: RateLimit,
}

/// Counts the commands of one listener.
#[derive(Debug)]
pub struct Admission {
    limits: WorkLimits,
    links: RateLimiter,
    subnets: SubnetRateLimiter,
}

impl Admission {
    pub fn new(limits: WorkLimits, rng: &mut impl CryptoRng) -> Self {
        Self {
            limits,
            links: RateLimiter::new(LINKS_COUNTED, rng),
            subnets: SubnetRateLimiter::new(SUBNETS_COUNTED, rng),
        }
    }

    /// Returns the longest message, in bytes.
    pub const fn max_message(&self) -> usize {
        self.limits.max_message
    }

    /// Admits a command on `link` while `in_progress` commands are in progress.
    ///
    /// # Errors
    /// Returns the refusal for the client if a limit is exceeded.
    pub fn take(
        &self,
        now: Time,
        in_progress: usize,
        link: LinkId,
        subnet: Subnet,
    ) -> Result<(), Refusal> {
        if in_progress >= self.limits.commands_max {
            return Err(Refusal::busy(BUSY_MS));
        }
        self.links
            .take(now.0, &link, self.limits.per_link)
            .and_then(|()| self.subnets.take(now.0, &subnet, self.limits.per_subnet))
            .map_err(Refusal::rate_limited)
    }
}
