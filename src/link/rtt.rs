//! Round-trip time: the estimate of RFC 6298 and RFC 9002 §5, and the timeout made from it (LINK-7).

use core::time::Duration;

use super::backoff::{Jitter, RTO_MAX, Urge, interval};

/// The timeout before anything is known of the path, to be spread by up to half.
pub(crate) const RTO_INITIAL: Duration = Duration::from_secs(2);
/// The shortest timeout: long enough that the acknowledgement of a request in work comes first, which leaves after 25 ms (LINK-5).
const RTO_MIN: Duration = Duration::from_millis(50);
/// The longest path that is waited for.
const PATH_MAX: Duration = Duration::from_mins(2);
/// The longest that is waited for parts of long messages: on the slowest of links a few fill minutes.
const RTO_BULK_MAX: Duration = Duration::from_mins(10);
const VARIATION_MIN: Duration = Duration::from_millis(10);
/// The least that is waited where the round trip is only remembered.
pub(crate) const REMEMBERED_MIN: Duration = Duration::from_millis(250);
/// So many repeats wait as on a path that has been measured, where another link has measured it.
const KNOWN_REPEATS: u32 = 3;
/// So many exchanges in a row of which none was measured make the first wait longer.
const UNSURE_MAX: u32 = 32;
/// Where much is lost, so many timeouts in a row more wait no longer than the first.
const LOSSY_PATIENCE: u32 = 5;
/// Bytes a second that a path is taken to carry at least, while nothing is known of it.
const UNKNOWN_RATE: u64 = 200;
/// Bytes a second that a path is taken to carry whose rate nothing has shown, by who fills it.
const NARROW_RATE: u64 = 1200;
/// So often each wait is half as long again there as the one before.
const LONGER_MAX: u32 = 16;
/// Bytes around what is asked, and of its answer, more or less.
const AROUND: usize = 100;
/// The copy of what leaves twice follows after this part of a round trip.
pub(super) const COPY_GAP: u32 = 8;
/// An acknowledged request is being worked on: its sender waits at least this long for the reply
/// before it asks again.
const WORK_PATIENCE: Duration = Duration::from_secs(1);
/// By this part of itself the shortest round trip of late grows with each sample.
const BASE_CREEP: u32 = 32;
/// What a round trip may grow by before a queue is suspected.
const FILLING_MIN: Duration = Duration::from_millis(100);

/// How certain an estimate is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Certainty {
    /// It is unknown, or of another link: the path may be another now.
    #[default]
    Remembered,
    /// Another link has measured it, from the same network.
    Known,
    /// The round trip is no longer than this.
    Bounded,
    /// This path has been measured.
    Measured,
}

/// The estimate of one path's round-trip time.
#[derive(Clone, Debug, Default)]
pub struct Rtt {
    certainty: Certainty,
    /// Bytes a second that the path is known to carry at most.
    rate: Option<u64>,
    smoothed: Option<Duration>,
    variation: Duration,
    min: Duration,
    /// The shortest of late, which creeps up where the path has become longer, and the latest.
    base: Duration,
    latest: Duration,
    /// How long the peer says it held acknowledgements back, at most [`DELAY_MAX`].
    peer_delay: Duration,
    /// So many exchanges in a row took several tries, on this link and earlier ones.
    unsure: u32,
}

/// The longest a peer may hold an acknowledgement back (LINK-5).
pub(crate) const DELAY_MAX: Duration = Duration::from_millis(200);
/// The shortest time for which an acknowledgement is held back, so that it may ride on something.
pub(crate) const DELAY_MIN: Duration = Duration::from_millis(25);

/// For how long an acknowledgement may be held back on a path with that round trip: a quarter of it, within these bounds (LINK-5).
pub(crate) fn held_back(rtt: Duration) -> Duration {
    (rtt / 4).clamp(DELAY_MIN, DELAY_MAX)
}

/// What remains of it while a link rests: spans in microseconds, at most an hour.
#[derive(Clone, Copy, Debug)]
pub struct DormantLink {
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
    /// What remains while the link rests.
    pub fn rest(&self) -> DormantLink {
        let others = [
            self.variation,
            self.min,
            self.base,
            self.latest,
            self.peer_delay,
        ];
        DormantLink {
            certainty: self.certainty,
            smoothed: self.smoothed.map(to_micros),
            others: others.map(to_micros),
        }
    }

    /// The same, awake, on a path that is known to carry `rate` at most.
    pub fn woken(resting: DormantLink, rate: Option<u64>) -> Self {
        let [variation, min, base, latest, peer_delay] = resting.others.map(from_micros);
        Self {
            certainty: resting.certainty,
            rate,
            smoothed: resting.smoothed.map(from_micros),
            variation,
            min,
            base,
            latest,
            peer_delay,
            unsure: 0,
        }
    }

