//! The other side's requests, and our replies: a request being worked on is not started twice, and a
//! reply that was lost is sent again from memory (LINK-9).

use alloc::{collections::VecDeque, vec::Vec};

use super::{
    BURST, FEW,
    backoff::Jitter,
    limits::{REPLIES_HELD_MAX, REPLY_KEPT_BYTES, WORKING_MAX},
    requests::COPY_GAP,
    rtt::Rtt,
    sorted::{Sorted, sorted},
    time::{Time, earliest},
};

/// A reply that has left so often and is asked for again is announced.
const LOST_AFTER: u32 = 2;
/// A reply that has been announced is sent again so often at most; then the other side has to ask.
const REPEATS_MAX: u32 = 8;
/// Where much is lost, so many replies or more in one packet leave twice: to ask for all of them again costs more.
const COPIED_TOGETHER: usize = 4;

#[derive(Clone, Debug)]
struct Reply {
    number: u64,
    len: usize,
    bytes: Vec<u8>,
    queued: bool,
    /// The other side knows that its request has arrived and does not repeat it soon: it is for this
    /// side to see that the reply arrives.
    announced: bool,
    /// How often it has left.
    times_sent: u32,
    repeats: u32,
    /// When to send it again.
    again: Option<Time>,
    /// When to send a copy of what has just left, and whether that is what is queued.
    copy: Option<Time>,
    is_copy: bool,
    /// It leaves in parts, which hold its bytes.
    cut: bool,
}

impl Reply {
    /// It should leave (again), unless it leaves in parts: then there is nothing of it here to be sent.
    const fn queue(&mut self, is_copy: bool) {
        if !self.cut {
            (self.queued, self.is_copy) = (true, is_copy);
        }
    }
}

/// The other side's requests and our replies to them.
#[derive(Clone, Debug, Default)]
pub struct Replies {
    /// Requests being worked on, and whether the other side knows that they have arrived.
    working: Vec<(u64, bool)>,
    /// All requests from this number on are new.
    next: u64,
    /// Replies that have to leave, or that this side sees to.
    active: Vec<Reply>,
    /// Replies that have left, in case they are asked for again; the oldest first.
    kept: VecDeque<Reply>,
    /// Bytes of those.
    kept_bytes: usize,
    /// How many of those have been announced.
    kept_announced: usize,
}

/// What to do with a request that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is new: do it.
    New,
    /// It is being worked on, or its reply is queued again.
    Known,
    /// Too many are being worked on: it counts as lost.
    Refused,
}

impl Replies {
    /// True when no request is worked on, and no reply has to leave any more.
    pub fn may_rest(&self) -> bool {
        self.working.is_empty() && self.active.is_empty()
    }

    /// All requests from this number on are new.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// No replies, of a link that has rested.
    pub fn woken(next: u64) -> Self {
        Self {
            next,
            ..Self::default()
        }
    }

    /// A request has arrived.
    pub fn arrive(&mut self, number: u64) -> Arrival {
        if number < self.next {
            if self.is_worked_on(number) {
                return Arrival::Known;
            }
            if let Some(reply) = self.wake(number) {
                reply.queue(false);
                // It has been lost more than once: its sender sees to it from here on.
                reply.announced |= reply.times_sent >= LOST_AFTER;
                return Arrival::Known;
            }
        }
        if self.working.len() >= WORKING_MAX || self.held() >= REPLIES_HELD_MAX {
            return Arrival::Refused;
        }
        self.next = self.next.max(number.saturating_add(1));
        self.working.push((number, false));
        Arrival::New
    }

    fn is_worked_on(&self, number: u64) -> bool {
        self.working.iter().any(|(working, _)| *working == number)
    }

    /// The reply to `number`, which is to be active from now on.
    fn wake(&mut self, number: u64) -> Option<&mut Reply> {
        let is_it = |reply: &Reply| reply.number == number;
        if let Some(at) = self.kept.iter().position(is_it)
            && let Some(reply) = self.kept.remove(at)
        {
            self.keeps_no_more(&reply);
            self.active.push(reply);
        }
        self.active.iter_mut().find(|reply| is_it(reply))
    }

