//! Which commands a listener takes up: so many at once, and so many a second from one link and from one subnet.
//! Called before anything else is done for a command.

use rand::CryptoRng;

use super::limits::{LINKS_COUNTED, SUBNETS_COUNTED};
use crate::{
    endpoint::LinkId,
    link::Time,
    rate_limit::{RateLimit, RateLimiter, SubnetAllowances},
    subnet::Subnet,
    wire::Refusal,
};

/// What a client is asked to wait when too many commands are in work, in milliseconds.
const BUSY_MS: u64 = 500;

/// The bounds of one listener's work.
#[derive(Clone, Copy, Debug)]
pub struct WorkLimits {
    /// Commands in work at once.
    pub commands_max: usize,
    /// The longest message, in bytes.
    pub max_message: usize,
    /// Commands of one link.
    pub per_link: RateLimit,
    /// Commands from one subnet.
    pub per_subnet: RateLimit,
}

/// Counts the commands of one listener.
#[derive(Debug)]
pub struct Admission {
    limits: WorkLimits,
    links: RateLimiter,
    subnets: SubnetAllowances,
}

impl Admission {
    pub fn new(limits: WorkLimits, rng: &mut impl CryptoRng) -> Self {
        Self {
            limits,
            links: RateLimiter::new(LINKS_COUNTED, rng),
            subnets: SubnetAllowances::new(SUBNETS_COUNTED, rng),
        }
    }

    /// The longest message, in bytes.
    pub const fn max_message(&self) -> usize {
        self.limits.max_message
    }

    /// A command came over `link`; `in_work` are under way.
    ///
    /// # Errors
    /// What to answer when it is one too many.
    pub fn take(
        &self,
        now: Time,
        in_work: usize,
        (link, subnet): (LinkId, Subnet),
    ) -> Result<(), Refusal> {
        if in_work >= self.limits.commands_max {
            return Err(Refusal::busy(BUSY_MS));
        }
        self.links
            .take(now.0, &link, self.limits.per_link)
            .and_then(|()| self.subnets.take(now.0, &subnet, self.limits.per_subnet))
            .map_err(Refusal::rate_limited)
    }
}
