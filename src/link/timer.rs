//! The timers of a link, in one table: when each is due, and what happens then.

use super::{
    Event, Link, Time, earliest,
    queue::Item,
    trace::{Trace, trace},
};

/// A timer of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    /// An item of the retransmission queue is sent again, or a request's deadline has passed
    /// (LINK-8).
    Retransmit,
    /// A packet that a later one has overtaken counts as lost (LINK-6).
    Loss,
    /// Nothing was heard of fragments and backlog in flight (LINK-14).
    Paced,
    /// The pace allows another fragment (LINK-14).
    Pace,
    /// The rate limit allows sending again (LINK-20).
    Limit,
    /// An acknowledgement is owed (LINK-5).
    Acknowledge,
    /// Requests have been in work for so long that their arrival is acknowledged (LINK-5).
    Work,
    /// An incomplete message without further fragments is forgotten (LINK-13).
    Reassembly,
    /// The silence has lasted long enough for a keepalive (LINK-17).
    Keepalive,
}

impl Timer {
    const ALL: [Self; 9] = [
        Self::Retransmit,
        Self::Loss,
        Self::Paced,
        Self::Pace,
        Self::Limit,
        Self::Acknowledge,
        Self::Work,
        Self::Reassembly,
        Self::Keepalive,
    ];

    /// Its name in traces.
    const fn name(self) -> &'static str {
        match self {
            Self::Retransmit => "retransmit",
            Self::Loss => "loss",
            Self::Paced => "paced",
            Self::Pace => "pace",
            Self::Limit => "limit",
            Self::Acknowledge => "acknowledge",
            Self::Work => "work",
            Self::Reassembly => "reassembly",
            Self::Keepalive => "keepalive",
        }
    }
}

impl Link {
    /// Returns when a timer is due, if it runs.
    fn due(&self, timer: Timer) -> Option<Time> {
        // A packet delayed by the rate limit cannot be sent earlier, even if it is due.
        let held_back = self.recovery.held_back();
        let unless_held = |due: Time| held_back.map_or(due, |until| due.max(until));
        // To an unproven address an acknowledgement is only sent with another packet, and nothing
        // is paced.
        let is_ready = self.is_open() && self.is_proven();
        match timer {
            Timer::Retransmit => self.queue.timeout(),
            Timer::Loss => self.recovery.loss_due(),
            Timer::Paced => self.recovery.paced_due().filter(|_| is_ready),
            Timer::Pace if self.queue.has_paced() && !self.queue.is_silent() => self
                .recovery
                .pace_timeout(self.opening.datagram_max())
                .filter(|_| is_ready)
                .map(unless_held),
            Timer::Pace => None,
            Timer::Limit => held_back,
            Timer::Acknowledge => self.acks.due().filter(|_| is_ready).map(unless_held),
            Timer::Work => self.acks.work_due().filter(|_| is_ready),
            Timer::Reassembly => self.incoming.timeout(),
            Timer::Keepalive => self
                .keepalive
                .filter(|_| self.is_open())
                .and_then(|keepalive| keepalive.due()),
        }
    }

    /// Handles a timer that is due.
    fn fire(&mut self, now: Time, timer: Timer) {
        trace(self.trace_id, || Trace::TimerExpired {
            timer: timer.name(),
        });
        match timer {
            Timer::Retransmit => {
                self.recovery.items_timed_out(now, &self.queue);
                for number in self.queue.expire(now) {
                    self.recovery.forget(Item::request(number));
                    self.incoming.forget_reply(number);
                    self.events.push_back(Event::Expired { number });
                }
            }
            Timer::Loss => {
                for packet in self.recovery.expire(now) {
                    self.packet_lost(now, packet);
                }
            }
            Timer::Paced => {
                let max = self.opening.datagram_max();
                let queue = &mut self.queue;
                for packet in self.recovery.paced_timed_out(now, queue, max) {
                    self.packet_lost(now, packet);
                }
            }
            // `poll_transmit` returns the packets that may be sent now.
            Timer::Pace | Timer::Limit | Timer::Acknowledge => {}
            Timer::Work => self.acks.work_lasts(now),
            Timer::Reassembly => self.incoming.expire(now),
            Timer::Keepalive => {
                let keepalive = self.keepalive.as_mut();
                if keepalive.is_some_and(|keepalive| keepalive.ask(now)) {
                    self.ping();
                }
            }
        }
    }

    /// Asserts that none of the timers that only [`Link::handle_timeout`] serves is still due after
    /// it. The driver would be called again at once, endlessly.
    fn check_timers(&self, now: Time) {
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

    /// Advances time to `now` and handles the timers that are due.
    pub fn handle_timeout(&mut self, now: Time) {
        let is_open = self.is_open();
        if let Some(keepalive) = self.keepalive.as_mut().filter(|_| is_open) {
            keepalive.begin(now);
        }
        for timer in Timer::ALL {
            if self.due(timer).is_some_and(|due| due <= now) {
                self.fire(now, timer);
            }
        }
        self.check_timers(now);
        self.check();
    }

    /// Returns when [`Link::handle_timeout`] must be called next.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.is_closed() {
            return None;
        }
        let due = Timer::ALL.map(|timer| self.due(timer));
        due.into_iter().fold(None, earliest)
    }
}
