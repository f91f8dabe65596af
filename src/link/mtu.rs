//! MTU discovery (LINK-15). The search goes up with fragments of long messages, which are sent
//! again in smaller ones if the path does not carry them. It goes down when no large datagram gets
//! through any more.

use core::time::Duration;

use super::{DATAGRAM_MIN, time::Time};

/// The datagram size before a larger one has been acknowledged: the Internet's minimum MTU, with a
/// margin.
pub const BEGINNING: usize = 548;
/// This many probes of a size must be lost before it counts as too large.
const PROBES_MAX: u32 = 3;
/// After this many consecutive timeouts, with only large datagrams sent, the path counts as
/// smaller.
const TIMEOUTS_MAX: u32 = 3;
/// After this many consecutive losses of large datagrams, without probes, the path counts as
/// smaller.
const LOSSES_MAX: u32 = 12;
/// This many datagrams of the proven size must follow a probe if one was lost before. They soon
/// show whether this one is lost too (LINK-6). At the end of a message its loss would only show
/// after a timeout.
const FOLLOWING_MIN: usize = 3;
/// A smaller difference is not worth a probe, in bytes.
const STEP: usize = 64;
/// A size that was too large is tried again after this time.
const CEILING_LIFETIME: Duration = Duration::from_mins(10);

/// The datagram size of a path.
#[derive(Clone, Debug)]
pub struct PathSize {
    /// The largest size that gets through.
    size: usize,
    /// The size that does not get through, and when that expires.
    ceiling: Option<(usize, Time)>,
    /// The size being probed, and how often it was lost.
    probe: Option<(usize, u32)>,
    /// A probe is in flight.
    probing: bool,
    timeouts: u32,
    /// Consecutive losses of large datagrams, without probes.
    losses: u32,
}

impl Default for PathSize {
    fn default() -> Self {
        Self {
            size: BEGINNING,
            ceiling: None,
            probe: None,
            probing: false,
            timeouts: 0,
            losses: 0,
        }
    }
}

impl PathSize {
    /// Creates the state of a path that carries datagrams of this size; nothing else is known.
    pub fn proven(size: usize) -> Self {
        Self {
            size,
            ..Self::default()
        }
    }

    /// Returns the largest datagram to send, if both sides accept at most `max` bytes.
    pub fn size(&self, max: usize) -> usize {
        self.size.min(max)
    }

    /// Returns the next size to probe: if a larger one may get through, no probe is in flight, and
    /// enough of the `waiting` bytes follow.
    pub fn next_probe(&mut self, now: Time, max: usize, waiting: u64) -> Option<usize> {
        if self.probing {
            return None;
        }
        if self.ceiling.is_some_and(|(_, until)| until <= now) {
            self.ceiling = None;
        }
        let begun = self
            .probe
            .filter(|(size, _)| *size <= max && *size > self.size);
        let size = match (begun, self.ceiling) {
            (Some((size, _)), _) => size,
            // Halfway between the size that gets through and the size that does not.
            (None, Some((ceiling, _))) => usize::midpoint(self.size, ceiling.min(max)),
            (None, None) => max,
        };
        let is_suspect = self.ceiling.is_some() || begun.is_some_and(|(_, lost)| lost > 0);
        let wanted = size + FOLLOWING_MIN * self.size;
        if size < self.size + STEP || (is_suspect && waiting < wanted as u64) {
            return None;
        }
        self.probe = begun.or(Some((size, 0)));
        Some(size)
    }

    /// Notes that a probe was sent.
    pub const fn probed(&mut self) {
        self.probing = true;
    }

    /// Notes that a datagram of `len` bytes has arrived.
    pub fn arrived(&mut self, len: usize) {
        if len > DATAGRAM_MIN {
            self.timeouts = 0;
            self.losses = 0;
        }
        if len > self.size {
            self.size = len;
            self.probe = None;
            self.probing = false;
        }
    }

