//! Round-trip time: the estimate of RFC 6298 and RFC 9002 §5, and the timeout computed from it
//! (LINK-7).

use core::time::Duration;

use super::backoff::{Jitter, RTO_MAX, Urge, interval};

/// The timeout on an unknown path; up to half is added as jitter.
pub(crate) const RTO_INITIAL: Duration = Duration::from_secs(2);
/// The shortest timeout. It is long enough for the acknowledgement of a request in work to arrive
/// first, which is sent after 25 ms (LINK-5).
const RTO_MIN: Duration = Duration::from_millis(50);
/// The longest round-trip time that is waited for.
const PATH_MAX: Duration = Duration::from_mins(2);
/// The longest timeout for fragments of long messages: on the slowest links a few fragments take
/// minutes.
const RTO_BULK_MAX: Duration = Duration::from_mins(10);
const VARIATION_MIN: Duration = Duration::from_millis(10);
/// The shortest timeout while the round-trip time is only remembered.
pub(crate) const REMEMBERED_MIN: Duration = Duration::from_millis(250);
/// This many retransmissions wait as on a measured path, if another link has measured it.
const KNOWN_REPEATS: u32 = 3;
/// The most consecutive unmeasured exchanges that lengthen the first wait.
const UNSURE_MAX: u32 = 32;
/// At high loss, this many more consecutive timeouts wait no longer than the first.
const LOSSY_PATIENCE: u32 = 5;
/// The assumed rate of an unknown path, in bytes per second.
const UNKNOWN_RATE: u64 = 200;
/// The assumed rate for a sender that fills a path of unknown rate, in bytes per second.
const NARROW_RATE: u64 = 1200;
/// At most this many waits are half as long again as the one before.
const LONGER_MAX: u32 = 16;
/// The approximate overhead of a request and its answer, in bytes.
const AROUND: usize = 100;
/// The redundant copy follows after this fraction of a round trip: 1/8.
pub(super) const COPY_GAP: u32 = 8;
/// The least wait for the reply to an acknowledged request before it is sent again, unless loss is
/// high.
const WORK_PATIENCE: Duration = Duration::from_secs(1);
/// The recent minimum round-trip time grows by this fraction of itself with each sample: 1/32.
const BASE_CREEP: u32 = 32;
/// The growth of the round-trip time above which a filling queue is assumed.
const FILLING_MIN: Duration = Duration::from_millis(100);

/// How certain an estimate is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Certainty {
    /// The estimate is unknown or from an earlier link; the path may have changed.
    #[default]
    Remembered,
    /// Another link from the same network has measured it.
    Known,
    /// The estimate is an upper bound.
    Bounded,
    /// This path has been measured.
    Measured,
}

/// The estimate of one path's round-trip time.
#[derive(Clone, Debug, Default)]
pub struct Rtt {
    certainty: Certainty,
    /// The known maximum rate of the path, in bytes per second.
    rate: Option<u64>,
    smoothed: Option<Duration>,
    variation: Duration,
    min: Duration,
    /// The recent minimum, which rises slowly when the path becomes longer, and the latest sample.
    base: Duration,
    latest: Duration,
    /// How long the peer says that it delayed acknowledgements, at most [`DELAY_MAX`].
    peer_delay: Duration,
    /// The number of consecutive exchanges that took several tries, on this link and earlier ones.
    unsure: u32,
}

/// The longest acknowledgement delay that a peer may use (LINK-5).
pub(crate) const DELAY_MAX: Duration = Duration::from_millis(200);
/// The shortest acknowledgement delay, so that an acknowledgement may share a packet.
pub(crate) const DELAY_MIN: Duration = Duration::from_millis(25);

/// Returns the acknowledgement delay for a round-trip time: a quarter of it, within [`DELAY_MIN`]
/// and [`DELAY_MAX`] (LINK-5).
pub(crate) fn held_back(rtt: Duration) -> Duration {
    (rtt / 4).clamp(DELAY_MIN, DELAY_MAX)
}

/// The estimate of a dormant link: durations in microseconds, at most an hour.
#[derive(Clone, Copy, Debug)]
pub struct DormantRtt {
    certainty: Certainty,
    smoothed: Option<u32>,
    others: [u32; 5],
}

