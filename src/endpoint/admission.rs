//! Admission of strangers: handshakes, resumptions and answers to them, within rate limits (HS-8,
//! HS-12, HS-20). A handshake costs elliptic-curve operations and a link slot. Under load each
//! initiator first has to return a cookie.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rand_core::CryptoRng;

use super::{ACCEPTS_LINKS, config::Handshakes, cookies::Cookies, rate_limits::Counts};
use crate::{
    faults::{Fault, is_planted},
    link::Time,
    rate_limit::RateLimit,
    subnet::Subnet,
    wire::{Cookie, HandshakeId},
};

/// With a cookie a subnet may begin this many times as many handshakes.
const PROVEN_FACTOR: u32 = 4;
/// The rate of Resets to one subnet.
const RESETS_PER_SUBNET: RateLimit = RateLimit::per_second(10);
/// The rate of Resumes from one subnet, from the addresses of their tickets, beyond which a sender
/// has to prove its address.
const RETURNED_PER_SUBNET: RateLimit = RateLimit::per_second(2500);
/// The rate of refused Resumes from one subnet beyond which a sender has to prove its address.
const REFUSALS_PER_SUBNET: RateLimit = RateLimit::per_second(20);
/// The same for all subnets together.
const REFUSALS: RateLimit = RateLimit::per_second(1000);

/// Whether the sender of a first packet has shown by a cookie that it receives at its source
/// address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Verified,
    Unverified,
}

/// Admits handshakes and resumptions, and limits the answers that refuse them.
#[derive(Debug)]
pub(super) struct HandshakeAdmission {
    /// False once no new links are accepted.
    is_open: bool,
    limits: Handshakes,
    cookies: Cookies,
    /// `None` in builds that accept no links: these admit nothing.
    counts: Option<Arc<Counts>>,
}

impl HandshakeAdmission {
    pub fn new(limits: Handshakes, rng: &mut impl CryptoRng) -> Self {
        // In this order: a seed determines what each draws.
        let counts = ACCEPTS_LINKS.then(|| Arc::new(Counts::new(rng)));
        let cookies = Cookies::new(rng);
        Self {
            is_open: true,
            limits,
            cookies,
            counts,
        }
    }

    /// True until [`HandshakeAdmission::stop`].
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Admits no new links from now on.
    pub const fn stop(&mut self) {
        self.is_open = false;
    }

    /// Shares the counts of another endpoint behind the same address.
    pub fn count_with(&mut self, other: &Self) {
        if !is_planted(Fault::CountPerWorker) {
            self.counts.clone_from(&other.counts);
        }
    }

    /// True if another handshake may begin from `source` without a cookie. Counts it.
    pub fn admits(&self, now: Time, source: IpAddr) -> bool {
        let (subnet, limits) = (Subnet::from(source), self.limits);
        self.counts.as_ref().is_some_and(|counts| {
            counts
                .strangers
                .take(now.0, &subnet, limits.per_subnet)
                .and_then(|()| counts.all.take(now.0, limits.all))
                .is_ok()
        })
    }

    /// True if `cookie` is valid for this handshake and the rate with cookies is not exceeded.
    /// Counts it.
    fn admits_with(
        &self,
        now: Time,
        source: SocketAddr,
        handshake: HandshakeId,
        cookie: &Cookie,
    ) -> bool {
        let subnet = Subnet::from(source.ip());
        let rate = self.limits.per_subnet.times(PROVEN_FACTOR);
        self.counts.as_ref().is_some_and(|counts| {
            self.cookies.is_valid(now, source, handshake, cookie)
                && counts.proven.take(now.0, &subnet, rate).is_ok()
        })
    }

    /// Returns whether the sender of a first packet has shown its address. Counts a valid cookie.
    pub fn sender(
        &self,
        now: Time,
        source: SocketAddr,
        handshake: HandshakeId,
        cookie: Option<&Cookie>,
    ) -> Sender {
        match cookie {
            Some(cookie) if self.admits_with(now, source, handshake, cookie) => Sender::Verified,
            Some(_) | None => Sender::Unverified,
        }
    }