    /// Notes that a datagram of `len` bytes is lost.
    pub fn lost(&mut self, now: Time, len: usize) {
        if let Some((size, lost)) = self.probe
            && len > self.size
        {
            self.probing = false;
            self.probe = Some((size, lost + 1));
            if lost + 1 >= PROBES_MAX {
                self.ceiling = Some((size, now + CEILING_LIFETIME));
                self.probe = None;
            }
        }
        if len > DATAGRAM_MIN && len <= self.size {
            self.losses += 1;
            if self.losses >= LOSSES_MAX {
                self.shrink(now);
            }
        }
    }

    /// Notes a long silence, while every datagram sent had at least `smallest` bytes.
    pub fn timed_out(&mut self, now: Time, smallest: usize) {
        if smallest <= DATAGRAM_MIN {
            return;
        }
        self.timeouts += 1;
        if self.timeouts >= TIMEOUTS_MAX {
            self.shrink(now);
        }
    }

    /// Notes a timeout of an unfragmented message, which stays whole as long as the path carries
    /// [`BEGINNING`]. That size is small enough for all but rare paths, and those are configured
    /// with theirs.
    pub fn whole_timed_out(&mut self, now: Time, smallest: usize) {
        if smallest > BEGINNING {
            self.timed_out(now, smallest);
        }
    }

    fn shrink(&mut self, now: Time) {
        (self.timeouts, self.losses) = (0, 0);
        if self.size <= DATAGRAM_MIN {
            return;
        }
        self.ceiling = Some((self.size, now + CEILING_LIFETIME));
        self.probe = None;
        self.probing = false;
        self.size = if self.size > BEGINNING {
            BEGINNING
        } else {
            DATAGRAM_MIN
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the size that the search finds on a path that carries `limit` bytes.
    fn search(path: &mut PathSize, limit: usize, max: usize) -> usize {
        for step in 0..40 {
            let now = Time(step);
            if let Some(probe) = path.next_probe(now, max, 9000) {
                path.probed();
                if probe <= limit {
                    path.arrived(probe);
                } else {
                    path.lost(now, probe);
                }
            }
        }
        path.size(max)
    }

    /// LINK-15: the largest size that gets through is found.
    #[test]
    fn mtu_discovery_finds_largest_size_that_gets_through() {
        for limit in [548, 600, 900, 1199, 1200, 9000] {
            let found = search(&mut PathSize::default(), limit, 1200);
            assert!(
                found <= limit && found + 2 * STEP > limit.min(1200),
                "{found} of {limit}"
            );
        }
        assert_eq!(search(&mut PathSize::default(), 9000, 160), 160);
    }

    /// LINK-15: the search follows a path that shrinks, and one that grows again.
    #[test]
    fn mtu_discovery_follows_path_that_shrinks_and_grows() {
        let mut path = PathSize::default();
        assert_eq!(search(&mut path, 1200, 1200), 1200);
        for (smallest, size) in [(160, 1200), (1200, 548), (548, 160), (160, 160)] {
            for _ in 0..TIMEOUTS_MAX {
                path.timed_out(Time(0), smallest);
            }
            assert_eq!(path.size(1200), size);
        }
        let found = search(&mut path, 300, 1200);
        assert!((300 - 2 * STEP..=300).contains(&found), "{found}");
    }

    /// LINK-15: a size that was lost is probed again only if its loss would show soon.
    #[test]
    fn mtu_probe_is_repeated_only_if_its_loss_would_show_soon() {
        let mut path = PathSize::default();
        let now = Time(0);
        assert_eq!(
            path.next_probe(now, 1200, 600),
            Some(1200),
            "it may well get through"
        );
        path.probed();
        assert_eq!(path.next_probe(now, 1200, 9000), None, "one at a time");
        path.lost(now, 1200);
        assert_eq!(path.next_probe(now, 1200, 1200 + 3 * 548 - 1), None);
        for _ in 1..PROBES_MAX {
            assert_eq!(path.next_probe(now, 1200, 1200 + 3 * 548), Some(1200));
            path.probed();
            path.lost(now, 1200);
        }
        assert_eq!(path.next_probe(now, 1200, 874 + 3 * 548 - 1), None);
        assert_eq!(path.next_probe(now, 1200, 874 + 3 * 548), Some(874));
        let later = now + CEILING_LIFETIME;
        assert_eq!(path.next_probe(later, 1200, 600), Some(874));
    }
}
