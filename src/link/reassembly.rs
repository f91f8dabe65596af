//! Reassembly of fragmented messages (LINK-13). The other side fills this memory, so it is bounded:
//! by the declared length, in gaps, in concurrent messages and in time.

use alloc::{collections::BTreeMap, vec, vec::Vec};
use core::ops::Range;

use smallvec::SmallVec;

use super::{
    limits::{ASSEMBLIES_MAX, ASSEMBLY_PATIENCE, PIECES_MAX},
    ranges::Ranges,
    time::{Time, earliest},
};
use crate::wire::MessageId;

#[derive(Clone, Debug)]
struct Reassembly {
    bytes: Vec<u8>,
    arrived: Ranges,
    progress: Time,
}

/// The messages that have partly arrived.
#[derive(Clone, Debug)]
pub struct Reassembler {
    by_message: BTreeMap<MessageId, Reassembly>,
    /// The bytes that concurrent reassemblies may hold.
    limit: usize,
}

/// A fragment of a message.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    /// The message.
    pub message: MessageId,
    /// The length of the whole message, in bytes.
    pub total: u64,
    /// The offset of the fragment in the message, in bytes.
    pub offset: u64,
    /// The bytes of the fragment.
    pub bytes: &'a [u8],
}

impl Fragment<'_> {
    /// The bytes of the message that it contains.
    const fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.bytes.len() as u64
    }
}

/// The messages that one packet begins, and their lengths.
#[derive(Debug, Default)]
pub struct Begun(SmallVec<[(MessageId, usize); ASSEMBLIES_MAX]>);

/// The result of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reassembled {
    /// More fragments are missing.
    Partly,
    /// The message is complete.
    Whole(Vec<u8>),
}

impl Reassembler {
    /// Creates an empty reassembler that holds at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            by_message: BTreeMap::new(),
            limit,
        }
    }

    /// True if no message is being reassembled.
    pub fn is_empty(&self) -> bool {
        self.by_message.is_empty()
    }

    /// The number of bytes held.
    pub fn held(&self) -> usize {
        self.by_message.values().map(|one| one.bytes.len()).sum()
    }

    /// The total memory in bytes, including the record of received ranges.
    pub fn memory(&self) -> usize {
        let pieces = self.by_message.values().map(|one| one.arrived.memory());
        self.held() + pieces.sum::<usize>()
    }

    /// The number of bytes that may be held.
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Sets how many bytes may be held.
    pub const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// True if a fragment can be accepted beside the messages that its packet begins; it is added
    /// to them. A refused fragment counts as lost.
    pub fn takes(&self, begun: &mut Begun, fragment: &Fragment<'_>) -> bool {
        let message = fragment.message;
        if let Some(known) = self.by_message.get(&message) {
            return known.bytes.len() as u64 == fragment.total
                && known.arrived.count_with(&fragment.range()) <= PIECES_MAX;
        }
        let total = usize::try_from(fragment.total).unwrap_or(usize::MAX);
        if let Some((_, of_known)) = begun.0.iter().find(|(known, _)| *known == message) {
            return *of_known == total;
        }
        let others: usize = begun.0.iter().map(|(_, total)| total).sum();
        let given_up = self
            .given_up(message)
            .and_then(|one| self.by_message.get(&one));
        let freed = given_up.map_or(0, |one| one.bytes.len());
        let kept = self.by_message.len() - usize::from(given_up.is_some());
        let held = self.held() - freed;
        let fits = kept + begun.0.len() < ASSEMBLIES_MAX
            && held.saturating_add(others).saturating_add(total) <= self.limit;
        if fits {
            begun.0.push((message, total));
        }
        fits
    }

    /// Returns the request that is dropped for another. A sender that begins a third request has
    /// given up one of two, at its deadline. It is the request without a new fragment for longest.
    /// If the choice was wrong, all of it is sent again. Fragments of an abandoned request may
    /// arrive late: they displace no later request. Replies and events are never late: a complete
    /// message does not begin again.
    fn given_up(&self, message: MessageId) -> Option<MessageId> {
        let is_full = self.by_message.len() >= ASSEMBLIES_MAX;
        let is_new = is_full && !self.by_message.contains_key(&message);
        let earlier = self
            .by_message
            .iter()
            .filter(|(one, _)| is_request(one) && (!is_request(&message) || **one < message));
        let oldest = earlier
            .filter(|_| is_new)
            .min_by_key(|(_, one)| one.progress);
        oldest.map(|(one, _)| *one)
    }

    /// Stores a fragment that [`Reassembler::takes`] accepts.
    pub fn take(&mut self, now: Time, fragment: &Fragment<'_>) -> Reassembled {
        let Fragment {
            message,
            total,
            offset,
            bytes: part,
        } = *fragment;
        let Ok(len) = usize::try_from(total) else {
            debug_assert!(false, "a message of {total} bytes was accepted");
            return Reassembled::Partly;
        };
        if let Some(given_up) = self.given_up(message) {
            self.by_message.remove(&given_up);
        }
        let one = self
            .by_message
            .entry(message)
            .or_insert_with(|| Reassembly {
                bytes: vec![0; len],
                arrived: Ranges::default(),
                progress: now,
            });
        let range = fragment.range();
        if !one.arrived.covers(&range) {
            one.progress = now;
        }
        if range.end <= total {
            // A fragment only fills gaps: it never changes received bytes.
            let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
            let (mut from, end) = (offset, range.end);
            let starts_and_ends = one.arrived.iter().map(|known| (known.start, known.end));
            for (start, next) in starts_and_ends.chain([(end, end)]) {
                let to = start.min(end);
                let bytes = part.get(at(from - offset)..at(to.saturating_sub(offset)));
                let target = one.bytes.get_mut(at(from)..at(to));
                if let Some((target, bytes)) = target.zip(bytes) {
                    target.copy_from_slice(bytes);
                }
                from = from.max(next);
            }
            one.arrived.insert(range);
        }
        if !one.arrived.covers(&(0..total)) {
            return Reassembled::Partly;
        }
        let whole = core::mem::take(&mut one.bytes);
        self.by_message.remove(&message);
        Reassembled::Whole(whole)
    }

    /// Forgets a message that is no longer awaited.
    pub fn forget(&mut self, message: MessageId) {
        self.by_message.remove(&message);
    }

    /// When a message expires.
    pub fn timeout(&self) -> Option<Time> {
        let requests = self.by_message.iter();
        let requests = requests.filter(|(message, _)| is_request(message));
        let ends = requests.map(|(_, one)| one.progress + ASSEMBLY_PATIENCE);
        ends.fold(None, |soonest, end| earliest(soonest, Some(end)))
    }

    /// Advances time: drops expired messages.
    pub fn expire(&mut self, now: Time) {
        self.by_message
            .retain(|message, one| !is_request(message) || one.progress + ASSEMBLY_PATIENCE > now);
    }
}

