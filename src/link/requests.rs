//! Our requests: each is sent again until its reply has come or its deadline has passed (LINK-8).

use alloc::{collections::BTreeMap, vec::Vec};
use core::time::Duration;

use super::{
    backoff::{Jitter, RTO_MAX},
    limits::REQUEST_SPAN,
    rtt::Rtt,
    time::{Time, earliest},
};
use crate::faults::{Fault, is_planted};

/// Where much is lost, so many repeats more wait no longer than the first.
const LOSSY_PATIENCE: u32 = 5;
/// The copy of what leaves twice follows after this part of a round trip.
pub const COPY_GAP: u32 = 8;
/// An acknowledged request is being worked on: its sender waits at least this long for the reply
/// before it asks again.
const WORK_PATIENCE: Duration = Duration::from_secs(1);

/// A request that moves from one link to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The command.
    pub bytes: Vec<u8>,
    /// Until when its reply is waited for.
    pub deadline: Time,
    /// It may travel in a handshake's first message.
    pub early: bool,
}

/// Much is lost on the way: what leaves is sent twice, if it is `small`, or has been sent before.
#[derive(Clone, Copy, Debug)]
pub struct Lossy {
    /// The packet is small.
    pub small: bool,
}

/// How long to wait for the reply to a request that has arrived: where much is lost, it may well have been.
fn work_patience(rtt: &Rtt, bytes: usize, lossy: bool) -> Duration {
    let patience = if lossy {
        rtt.timeout()
    } else {
        (rtt.timeout() * 4).max(WORK_PATIENCE)
    };
    patience + rtt.allowance(bytes)
}

#[derive(Clone, Debug)]
struct Pending {
    bytes: Vec<u8>,
    deadline: Time,
    /// It should leave with the next packet.
    queued: bool,
    acknowledged: bool,
    /// How often it has left, not counting copies.
    times_sent: u32,
    /// How often it was sent again since.
    asked_again: u32,
    /// When to send it again.
    again: Option<Time>,
    /// When to send a copy of what has just left, and whether that is what is queued.
    copy: Option<Time>,
    is_copy: bool,
    /// It may travel in a handshake's first message.
    early: bool,
    /// It has.
    carried_early: bool,
    /// It leaves in parts, which hold its bytes.
    cut: bool,
}

impl Pending {
    /// It should leave (again), unless it leaves in parts: then there is nothing of it here to be sent.
    const fn queue(&mut self, is_copy: bool) {
        if !self.cut {
            (self.queued, self.is_copy) = (true, is_copy);
        }
    }
}

/// The requests of this side that have no reply yet.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    next: u64,
    pending: BTreeMap<u64, Pending>,
    /// Timeouts since the peer was last heard.
    repeats: u32,
    /// How often one has left again.
    resent: u64,
}

/// What remains of them while a link rests.
#[derive(Clone, Copy, Debug)]
pub struct Resting {
    next: u32,
    resent: u32,
}

impl Requests {
    /// What remains while the link rests, if none waits for a reply.
    pub fn rest(&self) -> Option<Resting> {
        Some(Resting {
            next: self.next.try_into().ok()?,
            resent: self.resent.try_into().ok()?,
        })
    }

    /// The same, awake.
    pub fn woken(resting: Resting) -> Self {
        Self {
            next: resting.next.into(),
            resent: resting.resent.into(),
            ..Self::default()
        }
    }

    /// True when another request may be made now.
    pub fn has_room(&self) -> bool {
        self.pending
            .first_key_value()
            .is_none_or(|(oldest, _)| self.next < oldest + REQUEST_SPAN)
    }

    /// How often one has left again.
    pub const fn resent(&self) -> u64 {
        self.resent
    }

    /// Takes a request in; gives its number.
    pub fn push(&mut self, bytes: Vec<u8>, deadline: Time, early: bool) -> u64 {
        let number = self.next;
        self.next += 1;
        let pending = Pending {
            bytes,
            deadline,
            queued: true,
            acknowledged: false,
            times_sent: 0,
            asked_again: 0,
            again: None,
            copy: None,
            is_copy: false,
            early,
            carried_early: false,
            cut: false,
        };
        self.pending.insert(number, pending);
        number
    }

    /// True when none waits for a reply.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// True when one should leave with the next packet.
    pub fn has_queued(&self) -> bool {
        self.pending.values().any(|pending| pending.queued)
    }

    /// True when one should leave again, which says that the timeout may be shorter than the path.
    pub fn has_repeats(&self) -> bool {
        let is_repeat = |p: &Pending| p.queued && p.times_sent > 0 && !p.is_copy;
        self.pending.values().any(is_repeat)
    }

