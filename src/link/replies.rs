//! The other side's requests, and this side's replies. A request in work is not started twice, and
//! a lost reply is sent again from memory (LINK-9). The retransmission queue holds the replies that
//! are queued or that this side retransmits.

use alloc::{collections::VecDeque, vec::Vec};

use super::{
    BURST, FEW,
    limits::{LEAVING_ALL_MAX, LEAVING_MAX, REPLIES_HELD_MAX, REPLY_KEPT_BYTES, WORKING_MAX},
    queue::{Entry, Item, Queue, SentReply},
    sorted_map::{Sorted, sorted},
};
use crate::wire::RequestId;

/// A reply that was sent this often and is requested again becomes announced.
const LOST_AFTER: u32 = 2;

/// The other side's requests and this side's replies to them.
#[derive(Clone, Debug, Default)]
pub struct Replies {
    /// Requests in work, and whether the other side knows that they have arrived.
    working: Vec<(RequestId, bool)>,
    /// All requests from this number on are new.
    next: u64,
    /// Sent replies, kept in case they are requested again; the oldest first.
    kept: VecDeque<SentReply>,
    /// Bytes of the kept replies.
    kept_bytes: usize,
    /// The number of kept replies that are announced.
    kept_announced: usize,
}

/// What to do with a request that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is new: execute it.
    New,
    /// It is in work, or its reply is queued again.
    Known,
    /// Too many are in work: it counts as lost.
    Refused,
}

impl Replies {
    /// All requests from this number on are new.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Restores the state of a dormant link, without replies.
    pub fn from_dormant(next: u64) -> Self {
        Self {
            next,
            ..Self::default()
        }
    }

    /// Handles the arrival of a request.
    pub fn arrive(&mut self, queue: &mut Queue, id: RequestId) -> Arrival {
        if id.0 < self.next {
            if self.is_worked_on(id) {
                return Arrival::Known;
            }
            if let Some(reply) = self.wake(queue, id) {
                reply.queue();
                // It was lost more than once: this side retransmits it from here on.
                if reply.count() >= LOST_AFTER {
                    reply.announce();
                }
                return Arrival::Known;
            }
        }
        if self.working.len() >= WORKING_MAX || !Self::has_room(queue) {
            return Arrival::Refused;
        }
        self.next = self.next.max(id.0.saturating_add(1));
        self.working.push((id, false));
        Arrival::New
    }

    /// True while the unacknowledged replies leave room for more.
    fn has_room(queue: &Queue) -> bool {
        queue.held_replies() < REPLIES_HELD_MAX && queue.replies().count() < LEAVING_ALL_MAX
    }

    /// True if none of these requests of one packet would be refused.
    pub fn has_room_for(&self, queue: &Queue, ids: &[RequestId]) -> bool {
        let has_room = Self::has_room(queue);
        let free = WORKING_MAX.saturating_sub(self.working.len());
        // Usually there is room for all, known or not.
        (has_room && ids.len() <= free) || {
            let new = ids.iter().filter(|id| !self.knows(queue, **id)).count();
            new == 0 || (has_room && new <= free)
        }
    }

    fn is_worked_on(&self, id: RequestId) -> bool {
        self.working.iter().any(|(working, _)| *working == id)
    }