const fn is_request(message: &MessageId) -> bool {
    matches!(message, MessageId::Request(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{EventId, RequestId};

    fn assemblies() -> Reassembler {
        Reassembler::new(1000)
    }

    const fn fragment(message: MessageId, total: u64, offset: u64, bytes: &[u8]) -> Fragment<'_> {
        Fragment {
            message,
            total,
            offset,
            bytes,
        }
    }

    /// True if a fragment that is alone in its packet is accepted.
    fn takes(all: &Reassembler, message: MessageId, total: u64, offset: u64, len: usize) -> bool {
        let bytes = vec![0; len];
        all.takes(
            &mut Begun::default(),
            &fragment(message, total, offset, &bytes),
        )
    }

    impl Reassembler {
        fn take_part(
            &mut self,
            now: Time,
            message: MessageId,
            total: u64,
            offset: u64,
            part: &[u8],
        ) -> Reassembled {
            self.take(now, &fragment(message, total, offset, part))
        }
    }

    /// LINK-13: the bounds hold for all messages that one packet begins. Found by the fuzzer: each
    /// of several such messages had room, but not all together.
    #[test]
    fn reassembly_bounds_hold_for_all_messages_begun_by_one_packet() {
        let all = assemblies();
        let mut begun = Begun::default();
        let mut takes = |number, total, offset| {
            let message = MessageId::Request(RequestId(number));
            all.takes(&mut begun, &fragment(message, total, offset, b"x"))
        };
        assert!(takes(1, 400, 0));
        assert!(takes(1, 400, 7), "more of it");
        assert!(!takes(1, 300, 7), "another length");
        assert!(!takes(2, 601, 0), "too much together");
        assert!(takes(2, 600, 0));
        assert!(!takes(3, 0, 0), "too many");
    }

    /// LINK-13: fragments in any order, also repeated, give the message.
    #[test]
    fn reassembly_of_fragments_in_any_order_gives_message() {
        let mut all = assemblies();
        let message = MessageId::Request(RequestId(7));
        for (offset, part) in [(6, &b"world"[..]), (0, b"hel"), (6, b"world")] {
            assert!(takes(&all, message, 11, offset, part.len()));
            let taken = all.take_part(Time(0), message, 11, offset, part);
            assert_eq!(taken, Reassembled::Partly);
        }
        assert_eq!(all.held(), 11);
        let taken = all.take_part(Time(0), message, 11, 2, b"llo ");
        assert_eq!(taken, Reassembled::Whole(b"hello world".to_vec()));
        assert_eq!(all.held(), 0);
    }

    /// LINK-13: an overlapping fragment fills gaps and changes no received byte.
    #[test]
    fn reassembly_of_overlapping_fragment_changes_no_received_byte() {
        let mut all = assemblies();
        let message = MessageId::Request(RequestId(7));
        for (offset, part) in [(0, &b"he"[..]), (4, b"o w"), (1, b"XllXXXo"), (0, b"XX")] {
            assert!(takes(&all, message, 11, offset, part.len()));
            let taken = all.take_part(Time(0), message, 11, offset, part);
            assert_eq!(taken, Reassembled::Partly);
        }
        let taken = all.take_part(Time(0), message, 11, 6, b"XXrld");
        assert_eq!(taken, Reassembled::Whole(b"hello world".to_vec()));
    }

    /// LINK-13: abandoned requests make room. Requests that were given up at their deadlines kept
    /// both places for 15 min, and no other long request got through.
    #[test]
    fn reassembly_of_abandoned_requests_makes_room() {
        let mut all = assemblies();
        let id = |number| MessageId::Request(RequestId(number));
        let begin = |all: &mut Reassembler, seconds: u64, number, total| {
            assert!(takes(all, id(number), total, 0, 1));
            let taken = all.take_part(Time(seconds), id(number), total, 0, b"x");
            assert_eq!(taken, Reassembled::Partly);
        };
        begin(&mut all, 1, 2, 400);
        begin(&mut all, 2, 3, 600);
        begin(&mut all, 3, 4, 400);
        assert!(all.by_message.keys().copied().eq([3, 4].map(id)));
        assert!(!takes(&all, id(2), 400, 1, 1), "late");
        assert!(!takes(&all, id(5), 700, 0, 1), "too much together");
        assert!(takes(&all, MessageId::Reply(RequestId(1)), 10, 0, 1));
        begin(&mut all, 4, 5, 600);
        assert!(all.by_message.keys().copied().eq([4, 5].map(id)));
    }

    /// LINK-13: every bound holds.
    #[test]
    fn reassembly_memory_count_and_time_are_bounded() {
        let mut all = assemblies();
        assert!(
            !takes(&all, MessageId::Request(RequestId(1)), 1001, 0, 10),
            "too long"
        );
        assert!(!takes(
            &all,
            MessageId::Request(RequestId(1)),
            u64::MAX,
            0,
            10
        ));
        all.take_part(Time(0), MessageId::Request(RequestId(1)), 400, 0, b"x");
        assert!(
            !takes(&all, MessageId::Request(RequestId(1)), 401, 0, 1),
            "another length"
        );
        assert!(
            !takes(&all, MessageId::Request(RequestId(2)), 601, 0, 1),
            "too much together"
        );
        all.take_part(Time(5), MessageId::Event(EventId(1)), 400, 0, b"x");
        assert!(
            !takes(&all, MessageId::Request(RequestId(0)), 10, 0, 1),
            "too many"
        );
        for piece in 1..64 {
            assert!(takes(
                &all,
                MessageId::Request(RequestId(1)),
                400,
                piece * 2,
                1
            ));
            all.take_part(
                Time(0),
                MessageId::Request(RequestId(1)),
                400,
                piece * 2,
                b"x",
            );
        }
        assert!(
            !takes(&all, MessageId::Request(RequestId(1)), 400, 200, 1),
            "too many pieces"
        );
        assert!(
            takes(&all, MessageId::Request(RequestId(1)), 400, 1, 1),
            "one that closes a gap"
        );
        let end = all.timeout().unwrap();
        assert_eq!(end, Time(0) + ASSEMBLY_PATIENCE);
        all.expire(end);
        assert_eq!(all.held(), 400);
        assert!(takes(&all, MessageId::Reply(RequestId(3)), 10, 0, 1));
        // Found by the simulator: with round trips of two minutes the fragments of an event arrived
        // further apart than that. They were forgotten, and never sent again.
        assert_eq!(all.timeout(), None);
        all.expire(end + ASSEMBLY_PATIENCE * 100);
        assert_eq!(all.held(), 400, "the event");
    }
}
