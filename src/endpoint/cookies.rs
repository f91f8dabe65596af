//! Admission of handshakes without a proof of address (HS-12). A handshake costs elliptic-curve
//! operations and a link slot. Under load each initiator first has to return a cookie, which costs
//! a hash and no memory.

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

/// How long a secret makes cookies. Its cookies stay valid for as long again.
const SECRET_LIFETIME: Duration = Duration::from_mins(2);
/// With a cookie a subnet may begin this many times as many handshakes.
const PROVEN_FACTOR: u32 = 4;

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

/// Admits handshakes and makes cookies.
#[derive(Debug)]
pub(super) struct HandshakeAdmission {
    limits: Handshakes,
    /// The current secret and the one before.
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

    /// True if another handshake may begin from `source` without a cookie. Counts it.
    pub fn admits(&self, now: Time, source: IpAddr, counts: &Counts) -> bool {
        let (subnet, limits) = (Subnet::from(source), self.limits);
        counts
            .strangers
            .take(now.0, &subnet, limits.per_subnet)
            .and_then(|()| counts.all.take(now.0, limits.all))
            .is_ok()
    }

    /// True if `cookie` is valid for this handshake and the rate with cookies is not exceeded.
    /// Counts it.
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

    /// Returns the cookie that `source` has to return before its handshake begins.
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
    // The MAC's inputs have a fixed length: an IPv4 address is mapped to IPv6.
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

    /// HS-12: each subnet has a rate limit, and all subnets together have one.
    #[test]
    fn handshake_rate_limits_hold_per_subnet_and_for_all_subnets() {
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

    /// HS-12: a cookie is valid for one address, one handshake and a limited time.
    #[test]
    fn cookie_is_valid_for_one_address_one_handshake_and_limited_time() {
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
        // A new cookie after the secret's lifetime makes a new secret. The one before stays valid
        // for a while.
        gate.cookie(second(1130), at, handshake, &mut rng);
        assert!(gate.admits_with(second(1140), at, (handshake, &cookie), &counts));
        assert!(!gate.admits_with(second(1250), at, (handshake, &cookie), &counts));
        // Without new cookies the secret still expires.
        let last = gate.cookie(second(2000), at, handshake, &mut rng);
        assert!(gate.admits_with(second(2239), at, (handshake, &last), &counts));
        assert!(!gate.admits_with(second(2240), at, (handshake, &last), &counts));
        let many =
            (0..200).filter(|_| gate.admits_with(second(2239), at, (handshake, &last), &counts));
        assert!(many.count() <= 80, "also with a cookie there is an end");
    }
}