    /// Returns the reply to `id`, after moving it into the queue.
    fn wake<'a>(&mut self, queue: &'a mut Queue, id: RequestId) -> Option<&'a mut Entry> {
        if let Some(at) = self.kept.iter().position(|kept| kept.id == id)
            && let Some(kept) = self.kept.remove(at)
        {
            self.keeps_no_more(&kept);
            queue.restore_reply(kept);
        }
        queue.get_mut(Item::reply(id))
    }

    const fn keeps_no_more(&mut self, kept: &SentReply) {
        self.kept_bytes -= kept.bytes.len();
        self.kept_announced -= kept.announced as usize;
    }

    /// Moves small idle replies from the queue to the kept ones. Returns the requests of the
    /// dropped replies that, as far as is known, have not arrived: if repeated, they are executed
    /// again (LINK-9).
    pub fn archive_replies(&mut self, queue: &mut Queue) -> Vec<RequestId> {
        let mut forgotten = Vec::new();
        queue.drain_idle_replies(|reply| {
            if reply.bytes.len() <= REPLY_KEPT_BYTES {
                self.kept_bytes += reply.bytes.len();
                self.kept_announced += usize::from(reply.announced);
                self.kept.push_back(reply);
            } else if reply.announced {
                forgotten.push(reply.id);
            }
        });
        forgotten
    }

    /// Memory of the kept replies and the requests in work, in bytes.
    pub fn memory(&self) -> usize {
        let working = self.working.capacity().saturating_sub(FEW) * size_of::<(RequestId, bool)>();
        self.kept.len() * size_of::<SentReply>() + working + self.kept_bytes
    }

    /// Stores the reply to a request in work; at most `kept` are held. False if the request is not
    /// in work.
    pub fn reply(&mut self, queue: &mut Queue, id: RequestId, bytes: Vec<u8>, kept: usize) -> bool {
        let mut working = self.working.iter();
        let Some(at) = working.position(|(working, _)| *working == id) else {
            return false;
        };
        let (_, announced) = self.working.swap_remove(at);
        if self.working.is_empty() && self.working.capacity() > BURST {
            self.working = Vec::new();
        }
        let leaving = queue.replies().count();
        if leaving >= LEAVING_MAX {
            self.see_to_fewer(queue);
        }
        // The oldest sent reply makes room; an unsent one is never dropped.
        if leaving + self.kept.len() >= kept
            && let Some(oldest) = self.kept.pop_front()
        {
            self.keeps_no_more(&oldest);
        }
        queue.push_reply(id, bytes, announced);
        true
    }

    /// Stops retransmitting the oldest small sent reply, and keeps it no longer than others. Its
    /// receiver acknowledges nothing, so the replies to retransmit would grow without bound.
    fn see_to_fewer(&mut self, queue: &mut Queue) {
        if queue.stop_oldest_small_reply() {
            self.archive_replies(queue);
        }
    }

    /// The number of requests in work.
    pub fn working(&self) -> usize {
        self.working.len()
    }

    /// True if requests are in work.
    pub const fn is_working(&self) -> bool {
        !self.working.is_empty()
    }

    /// Returns the requests, sorted, whose replies cannot be lost unnoticed: replies not yet sent,
    /// or retransmitted by this side.
    pub fn unmissable(&self, queue: &Queue) -> Sorted<RequestId> {
        let working = self.working.iter().map(|(id, _)| *id);
        // The kept replies are many, and few or none of them are announced.
        let kept = (self.kept_announced > 0).then_some(&self.kept);
        let kept = kept.into_iter().flatten().filter(|kept| kept.announced);
        let leaving = queue.unmissable_replies();
        sorted(working.chain(leaving).chain(kept.map(|kept| kept.id)))
    }

    /// Notes that the other side is told that all its requests have arrived.
    pub fn announce(&mut self) {
        for (_, announced) in &mut self.working {
            *announced = true;
        }
    }

    /// True if the request `id` is in work, or its reply is held.
    pub fn knows(&self, queue: &Queue, id: RequestId) -> bool {
        self.is_worked_on(id)
            || self.kept.iter().any(|kept| kept.id == id)
            || queue.get(Item::reply(id)).is_some()
    }

    /// Notes that the reply to `id` has arrived.
    pub fn acknowledge(&mut self, queue: &mut Queue, id: RequestId) {
        let Some(reply) = self.wake(queue, id) else {
            return;
        };
        if reply.is_fragmented() {
            // The whole reply or all its fragments have arrived: nothing of it is kept.
            queue.remove(Item::reply(id));
            return;
        }
        reply.reply_arrived();
        self.archive_replies(queue);
    }

    /// Notes that the packet with the reply to `id` is lost. Returns the same as
    /// [`Replies::archive_replies`].
    pub fn lost(&mut self, queue: &mut Queue, id: RequestId) -> Vec<RequestId> {
        if self.wake(queue, id).is_some() {
            queue.lost(Item::reply(id));
        }
        self.archive_replies(queue)
    }

    /// Asserts that the counts of the kept replies are right.
    pub fn check(&self) {
        let bytes: usize = self.kept.iter().map(|kept| kept.bytes.len()).sum();
        debug_assert_eq!(self.kept_bytes, bytes, "bytes of replies are miscounted");
        let announced = self.kept.iter().filter(|kept| kept.announced);
        debug_assert_eq!(
            self.kept_announced,
            announced.count(),
            "announced replies are miscounted"
        );
        let are_old = self.working.iter().all(|(id, _)| id.0 < self.next);
        debug_assert!(are_old, "a request is in work and counts as new");
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::{
        super::{
            backoff::Jitter,
            limits::{REPLIES_KEPT, STRANGER_REPLIES_KEPT},
            queue::{Lossy, REPEATS_MAX},
            rtt::{COPY_GAP, Rtt},
            time::Time,
        },
        *,
    };

    struct Responder {
        queue: Queue,
        replies: Replies,
        rtt: Rtt,
        jitter: Jitter,
    }

    impl Responder {
        fn new(rtt: Rtt) -> Self {
            Self {
                queue: Queue::default(),
                replies: Replies::default(),
                rtt,
                jitter: Jitter::new(1),
            }
        }

        fn arrive(&mut self, id: u64) -> Arrival {
            self.replies.arrive(&mut self.queue, RequestId(id))
        }

        fn reply(&mut self, id: u64, bytes: Vec<u8>, kept: usize) -> bool {
            self.replies
                .reply(&mut self.queue, RequestId(id), bytes, kept)
        }

        fn queued(&self) -> Vec<Item> {
            self.queue.queued().map(Entry::item).collect()
        }

        /// Sends all queued items in one packet.
        fn send(&mut self, now: Time, lossy: Option<Lossy>) {
            let items = self.queued();
            self.queue
                .sent(now, &items, &self.rtt, &mut self.jitter, lossy);
            self.replies.archive_replies(&mut self.queue);
        }

        fn lose(&mut self, id: u64) {
            self.replies.lost(&mut self.queue, RequestId(id));
        }

        fn acknowledge(&mut self, id: u64) {
            self.replies.acknowledge(&mut self.queue, RequestId(id));
        }

        fn knows(&self, id: u64) -> bool {
            self.replies.knows(&self.queue, RequestId(id))
        }
    }

    /// LINK-9: a request is executed once, and its reply is sent again.
    #[test]
    fn dedup_repeated_request_is_executed_once_and_reply_sent_again() {
        let mut responder = Responder::new(Rtt::default());
        assert_eq!(responder.arrive(7), Arrival::New);
        assert_eq!(responder.arrive(7), Arrival::Known);
        assert!(responder.reply(7, vec![1], REPLIES_KEPT));
        assert!(!responder.reply(7, vec![2], REPLIES_KEPT));
        responder.send(Time(0), None);
        assert!(responder.queued().is_empty());
        assert_eq!(responder.arrive(7), Arrival::Known);
        assert_eq!(responder.queued(), [Item::reply(RequestId(7))]);
    }

    #[test]
    fn replies_kept_in_memory_are_bounded() {
        let mut responder = Responder::new(Rtt::default());
        for number in 0..300 {
            responder.arrive(number);
            responder.reply(number, vec![0], REPLIES_KEPT);
            responder.send(Time(0), None);
        }
        assert_eq!(responder.replies.kept.len(), REPLIES_KEPT);
        assert!(responder.queue.is_empty());
        for number in 1000..1300 {
            responder.arrive(number);
        }
        assert_eq!(responder.replies.working.len(), WORKING_MAX);
        assert_eq!(responder.arrive(5000), Arrival::Refused);
    }

    /// LINK-9: if replies are never acknowledged, the youngest are retransmitted, and the others
    /// are sent on request.
    #[test]
    fn replies_never_acknowledged_are_bounded() {
        let mut responder = Responder::new(Rtt::default());
        for number in 0..10_000 {
            assert_eq!(responder.arrive(number), Arrival::New);
            responder.replies.announce();
            responder.reply(number, vec![0], REPLIES_KEPT);
            responder.send(Time(0), None);
        }
        let leaving = responder.queue.replies().count();
        assert!(
            (LEAVING_MAX / 2..=LEAVING_MAX).contains(&leaving),
            "{leaving}"
        );
        assert!(responder.replies.kept.len() <= REPLIES_KEPT);
        // If no reply can be sent, no further request is accepted.
        let mut responder = Responder::new(Rtt::default());
        let mut number = 0;
        while responder.arrive(number) == Arrival::New {
            responder.reply(number, vec![0], REPLIES_KEPT);
            number += 1;
        }
        assert_eq!(number, LEAVING_ALL_MAX as u64);
    }

    /// LINK-9: a known request needs no room.
    #[test]
    fn replies_without_room_still_accept_known_requests() {
        let mut responder = Responder::new(Rtt::default());
        for number in 0..WORKING_MAX as u64 {
            responder.arrive(number);
        }
        let takes = |responder: &Responder, ids: &[u64]| {
            let ids: Vec<RequestId> = ids.iter().copied().map(RequestId).collect();
            responder.replies.has_room_for(&responder.queue, &ids)
        };
        assert!(takes(&responder, &[2, 3, 127]));
        assert!(!takes(&responder, &[2, 128]));
        responder.reply(2, vec![1], REPLIES_KEPT);
        assert!(takes(&responder, &[2, 3, 128]));
        assert!(!takes(&responder, &[128, 129]));
    }

    /// LINK-9: long unacknowledged replies block further requests.
    #[test]
    fn replies_long_and_unacknowledged_block_further_requests() {
        let mut responder = Responder::new(Rtt::default());
        let mut number = 0;
        while responder.arrive(number) == Arrival::New {
            responder.replies.announce();
            responder.reply(number, vec![0; 60_000], REPLIES_KEPT);
            responder.queue.fragment(1000);
            number += 1;
        }
        assert_eq!(number, 5, "{} bytes", responder.queue.held_replies());
        responder.acknowledge(0);
        assert_eq!(responder.arrive(number), Arrival::New);
        // Few replies to a stranger are kept.
        let mut responder = Responder::new(Rtt::default());
        for number in 0..100 {
            responder.arrive(number);
            responder.reply(number, vec![0], STRANGER_REPLIES_KEPT);
            responder.send(Time(0), None);
        }
        assert_eq!(responder.replies.kept.len(), STRANGER_REPLIES_KEPT);
    }

    #[test]
    fn replies_too_long_are_not_kept() {
        let mut responder = Responder::new(Rtt::default());
        responder.arrive(1);
        responder.reply(1, vec![0; REPLY_KEPT_BYTES + 1], REPLIES_KEPT);
        responder.send(Time(0), None);
        assert_eq!(responder.arrive(1), Arrival::New);
    }

    /// LINK-19: many replies in one packet are sent twice at high loss.
    #[test]
    fn redundancy_sends_many_replies_in_one_packet_twice_at_high_loss() {
        let rtt = Rtt::remembered(core::time::Duration::from_millis(80));
        let lossy = Some(Lossy { small: true });
        for (count, lossy, times) in [(4, lossy, 2), (4, None, 1), (3, lossy, 1)] {
            let mut responder = Responder::new(rtt.clone());
            for number in 0..count {
                responder.arrive(number);
                responder.reply(number, vec![1], REPLIES_KEPT);
            }
            let mut left = 0;
            let mut now = Time(0);
            while !responder.queued().is_empty() {
                responder.send(now, lossy);
                left += 1;
                if let Some(next) = responder.queue.timeout() {
                    assert_eq!(next - now, rtt.smoothed().unwrap() / COPY_GAP);
                    now = next;
                    responder.queue.expire(now);
                }
            }
            assert_eq!(left, times, "{count} {lossy:?}");
        }
    }

    /// LINK-13: a fragmented reply is sent in fragments only. Found by the simulator: a reply was
    /// sent whole, and in fragments after the path became smaller. When the first packet counted as
    /// lost, it was sent again, empty.
    #[test]
    fn fragments_of_reply_are_its_only_way_out() {
        let mut responder = Responder::new(Rtt::remembered(core::time::Duration::from_millis(80)));
        let numbers = [0, 1, 2, 3];
        for number in numbers {
            responder.arrive(number);
            responder.replies.announce();
            responder.reply(number, vec![1; 400], REPLIES_KEPT);
        }
        responder.send(Time(0), Some(Lossy { small: true }));
        for number in numbers {
            responder.lose(number);
        }
        responder.queue.fragment(100);
        for number in numbers {
            responder.lose(number);
        }
        responder.queue.expire(Time(u64::MAX));
        assert!(numbers.map(|number| responder.arrive(number)) == [Arrival::Known; 4]);
        assert!(responder.queued().is_empty() && responder.queue.timeout().is_none());
        // The arrival of the first packet ends it.
        responder.acknowledge(3);
        assert!(!responder.knows(3) && responder.knows(2));
    }

    proptest! {
        /// LINK-5: the result equals a lookup for each request. The ids are few, so that they
        /// collide.
        #[test]
        fn replies_unmissable_ids_equal_lookup_per_request(steps in prop::collection::vec((0u8..9, 0u64..24), 1..200)) {
            let mut responder = Responder::new(Rtt::default());
            for (at, (step, number)) in steps.into_iter().enumerate() {
                // The steps are far enough apart for announced replies to exhaust their
                // retransmissions.
                let now = Time(at as u64 * 1_000_000_000);
                match step {
                    0 => { responder.arrive(number); }
                    1 | 2 => { responder.reply(number, vec![1; 20], 12); }
                    3 | 4 => responder.send(now, None),
                    5 => responder.replies.announce(),
                    6 => responder.acknowledge(number),
                    7 => responder.lose(number),
                    8 if number == 0 => responder.queue.fragment(10),
                    _ => { responder.queue.expire(now); }
                }
                let Responder { queue, replies, .. } = &responder;
                let unmissable = replies.unmissable(queue);
                for number in 0..24 {
                    let id = RequestId(number);
                    let leaves = queue.get(Item::reply(id)).is_some_and(|reply| {
                        reply.is_queued() || reply.is_fragmented() || reply.is_announced()
                    });
                    let is_kept = |kept: &SentReply| kept.id == id && kept.announced;
                    let expected = replies.is_worked_on(id)
                        || leaves
                        || replies.kept.iter().any(is_kept);
                    prop_assert_eq!(unmissable.binary_search(&id).is_ok(), expected);
                }
                prop_assert_eq!(replies.kept_bytes, 20 * replies.kept.len());
                let announced = replies.kept.iter().filter(|kept| kept.announced);
                prop_assert_eq!(replies.kept_announced, announced.count());
            }
        }
    }

    /// LINK-12: an announced reply is sent until it is acknowledged, because its requester does not
    /// repeat the request soon.
    #[test]
    fn retransmission_of_announced_reply_ends_with_acknowledgement() {
        let mut responder = Responder::new(Rtt::default());
        responder.arrive(7);
        responder.replies.announce();
        responder.reply(7, vec![1], REPLIES_KEPT);
        for _ in 0..3 {
            assert!(!responder.queued().is_empty());
            responder.send(Time(0), None);
            assert!(responder.queued().is_empty());
            let again = responder.queue.timeout().unwrap();
            responder.queue.expire(again);
        }
        responder.acknowledge(7);
        assert!(responder.queue.is_empty() && responder.knows(7));
        // Without an acknowledgement a reply is not sent forever.
        responder.arrive(8);
        responder.replies.announce();
        responder.reply(8, vec![1], REPLIES_KEPT);
        let mut sent = 0;
        while !responder.queued().is_empty() {
            responder.send(Time(0), None);
            sent += 1;
            responder.queue.expire(Time(u64::MAX));
        }
        assert_eq!(sent, REPEATS_MAX + 1);
    }
}
