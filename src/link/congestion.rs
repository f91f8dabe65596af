//! How fast long messages may leave (LINK-14): as fast as the path has lately been seen to carry, and no
//! more in flight than that needs. Loss by itself says nothing about the path's rate here, since on the
//! links this is made for most losses are not congestion; what fills a queue shows in the rate, which then
//! stops growing. After the model of BBR (draft-ietf-ccwg-bbr), in its simplest form.

use core::time::Duration;

use super::{rtt::held_back, time::Time};

/// Datagrams in flight before anything is known of the path.
const UNKNOWN_WINDOW: usize = 2;
/// Datagrams in flight before the path's rate is known.
const INITIAL_WINDOW: usize = 4;
/// The most bytes in flight: as many packets as one acknowledgement tells of.
const WINDOW_PACKETS_MAX: usize = 60;
/// Round trips that the best rate is remembered for, at least and at most twice as many.
const RATE_ROUNDS: u64 = 6;
/// How long the shortest round trip is remembered, at least and at most twice as long.
const RTT_PERIOD: Duration = Duration::from_secs(30);
/// The path is full when its rate has grown by less than a quarter in so many round trips.
const FULL_ROUNDS: u32 = 3;
/// The pace in per cent of the rate, round trip by round trip, once the path is full: probing for more,
/// then letting the queue that this made drain.
const CYCLE: [u64; 8] = [125, 75, 100, 100, 100, 100, 100, 100];

/// What is noted of a packet when it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    delivered: u64,
    delivered_at: Time,
    /// When the packet was sent that was the last to be known as delivered.
    first_sent: Time,
    /// There was nothing more to send: what the path carries then is not its rate.
    limited: bool,
}

/// How much lately, in two periods: the one that runs, and the one before.
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
    /// Bytes a second that are never exceeded.
    limit: Option<u64>,
    delivered: u64,
    delivered_at: Time,
    first_sent: Time,
    /// Bytes a second.
    rate: Lately<u64>,
    rtt: Lately<Duration>,
    rtt_until: Time,
    round: u64,
    round_end: u64,
    /// The rate at which growth was last seen, and the round trips since; none once the path is full.
    filling: Option<(u64, u32)>,
    /// The first moment at which the next part of a long message may leave, at the rate that the path was
    /// seen to carry.
    next: Time,
    /// The first moment at which anything may leave, at the limit.
    limit_next: Time,
}

impl Pace {
    /// A pace that knows nothing of the path; `limit` in bytes a second.
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

    /// True once it is known what the path carries.
    pub fn knows_rate(&self) -> bool {
        self.rate.max().is_some()
    }

    /// Notes that a packet without parts leaves: it counts where the rate has a limit.
    pub fn spend(&mut self, now: Time, bytes: usize) {
        if let Some(limit) = self.limit {
            self.limit_next = spaced(self.limit_next, now, bytes, limit);
        }
    }

    /// Until when nothing at all may leave, because of a limit. What the path was seen to carry is no such
    /// limit: a request that is 20 bytes long does not wait because one long message was slow once.
    pub fn holds_back(&self, now: Time) -> Option<Time> {
        (self.limit_next > now).then_some(self.limit_next)
    }

    /// Notes that a packet leaves, and gives what is to be remembered with it. `limited`: nothing more waits.
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

    /// Notes that a packet of `bytes` is lost: it has left the path as one that arrived has.
    pub const fn lost(&mut self, bytes: usize) {
        self.delivered += bytes as u64;
    }

    /// Nothing is heard: whatever was known of the path may be true no more.
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
            _ => None,
        };
    }

    /// The pace in per cent of the rate.
    fn gain(&self) -> u64 {
        match self.filling {
            Some(_) => 200,
            None => {
                let at = usize::try_from(self.round % CYCLE.len() as u64).unwrap_or(0);
                CYCLE.get(at).copied().unwrap_or(100)
            }
        }
    }

    /// Bytes a second at which parts leave now; none while nothing is known.
    fn pacing_rate(&self) -> Option<u64> {
        self.rate
            .max()
            .map(|rate| rate.saturating_mul(self.gain()) / 100)
    }

    /// The most bytes to have in flight, on a path whose datagrams have `datagram` bytes.
    fn window(&self, datagram: usize) -> usize {
        let (rate, rtt) = match (self.rate.max(), self.rtt.min()) {
            (Some(rate), Some(rtt)) => (rate, rtt),
            (None, Some(_)) => return INITIAL_WINDOW * datagram,
            _ => return UNKNOWN_WINDOW * datagram,
        };
        // Acknowledgements are held back for a while (LINK-5).
        let until_known = rtt + held_back(rtt);
        let micros = u64::try_from(until_known.as_micros()).unwrap_or(u64::MAX);
        let carried = rate.saturating_mul(micros) / 1_000_000 * self.gain().max(100) / 100;
        let carried = usize::try_from(carried).unwrap_or(usize::MAX);
        let wanted = if self.filling.is_some() {
            carried.max(INITIAL_WINDOW * datagram)
        } else {
            // One that is being sent, and one for which the acknowledgement is being held back.
            carried.saturating_add(2 * datagram)
        };
        wanted.min(WINDOW_PACKETS_MAX * datagram)
    }

    /// True when another packet with a part may leave now.
    pub fn allows(&self, now: Time, in_flight: usize, datagram: usize) -> bool {
        self.next.max(self.limit_next) <= now && in_flight + datagram <= self.window(datagram)
    }

    /// When the next with a part may leave, if only time stands against it.
    pub fn timeout(&self, in_flight: usize, datagram: usize) -> Option<Time> {
        (in_flight + datagram <= self.window(datagram)).then_some(self.next.max(self.limit_next))
    }
}

