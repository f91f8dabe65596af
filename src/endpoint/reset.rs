//! Resets: a realm that has forgotten a link tells its initiator (HS-8). The token is a MAC over
//! the connection id under a key of the realm. So it is the same after a restart, and nobody else
//! can forge one.

use std::net::IpAddr;

use super::rate_limits::Counts;
use crate::{
    crypto::{MacKey, SecretKey},
    link::Time,
    rate_limit::RateLimit,
    subnet::Subnet,
    wire::{ConnectionId, ResetToken},
};

/// The rate of Resets to one subnet.
const PER_SUBNET: RateLimit = RateLimit::per_second(10);

/// Makes reset tokens and limits the rate of Resets.
#[derive(Debug)]
pub(super) struct Resets {
    tokens: MacKey,
}

impl Resets {
    pub fn new(identity: &SecretKey) -> Self {
        Self {
            tokens: MacKey::derive(identity, "reset tokens"),
        }
    }

    /// Returns the token of a Reset of `connection`.
    pub fn token(&self, connection: ConnectionId) -> ResetToken {
        self.tokens.mac16(&[&connection.0.to_be_bytes()])
    }

    /// True if another Reset may go to `source`. Counts it.
    pub fn allow(now: Time, source: IpAddr, counts: &Counts) -> bool {
        let subnet = Subnet::from(source);
        counts.resets.take(now.0, &subnet, PER_SUBNET).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    /// HS-8: a subnet gets ten Resets per second.
    #[test]
    fn reset_rate_limit_is_ten_per_second_and_subnet() {
        let mut rng = StdRng::seed_from_u64(1);
        let counts = Counts::new(&mut rng);
        let source = IpAddr::from([10, 0, 0, 1]);
        let sent = |now| {
            let all = 0..100;
            all.filter(|_| Resets::allow(Time(now), source, &counts))
                .count()
        };
        assert_eq!([sent(5), sent(1_000_005), sent(1_000_006)], [40, 10, 0]);
    }
}
