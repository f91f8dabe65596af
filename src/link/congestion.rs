//! Congestion control for long messages (LINK-14): the pace follows the recently measured delivery
//! rate, and no more is in flight than that needs. Loss alone says nothing about the rate here,
//! because most losses on these links are not congestion. A filling queue shows in the rate, which
//! then stops growing. The model is a minimal form of BBR (draft-ietf-ccwg-bbr).

use core::time::Duration;

use super::{DATAGRAM_DEFAULT, rtt::held_back, time::Time};

/// Datagrams in flight on an unknown path.
const UNKNOWN_WINDOW: usize = 2;
/// Datagrams in flight until the path's rate is known.
const INITIAL_WINDOW: usize = 4;
/// The most packets in flight: as many as one acknowledgement covers.
const WINDOW_PACKETS_MAX: usize = 60;
/// The maximum rate is remembered for at least this many round trips, and at most twice as many.
const RATE_ROUNDS: u64 = 6;
/// The minimum round-trip time is remembered for at least this long, and at most twice as long.
const RTT_PERIOD: Duration = Duration::from_secs(30);
/// The path is full when its rate has grown by less than a quarter in this many round trips.
const FULL_ROUNDS: u32 = 3;
/// Once the path is full, one round trip of this many probes for more rate, and the next drains the
/// queue that this has built.
const CYCLE: u64 = 8;

/// The delivery state that is recorded when a packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    delivered: u64,
    delivered_at: Time,
    /// When the most recently delivered packet was sent.
    first_sent: Time,
    /// Nothing more waited: the delivery rate is then not the path's rate.
    limited: bool,
}

/// A recent extreme over two periods: the current one, and the previous one.
#[derive(Clone, Copy, Debug, Default)]
struct Lately<T> {
    now: Option<T>,
    before: Option<T>,
}

impl<T: Copy + Ord> Lately<T> {
    fn max(&self) -> Option<T> {
        self.now.max(self.before)
    }

    fn min(&self) -> Option<T> {
        match (self.now, self.before) {
            (Some(now), Some(before)) => Some(now.min(before)),
            (now, before) => now.or(before),
        }
    }

    const fn next_period(&mut self) {
        self.before = self.now;
        self.now = None;
    }
}

/// The pace of one link.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The hard limit in bytes per second.
    limit: Option<u64>,
    delivered: u64,
    delivered_at: Time,
    first_sent: Time,
    /// In bytes per second.
    rate: Lately<u64>,
    rtt: Lately<Duration>,
    rtt_until: Time,
    round: u64,
    round_end: u64,
    /// The rate at the last growth, and the round trips since; `None` once the path is full.
    filling: Option<(u64, u32)>,
    /// The earliest time for the next fragment of a long message, at the measured rate.
    next: Time,
    /// The earliest time for any packet, at the limit.
    limit_next: Time,
}

