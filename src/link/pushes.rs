//! Entries that are pushed (LINK-16): live ones before backlog, each of the two in its own order, each sent until
//! it has arrived, and none any more to who has long been silent.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{
    backoff::Jitter,
    limits::PUSHES_AT_ONCE,
    rtt::Rtt,
    time::{Time, earliest},
};

const PUSHES_MAX: u64 = PUSHES_AT_ONCE as u64;
/// An event is sent so often without anything being heard; then it waits until something is.
const REPEATS_MAX: u32 = 8;

/// How urgent a pushed entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// It has just come: before everything that has been waiting.
    Live,
    /// It has been waiting.
    Backlog,
}

impl Urgency {
    /// The two kinds have numbers of their own: those of live events are odd.
    const fn low_bit(self) -> u64 {
        match self {
            Self::Live => 1,
            Self::Backlog => 0,
        }
    }

    /// The kind of an event with that number.
    pub const fn of(number: u64) -> Self {
        if number & 1 == 1 {
            Self::Live
        } else {
            Self::Backlog
        }
    }
}

#[derive(Clone, Debug)]
struct Push {
    len: usize,
    bytes: Vec<u8>,
    queued: bool,
    repeats: u32,
    again: Option<Time>,
    /// It leaves in parts, which hold its bytes.
    cut: bool,
}

/// The next number of each kind of events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Next([u64; 2]);

impl Next {
    /// What remains of them while a link rests.
    pub fn rest(self) -> Option<[u32; 2]> {
        let [backlog, live] = self.0;
        Some([backlog.try_into().ok()?, live.try_into().ok()?])
    }

    /// The same, of a link that has rested.
    pub fn woken(resting: [u32; 2]) -> Self {
        Self(resting.map(u64::from))
    }

    const fn of(&mut self, urgency: Urgency) -> &mut u64 {
        let [backlog, live] = &mut self.0;
        match urgency {
            Urgency::Live => live,
            Urgency::Backlog => backlog,
        }
    }
}

/// The events of this side that have not arrived yet.
#[derive(Clone, Debug, Default)]
pub struct Pushes {
    next: Next,
    pending: BTreeMap<u64, Push>,
}

impl Pushes {
    /// The next number of each kind.
    pub const fn next(&self) -> Next {
        self.next
    }

    /// None on their way, of a link that has rested.
    pub fn woken(next: Next) -> Self {
        Self {
            next,
            ..Self::default()
        }
    }

    /// Takes an event in; gives its number. None when too many of its kind are on their way.
    pub fn push(&mut self, bytes: Vec<u8>, urgency: Urgency) -> Option<u64> {
        let next = self.next.of(urgency);
        let oldest = self
            .pending
            .keys()
            .find(|number| Urgency::of(**number) == urgency);
        if oldest.is_some_and(|oldest| *next >= oldest / 2 + PUSHES_MAX) {
            return None;
        }
        let number = *next * 2 + urgency.low_bit();
        *next += 1;
        let push = Push {
            len: bytes.len(),
            bytes,
            queued: true,
            repeats: 0,
            again: None,
            cut: false,
        };
        self.pending.insert(number, push);
        Some(number)
    }

    /// True when none is on its way.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Memory of all that have not arrived, in bytes.
    pub fn memory(&self) -> usize {
        let each = self
            .pending
            .values()
            .map(|push| size_of::<Push>() + push.len);
        each.sum()
    }

    /// True when one of that kind should leave.
    pub fn has_queued(&self, urgency: Urgency) -> bool {
        self.queued(urgency).next().is_some()
    }

    /// The events of one kind that should leave, oldest first.
    pub fn queued(&self, urgency: Urgency) -> impl Iterator<Item = (u64, &[u8])> {
        self.pending
            .iter()
            .filter(move |(number, push)| push.queued && Urgency::of(**number) == urgency)
            .map(|(number, push)| (*number, push.bytes.as_slice()))
    }

    /// The first that should leave and is longer than `max`: its bytes leave in parts from now on.
    pub fn cut_next(&mut self, max: usize) -> Option<(u64, Vec<u8>)> {
        let mut pending = self.pending.iter_mut();
        let (number, push) = pending.find(|(_, push)| push.queued && push.bytes.len() > max)?;
        (push.cut, push.queued, push.again) = (true, false, None);
        Some((*number, core::mem::take(&mut push.bytes)))
    }

    /// Notes that `numbers` have left.
    pub fn sent(&mut self, now: Time, numbers: &[u64], rtt: &Rtt, jitter: &mut Jitter) {
        for number in numbers {
            if let Some(push) = self.pending.get_mut(number) {
                push.queued = false;
                push.repeats += 1;
                // Backlog is noticed to be lost like all that is paced.
                let is_timed = push.repeats < REPEATS_MAX && Urgency::of(*number) == Urgency::Live;
                let allowance = rtt.allowance(push.bytes.len());
                let mut wait = || rtt.repeat_after(push.repeats - 1, jitter) + allowance;
                push.again = is_timed.then(|| now + wait());
            }
        }
    }

