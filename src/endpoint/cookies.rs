//! Who may begin a handshake without showing that they receive at their address (HS-12). A handshake costs a
//! curve's worth of work and a place in the table, so when there are many, each has to return a cookie first, which
//! costs a hash and no memory.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rand_core::CryptoRng;

use super::rate_limits::Counts;
use crate::{
    crypto::{MacKey, SecretKey, same},
    link::Time,
    rate_limit::RateLimit,
    subnet::Subnet,
    wire::{Cookie, HandshakeId},
};

/// A secret is used for so long, and good for as long again.
const SECRET_LIFETIME: Duration = Duration::from_mins(2);
/// With a cookie, so many times as many are let in from one subnet.
const PROVEN_FACTOR: u32 = 4;

/// How often a handshake begins without a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshakes {
    /// In all.
    pub all: RateLimit,
    /// From one subnet: an IPv4 /24, or an IPv6 /64.
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

/// Says who may begin, and makes cookies.
#[derive(Debug)]
pub(super) struct HandshakeAdmission {
    limits: Handshakes,
    /// The secret of now and the one before.
    secrets: [MacKey; 2],
    renewed: Time,
}

impl HandshakeAdmission {
    pub fn new(limits: Handshakes, rng: &mut impl CryptoRng) -> Self {
        let mut secret = || MacKey::derive(&SecretKey::generate(rng), "cookies");
        Self {
            limits,
            secrets: [secret(), secret()],
            renewed: Time(0),
        }
    }

    /// True when another handshake may begin from `source` without a cookie; counts it.
    pub fn admits(&self, now: Time, source: IpAddr, counts: &Counts) -> bool {
        let (subnet, limits) = (Subnet::from(source), self.limits);
        counts
            .strangers
            .take(now.0, &subnet, limits.per_subnet)
            .and_then(|()| counts.all.take(now.0, limits.all))
            .is_ok()
    }

    /// True when `cookie` was made for this handshake lately and not too many have come with one; counts it.
    pub fn admits_with(
        &self,
        now: Time,
        source: SocketAddr,
        (handshake, cookie): (HandshakeId, &Cookie),
        counts: &Counts,
    ) -> bool {
        let [current, before] = &self.secrets;
        let age = now - self.renewed;
        let is_good = |secret: &MacKey| same(&made(secret, source, handshake), cookie);
        let is_good = (age < SECRET_LIFETIME * 2 && is_good(current))
            || (age < SECRET_LIFETIME && is_good(before));
        let (subnet, often) = (
            Subnet::from(source.ip()),
            self.limits.per_subnet.times(PROVEN_FACTOR),
        );
        is_good && counts.proven.take(now.0, &subnet, often).is_ok()
    }

    /// What has to be returned before a handshake begins.
    pub fn cookie(
        &mut self,
        now: Time,
        source: SocketAddr,
        handshake: HandshakeId,
        rng: &mut impl CryptoRng,
    ) -> Cookie {
        if now - self.renewed >= SECRET_LIFETIME {
            let fresh = MacKey::derive(&SecretKey::generate(rng), "cookies");
            let [current, before] = &mut self.secrets;
            *before = core::mem::replace(current, fresh);
            self.renewed = now;
        }
        let [current, _] = &self.secrets;
        made(current, source, handshake)
    }
}

fn made(secret: &MacKey, source: SocketAddr, handshake: HandshakeId) -> Cookie {
    // Parts of fixed length: an IPv4 address stands as the IPv6 one that means it.
    let ip = match source.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let port = source.port().to_be_bytes();
    secret.mac16(&[&ip.octets(), &port, &handshake.0.to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    const fn second(n: u64) -> Time {
        Time(n * 1_000_000)
    }

    fn source(subnet: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, subnet, 7], 4000))
    }

    /// HS-12
    #[test]
    fn each_subnet_has_its_allowance_and_all_have_one_together() {
        let mut rng = StdRng::seed_from_u64(1);
        let limits = Handshakes {
            all: RateLimit::per_second(10),
            per_subnet: RateLimit::per_second(2),
        };
        let (gate, counts) = (
            HandshakeAdmission::new(limits, &mut rng),
            Counts::new(&mut rng),
        );
        let admitted = |now, subnet| {
            let all = 0..100;
            all.filter(|_| gate.admits(now, source(subnet).ip(), &counts))
                .count()
        };
        assert_eq!(admitted(second(1), 1), 8, "four seconds' worth");
        assert_eq!(admitted(second(2), 1), 2);
        assert_eq!(admitted(second(2), 2), 8);
        let together: usize = (3..30).map(|subnet| admitted(second(2), subnet)).sum();
        assert_eq!(together, 40 - 10, "and no more than all may");
        assert_eq!(admitted(second(100), 1), 8);
    }

    /// HS-12
    #[test]
    fn a_cookie_is_good_for_its_address_its_handshake_and_a_while() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut gate = HandshakeAdmission::new(Handshakes::default(), &mut rng);
        let counts = Counts::new(&mut rng);
        let (at, handshake) = (source(1), HandshakeId(7));
        let cookie = gate.cookie(second(1000), at, handshake, &mut rng);
        let moved = SocketAddr::new(at.ip(), 4001);
        assert!(gate.admits_with(second(1100), at, (handshake, &cookie), &counts));
        assert!(!gate.admits_with(second(1100), moved, (handshake, &cookie), &counts));
        assert!(!gate.admits_with(second(1100), source(2), (handshake, &cookie), &counts));
        assert!(!gate.admits_with(second(1100), at, (HandshakeId(8), &cookie), &counts));
        assert!(!gate.admits_with(second(1100), at, (handshake, &[0; 16]), &counts));
        // Another is asked for, so there is another secret; the one before is still good for a while.
        gate.cookie(second(1130), at, handshake, &mut rng);
        assert!(gate.admits_with(second(1140), at, (handshake, &cookie), &counts));
        assert!(!gate.admits_with(second(1250), at, (handshake, &cookie), &counts));
        // Nobody asks for another: it does not stay good for ever.
        let last = gate.cookie(second(2000), at, handshake, &mut rng);
        assert!(gate.admits_with(second(2239), at, (handshake, &last), &counts));
        assert!(!gate.admits_with(second(2240), at, (handshake, &last), &counts));
        let many =
            (0..200).filter(|_| gate.admits_with(second(2239), at, (handshake, &last), &counts));
        assert!(many.count() <= 80, "also with a cookie there is an end");
    }
}