    const fn keeps_no_more(&mut self, reply: &Reply) {
        self.kept_bytes -= reply.len;
        self.kept_announced -= reply.announced as usize;
    }

    /// Keeps those of the active replies that nothing is to be done about any more, and that are small.
    fn settle(&mut self) {
        let is_idle = |reply: &mut Reply| {
            !reply.queued && !reply.cut && reply.again.is_none() && reply.copy.is_none()
        };
        for reply in self.active.extract_if(.., is_idle) {
            if reply.bytes.len() <= REPLY_KEPT_BYTES {
                self.kept_bytes += reply.len;
                self.kept_announced += usize::from(reply.announced);
                self.kept.push_back(reply);
            }
        }
        if self.active.is_empty() && self.active.capacity() > BURST {
            self.active = Vec::new();
        }
    }

    /// Bytes of long replies that have not arrived yet, as far as is known.
    pub fn held(&self) -> usize {
        let long = self.active.iter().map(|reply| reply.len);
        long.filter(|len| *len > REPLY_KEPT_BYTES).sum()
    }

    /// Memory of all replies, in bytes.
    pub fn memory(&self) -> usize {
        let active: usize = self.active.iter().map(|reply| reply.len).sum();
        let room = self.active.capacity().saturating_sub(FEW) + self.kept.len();
        let working = self.working.capacity().saturating_sub(FEW) * size_of::<(u64, bool)>();
        room * size_of::<Reply>() + working + active + self.kept_bytes
    }

    /// The reply to a request that is being worked on; so many are kept at most. False when no such request is.
    pub fn reply(&mut self, number: u64, bytes: Vec<u8>, kept: usize) -> bool {
        let mut working = self.working.iter();
        let Some(at) = working.position(|(working, _)| *working == number) else {
            return false;
        };
        let (_, announced) = self.working.swap_remove(at);
        if self.working.is_empty() && self.working.capacity() > BURST {
            self.working = Vec::new();
        }
        // The oldest that has left makes room; one that still has to leave is never dropped, and
        // there are at most as many of those as requests in work.
        if self.active.len() + self.kept.len() >= kept
            && let Some(oldest) = self.kept.pop_front()
        {
            self.keeps_no_more(&oldest);
        }
        self.active.push(Reply {
            number,
            len: bytes.len(),
            bytes,
            queued: true,
            announced,
            times_sent: 0,
            repeats: 0,
            again: None,
            copy: None,
            is_copy: false,
            cut: false,
        });
        true
    }

    /// True when requests are being worked on.
    pub fn is_working(&self) -> bool {
        !self.working.is_empty()
    }

    /// True when a reply should leave.
    pub fn has_queued(&self) -> bool {
        self.active.iter().any(|reply| reply.queued)
    }

    /// The replies that should leave, oldest first.
    pub fn queued(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.active
            .iter()
            .filter(|reply| reply.queued)
            .inspect(|reply| debug_assert!(!reply.cut, "it leaves in parts"))
            .map(|reply| (reply.number, reply.bytes.as_slice()))
    }

    /// The requests, in order, whose replies nobody can miss without one side noticing: they have yet to leave, or
    /// this side sees to it that they arrive.
    pub fn unmissable(&self) -> Sorted<u64> {
        let working = self.working.iter().map(|(number, _)| *number);
        // Seldom are there any among the kept ones, which are many.
        let kept = (self.kept_announced > 0).then_some(&self.kept);
        let is_sure = |reply: &&Reply| reply.queued || reply.cut || reply.announced;
        let sure = self
            .active
            .iter()
            .chain(kept.into_iter().flatten())
            .filter(is_sure);
        sorted(working.chain(sure.map(|reply| reply.number)))
    }

    /// The other side is told that all its requests have arrived.
    pub fn announce(&mut self) {
        for (_, announced) in &mut self.working {
            *announced = true;
        }
    }