/// When the next may leave after `bytes` at `rate` bytes a second. What was not used is not saved up: a
/// burst would fill queues.
fn spaced(next: Time, now: Time, bytes: usize, rate: u64) -> Time {
    next.max(now) + Duration::from_micros(bytes as u64 * 1_000_000 / rate.max(1))
}

#[cfg(test)]
mod tests {
    use alloc::collections::VecDeque;

    use rand::{RngExt as _, SeedableRng, rngs::ChaCha20Rng};

    use super::*;

    /// A path that carries `rate` bytes a second, has a queue before it, and loses some of what it carries.
    struct Path {
        rate: u64,
        delay: Duration,
        loss: f64,
    }

    /// Sends packets of 1000 bytes for so many seconds; the share of the path that was used in per mille, and the longest that
    /// a packet waited in the queue in the second half.
    fn run(path: &Path, limit: Option<u64>, seconds: u64) -> (u64, Duration) {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (mut pace, mut now) = (Pace::new(limit), Time(1));
        let (mut busy_until, mut carried, mut longest) = (Time(0), 0_u64, Duration::ZERO);
        // When each packet is known about, when it was sent, and whether it was lost.
        let mut on_the_way: VecDeque<(Time, Time, Stamp, bool)> = VecDeque::new();
        let end = Time(seconds * 1_000_000);
        while now < end {
            while pace.allows(now, on_the_way.len() * 1000, 1000) {
                let stamp = pace.sent(now, 1000, on_the_way.len() * 1000, false);
                let begins = busy_until.max(now);
                if now > Time(end.0 / 2) {
                    longest = longest.max(begins - now);
                }
                busy_until = begins + Duration::from_micros(1_000_000_000 / path.rate);
                let lost = rng.random_bool(path.loss);
                on_the_way.push_back((busy_until + path.delay, now, stamp, lost));
            }
            let known = on_the_way.front().map(|(at, ..)| *at);
            let timeout = pace.timeout(on_the_way.len() * 1000, 1000);
            now = known
                .into_iter()
                .chain(timeout)
                .filter(|at| *at > now)
                .min()
                .unwrap();
            while on_the_way.front().is_some_and(|(at, ..)| *at <= now) {
                let (_, sent, stamp, lost) = on_the_way.pop_front().unwrap();
                if lost {
                    pace.lost(1000);
                } else {
                    pace.arrived(now, stamp, sent, 1000);
                }
                carried += 1000;
            }
        }
        (carried * 1000 / (path.rate * seconds), longest)
    }

    /// LINK-14: the path is used, its queue is not, and what is lost by chance is not taken for congestion.
    #[test]
    fn the_path_is_filled_and_not_its_queue() {
        for (rate, delay, loss) in [
            (1_200, 1000, 0.0),
            (125_000, 100, 0.0),
            (125_000, 100, 0.1),
            (125_000, 100, 0.3),
            (12_500, 600, 0.05),
            (1_000_000, 20, 0.0),
        ] {
            let path = Path {
                rate,
                delay: Duration::from_millis(delay),
                loss,
            };
            let (used, longest) = run(&path, None, 120);
            assert!(
                used > 850,
                "{used} of {rate} B/s at {delay} ms, {loss} lost"
            );
            let packet = Duration::from_micros(1_000_000_000 / rate);
            let allowed = packet * 2 + path.delay / 2;
            assert!(
                longest <= allowed,
                "{longest:?} > {allowed:?} in the queue at {rate} B/s"
            );
        }
    }

    /// LINK-14
    #[test]
    fn a_limit_is_never_exceeded() {
        let path = Path {
            rate: 125_000,
            delay: Duration::from_millis(100),
            loss: 0.0,
        };
        let (used, _) = run(&path, Some(10_000), 60);
        assert!((76..=82).contains(&used), "{used}");
    }

    /// LINK-20: only the limit holds back what has no parts, however slow the path once seemed.
    #[test]
    fn a_slow_sample_holds_back_parts_only() {
        let mut pace = Pace::new(Some(100));
        let stamp = pace.sent(Time(1), 200, 0, false);
        // 200 bytes took 100 s: 2 bytes a second.
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