impl Pace {
    /// Creates the pace of an unknown path; `limit` in bytes per second.
    pub fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            delivered: 0,
            delivered_at: Time(0),
            first_sent: Time(0),
            rate: Lately::default(),
            rtt: Lately::default(),
            rtt_until: Time(0),
            round: 0,
            round_end: 0,
            filling: Some((0, 0)),
            next: Time(0),
            limit_next: Time(0),
        }
    }

    /// True once the path's rate is known.
    pub fn knows_rate(&self) -> bool {
        self.rate.max().is_some()
    }

    /// Notes a sent packet without fragments: it counts if the rate has a limit.
    pub fn spend(&mut self, now: Time, bytes: usize) {
        if let Some(limit) = self.limit {
            self.limit_next = spaced(self.limit_next, now, bytes, limit);
        }
    }

    /// Until when the limit delays every packet. The measured rate is not such a limit: a request
    /// of 20 bytes must not wait because one long message was slow once.
    pub fn holds_back(&self, now: Time) -> Option<Time> {
        (self.limit_next > now).then_some(self.limit_next)
    }

    /// Notes a sent packet, and returns its delivery state. `limited`: nothing more waits.
    pub fn sent(&mut self, now: Time, bytes: usize, in_flight: usize, limited: bool) -> Stamp {
        if in_flight == 0 {
            self.delivered_at = now;
            self.first_sent = now;
        }
        if let Some(rate) = self.pacing_rate() {
            self.next = spaced(self.next, now, bytes, rate);
        }
        self.spend(now, bytes);
        Stamp {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent: self.first_sent,
            limited,
        }
    }

    /// Notes that a packet of `bytes`, sent at `sent`, has arrived.
    pub fn arrived(&mut self, now: Time, stamp: Stamp, sent: Time, bytes: usize) {
        self.delivered += bytes as u64;
        self.delivered_at = now;
        self.first_sent = self.first_sent.max(sent);
        let round_trip = now - sent;
        if now >= self.rtt_until {
            self.rtt.next_period();
            self.rtt_until = now + RTT_PERIOD;
        }
        self.rtt.now = Some(
            self.rtt
                .now
                .map_or(round_trip, |known| known.min(round_trip)),
        );
        let took = (now - stamp.delivered_at).max(sent - stamp.first_sent);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = (self.delivered - stamp.delivered).saturating_mul(1_000_000) / micros;
        if !stamp.limited || self.rate.max().is_some_and(|best| rate > best) {
            self.rate.now = self.rate.now.max(Some(rate));
        }
        if stamp.delivered >= self.round_end {
            self.round_end = self.delivered;
            self.next_round(stamp.limited);
        }
    }

    /// Notes that a packet of `bytes` is lost: like an arrived one, it has left the path.
    pub const fn lost(&mut self, bytes: usize) {
        self.delivered += bytes as u64;
    }

    /// Resets the estimates, because after a silence they may be outdated.
    pub fn forget(&mut self) {
        *self = Self {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent: self.first_sent,
            limit_next: self.limit_next,
            ..Self::new(self.limit)
        };
    }

    fn next_round(&mut self, limited: bool) {
        self.round += 1;
        if self.round.is_multiple_of(RATE_ROUNDS) {
            self.rate.next_period();
        }
        let best = self.rate.max().unwrap_or(0);
        self.filling = match self.filling {
            Some((known, _)) if best > known + known / 4 => Some((best, 0)),
            Some((known, rounds)) if limited => Some((known, rounds)),
            Some((known, rounds)) if rounds + 1 < FULL_ROUNDS => Some((known, rounds + 1)),
            Some(_) | None => None,
        };
    }

    /// Returns the largest probe of the path's size that may be sent (LINK-15), on a path with
    /// datagrams of `datagram` bytes, or 0. On an unknown path, and where it is larger than the
    /// window, nothing follows the probe, so its loss shows only after a long timeout. A slow path
    /// needs long for a large one.
    pub fn probe_max(&self, datagram: usize) -> usize {
        let Some(rate) = self.rate.max() else {
            return 0;
        };
        let in_a_second = usize::try_from(rate).unwrap_or(usize::MAX);
        let beside_another = self.window(datagram).saturating_sub(datagram);
        in_a_second.min(beside_another).max(DATAGRAM_DEFAULT)
    }

    /// The pace in per cent of the rate.
    fn gain(&self) -> u64 {
        match self.filling {
            Some(_) => 200,
            None => match self.round % CYCLE {
                0 => 125,
                1 => 75,
                _ => 100,
            },
        }
    }

    /// The rate at which fragments are sent now, in bytes per second; `None` if it is unknown.
    fn pacing_rate(&self) -> Option<u64> {
        self.rate
            .max()
            .map(|rate| rate.saturating_mul(self.gain()) / 100)
    }

    /// The most bytes in flight, on a path with datagrams of `datagram` bytes.
    fn window(&self, datagram: usize) -> usize {
        let (rate, rtt) = match (self.rate.max(), self.rtt.min()) {
            (Some(rate), Some(rtt)) => (rate, rtt),
            (None, Some(_)) => return INITIAL_WINDOW * datagram,
            (Some(_) | None, None) => return UNKNOWN_WINDOW * datagram,
        };
        // Acknowledgements are delayed for a while (LINK-5).
        let until_known = rtt + held_back(rtt);
        let micros = u64::try_from(until_known.as_micros()).unwrap_or(u64::MAX);
        let carried = rate.saturating_mul(micros) / 1_000_000 * self.gain().max(100) / 100;
        let carried = usize::try_from(carried).unwrap_or(usize::MAX);
        let wanted = if self.filling.is_some() {
            carried.max(INITIAL_WINDOW * datagram)
        } else {
            // One datagram that is being sent, and one whose acknowledgement is delayed.
            carried.saturating_add(2 * datagram)
        };
        wanted.min(WINDOW_PACKETS_MAX * datagram)
    }

    /// True if another packet with a fragment may be sent now.
    pub fn allows(&self, now: Time, in_flight: usize, datagram: usize) -> bool {
        self.next.max(self.limit_next) <= now && in_flight + datagram <= self.window(datagram)
    }

    /// When the next packet with a fragment may be sent, if only the time is missing.
    pub fn timeout(&self, in_flight: usize, datagram: usize) -> Option<Time> {
        (in_flight + datagram <= self.window(datagram)).then_some(self.next.max(self.limit_next))
    }
}

/// The earliest time of the next packet after `bytes` at `rate` bytes per second. Unused rate is
/// not saved, because a burst would fill queues.
fn spaced(next: Time, now: Time, bytes: usize, rate: u64) -> Time {
    next.max(now) + Duration::from_micros(bytes as u64 * 1_000_000 / rate.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LINK-20: only the limit delays packets without fragments, however low the rate once was
    /// measured.
    #[test]
    fn congestion_slow_sample_delays_fragments_only() {
        let mut pace = Pace::new(Some(100));
        let stamp = pace.sent(Time(1), 200, 0, false);
        // 200 bytes took 100 s: 2 bytes per second.
        let now = Time(100_000_001);
        pace.arrived(now, stamp, Time(1), 200);
        pace.sent(now, 200, 0, false);
        assert_eq!(
            pace.holds_back(now),
            Some(now + Duration::from_secs(2)),
            "200 bytes at 100 bytes a second"
        );
        let later = now + Duration::from_secs(2);
        assert_eq!(pace.holds_back(later), None);
        assert!(!pace.allows(later, 0, 200), "the path is slower than that");
        assert!(pace.timeout(0, 200) > Some(later + Duration::from_secs(20)));
    }
}