    /// True when a reply that should leave is to be acknowledged.
    pub fn has_announced(&self) -> bool {
        let mut replies = self.active.iter();
        replies.any(|reply| reply.queued && reply.announced)
    }

    /// True when the reply to `number`, which should leave, is to be acknowledged.
    pub fn is_announced(&self, number: u64) -> bool {
        let mut replies = self.active.iter();
        replies.any(|reply| reply.number == number && reply.announced)
    }

    /// The first reply that should leave and is longer than `max`: its number and its bytes, which leave in
    /// parts from now on.
    pub fn cut_next(&mut self, max: usize) -> Option<(u64, Vec<u8>)> {
        let mut replies = self.active.iter_mut();
        let reply = replies.find(|reply| reply.queued && reply.bytes.len() > max)?;
        (reply.cut, reply.queued) = (true, false);
        (reply.again, reply.copy) = (None, None);
        Some((reply.number, core::mem::take(&mut reply.bytes)))
    }

    /// All parts of the reply to `number` have arrived.
    pub fn arrived_whole(&mut self, number: u64) {
        self.active
            .retain(|reply| reply.number != number || !reply.cut);
    }

    /// True when the request `number` is being worked on, or its reply is remembered.
    pub fn knows(&self, number: u64) -> bool {
        let mut replies = self.active.iter().chain(&self.kept);
        self.is_worked_on(number) || replies.any(|reply| reply.number == number)
    }

    /// Notes that `numbers` have left.
    pub fn sent(
        &mut self,
        now: Time,
        numbers: &[u64],
        rtt: &Rtt,
        jitter: &mut Jitter,
        lossy: bool,
    ) {
        let gap = rtt.smoothed().map(|smoothed| smoothed / COPY_GAP);
        let gap = gap.filter(|_| lossy && numbers.len() >= COPIED_TOGETHER);
        for reply in &mut self.active {
            if !numbers.contains(&reply.number) {
                continue;
            }
            reply.queued = false;
            if core::mem::take(&mut reply.is_copy) {
                continue;
            }
            reply.copy = gap.map(|gap| now + gap);
            reply.times_sent = reply.times_sent.saturating_add(1);
            reply.again = if reply.announced && reply.repeats < REPEATS_MAX {
                let allowance = rtt.allowance(reply.bytes.len());
                let wait = rtt.repeat_after(reply.repeats, jitter) + allowance;
                reply.repeats += 1;
                Some(now + wait)
            } else {
                None
            };
        }
        self.settle();
    }

    /// The reply to `number` has arrived.
    pub fn acknowledge(&mut self, number: u64) {
        // One that leaves in parts has arrived by the packet that carried it whole: nothing of it is left here.
        self.active
            .retain(|reply| reply.number != number || !reply.cut);
        if let Some(reply) = self.wake(number) {
            (reply.announced, reply.queued, reply.again) = (false, false, None);
            (reply.copy, reply.is_copy) = (None, false);
            self.settle();
        }
    }

    /// The packet that carried the reply to `number` is lost.
    pub fn lose(&mut self, number: u64) {
        if let Some(reply) = self.wake(number).filter(|reply| reply.announced) {
            reply.queue(false);
        }
        self.settle();
    }

    /// When a reply is to be sent again.
    pub fn timeout(&self) -> Option<Time> {
        let waiting = self.active.iter().filter(|reply| !reply.queued);
        waiting.fold(None, |soonest, reply| {
            earliest(soonest, earliest(reply.again, reply.copy))
        })
    }

