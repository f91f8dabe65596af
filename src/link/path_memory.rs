//! Path memory: what one link measured of its path, for the next link to the same side from the
//! same network (LINK-25).

use core::time::Duration;

/// The loss, in 1/1024, above which small packets are sent twice: about 15 %.
pub(super) const REDUNDANT_LOSS: u32 = 154;
/// The most exchanges that are counted; beyond that the counts are halved.
const EXCHANGES_MAX: u32 = 32;
/// This many exchanges count as successful before any was seen.
const EXCHANGES_BEFORE: u32 = 4;
/// The denominator of shares.
const WHOLE: u32 = 1024;

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMemory {
    /// The smoothed round-trip time and its variation; `None` if each exchange took several tries.
    pub rtt: Option<(Duration, Duration)>,
    /// The losses.
    pub losses: Losses,
    /// The largest datagram that has got through, in bytes.
    pub datagram: usize,
    /// The number of consecutive exchanges that took several tries. They do not measure the round
    /// trip, which may have become longer.
    pub unsure: u32,
}

impl PathMemory {
    /// True if a link that begins with this memory behaves differently than with `other`: with or
    /// without redundant copies, with a round-trip time twice as long or short, or with another
    /// datagram size.
    pub fn is_news_to(&self, other: &Self) -> bool {
        let is_lossy = |memory: &Self| memory.losses.each_way() > REDUNDANT_LOSS;
        let is_near = match (self.rtt, other.rtt) {
            (Some((one, _)), Some((other, _))) => one <= other * 2 && other <= one * 2,
            (one, other) => one.is_none() && other.is_none(),
        };
        is_lossy(self) != is_lossy(other) || !is_near || self.datagram != other.datagram
    }
}

/// A handshake that has succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The number of packets of its first exchange that were certainly lost.
    pub lost: u32,
    /// Its packet was sent again.
    pub was_repeated: bool,
}

/// How many recent exchanges of one packet each way failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The number of failed exchanges.
    pub lost: u32,
    /// The number of all exchanges.
    pub of: u32,
}

impl Losses {
    /// Notes the result of a handshake's first exchange: `lost` is the number of packets that were
    /// lost, or whose answers were, if all of it failed, and 0 if one was answered. Later failures
    /// do not count: usually they belong to the same outage.
    pub const fn note(&mut self, lost: u32) {
        self.lost += lost;
        self.of += if lost > 0 { lost } else { 1 };
        while self.of > EXCHANGES_MAX {
            self.lost /= 2;
            self.of /= 2;
        }
    }

    /// Returns the losses of exchanges whose loss each way is `loss`, in 1/1024.
    pub(super) fn of_each_way(loss: u32) -> Self {
        let kept = WHOLE.saturating_sub(loss);
        let failed = WHOLE - kept * kept / WHOLE;
        Self {
            lost: failed * EXCHANGES_MAX / WHOLE,
            of: EXCHANGES_MAX,
        }
    }

    /// Returns the loss each way, in 1/1024, if both ways lose the same.
    pub const fn each_way(self) -> u32 {
        let of = self.of + EXCHANGES_BEFORE;
        let kept = of.saturating_sub(self.lost) * WHOLE / of;
        WHOLE - (kept * WHOLE).isqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LINK-25: a few exchanges distinguish a bad path from a good one, and old results are
    /// forgotten.
    #[test]
    fn path_memory_learns_losses_and_forgets_old_ones() {
        let mut losses = Losses::default();
        assert_eq!(losses.each_way(), 0);
        losses.note(0);
        losses.note(1);
        assert!(losses.each_way() < 154, "one lost packet says little");
        for _ in 0..4 {
            losses.note(1);
        }
        assert!((155..320).contains(&losses.each_way()), "{losses:?}");
        for _ in 0..60 {
            losses.note(0);
        }
        assert!(losses.each_way() < 50, "{losses:?}");
        assert!(losses.of <= EXCHANGES_MAX);
        assert_eq!(Losses::of_each_way(512).lost, 24);
    }

    /// LINK-25: one bad handshake, even the first, does not turn on redundant copies; a second
    /// consecutive one does.
    #[test]
    fn path_memory_needs_two_bad_handshakes_for_redundant_copies() {
        let mut losses = Losses::default();
        losses.note(1);
        assert!(losses.each_way() < 154, "{losses:?}");
        losses.note(1);
        assert!(losses.each_way() > 154, "{losses:?}");
    }

    /// LINK-25: only a change in how the next link begins is stored again.
    #[test]
    fn path_memory_is_stored_again_only_if_next_link_begins_differently() {
        let ms = Duration::from_millis;
        let known = PathMemory {
            rtt: Some((ms(60), ms(6))),
            losses: Losses { lost: 2, of: 32 },
            datagram: 1200,
            unsure: 0,
        };
        let with = |change: fn(&mut PathMemory)| {
            let mut memory = known;
            change(&mut memory);
            memory
        };
        for same in [
            with(|memory| memory.rtt = Some((Duration::from_millis(110), Duration::ZERO))),
            with(|memory| memory.losses.lost = 6),
            with(|memory| memory.unsure = 3),
        ] {
            assert!(
                !same.is_news_to(&known) && !known.is_news_to(&same),
                "{same:?}"
            );
        }
        for other in [
            with(|memory| memory.rtt = Some((Duration::from_millis(130), Duration::ZERO))),
            with(|memory| memory.rtt = None),
            with(|memory| memory.losses.lost = 16),
            with(|memory| memory.datagram = 548),
        ] {
            assert!(
                other.is_news_to(&known) && known.is_news_to(&other),
                "{other:?}"
            );
        }
    }

    /// LINK-25: if one try of three fails, that loss is remembered, and not less.
    #[test]
    fn path_memory_of_one_failure_in_three_keeps_that_loss() {
        let mut losses = Losses::default();
        for round in 0..90 {
            losses.note(u32::from(round % 3 == 0));
        }
        assert!((100..=190).contains(&losses.each_way()), "{losses:?}");
        assert!(losses.lost * 4 > losses.of, "{losses:?}");
    }
}