    /// An estimate to begin with, remembered from an earlier link to the same peer.
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

    /// An estimate to begin with that another link has measured on the same path (LINK-25).
    pub fn known(rtt: Duration, variation: Duration, unsure: u32) -> Self {
        Self {
            certainty: Certainty::Known,
            variation,
            unsure: unsure.min(UNSURE_MAX),
            ..Self::remembered(rtt)
        }
    }

    /// The smoothed estimate and its variation, where this path has been measured, by this link or an earlier one.
    pub fn to_remember(&self) -> Option<(Duration, Duration)> {
        match self.certainty {
            Certainty::Known | Certainty::Measured => Some((self.smoothed?, self.variation)),
            Certainty::Remembered | Certainty::Bounded => None,
        }
    }

    /// How many exchanges in a row took several tries.
    pub const fn unsure(&self) -> u32 {
        self.unsure
    }

    /// An exchange has succeeded, at the first try or not.
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

    /// How far the round trip varies.
    pub const fn variation(&self) -> Duration {
        self.variation
    }

    /// True once this path has been measured: the timeout is no shorter than a round trip.
    pub const fn is_measured(&self) -> bool {
        matches!(self.certainty, Certainty::Bounded | Certainty::Measured)
    }

    /// False when a measurement shows that what is known so far is not worth to be kept.
    fn is_near(&self, latest: Duration) -> bool {
        match self.certainty {
            Certainty::Remembered | Certainty::Known => {
                latest < self.min * 4 && self.min < latest * 4
            }
            Certainty::Bounded => false,
            Certainty::Measured => true,
        }
    }

    /// A round trip has taken at most so long, with whatever the other side has waited for in between. That is worth
    /// something where nothing is known, and it is not long.
    pub fn bound(&mut self, bound: Duration) {
        if self.smoothed.is_none() && bound < RTO_INITIAL {
            *self = Self {
                certainty: Certainty::Bounded,
                variation: bound / 8,
                ..Self::remembered(bound).with_rate(self.rate)
            };
        }
    }