fn to_micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

const fn from_micros(micros: u32) -> Duration {
    Duration::from_micros(micros as u64)
}

impl Rtt {
    /// Returns the compact estimate for a dormant link.
    pub fn hibernate(&self) -> DormantRtt {
        let others = [
            self.variation,
            self.min,
            self.base,
            self.latest,
            self.peer_delay,
        ];
        DormantRtt {
            certainty: self.certainty,
            smoothed: self.smoothed.map(to_micros),
            others: others.map(to_micros),
        }
    }

    /// Restores the estimate of a dormant link, on a path that carries at most `rate` bytes per
    /// second.
    pub fn from_dormant(dormant: DormantRtt, rate: Option<u64>) -> Self {
        let [variation, min, base, latest, peer_delay] = dormant.others.map(from_micros);
        Self {
            certainty: dormant.certainty,
            rate,
            smoothed: dormant.smoothed.map(from_micros),
            variation,
            min,
            base,
            latest,
            peer_delay,
            unsure: 0,
        }
    }

    /// Creates an initial estimate, remembered from an earlier link to the same peer.
    pub fn remembered(rtt: Duration) -> Self {
        Self {
            certainty: Certainty::Remembered,
            rate: None,
            smoothed: Some(rtt),
            variation: rtt / 2,
            min: rtt,
            base: rtt,
            latest: rtt,
            peer_delay: Duration::ZERO,
            unsure: 0,
        }
    }

    /// Creates an initial estimate that another link has measured on the same path (LINK-25).
    pub fn known(rtt: Duration, variation: Duration, unsure: u32) -> Self {
        Self {
            certainty: Certainty::Known,
            variation,
            unsure: unsure.min(UNSURE_MAX),
            ..Self::remembered(rtt)
        }
    }

    /// The smoothed estimate and its variation, if this link or an earlier one has measured this
    /// path.
    pub fn to_remember(&self) -> Option<(Duration, Duration)> {
        match self.certainty {
            Certainty::Known | Certainty::Measured => Some((self.smoothed?, self.variation)),
            Certainty::Remembered | Certainty::Bounded => None,
        }
    }

    /// The number of consecutive exchanges that took several tries.
    pub const fn unsure(&self) -> u32 {
        self.unsure
    }

    /// Notes a successful exchange; `again` if it was not at the first try.
    pub const fn note_exchange(&mut self, again: bool) {
        self.unsure = match again {
            true if self.unsure < UNSURE_MAX => self.unsure + 1,
            true => self.unsure,
            false => 0,
        };
    }

    /// The smoothed estimate, once there is one.
    pub const fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The variation of the round-trip time.
    pub const fn variation(&self) -> Duration {
        self.variation
    }

    /// True once this path has been measured: the timeout is no shorter than a round trip.
    pub const fn is_measured(&self) -> bool {
        matches!(self.certainty, Certainty::Bounded | Certainty::Measured)
    }

    /// False if a sample shows that the previous estimate should be discarded.
    fn is_near(&self, latest: Duration) -> bool {
        match self.certainty {
            Certainty::Remembered | Certainty::Known => {
                latest < self.min * 4 && self.min < latest * 4
            }
            Certainty::Bounded => false,
            Certainty::Measured => true,
        }
    }

    /// Notes an upper bound for the round-trip time, which includes the other side's waits. It only
    /// helps if nothing is known and the bound is short.
    pub fn bound(&mut self, bound: Duration) {
        if self.smoothed.is_none() && bound < RTO_INITIAL {
            *self = Self {
                certainty: Certainty::Bounded,
                variation: bound / 8,
                ..Self::remembered(bound).with_rate(self.rate)
            };
        }
    }