    /// The requests that should leave next, oldest first; of those, if `early`, only the ones that
    /// may travel in a handshake's first message.
    pub fn queued(&self, early: bool) -> impl Iterator<Item = (u64, &[u8])> {
        self.pending
            .iter()
            .filter(move |(_, pending)| pending.queued && (pending.early || !early))
            .inspect(|(_, pending)| debug_assert!(!pending.cut, "it leaves in parts"))
            .map(|(number, pending)| (*number, pending.bytes.as_slice()))
    }

    /// The first request that should leave and is longer than `max`: its number and its bytes, which
    /// leave in parts from now on.
    pub fn cut_next(&mut self, max: usize) -> Option<(u64, Vec<u8>)> {
        let is_long = |pending: &Pending| pending.queued && pending.bytes.len() > max;
        let mut long = self
            .pending
            .iter_mut()
            .filter(|(_, pending)| is_long(pending));
        let (number, pending) = long.next()?;
        (pending.cut, pending.queued) = (true, false);
        (pending.again, pending.copy) = (None, None);
        Some((*number, core::mem::take(&mut pending.bytes)))
    }

    /// Gives the bytes of a request that was cut back.
    pub fn mend(&mut self, number: u64, bytes: Vec<u8>) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.cut = false;
            pending.bytes = bytes;
        }
    }

    /// The requests that leave in parts.
    pub fn cuts(&self) -> Vec<u64> {
        let cut = self.pending.iter().filter(|(_, pending)| pending.cut);
        cut.map(|(number, _)| *number).collect()
    }

    /// True when `number` has left exactly once, copies aside, which are close behind: then it is certain enough
    /// what its reply answers.
    pub fn was_sent_once(&self, number: u64) -> bool {
        let pending = self.pending.get(&number);
        pending.is_some_and(|pending| pending.times_sent == 1)
    }

    /// True when a reply to `number` is waited for.
    pub fn is_pending(&self, number: u64) -> bool {
        self.pending.contains_key(&number)
    }

    /// Requests that have arrived in parts long ago and have no reply: they are to be sent anew.
    pub fn take_overdue_cuts(&mut self, now: Time) -> Vec<u64> {
        let mut overdue = Vec::new();
        for (number, pending) in &mut self.pending {
            if pending.cut && pending.acknowledged && pending.again.is_some_and(|at| at <= now) {
                pending.acknowledged = false;
                pending.again = None;
                overdue.push(*number);
            }
        }
        overdue
    }

    /// Notes that `numbers` travel in a handshake's first message.
    pub fn carry_early(&mut self, numbers: &[u64]) {
        for number in numbers {
            if let Some(pending) = self.pending.get_mut(number) {
                pending.carried_early = true;
                // Its reply may answer this one, whatever is sent after it.
                pending.times_sent = pending.times_sent.saturating_add(1);
            }
        }
    }

    /// The handshake is over, so what its first message carried has arrived.
    pub fn early_arrived(&mut self, now: Time, rtt: &Rtt) {
        let carried: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, p)| p.carried_early)
            .map(|(number, _)| *number)
            .collect();
        for number in carried {
            self.acknowledge(now, number, rtt, false);
        }
    }

    /// True when one that a handshake's first message carried waits for its reply.
    pub fn awaits_early(&self) -> bool {
        self.pending.values().any(|pending| pending.carried_early)
    }

    /// Notes that `numbers` have left.
    pub fn sent(
        &mut self,
        now: Time,
        numbers: &[u64],
        rtt: &Rtt,
        jitter: &mut Jitter,
        lossy: Option<Lossy>,
    ) {
        // Where much is lost, a silence says even less.
        let patient = if lossy.is_some() { LOSSY_PATIENCE } else { 0 };
        let repeats = self.repeats.saturating_sub(patient);
        let copies = lossy.is_some_and(|lossy| lossy.small || self.repeats > 0);
        let wait = rtt.repeat_after(repeats, jitter);
        for number in numbers {
            if let Some(pending) = self.pending.get_mut(number) {
                pending.queued = false;
                self.resent += u64::from(pending.times_sent > 0);
                if core::mem::take(&mut pending.is_copy) {
                    continue;
                }
                pending.times_sent = pending.times_sent.saturating_add(1);
                let twice = copies || (lossy.is_some() && pending.times_sent > 1);
                let gap = rtt.smoothed().filter(|_| twice && !pending.acknowledged);
                pending.copy = gap.map(|smoothed| now + smoothed / COPY_GAP);
                let wait = if pending.acknowledged {
                    // It is being worked on: ever less often, or a slow command costs more than a lost one.
                    pending.asked_again = pending.asked_again.saturating_add(1);
                    let times = 1 << pending.asked_again.min(5);
                    (work_patience(rtt, pending.bytes.len(), lossy.is_some()) * times).min(RTO_MAX)
                } else {
                    wait + rtt.allowance(pending.bytes.len())
                };
                pending.again = (!is_planted(Fault::NeverRepeat)).then(|| now + wait);
            }
        }
    }

    /// The peer has `number` and works on it.
    pub fn acknowledge(&mut self, now: Time, number: u64, rtt: &Rtt, lossy: bool) {
        if let Some(pending) = self
            .pending
            .get_mut(&number)
            .filter(|pending| !pending.acknowledged)
        {
            pending.acknowledged = true;
            pending.queued = false;
            (pending.copy, pending.is_copy) = (None, false);
            // To send a long one again costs much: its reply is more likely to be on its way.
            let patience = if pending.cut {
                RTO_MAX.max(rtt.timeout() * 4)
            } else {
                work_patience(rtt, pending.bytes.len(), lossy)
            };
            pending.again = Some(now + patience);
        }
    }

    /// The packet that carried `number` is lost.
    pub fn lose(&mut self, number: u64) {
        let pending = self.pending.get_mut(&number);
        if let Some(pending) = pending.filter(|pending| !pending.acknowledged) {
            pending.queue(false);
        }
    }

    /// A reply to `number` has come. True when it was waited for.
    pub fn answer(&mut self, number: u64) -> bool {
        self.pending.remove(&number).is_some()
    }

    /// The peer was heard: patience begins anew.
    pub fn heard(&mut self, rtt: &Rtt) {
        // Where nothing is known of the path, the timeout may be far too short: what comes meanwhile does not
        // make it right.
        if rtt.is_measured() {
            self.repeats = 0;
        }
    }

    /// All that waits has to be sent anew, on a fresh link.
    pub fn restart(&mut self) {
        self.repeats = 0;
        for pending in self.pending.values_mut() {
            pending.queued = !pending.cut;
            (pending.copy, pending.is_copy) = (None, false);
            pending.acknowledged = false;
            pending.times_sent = 0;
            pending.asked_again = 0;
            pending.again = None;
            pending.carried_early = false;
        }
    }

    /// Takes all away, with their numbers.
    pub fn take(&mut self) -> Vec<(u64, Asked)> {
        let pending = core::mem::take(&mut self.pending);
        let asked = pending.into_iter().map(|(number, pending)| {
            let Pending {
                bytes,
                deadline,
                early,
                ..
            } = pending;
            let asked = Asked {
                bytes,
                deadline,
                early,
            };
            (number, asked)
        });
        asked.collect()
    }

    /// When something has to happen.
    pub fn timeout(&self) -> Option<Time> {
        self.pending.values().fold(None, |soonest, pending| {
            earliest(
                earliest(
                    soonest,
                    earliest(pending.again, pending.copy).filter(|_| !pending.queued),
                ),
                Some(pending.deadline),
            )
        })
    }

    /// Brings a request's deadline forward.
    pub fn ask_until(&mut self, number: u64, deadline: Time) {
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.deadline = pending.deadline.min(deadline);
        }
    }

    /// Lets time pass: queues what is due again, and gives the numbers whose deadline is over.
    pub fn expire(&mut self, now: Time) -> Vec<u64> {
        let expired: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, p)| p.deadline <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in &expired {
            self.pending.remove(number);
        }
        for pending in self.pending.values_mut() {
            if !pending.queued && pending.copy.is_some_and(|copy| copy <= now) {
                pending.copy = None;
                pending.queue(true);
            }
        }
        let is_due = |p: &Pending| !p.queued && !p.cut && p.again.is_some_and(|again| again <= now);
        if self.pending.values().any(is_due) {
            self.repeats = self.repeats.saturating_add(1);
            // What is sent again takes all other unanswered requests along: it costs few bytes and
            // may save each of them a timeout.
            for pending in self
                .pending
                .values_mut()
                .filter(|p| !p.acknowledged || is_due(p))
            {
                pending.queue(false);
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const END: Time = Time(120_000_000);

    fn numbers(requests: &Requests) -> Vec<u64> {
        requests.queued(false).map(|(number, _)| number).collect()
    }

    /// LINK-8
    #[test]
    fn a_request_is_sent_again_until_its_reply_has_come() {
        let (mut requests, rtt, mut jitter) = (Requests::default(), Rtt::default(), Jitter::new(1));
        requests.push(vec![1], END, false);
        requests.push(vec![2], END, false);
        requests.sent(Time(0), &[0, 1], &rtt, &mut jitter, None);
        assert!(!requests.has_queued());
        let again = requests.timeout().unwrap();
        assert!(
            // Two to three seconds, and what 101 bytes take where the path is narrow.
            again >= Time(2_505_000) && again <= Time(3_505_000),
            "{again:?}"
        );
        assert!(requests.expire(again).is_empty());
        assert_eq!(
            numbers(&requests),
            [0, 1],
            "a repeat takes all others along"
        );
        assert!(requests.answer(0));
        assert!(!requests.answer(0));
        assert_eq!(numbers(&requests), [1]);
    }

    /// LINK-8: password hashing and other realms are slow; asking again would only cost bytes.
    #[test]
    fn an_acknowledged_request_waits_longer() {
        let rtt = Rtt::remembered(Duration::from_millis(50));
        let (mut requests, mut jitter) = (Requests::default(), Jitter::new(1));
        requests.push(vec![1], END, false);
        requests.sent(Time(0), &[0], &rtt, &mut jitter, None);
        requests.acknowledge(Time(60_000), 0, &rtt, false);
        assert!(requests.timeout().unwrap() >= Time(1_060_000));
    }

    /// LINK-8: the longer the work takes, the less often it is asked for.
    #[test]
    fn a_slow_answer_is_asked_for_ever_less_often() {
        let rtt = Rtt::remembered(Duration::from_millis(50));
        let (mut requests, mut jitter) = (Requests::default(), Jitter::new(1));
        requests.push(vec![1], END, false);
        requests.sent(Time(0), &[0], &rtt, &mut jitter, None);
        requests.acknowledge(Time(60_000), 0, &rtt, false);
        let (mut asked, mut now) = (0, Time(60_000));
        while now < Time(60_000_000) {
            now = requests.timeout().unwrap();
            requests.expire(now);
            requests.heard(&rtt);
            requests.sent(now, &numbers(&requests), &rtt, &mut jitter, None);
            asked += 1;
        }
        assert!(asked <= 7, "{asked} times in a minute");
    }

    /// LINK-13: a copy was due when the path had become too small for it: it left with nothing in it.
    #[test]
    fn what_leaves_in_parts_leaves_no_other_way() {
        let rtt = Rtt::remembered(Duration::from_millis(80));
        let (mut requests, mut jitter) = (Requests::default(), Jitter::new(1));
        requests.push(vec![1; 400], END, false);
        let lossy = Some(Lossy { small: true });
        requests.sent(Time(0), &[0], &rtt, &mut jitter, lossy);
        requests.lose(0);
        assert_eq!(requests.cut_next(100), Some((0, vec![1; 400])));
        requests.lose(0);
        requests.expire(Time(END.0 - 1));
        assert!(!requests.has_queued());
        assert_eq!(requests.timeout(), Some(END));
    }

    #[test]
    fn a_deadline_ends_the_waiting() {
        let (mut requests, rtt, mut jitter) = (Requests::default(), Rtt::default(), Jitter::new(1));
        requests.push(vec![1], Time(1000), false);
        requests.sent(Time(0), &[0], &rtt, &mut jitter, None);
        assert_eq!(requests.timeout(), Some(Time(1000)));
        assert_eq!(requests.expire(Time(1000)), [0]);
        assert!(requests.is_empty());
    }

    /// HS-7
    #[test]
    fn only_what_may_travel_early_does() {
        let rtt = Rtt::remembered(Duration::from_millis(50));
        let mut requests = Requests::default();
        requests.push(vec![1], END, true);
        requests.push(vec![2], END, false);
        assert_eq!(requests.queued(true).count(), 1);
        requests.carry_early(&[0]);
        requests.early_arrived(Time(0), &rtt);
        assert_eq!(
            numbers(&requests),
            [1],
            "the first has arrived, and its reply is waited for"
        );
        requests.restart();
        assert_eq!(numbers(&requests), [0, 1]);
    }

    /// LINK-9
    #[test]
    fn no_request_runs_ahead_of_what_the_other_side_remembers() {
        let mut requests = Requests::default();
        for _ in 0..REQUEST_SPAN {
            assert!(requests.has_room());
            requests.push(vec![], END, false);
        }
        assert!(!requests.has_room());
        requests.answer(5);
        assert!(!requests.has_room(), "the oldest is still unanswered");
        requests.answer(0);
        assert!(requests.has_room());
    }
}