    /// Lets time pass: queues what is due again.
    pub fn expire(&mut self, now: Time) {
        for reply in &mut self.active {
            if !reply.queued && reply.copy.is_some_and(|copy| copy <= now) {
                reply.copy = None;
                reply.queue(true);
            }
            if reply.again.is_some_and(|again| again <= now) {
                reply.queue(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::{
        super::limits::{REPLIES_KEPT, STRANGER_REPLIES_KEPT},
        *,
    };

    /// LINK-9
    #[test]
    fn a_request_is_worked_on_once_and_its_reply_sent_again() {
        let mut replies = Replies::default();
        assert_eq!(replies.arrive(7), Arrival::New);
        assert_eq!(replies.arrive(7), Arrival::Known);
        assert!(replies.reply(7, vec![1], REPLIES_KEPT));
        assert!(!replies.reply(7, vec![2], REPLIES_KEPT));
        replies.sent(Time(0), &[7], &Rtt::default(), &mut Jitter::new(1), false);
        assert!(!replies.has_queued());
        assert_eq!(replies.arrive(7), Arrival::Known);
        assert_eq!(replies.queued().collect::<Vec<_>>(), [(7, &[1][..])]);
    }

    #[test]
    fn memory_has_an_end() {
        let mut replies = Replies::default();
        for number in 0..300 {
            replies.arrive(number);
            replies.reply(number, vec![0], REPLIES_KEPT);
            replies.sent(
                Time(0),
                &[number],
                &Rtt::default(),
                &mut Jitter::new(1),
                false,
            );
        }
        assert_eq!(replies.kept.len(), REPLIES_KEPT);
        for number in 1000..1300 {
            replies.arrive(number);
        }
        assert_eq!(replies.working.len(), WORKING_MAX);
        assert_eq!(replies.arrive(5000), Arrival::Refused);
    }

    /// LINK-9: who asks for much and never says that it has arrived is answered no more.
    #[test]
    fn long_replies_that_do_not_arrive_hold_further_requests_up() {
        let mut replies = Replies::default();
        let mut number = 0;
        while replies.arrive(number) == Arrival::New {
            replies.announce();
            replies.reply(number, vec![0; 60_000], REPLIES_KEPT);
            replies.cut_next(1000);
            number += 1;
        }
        assert_eq!(number, 5, "{} bytes", replies.held());
        replies.arrived_whole(0);
        assert_eq!(replies.arrive(number), Arrival::New);
        // Of a stranger little is kept.
        let mut replies = Replies::default();
        for number in 0..100 {
            replies.arrive(number);
            replies.reply(number, vec![0], STRANGER_REPLIES_KEPT);
            let (rtt, mut jitter) = (Rtt::default(), Jitter::new(1));
            replies.sent(Time(0), &[number], &rtt, &mut jitter, false);
        }
        assert_eq!(replies.kept.len(), STRANGER_REPLIES_KEPT);
    }

    #[test]
    fn long_replies_are_not_kept() {
        let mut replies = Replies::default();
        replies.arrive(1);
        replies.reply(1, vec![0; REPLY_KEPT_BYTES + 1], REPLIES_KEPT);
        replies.sent(Time(0), &[1], &Rtt::default(), &mut Jitter::new(1), false);
        assert_eq!(replies.arrive(1), Arrival::New);
    }

    /// LINK-19
    #[test]
    fn many_replies_leave_twice_where_much_is_lost() {
        let rtt = Rtt::remembered(core::time::Duration::from_millis(80));
        for (count, lossy, times) in [(4, true, 2), (4, false, 1), (3, true, 1)] {
            let mut replies = Replies::default();
            for number in 0..count {
                replies.arrive(number);
                replies.reply(number, vec![1], REPLIES_KEPT);
            }
            let mut left = 0;
            let mut now = Time(0);
            while replies.has_queued() {
                let numbers: Vec<_> = replies.queued().map(|(number, _)| number).collect();
                replies.sent(now, &numbers, &rtt, &mut Jitter::new(1), lossy);
                left += 1;
                if let Some(next) = replies.timeout() {
                    assert_eq!(next - now, rtt.smoothed().unwrap() / COPY_GAP);
                    now = next;
                    replies.expire(now);
                }
            }
            assert_eq!(left, times, "{count} {lossy}");
        }
    }

    /// LINK-13. Found by the simulator: a reply that left whole, and in parts when the path had become smaller, was
    /// sent once more when the first packet counted as lost, with nothing in it.
    #[test]
    fn what_leaves_in_parts_leaves_no_other_way() {
        let rtt = Rtt::remembered(core::time::Duration::from_millis(80));
        let mut replies = Replies::default();
        for number in 0..4 {
            replies.arrive(number);
            replies.announce();
            replies.reply(number, vec![1; 400], REPLIES_KEPT);
        }
        let numbers = [0, 1, 2, 3];
        replies.sent(Time(0), &numbers, &rtt, &mut Jitter::new(1), true);
        for number in numbers {
            replies.lose(number);
        }
        for number in numbers {
            let cut = replies.cut_next(100).unwrap();
            assert_eq!(cut, (number, vec![1; 400]));
        }
        for number in numbers {
            replies.lose(number);
        }
        replies.expire(Time(u64::MAX));
        assert!(numbers.map(|number| replies.arrive(number)) == [Arrival::Known; 4]);
        assert!(!replies.has_queued() && replies.timeout().is_none());
        // Should the first packet have arrived after all, that is the end of it.
        replies.acknowledge(3);
        assert!(!replies.knows(3) && replies.knows(2));
    }

    proptest! {
        /// LINK-5: against a look at each of them. Numbers are few, so that they meet.
        #[test]
        fn who_can_be_missed_is_told_at_one_look(steps in prop::collection::vec((0u8..9, 0u64..24), 1..200)) {
            let (mut replies, rtt, mut jitter) = (Replies::default(), Rtt::default(), Jitter::new(1));
            for (at, (step, number)) in steps.into_iter().enumerate() {
                // Far enough apart for all that is announced to be sent so often that it is given up.
                let now = Time(at as u64 * 1_000_000_000);
                match step {
                    0 => { replies.arrive(number); }
                    1 | 2 => { replies.reply(number, vec![1; 20], 12); }
                    3 | 4 => {
                        let numbers: Vec<_> = replies.queued().map(|(number, _)| number).collect();
                        replies.sent(now, &numbers, &rtt, &mut jitter, false);
                    }
                    5 => replies.announce(),
                    6 => replies.acknowledge(number),
                    7 => replies.lose(number),
                    8 if number == 0 => { replies.cut_next(10); }
                    _ => replies.expire(now),
                }
                let unmissable = replies.unmissable();
                let sure = |reply: &Reply| reply.queued || reply.cut || reply.announced;
                for number in 0..24 {
                    let mut all = replies.active.iter().chain(&replies.kept);
                    let expected = replies.is_worked_on(number)
                        || all.any(|reply| reply.number == number && sure(reply));
                    prop_assert_eq!(unmissable.binary_search(&number).is_ok(), expected);
                }
                prop_assert_eq!(replies.kept_bytes, 20 * replies.kept.len());
            }
        }
    }

    /// LINK-12: who was told that its request has arrived does not ask again soon.
    #[test]
    fn an_announced_reply_is_sent_until_it_is_acknowledged() {
        let (mut replies, rtt, mut jitter) = (Replies::default(), Rtt::default(), Jitter::new(1));
        replies.arrive(7);
        replies.announce();
        replies.reply(7, vec![1], REPLIES_KEPT);
        for _ in 0..3 {
            assert!(replies.has_queued() && replies.is_announced(7));
            replies.sent(Time(0), &[7], &rtt, &mut jitter, false);
            assert!(!replies.has_queued());
            let again = replies.timeout().unwrap();
            replies.expire(again);
        }
        replies.acknowledge(7);
        assert!(!replies.has_queued());
        assert_eq!(replies.timeout(), None);
        // Who never acknowledges is not sent the same for ever.
        replies.arrive(8);
        replies.announce();
        replies.reply(8, vec![1], REPLIES_KEPT);
        let mut sent = 0;
        while replies.has_queued() {
            replies.sent(Time(0), &[8], &rtt, &mut jitter, false);
            sent += 1;
            replies.expire(Time(u64::MAX));
        }
        assert_eq!(sent, REPEATS_MAX + 1);
    }
}
