//! A message that is longer than a datagram, cut into fragments as they leave (LINK-13): cut anew each time,
//! so that one that was lost may be sent again in smaller ones.

use alloc::vec::Vec;
use core::ops::Range;

use super::ranges::Ranges;

/// A long message on its way.
#[derive(Clone, Debug)]
pub struct Fragments {
    bytes: Vec<u8>,
    /// What has never been sent begins here.
    next: u64,
    lost: Ranges,
    arrived: Ranges,
}
impl Fragments {
    /// Nothing of `bytes` has left yet.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            next: 0,
            lost: Ranges::default(),
            arrived: Ranges::default(),
        }
    }

    /// The length of the whole message.
    pub const fn total(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The whole message.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// True when some of it has left.
    pub const fn is_begun(&self) -> bool {
        self.next > 0
    }

    /// True when some of it was lost and nothing has arrived: the other side may have no room for it.
    pub fn is_doubtful(&self) -> bool {
        self.arrived.is_empty() && !self.lost.is_empty()
    }

    /// True when a fragment should leave.
    pub fn has_queued(&self) -> bool {
        self.next < self.total() || !self.lost.is_empty()
    }

    /// Bytes of it that should leave.
    pub fn queued_len(&self) -> u64 {
        let lost = self.lost.iter().map(|range| range.end - range.start);
        lost.sum::<u64>() + (self.total() - self.next)
    }

    /// True when all of it has arrived.
    pub fn is_arrived(&self) -> bool {
        self.arrived.covers(&(0..self.total()))
    }

    /// The part to send next, of at most `room` bytes: what was lost before what is new.
    pub fn next_part(&self, room: usize) -> Option<(u64, &[u8])> {
        let range = match self.lost.first() {
            Some(lost) => lost,
            None if self.next < self.total() => self.next..self.total(),
            None => return None,
        };
        let end = range.end.min(range.start + room as u64);
        let slice = |n: u64| usize::try_from(n).ok();
        let part = self.bytes.get(slice(range.start)?..slice(end)?)?;
        (!part.is_empty()).then_some((range.start, part))
    }

    /// Notes that a part has left.
    pub fn sent(&mut self, part: &Range<u64>) {
        self.lost.remove(part);
        self.next = self.next.max(part.end);
    }

    /// The part of a message of this length. Under its number there may have been a longer one before, of which a part was still on its way.
    fn within(&self, part: Range<u64>) -> Range<u64> {
        let total = self.total();
        part.start.min(total)..part.end.min(total)
    }

    /// Notes that a part has arrived.
    pub fn arrive(&mut self, part: Range<u64>) {
        let part = self.within(part);
        self.lost.remove(&part);
        self.arrived.insert(part);
    }

    /// Notes that a part is lost.
    pub fn lose(&mut self, part: Range<u64>) {
        let mut missing = Ranges::default();
        missing.insert(self.within(part));
        for known in self.arrived.iter() {
            missing.remove(known);
        }
        for range in missing.iter() {
            self.lost.insert(range.clone());
        }
    }

    /// All of it is to be sent anew.
    pub fn restart(&mut self) {
        *self = Self::new(core::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    /// LINK-13: whatever is lost, and however small the parts become, all of it gets across.
    #[test]
    fn what_is_lost_is_cut_anew() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let (mut fragments, mut got) = (Fragments::new(bytes.clone()), vec![0; 1000]);
        let mut sent = 0;
        while fragments.has_queued() {
            let room = if sent < 4 { 300 } else { 70 };
            let (offset, part) = fragments.next_part(room).unwrap();
            let range = offset..offset + part.len() as u64;
            let lost = sent % 3 == 1;
            if !lost {
                let start = usize::try_from(offset).unwrap();
                got[start..start + part.len()].copy_from_slice(part);
            }
            fragments.sent(&range);
            if lost {
                fragments.lose(range);
            } else {
                fragments.arrive(range);
            }
            sent += 1;
        }
        assert!(fragments.is_arrived());
        assert_eq!(got, bytes);
        fragments.lose(0..1000);
        assert!(!fragments.has_queued(), "what has arrived is not lost");
    }

    /// LINK-13: a part of a longer message that had its number before is no part of this one. It was waited for without end, and nothing
    /// could leave.
    #[test]
    fn part_of_another_message_is_not_sent_again() {
        let mut fragments = Fragments::new(vec![7; 600]);
        fragments.sent(&(0..600));
        fragments.lose(503..1000);
        assert_eq!(fragments.queued_len(), 97);
        fragments.sent(&(503..600));
        fragments.lose(700..1000);
        assert!(!fragments.has_queued());
        fragments.arrive(0..1000);
        assert!(fragments.is_arrived());
    }
}
