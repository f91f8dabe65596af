//! Retransmission backoff (LINK-8). It is deliberately gentle: where a third of all packets is
//! lost, most silences are chance, and doubling at each would make the expected time grow without
//! bound.

use core::time::Duration;

/// The longest wait before a retransmission, unless the path is longer.
pub(super) const RTO_MAX: Duration = Duration::from_secs(30);
/// The longest wait while a reply is awaited.
pub(super) const RTO_AWAITED_MAX: Duration = Duration::from_secs(8);
/// While a reply is awaited, no wait is longer than this many timeouts.
const AWAITED_TIMEOUTS: u32 = 3;
/// This many retransmissions wait one timeout each; later ones wait half as long again as the one
/// before.
const PATIENT_REPEATS: u32 = 3;

/// A small jitter generator with an external seed. It keeps clients from synchronizing, and is
/// never used for secrets.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// Creates a generator that gives the same values for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `duration` times a factor between `low` and `high` per cent (`SplitMix64`).
    pub fn spread(&mut self, duration: Duration, low: u32, high: u32) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let span = high.saturating_sub(low);
        let drawn = (bits ^ (bits >> 31)) % (u64::from(span) + 1);
        let percent = low + u32::try_from(drawn).unwrap_or(span);
        duration * percent / 100
    }
}

/// How long the waits may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urge {
    /// The answer is awaited, and the path is not known to be narrow.
    Awaited,
    /// The answer is not awaited, or each retransmission is costly.
    Patient,
}

/// Returns the wait before retransmission number `repeats` + 1, plus up to a tenth as jitter. It is
/// never shorter, because the answer cannot arrive sooner.
pub fn interval(repeats: u32, timeout: Duration, urge: Urge, jitter: &mut Jitter) -> Duration {
    let longest = match urge {
        Urge::Awaited => RTO_AWAITED_MAX.min(timeout * AWAITED_TIMEOUTS),
        Urge::Patient => RTO_MAX,
    };
    let longest = longest.max(timeout);
    let mut wait = timeout;
    for _ in PATIENT_REPEATS..=repeats {
        wait = (wait * 3 / 2).min(longest);
        if wait == longest {
            break;
        }
    }
    jitter.spread(wait, 100, 110).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LINK-8: the first three retransmissions wait one timeout, and later ones longer.
    #[test]
    fn backoff_begins_after_three_retransmissions() {
        let timeout = Duration::from_millis(100);
        let mut jitter = Jitter::new(1);
        for (repeats, expected) in [(0, 100), (1, 100), (2, 100), (3, 150), (4, 225)] {
            let wait = interval(repeats, timeout, Urge::Patient, &mut jitter);
            let expected = Duration::from_millis(expected);
            assert!(
                wait >= expected && wait <= expected * 110 / 100,
                "{repeats}: {wait:?}"
            );
        }
        assert!(interval(u32::MAX - 1, timeout, Urge::Patient, &mut jitter) <= RTO_MAX);
    }

    /// LINK-8: the wait is short while a reply is awaited.
    #[test]
    fn backoff_is_short_while_reply_is_awaited() {
        let mut jitter = Jitter::new(1);
        for (timeout, longest) in [(100, 300), (2000, 6000), (5000, 8000), (12_000, 12_000)] {
            let timeout = Duration::from_millis(timeout);
            let wait = interval(20, timeout, Urge::Awaited, &mut jitter);
            assert_eq!(wait.as_millis(), longest, "{timeout:?}");
        }
    }
}