    /// Adds a sample, which includes the peer's acknowledgement delay `delay`. Returns the smoothed
    /// estimate.
    pub fn sample(&mut self, latest: Duration, delay: Duration) -> Duration {
        let delay = delay.min(DELAY_MAX);
        let Some(smoothed) = self.smoothed.filter(|_| self.is_near(latest)) else {
            *self = Self {
                certainty: Certainty::Measured,
                rate: self.rate,
                smoothed: Some(latest),
                variation: latest / 2,
                min: latest,
                base: latest,
                latest,
                peer_delay: delay,
                unsure: 0,
            };
            return latest;
        };
        self.certainty = Certainty::Measured;
        self.unsure = 0;
        self.latest = latest;
        self.peer_delay = delay;
        self.min = self.min.min(latest);
        self.base = (self.base + self.base / BASE_CREEP).min(latest);
        // A peer cannot make the path look faster than its minimum.
        let adjusted = if latest >= self.min + delay {
            latest.saturating_sub(delay)
        } else {
            latest
        };
        self.variation = (self.variation * 3 + smoothed.abs_diff(adjusted)) / 4;
        let smoothed = (smoothed * 7 + adjusted) / 8;
        self.smoothed = Some(smoothed);
        smoothed
    }

    /// Returns the retransmission timeout.
    pub fn timeout(&self) -> Duration {
        match self.smoothed {
            None => RTO_INITIAL,
            Some(smoothed) => {
                let timeout = smoothed + (self.variation * 4).max(VARIATION_MIN) + self.peer_delay;
                // A retransmission must not precede the earliest possible answer.
                timeout
                    .clamp(RTO_MIN, RTO_MAX)
                    .max((smoothed + smoothed / 8).min(PATH_MAX))
            }
        }
    }

    /// True if the round-trip time has grown so far that a queue must be filling. Losses are then
    /// due to congestion, and retransmissions would worsen it.
    pub fn is_filling(&self) -> bool {
        self.latest > self.base * 2 + FILLING_MIN
    }

    /// The wait before retransmission number `repeats` + 1 (LINK-8). At high loss (`is_lossy`)
    /// several more waits are as short as the first, because silence is weaker evidence there.
    pub fn repeat_after(
        &self,
        repeats: u32,
        is_lossy: bool,
        urge: Urge,
        jitter: &mut Jitter,
    ) -> Duration {
        let urge = match self.rate {
            // On such a narrow path, retransmissions would displace new data.
            Some(_) => Urge::Patient,
            None => urge,
        };
        let timeout = self.timeout();
        let is_first = repeats == 0;
        let repeats = repeats.saturating_sub(if is_lossy { LOSSY_PATIENCE } else { 0 });
        // Another link's measurement holds for a few packets. Then it counts as only remembered.
        if let (Certainty::Known, Some(smoothed)) = (self.certainty, self.smoothed) {
            let Some(repeats) = repeats.checked_sub(KNOWN_REPEATS) else {
                let timeout = if is_first {
                    self.first_wait(timeout, is_lossy)
                } else {
                    timeout
                };
                return interval(repeats, timeout, urge, jitter);
            };
            let remembered = Self::remembered(smoothed).with_rate(self.rate);
            return remembered.repeat_after(repeats, false, urge, jitter);
        }
        match self.smoothed {
            // Jitter spreads the first attempts of many clients.
            None if repeats == 0 => return jitter.spread(timeout, 100, 150),
            // The path may have changed: retransmissions soon wait as on an unknown path.
            Some(_) if !self.is_measured() => {
                let doubled = timeout.max(REMEMBERED_MIN) * (1 << repeats.min(8));
                let unknown = interval(repeats, RTO_INITIAL, urge, jitter);
                return jitter.spread(doubled, 100, 110).min(unknown.max(timeout));
            }
            None | Some(_) => {}
        }
        if self.is_filling() {
            let longest = RTO_MAX.max(timeout);
            let doubled = (timeout * (1 << repeats.min(8))).min(longest);
            return jitter.spread(doubled, 100, 110).min(longest);
        }
        interval(repeats, timeout, urge, jitter)
    }

    /// Returns the first wait. It grows with each unmeasured exchange, until an answer arrives
    /// before the next transmission. At high loss it grows more slowly, because loss is usually the
    /// reason.
    fn first_wait(&self, timeout: Duration, is_lossy: bool) -> Duration {
        let parts = if is_lossy { 8 } else { 4 };
        let longest = RTO_INITIAL.max(timeout);
        let mut wait = timeout;
        for _ in 0..self.unsure {
            wait = (wait + wait / parts).min(longest);
        }
        wait
    }

