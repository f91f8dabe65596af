//! Who may begin a handshake without showing that they receive at their address (HS-12). A handshake costs a
//! curve's worth of work and a place in the table, so when there are many, each has to return a cookie first, which
//! costs a hash and no memory.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rand_core::CryptoRng;

use crate::{
    crypto::{MacKey, SecretKey, same},
    link::Time,
    wire::{Cookie, HandshakeId},
};

/// Networks counted apart; those that fall on the same place share their allowance.
const PLACES: usize = 4096;
/// A secret is used for so long, and good for as long again.
const SECRET_LIFETIME: Duration = Duration::from_mins(2);
/// So many seconds' worth may come at once.
const BURST_SECONDS: u64 = 4;
/// With a cookie, so many times as many are let in from one network.
const PROVEN_FACTOR: u64 = 4;

/// How many handshakes a second begin without a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshakes {
    /// In all.
    pub per_second: u32,
    /// From one network: an IPv4 /24, or an IPv6 /64.
    pub per_network: u32,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            per_second: 100,
            per_network: 5,
        }
    }
}

/// An allowance that refills with time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Millionths of a handshake that are left.
    left: u64,
    at: Time,
}

impl Bucket {
    const ONE: u64 = 1_000_000;

    /// Takes one out, if there is one; `rate` a second flow in.
    fn take(&mut self, now: Time, rate: u64) -> bool {
        let micros = u64::try_from((now - self.at).as_micros()).unwrap_or(u64::MAX);
        let full = rate * BURST_SECONDS * Self::ONE;
        self.left = self
            .left
            .saturating_add(micros.saturating_mul(rate))
            .min(full);
        self.at = self.at.max(now);
        let has_one = self.left >= Self::ONE;
        if has_one {
            self.left -= Self::ONE;
        }
        has_one
    }
}

/// Full, however many that is.
const FULL: Bucket = Bucket {
    left: u64::MAX,
    at: Time(0),
};

/// Counts handshakes, and makes cookies.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Handshakes,
    networks: MacKey,
    all: Bucket,
    /// For each place, those without a cookie, and those with one.
    places: Vec<[Bucket; 2]>,
    /// The secret of now and the one before.
    secrets: [MacKey; 2],
    renewed: Time,
}

impl Gate {
    pub fn new(limits: Handshakes, rng: &mut impl CryptoRng) -> Self {
        let mut secret = || MacKey::derive(&SecretKey::generate(rng), "cookies");
        Self {
            limits,
            networks: secret(),
            all: FULL,
            places: vec![[FULL; 2]; PLACES],
            secrets: [secret(), secret()],
            renewed: Time(0),
        }
    }

    /// True when another handshake may begin from `source` without a cookie; counts it.
    pub fn admits(&mut self, now: Time, source: IpAddr) -> bool {
        let per_network = u64::from(self.limits.per_network);
        let per_second = u64::from(self.limits.per_second);
        self.place(source)
            .is_some_and(|[strangers, _]| strangers.take(now, per_network))
            && self.all.take(now, per_second)
    }

    /// True when `cookie` was made for this handshake lately and not too many have come with one; counts it.
    pub fn admits_with(
        &mut self,
        now: Time,
        source: SocketAddr,
        handshake: HandshakeId,
        cookie: &Cookie,
    ) -> bool {
        let [current, before] = &self.secrets;
        let age = now - self.renewed;
        let is_good = |secret: &MacKey| same(&made(secret, source, handshake), cookie);
        let is_good = (age < SECRET_LIFETIME * 2 && is_good(current))
            || (age < SECRET_LIFETIME && is_good(before));
        let rate = u64::from(self.limits.per_network) * PROVEN_FACTOR;
        is_good
            && self
                .place(source.ip())
                .is_some_and(|[_, proven]| proven.take(now, rate))
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

    fn place(&mut self, source: IpAddr) -> Option<&mut [Bucket; 2]> {
        let [a, b, ..] = match source {
            IpAddr::V4(v4) => self.networks.mac(&[v4.octets().split_at(3).0]),
            IpAddr::V6(v6) => self.networks.mac(&[v6.octets().split_at(8).0]),
        };
        let at = usize::from(u16::from_be_bytes([a, b])) % PLACES;
        self.places.get_mut(at)
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

    fn source(network: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, network, 7], 4000))
    }

    /// HS-12
    #[test]
    fn each_network_has_its_allowance_and_all_have_one_together() {
        let mut rng = StdRng::seed_from_u64(1);
        let limits = Handshakes {
            per_second: 10,
            per_network: 2,
        };
        let mut gate = Gate::new(limits, &mut rng);
        let mut admitted = |now, network| {
            let all = 0..100;
            all.filter(|_| gate.admits(now, source(network).ip()))
                .count()
        };
        assert_eq!(admitted(second(1), 1), 8, "four seconds' worth");
        assert_eq!(admitted(second(2), 1), 2);
        assert_eq!(admitted(second(2), 2), 8);
        let together: usize = (3..30).map(|network| admitted(second(2), network)).sum();
        assert_eq!(together, 40 - 10, "and no more than all may");
        assert_eq!(admitted(second(100), 1), 8);
    }

    /// HS-12
    #[test]
    fn a_cookie_is_good_for_its_address_its_handshake_and_a_while() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut gate = Gate::new(Handshakes::default(), &mut rng);
        let (at, handshake) = (source(1), HandshakeId(7));
        let cookie = gate.cookie(second(1000), at, handshake, &mut rng);
        let moved = SocketAddr::new(at.ip(), 4001);
        assert!(gate.admits_with(second(1100), at, handshake, &cookie));
        assert!(!gate.admits_with(second(1100), moved, handshake, &cookie));
        assert!(!gate.admits_with(second(1100), source(2), handshake, &cookie));
        assert!(!gate.admits_with(second(1100), at, HandshakeId(8), &cookie));
        assert!(!gate.admits_with(second(1100), at, handshake, &[0; 16]));
        // Another is asked for, so there is another secret; the one before is still good for a while.
        gate.cookie(second(1130), at, handshake, &mut rng);
        assert!(gate.admits_with(second(1140), at, handshake, &cookie));
        assert!(!gate.admits_with(second(1250), at, handshake, &cookie));
        // Nobody asks for another: it does not stay good for ever.
        let last = gate.cookie(second(2000), at, handshake, &mut rng);
        assert!(gate.admits_with(second(2239), at, handshake, &last));
        assert!(!gate.admits_with(second(2240), at, handshake, &last));
        let many = (0..200).filter(|_| gate.admits_with(second(2239), at, handshake, &last));
        assert!(many.count() <= 80, "also with a cookie there is an end");
    }
}
