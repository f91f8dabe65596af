//! Round-trip time: the estimate of RFC 6298 and RFC 9002 §5, and the timeout made from it (LINK-7).

use core::time::Duration;

use super::backoff::{Jitter, interval};

/// The timeout before anything is known of the path, to be spread by up to half.
pub(crate) const RTO_INITIAL: Duration = Duration::from_secs(2);
const RTO_MIN: Duration = Duration::from_millis(20);
/// The longest that is waited before something is sent again, unless the path is longer.
pub(crate) const RTO_MAX: Duration = Duration::from_secs(30);
/// The longest path that is waited for.
const PATH_MAX: Duration = Duration::from_mins(2);
/// The longest that is waited for parts of long messages: on the slowest of links a few fill minutes.
const RTO_BULK_MAX: Duration = Duration::from_mins(10);
const VARIATION_MIN: Duration = Duration::from_millis(10);
/// By this part of itself the shortest round trip of late grows with each sample.
const BASE_CREEP: u32 = 32;
/// What a round trip may grow by before a queue is suspected.
const FILLING_MIN: Duration = Duration::from_millis(100);

/// The estimate of one path's round-trip time.
#[derive(Clone, Debug, Default)]
pub struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    min: Duration,
    /// The shortest of late, which creeps up where the path has become longer, and the latest.
    base: Duration,
    latest: Duration,
    /// How long the peer says it held acknowledgements back, at most [`DELAY_MAX`].
    peer_delay: Duration,
}

/// The longest a peer may hold an acknowledgement back (LINK-5).
pub(crate) const DELAY_MAX: Duration = Duration::from_millis(200);

impl Rtt {
    /// An estimate to begin with, remembered from an earlier link to the same peer.
    pub fn remembered(rtt: Duration) -> Self {
        Self {
            smoothed: Some(rtt),
            variation: rtt / 2,
            min: rtt,
            base: rtt,
            latest: rtt,
            peer_delay: Duration::ZERO,
        }
    }

    /// The smoothed estimate, once there is one.
    pub const fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// Takes a measurement in, of which the peer spent `delay` waiting.
    pub fn sample(&mut self, latest: Duration, delay: Duration) {
        let delay = delay.min(DELAY_MAX);
        self.latest = latest;
        let Some(smoothed) = self.smoothed else {
            *self = Self {
                smoothed: Some(latest),
                variation: latest / 2,
                min: latest,
                base: latest,
                latest,
                peer_delay: delay,
            };
            return;
        };
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

    /// How long to wait before the repeat number `repeats` + 1 (LINK-8).
    pub fn repeat_after(&self, repeats: u32, jitter: &mut Jitter) -> Duration {
        let timeout = self.timeout();
        if self.is_filling() {
            let longest = RTO_MAX.max(timeout);
            let doubled = (timeout * (1 << repeats.min(8))).min(longest);
            return jitter.spread(doubled, 100, 110).min(longest);
        }
        interval(repeats, timeout, jitter)
    }

    /// How long to wait for what fills the path, and so may be slower than any small packet.
    pub fn bulk_timeout(&self) -> Duration {
        match self.smoothed {
            None => RTO_INITIAL,
            Some(smoothed) => (smoothed + self.variation * 4)
                .max(self.timeout())
                .min(RTO_BULK_MAX),
        }
    }

    /// How long an acknowledgement may wait for something to ride on: a quarter of a round trip, at
    /// least 25 ms and at most 200 ms.
    pub fn acknowledgement_delay(&self) -> Duration {
        (self.smoothed.unwrap_or_default() / 4).clamp(Duration::from_millis(25), DELAY_MAX)
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
        let third = |rtt: &Rtt, jitter: &mut Jitter| rtt.repeat_after(2, jitter);
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

    #[test]
    fn a_lying_peer_does_not_make_the_path_look_fast() {
        let mut rtt = Rtt::default();
        rtt.sample(ms(100), ms(0));
        rtt.sample(ms(100), Duration::from_mins(1));
        assert_eq!(rtt.smoothed(), Some(ms(100)));
    }
}
