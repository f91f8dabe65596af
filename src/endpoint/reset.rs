//! Resets: how a realm that has forgotten a link tells its initiator (HS-8). The token is a MAC over
//! the connection id under a key that only the realm can make, so it is the same after a restart,
//! and nobody else can send one.

use std::net::IpAddr;

use crate::{
    crypto::{MacKey, SecretKey},
    link::Time,
    wire::{ConnectionId, ResetToken},
};

/// Resets in one second to one source.
const PER_SECOND_MAX: u8 = 10;
/// Sources counted apart; those that fall on the same place share their allowance.
const PLACES: usize = 1024;
const SECOND: u64 = 1_000_000;

/// Makes reset tokens, and says how often one may be sent.
#[derive(Debug)]
pub(super) struct Resets {
    tokens: MacKey,
    sources: MacKey,
    /// For each place, the second last counted in and how many.
    counts: Vec<(u64, u8)>,
}

impl Resets {
    pub fn new(identity: &SecretKey) -> Self {
        Self {
            tokens: MacKey::derive(identity, "reset tokens"),
            sources: MacKey::derive(identity, "reset sources"),
            counts: vec![(0, 0); PLACES],
        }
    }

    /// What a Reset of `connection` carries.
    pub fn token(&self, connection: ConnectionId) -> ResetToken {
        self.tokens.mac16(&[&connection.0.to_be_bytes()])
    }

    /// True when another Reset may go to `source`; counts it.
    pub fn allow(&mut self, now: Time, source: IpAddr) -> bool {
        let [a, b, ..] = match source {
            IpAddr::V4(v4) => self.sources.mac(&[&v4.octets()]),
            // Whoever has one IPv6 address has a network of 2^64 of them.
            IpAddr::V6(v6) => self.sources.mac(&[v6.octets().split_at(8).0]),
        };
        let place = usize::from(u16::from_be_bytes([a, b])) % PLACES;
        let second = now.0 / SECOND;
        let Some((counted, count)) = self.counts.get_mut(place) else {
            return false;
        };
        if *counted != second {
            (*counted, *count) = (second, 0);
        }
        *count = count.saturating_add(1);
        *count <= PER_SECOND_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HS-8
    #[test]
    fn a_source_gets_ten_resets_a_second() {
        let mut resets = Resets::new(&SecretKey::from_bytes([1; 32]));
        let source = IpAddr::from([10, 0, 0, 1]);
        let sent = (0..100).filter(|_| resets.allow(Time(5), source)).count();
        assert_eq!(sent, 10);
        assert!(resets.allow(Time(SECOND), source));
    }
}
