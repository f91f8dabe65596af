//! A message longer than a datagram, divided into fragments as they are sent (LINK-13). Each
//! transmission divides it anew, so that a lost fragment may be sent again in smaller ones.

use alloc::vec::Vec;
use core::ops::Range;

use crate::link::ranges::Ranges;

/// A long message in flight.
#[derive(Clone, Debug)]
pub struct Fragments {
    bytes: Vec<u8>,
    /// The first byte that was never sent.
    next: u64,
    lost: Ranges,
    arrived: Ranges,
}
impl Fragments {
    /// Creates the state of a message that was not sent yet.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            next: 0,
            lost: Ranges::default(),
            arrived: Ranges::default(),
        }
    }

    /// The length of the whole message in bytes.
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The length of the whole message.
    pub const fn total(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The whole message.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// True if some of it was sent.
    pub const fn is_begun(&self) -> bool {
        self.next > 0
    }

    /// True if some of it was lost and nothing has arrived: the other side may have no room for it.
    pub fn is_doubtful(&self) -> bool {
        self.arrived.is_empty() && !self.lost.is_empty()
    }

    /// True if a fragment is queued.
    pub fn has_queued(&self) -> bool {
        self.next < self.total() || !self.lost.is_empty()
    }

    /// The number of bytes queued.
    pub fn queued_len(&self) -> u64 {
        let lost = self.lost.iter().map(|range| range.end - range.start);
        lost.sum::<u64>() + (self.total() - self.next)
    }

    /// True if all of it has arrived.
    pub fn is_arrived(&self) -> bool {
        self.arrived.covers(&(0..self.total()))
    }

    /// Returns the next fragment, of at most `max_len` bytes: lost bytes before new ones.
    pub fn next_part(&self, max_len: usize) -> Option<(u64, &[u8])> {
        let range = match self.lost.first() {
            Some(lost) => lost,
            None if self.next < self.total() => self.next..self.total(),
            None => return None,
        };
        let end = range.end.min(range.start + max_len as u64);
        let slice = |n: u64| usize::try_from(n).ok();
        let part = self.bytes.get(slice(range.start)?..slice(end)?)?;
        (!part.is_empty()).then_some((range.start, part))
    }

    /// Notes that a fragment was sent.
    pub fn sent(&mut self, part: &Range<u64>) {
        self.lost.remove(part);
        self.next = self.next.max(part.end);
    }

    /// Limits a fragment to the length of this message. An earlier, longer message may have had the
    /// same number, with a fragment still in flight.
    fn within(&self, part: Range<u64>) -> Range<u64> {
        let total = self.total();
        part.start.min(total)..part.end.min(total)
    }

    /// Notes that a fragment has arrived.
    pub fn arrive(&mut self, part: Range<u64>) {
        let part = self.within(part);
        self.lost.remove(&part);
        self.arrived.insert(part);
    }

    /// Notes that a fragment is lost.
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

    /// Queues all of it again.
    pub fn restart(&mut self) {
        *self = Self::new(core::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    /// LINK-13: all of the message arrives, whatever is lost and however small the fragments
    /// become.
    #[test]
    fn fragments_lost_are_made_again_and_message_arrives_whole() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let (mut fragments, mut got) = (Fragments::new(bytes.clone()), vec![0; 1000]);
        let mut sent = 0;
        while fragments.has_queued() {
            let max_len = if sent < 4 { 300 } else { 70 };
            let (offset, part) = fragments.next_part(max_len).unwrap();
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

    /// LINK-13: a fragment of an earlier, longer message with the same number does not belong to
    /// this one. Such a fragment was awaited endlessly, and nothing could be sent.
    #[test]
    fn fragments_of_other_message_are_not_sent_again() {
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