    /// True if another link may be resumed from the address of its ticket. Counts it.
    pub fn admits_at_ticket_address(&self, now: Time, source: IpAddr) -> bool {
        let subnet = Subnet::from(source);
        self.counts.as_ref().is_some_and(|counts| {
            let returned = &counts.returned;
            returned.take(now.0, &subnet, RETURNED_PER_SUBNET).is_ok()
        })
    }

    /// True if another Reset may go to `source`. Counts it.
    pub fn admits_reset(&self, now: Time, source: IpAddr) -> bool {
        let subnet = Subnet::from(source);
        self.counts.as_ref().is_some_and(|counts| {
            let resets = &counts.resets;
            resets.take(now.0, &subnet, RESETS_PER_SUBNET).is_ok()
        })
    }

    /// Counts a refused Resume.
    pub fn count_refusal(&self, now: Time, source: IpAddr) {
        if let Some(counts) = &self.counts {
            let subnet = Subnet::from(source);
            counts
                .refused
                .charge(now.0, &subnet, REFUSALS_PER_SUBNET, 1);
            counts.all_refused.charge(now.0, REFUSALS, 1);
        }
    }

    /// True if many Resumes were refused lately, from that subnet or in all. Then a sender may know
    /// a ticket's token from a Reset, and nothing else of it.
    pub fn has_refused_often(&self, now: Time, source: IpAddr) -> bool {
        self.counts.as_ref().is_none_or(|counts| {
            let subnet = Subnet::from(source);
            let waits = [
                counts.refused.wait(now.0, &subnet, REFUSALS_PER_SUBNET),
                counts.all_refused.wait(now.0, REFUSALS),
            ];
            waits.iter().any(|wait| !wait.is_zero())
        })
    }

    /// Returns the cookie that `source` has to return before its handshake begins.
    pub fn cookie(
        &mut self,
        now: Time,
        source: SocketAddr,
        handshake: HandshakeId,
        rng: &mut impl CryptoRng,
    ) -> Cookie {
        self.cookies.make(now, source, handshake, rng)
    }
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
        let admission = HandshakeAdmission::new(limits, &mut rng);
        let admitted = |now, subnet| {
            let all = 0..100;
            all.filter(|_| admission.admits(now, source(subnet).ip()))
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
        let mut admission = HandshakeAdmission::new(Handshakes::default(), &mut rng);
        let (at, handshake) = (source(1), HandshakeId(7));
        let cookie = admission.cookie(second(1000), at, handshake, &mut rng);
        let moved = SocketAddr::new(at.ip(), 4001);
        assert!(admission.admits_with(second(1100), at, handshake, &cookie));
        assert!(!admission.admits_with(second(1100), moved, handshake, &cookie));
        assert!(!admission.admits_with(second(1100), source(2), handshake, &cookie));
        assert!(!admission.admits_with(second(1100), at, HandshakeId(8), &cookie));
        assert!(!admission.admits_with(second(1100), at, handshake, &[0; 16]));
        // A new cookie after the secret's lifetime makes a new secret. The one before stays valid
        // for a while.
        admission.cookie(second(1130), at, handshake, &mut rng);
        assert!(admission.admits_with(second(1140), at, handshake, &cookie));
        assert!(!admission.admits_with(second(1250), at, handshake, &cookie));
        // Without new cookies the secret still expires.
        let last = admission.cookie(second(2000), at, handshake, &mut rng);
        assert!(admission.admits_with(second(2239), at, handshake, &last));
        assert!(!admission.admits_with(second(2240), at, handshake, &last));
        let many = (0..200).filter(|_| admission.admits_with(second(2239), at, handshake, &last));
        assert!(many.count() <= 80, "also with a cookie there is an end");
    }

    /// HS-8: a subnet gets ten Resets per second.
    #[test]
    fn reset_rate_limit_is_ten_per_second_and_subnet() {
        let mut rng = StdRng::seed_from_u64(1);
        let admission = HandshakeAdmission::new(Handshakes::default(), &mut rng);
        let source = IpAddr::from([10, 0, 0, 1]);
        let sent = |now| {
            let all = 0..100;
            all.filter(|_| admission.admits_reset(Time(now), source))
                .count()
        };
        assert_eq!([sent(5), sent(1_000_005), sent(1_000_006)], [40, 10, 0]);
    }
}