    /// Takes a measurement in, of which the peer spent `delay` waiting.
    pub fn sample(&mut self, latest: Duration, delay: Duration) {
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
            return;
        };
        self.certainty = Certainty::Measured;
        self.unsure = 0;
        self.latest = latest;
        self.peer_delay = delay;
        self.min = self.min.min(latest);
        self.base = (self.base + self.base / BASE_CREEP).min(latest);
        // A peer cannot make the path look faster than it ever was.
        let adjusted = if latest >= self.min + delay {
            latest.saturating_sub(delay)
        } else {
            latest
        };
        self.variation = (self.variation * 3 + smoothed.abs_diff(adjusted)) / 4;
        self.smoothed = Some((smoothed * 7 + adjusted) / 8);
    }

    /// How long to wait for a peer before sending again.
    pub fn timeout(&self) -> Duration {
        match self.smoothed {
            None => RTO_INITIAL,
            Some(smoothed) => {
                let timeout = smoothed + (self.variation * 4).max(VARIATION_MIN) + self.peer_delay;
                // Nothing is sent again before its answer can be here.
                timeout
                    .clamp(RTO_MIN, RTO_MAX)
                    .max((smoothed + smoothed / 8).min(PATH_MAX))
            }
        }
    }

    /// True when the round trip has grown so far that a queue must be filling: what is lost then, is lost to
    /// congestion, and repeats would only make it worse.
    pub fn is_filling(&self) -> bool {
        self.latest > self.base * 2 + FILLING_MIN
    }

    /// How long to wait before the repeat number `repeats` + 1 (LINK-8). Where much is lost (`is_lossy`), several more wait
    /// no longer than the first: a silence says even less there.
    pub fn repeat_after(
        &self,
        repeats: u32,
        is_lossy: bool,
        urge: Urge,
        jitter: &mut Jitter,
    ) -> Duration {
        let urge = match self.rate {
            // On a path so narrow repeats would take the place of what is new.
            Some(_) => Urge::Patient,
            None => urge,
        };
        let timeout = self.timeout();
        let is_first = repeats == 0;
        let repeats = repeats.saturating_sub(if is_lossy { LOSSY_PATIENCE } else { 0 });
        // What has held for another link holds for a few packets. Then it counts as any that is remembered.
        let repeats = match self.certainty {
            Certainty::Known if repeats < KNOWN_REPEATS => {
                let timeout = if is_first {
                    self.first_wait(timeout, is_lossy)
                } else {
                    timeout
                };
                return interval(repeats, timeout, urge, jitter);
            }
            Certainty::Known => {
                let remembered = self.smoothed.map(Self::remembered).unwrap_or_default();
                let remembered = remembered.with_rate(self.rate);
                return remembered.repeat_after(repeats - KNOWN_REPEATS, false, urge, jitter);
            }
            Certainty::Remembered | Certainty::Bounded | Certainty::Measured => repeats,
        };
        match self.smoothed {
            // Spread the first attempts of many clients apart.
            None if repeats == 0 => return jitter.spread(timeout, 100, 150),
            // The path may be another than it was: soon a repeat waits as where nothing is known.
            Some(_) if !self.is_measured() => {
                let doubled = timeout.max(REMEMBERED_MIN) * (1 << repeats.min(8));
                let unknown = interval(repeats, RTO_INITIAL, urge, jitter);
                return jitter.spread(doubled, 100, 110).min(unknown.max(timeout));
            }
            _ => {}
        }
        if self.is_filling() {
            let longest = RTO_MAX.max(timeout);
            let doubled = (timeout * (1 << repeats.min(8))).min(longest);
            return jitter.spread(doubled, 100, 110).min(longest);
        }
        interval(repeats, timeout, urge, jitter)
    }

    /// Each time that nothing could be measured the first wait is longer, until one is answered before the next leaves. Where
    /// much is lost, that is mostly the reason.
    fn first_wait(&self, timeout: Duration, is_lossy: bool) -> Duration {
        let parts = if is_lossy { 8 } else { 4 };
        let longest = RTO_INITIAL.max(timeout);
        let mut wait = timeout;
        for _ in 0..self.unsure {
            wait = (wait + wait / parts).min(longest);
        }
        wait
    }

    /// From here on the path is known to carry no more than `rate` bytes a second, if it is given.
    #[must_use]
    pub const fn with_rate(self, rate: Option<u64>) -> Self {
        Self { rate, ..self }
    }

    /// How much longer to wait for the answer to so many bytes: as long as the path takes to carry both, as far as
    /// that is known, or, where the path has not been measured, as a narrow one would take.
    pub fn allowance(&self, bytes: usize) -> Duration {
        let is_measured = self.is_measured() || self.certainty == Certainty::Known;
        let rate = match (self.rate, is_measured) {
            (Some(rate), _) => rate.max(1),
            (None, false) => UNKNOWN_RATE,
            (None, true) => return Duration::ZERO,
        };
        Duration::from_micros((bytes + AROUND) as u64 * 1_000_000 / rate)
    }

    /// The same for fragments and backlog: they fill the path, and so may be slower than any small packet. Twice as long
    /// each time while nothing is known of the path, whose queue this side may be filling.
    /// `unpaced`: bytes on their way while the path's rate is not known. Small packets say nothing of how long they take.
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

    /// How long to wait for the reply to a request that has arrived: where much is lost, it may well have been.
    pub fn work_patience(&self, bytes: usize, lossy: bool) -> Duration {
        let patience = if lossy {
            self.timeout()
        } else {
            (self.timeout() * 4).max(WORK_PATIENCE)
        };
        patience + self.allowance(bytes)
    }

    /// How long after what leaves twice its copy does.
    pub fn copy_gap(&self) -> Duration {
        self.smoothed.unwrap_or(RTO_INITIAL) / COPY_GAP
    }

    /// How much longer than the timeout says the acknowledgement of an event may take: the peer may hold it back so
    /// long. The last one may have been held back for less.
    pub fn may_be_held(&self) -> Duration {
        self.acknowledgement_delay().saturating_sub(self.peer_delay)
    }

    /// How long an acknowledgement may wait for something to ride on.
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

    /// LINK-7
    #[test]
    fn the_timeout_follows_the_path() {
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

    /// LINK-8: where a queue fills, repeats wait twice as long each time; a path that has become longer is no queue.
    #[test]
    fn a_filling_queue_is_not_filled_with_repeats() {
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

    /// LINK-25: only the first wait becomes longer, also where packets leave twice, and it has an end.
    #[test]
    fn first_wait_is_longer_where_nothing_could_be_measured() {
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

    /// LINK-25: after three repeats, eight where packets leave twice, what another link has measured is no more than remembered.
    #[test]
    fn what_is_known_holds_for_a_few_packets() {
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

    /// LINK-7: the first measurement says more than what a round trip has taken at most.
    #[test]
    fn bound_is_good_until_the_first_sample() {
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
    fn a_lying_peer_does_not_make_the_path_look_fast() {
        let mut rtt = Rtt::default();
        rtt.sample(ms(100), ms(0));
        rtt.sample(ms(100), Duration::from_mins(1));
        assert_eq!(rtt.smoothed(), Some(ms(100)));
    }
}
