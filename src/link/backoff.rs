//! How long to wait before sending again (LINK-8). Gentle on purpose: where a third of all packets
//! is lost, most silences are bad luck, and doubling at each would make the expected time grow
//! without bound.

use core::time::Duration;

/// The longest that is waited before something is sent again, unless the path is longer.
pub(super) const RTO_MAX: Duration = Duration::from_secs(30);
/// The same while somebody waits for it.
pub(super) const RTO_AWAITED_MAX: Duration = Duration::from_secs(8);
/// While somebody waits, no wait is longer than so many timeouts.
const AWAITED_TIMEOUTS: u32 = 3;
/// This many repeats wait one timeout each; later ones wait half as long again as the one before.
const PATIENT_REPEATS: u32 = 3;

/// A small generator of spread, seeded from outside: enough to keep clients from moving in step,
/// and never used for anything secret.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// A generator that gives the same values for the same seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `duration` times a factor between `low` and `high` per cent (`SplitMix64`).
    pub fn spread(&mut self, duration: Duration, low: u32, high: u32) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let steps = u64::from(high.saturating_sub(low)) + 1;
        let percent = low + u32::try_from((bits ^ (bits >> 31)) % steps).unwrap_or(0);
        duration * percent / 100
    }
}

/// How long the waits may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urge {
    /// Somebody waits for the answer, on a path that nothing says is narrow.
    Awaited,
    /// Nobody does, or each repeat costs much.
    Patient,
}

/// The wait before the repeat number `repeats` + 1, up to a tenth more, and never less: sooner would be before the answer can come.
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

    /// LINK-8
    #[test]
    fn the_first_three_repeats_wait_one_timeout_and_later_ones_longer() {
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

    /// LINK-8
    #[test]
    fn wait_is_short_while_somebody_waits() {
        let mut jitter = Jitter::new(1);
        for (timeout, longest) in [(100, 300), (2000, 6000), (5000, 8000), (12_000, 12_000)] {
            let timeout = Duration::from_millis(timeout);
            let wait = interval(20, timeout, Urge::Awaited, &mut jitter);
            assert_eq!(wait.as_millis(), longest, "{timeout:?}");
        }
    }
}
