//! Round-trip time: the estimate of RFC 6298 and RFC 9002 §5, and the timeout made from it (LINK-7).

use core::time::Duration;

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

/// The estimate of one path's round-trip time.
#[derive(Clone, Debug, Default)]
pub struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    min: Duration,
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
        let Some(smoothed) = self.smoothed else {
            *self = Self {
                smoothed: Some(latest),
                variation: latest / 2,
                min: latest,
                peer_delay: delay,
            };
            return;
        };
        self.peer_delay = delay;
        self.min = self.min.min(latest);
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

    #[test]
    fn a_lying_peer_does_not_make_the_path_look_fast() {
        let mut rtt = Rtt::default();
        rtt.sample(ms(100), ms(0));
        rtt.sample(ms(100), Duration::from_mins(1));
        assert_eq!(rtt.smoothed(), Some(ms(100)));
    }
}