    /// `number` has arrived. True when that is news.
    pub fn acknowledge(&mut self, number: u64) -> bool {
        self.pending.remove(&number).is_some()
    }

    /// The packet that carried `number` is lost.
    pub fn lose(&mut self, number: u64) {
        let push = self.pending.get_mut(&number);
        if let Some(push) = push.filter(|push| !push.cut && push.repeats < REPEATS_MAX) {
            push.queued = true;
        }
    }

    /// The other side was heard: what was given up on is sent again.
    pub fn heard(&mut self) {
        for push in self.pending.values_mut() {
            if push.repeats >= REPEATS_MAX {
                push.repeats = 0;
                push.queued = !push.cut;
            }
        }
    }

    /// When one is to be sent again.
    pub fn timeout(&self) -> Option<Time> {
        let waiting = self.pending.values().filter(|push| !push.queued);
        waiting.fold(None, |soonest, push| earliest(soonest, push.again))
    }

    /// Lets time pass: queues what is due again.
    pub fn expire(&mut self, now: Time) {
        for push in self.pending.values_mut() {
            push.queued |= !push.cut && push.again.is_some_and(|again| again <= now);
        }
    }
}

/// The events of the other side: put in order, each once.
#[derive(Clone, Debug, Default)]
pub struct Pushed {
    next: Next,
    early: BTreeMap<u64, Vec<u8>>,
}

impl Pushed {
    /// True when none has come before its turn.
    pub fn is_in_order(&self) -> bool {
        self.early.is_empty()
    }

    /// The next number of each kind.
    pub const fn next_in_order(&self) -> Next {
        self.next
    }

    /// None before its turn, of a link that has rested.
    pub fn woken(next: Next) -> Self {
        Self {
            next,
            ..Self::default()
        }
    }

    /// True when an event can be taken in. One that cannot is as good as lost on the way.
    pub fn takes(&self, number: u64) -> bool {
        number / 2 < self.next(Urgency::of(number)) + PUSHES_MAX
    }

    /// True when the event has not come before.
    pub fn is_new(&self, number: u64) -> bool {
        number / 2 >= self.next(Urgency::of(number)) && !self.early.contains_key(&number)
    }

    fn next(&self, urgency: Urgency) -> u64 {
        let mut next = self.next;
        *next.of(urgency)
    }

    /// Takes an event in that is new; gives those that are in order now.
    pub fn take(&mut self, number: u64, event: Vec<u8>) -> Vec<Vec<u8>> {
        let urgency = Urgency::of(number);
        self.early.insert(number, event);
        let mut in_order = Vec::new();
        let next = self.next.of(urgency);
        while let Some(event) = self.early.remove(&(*next * 2 + urgency.low_bit())) {
            in_order.push(event);
            *next += 1;
        }
        in_order
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    /// LINK-16
    #[test]
    fn each_kind_arrives_once_and_in_its_order() {
        let (mut pushes, mut pushed) = (Pushes::default(), Pushed::default());
        let numbers: Vec<_> = (0..6u8)
            .map(|n| {
                let urgency = if n % 3 == 0 {
                    Urgency::Live
                } else {
                    Urgency::Backlog
                };
                pushes.push(vec![n], urgency).unwrap()
            })
            .collect();
        let mut came = vec![];
        for at in [5, 2, 3, 3, 1, 0, 4, 0] {
            let number = numbers[at];
            assert!(pushed.takes(number));
            if pushed.is_new(number) {
                came.extend(pushed.take(number, vec![u8::try_from(at).unwrap()]));
            }
        }
        assert_eq!(came.concat(), [1, 2, 0, 3, 4, 5]);
    }

    /// LINK-16: bounds, and what a silent reader costs.
    #[test]
    fn who_is_silent_is_sent_no_more_until_heard() {
        let (mut pushes, rtt, mut jitter) = (Pushes::default(), Rtt::default(), Jitter::new(1));
        for _ in 0..PUSHES_MAX {
            pushes.push(vec![1], Urgency::Live).unwrap();
        }
        assert_eq!(pushes.push(vec![1], Urgency::Live), None);
        assert_eq!(pushes.push(vec![1], Urgency::Backlog), Some(0));
        assert!(!Pushed::default().takes(2 * PUSHES_MAX));
        let mut sent = 0;
        while pushes.has_queued(Urgency::Backlog) {
            pushes.sent(Time(0), &[0], &rtt, &mut jitter);
            sent += 1;
            pushes.lose(0);
        }
        let mut live = 0;
        while pushes.queued(Urgency::Live).any(|(number, _)| number == 1) {
            pushes.sent(Time(0), &[1], &rtt, &mut jitter);
            live += 1;
            pushes.expire(Time(u64::MAX));
        }
        assert_eq!(live, REPEATS_MAX);
        assert_eq!(sent, REPEATS_MAX);
        pushes.heard();
        assert!(pushes.has_queued(Urgency::Backlog));
        assert!(pushes.acknowledge(0) && !pushes.acknowledge(0));
    }
}
