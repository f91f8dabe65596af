//! Invariants of a link that hold between calls, whatever the other side has sent. They are checked
//! in builds with debug assertions: tests, fuzzing and simulation.

use super::{
    Link, queue::Queue, replies::Replies, sent_packets::SentPackets, time::Time, timer::Timer,
};
use crate::faults::{Fault, is_planted};

impl Link {
    /// Asserts the invariants of a link between calls.
    pub(super) fn check(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        self.queue.check();
        self.replies.check();
        self.sent.check(self.next_number);
        let room = self.config.max_message.saturating_mul(2);
        debug_assert!(
            self.assemblies.held() <= room.max(self.assemblies.room()),
            "more is held of messages in parts than there is room for"
        );
        if self.is_open() {
            debug_assert!(
                self.queue.has_nothing_idle() || is_planted(Fault::NeverRepeat),
                "a request neither leaves nor has a timer"
            );
        }
    }

    /// Asserts that none of the timers that only [`Link::handle_timeout`] serves is still due after
    /// it. The driver would be called again at once, endlessly.
    pub(super) fn check_timers(&self, now: Time) {
        if !cfg!(debug_assertions) {
            return;
        }
        let by_time = [
            Timer::Retransmit,
            Timer::Loss,
            Timer::Paced,
            Timer::Work,
            Timer::Reassembly,
            Timer::Keepalive,
        ];
        for timer in by_time {
            debug_assert!(
                self.due(timer).is_none_or(|due| due > now),
                "{timer:?} is due and stays so"
            );
        }
    }

    /// Asserts that a fragment that may be sent can be packed. Else its timer would be due again at
    /// once, endlessly.
    pub(super) fn check_unpacked(&self, may_send_part: bool) {
        debug_assert!(
            !may_send_part || self.credit.is_some(),
            "a part may leave and cannot"
        );
    }
}

impl Queue {
    fn check(&self) {
        debug_assert!(
            self.entries.is_sorted_by(|one, next| one.item < next.item),
            "items are out of their order, or twice in it"
        );
    }

    /// True if each request is queued, has a timer, or is fragmented: fragments have their own
    /// timers.
    fn has_nothing_idle(&self) -> bool {
        let mut requests = self.entries.iter().filter(|one| one.ask().is_some());
        requests.all(|one| one.is_fragmented() || !one.attempts.is_idle())
    }
}

impl Replies {
    fn check(&self) {
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

impl SentPackets {
    fn check(&self, next: u64) {
        if is_planted(Fault::ReusePacketNumber) {
            return;
        }
        debug_assert!(
            self.packets
                .iter()
                .map(|one| one.number)
                .is_sorted_by(|one, next| one < next),
            "packets are out of their order"
        );
        debug_assert!(
            self.packets.iter().all(|one| one.number.0 < next),
            "a packet is on its way whose number has not been given out"
        );
        debug_assert!(
            self.acknowledged.is_none_or(|number| number.0 < next),
            "a number counts as received that has not been given out"
        );
    }
}
