//! What one link found out of its path, for the next one to the same side from the same network (LINK-25).

use core::time::Duration;

use super::{Link, Received, path::PathSize, rtt::Rtt};

/// What is counted of exchanges, at most: half of it is forgotten then.
const EXCHANGES_MAX: u32 = 32;
/// So many exchanges are taken to have gone well before any has been seen.
const EXCHANGES_BEFORE: u32 = 4;
/// So many packets have to have come before what was lost of them says how much an exchange loses.
const PACKETS_MIN: u64 = 32;
/// A share is counted in so many parts.
const WHOLE: u32 = 1024;

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMemory {
    /// The round trip, smoothed, and how far it varies; none where each exchange took several tries.
    pub rtt: Option<(Duration, Duration)>,
    /// What is lost.
    pub losses: Losses,
    /// The largest datagram that has got through, in bytes.
    pub datagram: usize,
}

/// How many exchanges of one packet each way failed of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// So many failed,
    pub lost: u32,
    /// of so many.
    pub of: u32,
}

impl Losses {
    /// Notes that `lost` packets were not answered, and the one after them was.
    pub fn note(&mut self, lost: u32) {
        self.lost = self.lost.saturating_add(lost);
        self.of = self.of.saturating_add(lost).saturating_add(1);
        while self.of > EXCHANGES_MAX {
            self.lost /= 2;
            self.of /= 2;
        }
    }

    /// What an exchange loses of which each way loses so much, in 1/1024.
    fn of_each_way(loss: u32) -> Self {
        let kept = WHOLE.saturating_sub(loss);
        let failed = WHOLE - kept * kept / WHOLE;
        Self {
            lost: failed * EXCHANGES_MAX / WHOLE,
            of: EXCHANGES_MAX,
        }
    }

    /// What each way loses, in 1/1024, where both lose the same.
    pub const fn each_way(self) -> u32 {
        let of = self.of + EXCHANGES_BEFORE;
        let kept = of.saturating_sub(self.lost) * WHOLE / of;
        WHOLE - (kept * WHOLE).isqrt()
    }
}

impl Link {
    /// What the next link to the same side may begin with.
    pub fn path_memory(&self) -> PathMemory {
        let has_seen_many = self
            .received
            .largest()
            .is_some_and(|largest| largest.0 >= PACKETS_MIN);
        let losses = if has_seen_many {
            Losses::of_each_way(self.received.loss())
        } else {
            self.losses
        };
        PathMemory {
            rtt: self.rtt.to_remember(),
            losses,
            datagram: self.path.size(usize::MAX),
        }
    }

    /// Begins with what an earlier link found out. To be called before anything is sent.
    pub fn begin_from(&mut self, memory: &PathMemory) {
        if let Some((rtt, variation)) = memory.rtt {
            self.rtt = Rtt::known(rtt, variation).with_rate(self.config.rate);
        }
        self.path = PathSize::woken(memory.datagram);
        self.losses = memory.losses;
    }

    /// An exchange has succeeded after `lost` tries that did not.
    pub fn note_exchange(&mut self, lost: u32) {
        self.losses.note(lost);
    }

    /// What is lost on the way to this side, in 1/1024, as far as it is known.
    pub(super) fn loss(&self) -> u32 {
        let received: &Received = &self.received;
        let has_seen_many = received
            .largest()
            .is_some_and(|largest| largest.0 >= PACKETS_MIN);
        if has_seen_many {
            received.loss()
        } else {
            received.loss().max(self.losses.each_way())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LINK-25: a few exchanges tell a bad path from a good one, and what was long ago is forgotten.
    #[test]
    fn losses_are_learnt_and_forgotten() {
        let mut losses = Losses::default();
        assert_eq!(losses.each_way(), 0);
        losses.note(0);
        losses.note(1);
        assert!(losses.each_way() < 154, "one lost packet says little");
        // Three tenths each way: half of all exchanges.
        for _ in 0..4 {
            losses.note(1);
        }
        assert!((155..320).contains(&losses.each_way()), "{losses:?}");
        for _ in 0..60 {
            losses.note(0);
        }
        assert!(losses.each_way() < 50, "{losses:?}");
        losses.note(u32::MAX);
        assert!(losses.of <= EXCHANGES_MAX && losses.each_way() > 500);
        assert_eq!(Losses::of_each_way(512).lost, 24);
    }
}