    /// Sets the maximum rate of the path in bytes per second, if it is given.
    #[must_use]
    pub const fn with_rate(self, rate: Option<u64>) -> Self {
        Self { rate, ..self }
    }

    /// The known maximum rate of the path, in bytes per second.
    pub const fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// The extra wait for the answer to a message of `bytes` bytes: the time to carry both at the
    /// known rate, or at a narrow path's rate if the path is not measured.
    pub fn allowance(&self, bytes: usize) -> Duration {
        let is_measured = self.is_measured() || self.certainty == Certainty::Known;
        let rate = match (self.rate, is_measured) {
            (Some(rate), _) => rate.max(1),
            (None, false) => UNKNOWN_RATE,
            (None, true) => return Duration::ZERO,
        };
        Duration::from_micros((bytes + AROUND) as u64 * 1_000_000 / rate)
    }

    /// The timeout for fragments and backlog: they fill the path, so they may be slower than small
    /// packets. It doubles each time while the path is unknown, because this side may be filling
    /// its queue. `unpaced`: bytes in flight while the rate is unknown. Small packets do not show
    /// how long these take.
    pub fn paced_repeat_after(
        &self,
        repeats: u32,
        unpaced: Option<usize>,
        jitter: &mut Jitter,
    ) -> Duration {
        let timeout = match self.smoothed {
            None => RTO_INITIAL * (1 << repeats.min(6)),
            Some(smoothed) => (smoothed + self.variation * 4)
                .max(self.timeout() + self.may_be_held())
                .min(RTO_BULK_MAX),
        };
        let Some(bytes) = unpaced else {
            return interval(repeats, timeout, Urge::Patient, jitter).max(timeout);
        };
        let carried = Duration::from_micros(bytes as u64 * 1_000_000 / NARROW_RATE);
        let mut wait = timeout + carried;
        for _ in 0..repeats.min(LONGER_MAX) {
            wait = wait * 3 / 2;
        }
        jitter.spread(wait, 100, 110).min(RTO_BULK_MAX.max(timeout))
    }

    /// The wait for the reply to a request that has arrived. At high loss it is shorter, because
    /// the reply may well be lost.
    pub fn work_patience(&self, bytes: usize, lossy: bool) -> Duration {
        let patience = if lossy {
            self.timeout()
        } else {
            (self.timeout() * 4).max(WORK_PATIENCE)
        };
        patience + self.allowance(bytes)
    }

    /// The delay before a redundant copy.
    pub fn copy_gap(&self) -> Duration {
        self.smoothed.unwrap_or(RTO_INITIAL) / COPY_GAP
    }

    /// The extra wait for the acknowledgement of an event, which the peer may delay that long. It
    /// may have delayed the last one for less.
    pub fn may_be_held(&self) -> Duration {
        self.acknowledgement_delay().saturating_sub(self.peer_delay)
    }

    /// How long an acknowledgement may be delayed, so that it can share a packet.
    pub fn acknowledgement_delay(&self) -> Duration {
        held_back(self.smoothed.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// LINK-7: the timeout follows the measured path.
    #[test]
    fn rtt_timeout_follows_measured_path() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(), RTO_INITIAL);
        rtt.sample(ms(100), ms(0));
        assert_eq!(rtt.timeout(), ms(300));
        for _ in 0..100 {
            rtt.sample(ms(100), ms(0));
        }
        assert!(rtt.timeout() < ms(115), "{:?}", rtt.timeout());
        rtt.sample(Duration::from_secs(90), ms(0));
        assert_eq!(rtt.timeout(), RTO_MAX);
        for _ in 0..100 {
            rtt.sample(Duration::from_mins(1), ms(0));
        }
        let timeout = rtt.timeout().as_secs();
        assert!((67..69).contains(&timeout), "{timeout}");
        rtt.sample(Duration::from_hours(1), ms(0));
        assert_eq!(rtt.timeout(), PATH_MAX);
    }

    /// LINK-8: waits double while a queue fills; a path that has become longer counts as no queue.
    #[test]
    fn backoff_doubles_while_queue_fills() {
        let mut rtt = Rtt::default();
        for _ in 0..5 {
            rtt.sample(ms(200), ms(0));
        }
        let mut jitter = Jitter::new(1);
        let third =
            |rtt: &Rtt, jitter: &mut Jitter| rtt.repeat_after(2, false, Urge::Patient, jitter);
        assert!(!rtt.is_filling());
        assert!(third(&rtt, &mut jitter) < rtt.timeout() * 2);
        rtt.sample(ms(900), ms(0));
        assert!(rtt.is_filling());
        assert!(third(&rtt, &mut jitter) >= rtt.timeout() * 4);
        for _ in 0..100 {
            rtt.sample(ms(900), ms(0));
        }
        assert!(!rtt.is_filling());
    }

    /// LINK-25: only the first wait grows, also where packets are sent twice, and it has a limit.
    #[test]
    fn path_memory_unsure_makes_first_wait_longer() {
        let mut jitter = Jitter::new(1);
        let mut wait = |unsure, repeats, is_lossy| {
            let rtt = Rtt::known(ms(60), ms(5), unsure);
            let wait = rtt.repeat_after(repeats, is_lossy, Urge::Awaited, &mut jitter);
            wait.as_millis() * 100 / rtt.timeout().as_millis()
        };
        for (unsure, is_lossy, expected) in [
            (0, false, 100),
            (1, false, 125),
            (2, false, 156),
            (1, true, 112),
            (2, true, 126),
            (UNSURE_MAX + 1, false, 2500),
            (UNSURE_MAX + 1, true, 2500),
        ] {
            let waits = wait(unsure, 0, is_lossy);
            assert!(
                (expected..=expected * 11 / 10).contains(&waits),
                "{unsure} {is_lossy}: {waits}"
            );
            for repeats in 1..KNOWN_REPEATS + if is_lossy { LOSSY_PATIENCE } else { 0 } {
                let waits = wait(unsure, repeats, is_lossy);
                assert!((100..=110).contains(&waits), "{repeats}: {waits}");
            }
        }
    }

    /// LINK-25: another link's measurement counts as only remembered after three retransmissions,
    /// or after eight where packets are sent twice.
    #[test]
    fn path_memory_rtt_holds_for_few_retransmissions() {
        let mut jitter = Jitter::new(1);
        let known = Rtt::known(ms(300), ms(5), 0);
        let remembered = Rtt::remembered(ms(300));
        for (is_lossy, few) in [
            (false, KNOWN_REPEATS),
            (true, KNOWN_REPEATS + LOSSY_PATIENCE),
        ] {
            let mut wait =
                |repeats| known.repeat_after(repeats, is_lossy, Urge::Patient, &mut jitter);
            assert!(wait(few - 1) <= known.timeout() * 110 / 100);
            assert!(wait(few) >= remembered.timeout());
            assert!(wait(few + 1) >= remembered.timeout() * 2);
        }
    }

    /// LINK-7: the first sample replaces an upper bound.
    #[test]
    fn rtt_upper_bound_is_replaced_by_first_sample() {
        let mut rtt = Rtt::default();
        rtt.bound(RTO_INITIAL);
        assert_eq!(rtt.timeout(), RTO_INITIAL, "it says nothing");
        rtt.bound(ms(400));
        assert!(rtt.is_measured() && rtt.allowance(100).is_zero());
        assert_eq!(rtt.timeout(), ms(600));
        rtt.sample(ms(300), ms(0));
        assert_eq!(rtt.smoothed(), Some(ms(300)));
        rtt.bound(ms(10));
        assert_eq!(rtt.smoothed(), Some(ms(300)));
    }

    #[test]
    fn rtt_is_not_lowered_by_false_acknowledgement_delay() {
        let mut rtt = Rtt::default();
        rtt.sample(ms(100), ms(0));
        rtt.sample(ms(100), Duration::from_mins(1));
        assert_eq!(rtt.smoothed(), Some(ms(100)));
    }
}
