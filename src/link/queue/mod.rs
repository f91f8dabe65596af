//! The retransmission queue: every item until it is acknowledged, and requests until they are
//! answered. One policy sets retransmission (LINK-8, LINK-12, LINK-16, LINK-18) and redundant
//! copies (LINK-19). The queue numbers this side's requests and events.

mod entry;
mod events;
mod fragments;
mod item;
mod requests;

use alloc::{boxed::Box, vec::Vec};
use core::{ops::Range, time::Duration};

use entry::{Body, Detail, RequestState};
pub use entry::{Entry, SentReply};
pub use events::EventNumbers;
pub(super) use events::PUSHES_MAX;
use fragments::Fragments;
pub use item::{Item, Urgency};
pub use requests::PendingRequest;

use super::{
    BURST, FEW,
    backoff::{Jitter, RTO_MAX, Urge},
    limits::{ASSEMBLIES_MAX, REPLY_KEPT_BYTES},
    retransmit::Attempts,
    rtt::Rtt,
    stats::Repeats,
    time::{Time, earliest},
};
use crate::{
    faults::{Fault, is_planted},
    wire::{MessageId, RequestId},
};

/// Retransmissions of any item but a request until something is heard again.
pub const REPEATS_MAX: u32 = 8;
/// At high loss, a packet with this many replies is sent twice: requesting all again costs more.
const COPIED_TOGETHER: usize = 4;
/// A user waits this long for a reply; a request with a later deadline is patient.
const AWAITED_FOR: Duration = Duration::from_mins(10);
/// After this many timeouts the other side counts as silent, and unawaited items are held back.
const SILENT_AFTER: u32 = 12;

/// Loss is high: a packet is sent twice if it is `small` or has been sent before.
#[derive(Clone, Copy, Debug)]
pub struct Lossy {
    /// The packet is small.
    pub small: bool,
}

/// The retransmission queue.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// Sorted by item.
    entries: Vec<Entry>,
    /// Consecutive timeouts since the other side was heard on a measured path.
    timeouts: u32,
    /// Consecutive timeouts since anything was heard, measured path or not.
    unheard: u32,
    /// Counts of retransmissions.
    repeats: Repeats,
    /// The number of the next request.
    next_request: u64,
    /// The numbers of the next events.
    next_events: EventNumbers,
}

impl Queue {
    fn position(&self, item: Item) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&item, |entry| entry.item)
    }

    /// Returns the entry of an item, if it is in the queue.
    pub fn get(&self, item: Item) -> Option<&Entry> {
        self.entries.get(self.position(item).ok()?)
    }

    /// The number of transmissions of an item; 0 if it is not in the queue.
    pub fn count(&self, item: Item) -> u32 {
        self.get(item).map_or(0, Entry::count)
    }

    /// Returns the entry of an item for modification.
    pub fn get_mut(&mut self, item: Item) -> Option<&mut Entry> {
        let at = self.position(item).ok()?;
        self.entries.get_mut(at)
    }

    /// Inserts an item, or replaces the one that is there.
    fn insert(&mut self, entry: Entry) {
        match self.position(entry.item) {
            Ok(at) => {
                if let Some(known) = self.entries.get_mut(at) {
                    *known = entry;
                }
            }
            Err(at) => self.entries.insert(at, entry),
        }
    }

    /// Queues a control frame now, whether it was sent before or not.
    pub fn control(&mut self, item: Item) {
        match self.get_mut(item) {
            Some(entry) => entry.queue(),
            None => self.insert(Entry::control(item)),
        }
    }

    /// Removes and returns an item.
    pub fn remove(&mut self, item: Item) -> Option<Entry> {
        let at = self.position(item).ok()?;
        let entry = self.entries.remove(at);
        self.give_back();
        Some(entry)
    }

    /// Frees the capacity that a burst has left.
    fn give_back(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > BURST {
            self.entries = Vec::new();
        }
    }

    /// True if the queue is empty.
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True if no request waits for its reply, no reply is queued and no event is in flight.
    pub fn is_idle(&self) -> bool {
        self.entries.iter().all(|entry| match entry.detail {
            Detail::Reply { .. } => !entry.attempts.is_queued(),
            Detail::Request(_) => false,
            Detail::Other => !matches!(entry.item, Item::Message(_)),
        })
    }

    /// Returns whether a request is awaited, by its deadline.
    pub fn urge(&self, now: Time) -> Urge {
        let requests = self.entries.iter().filter_map(Entry::request_state);
        let soon = now + AWAITED_FOR;
        if requests.into_iter().any(|state| state.deadline <= soon) {
            Urge::Awaited
        } else {
            Urge::Patient
        }
    }

    /// Consecutive timeouts since the other side was heard.
    pub const fn timeouts(&self) -> u32 {
        self.timeouts
    }

    /// True if the other side is silent and no request waits, so that unawaited items are held
    /// back.
    pub fn is_silent(&self) -> bool {
        self.unheard >= SILENT_AFTER && !self.has_requests()
    }

    /// Counts a retransmission of the first message of a handshake. It is no item of the queue, but
    /// all retransmissions are counted here, so that no count is kept in two places.
    pub const fn count_repeated_opening(&mut self) {
        self.repeats.openings = self.repeats.openings.wrapping_add(1);
    }

    /// Counts of retransmissions.
    pub const fn repeats(&self) -> Repeats {
        self.repeats
    }

    /// Counts another timeout.
    pub const fn time_out(&mut self) {
        self.timeouts = self.timeouts.saturating_add(1);
        self.unheard = self.unheard.saturating_add(1);
    }

    /// Memory held for the other side, in bytes: replies and events.
    pub fn memory(&self) -> usize {
        let is_theirs = |entry: &&Entry| entry.request_state().is_none();
        let each = self.entries.iter().filter(is_theirs).map(Entry::len);
        let extra = self.entries.capacity().saturating_sub(FEW);
        extra * size_of::<Entry>() + each.sum::<usize>()
    }

    /// Bytes of long replies that are not acknowledged.
    pub fn held_replies(&self) -> usize {
        let long = self.replies().map(Entry::len);
        long.filter(|len| *len > REPLY_KEPT_BYTES).sum()
    }

    /// The replies.
    pub fn replies(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.is_reply())
    }

    /// The requests, in the order of their numbers, whose replies cannot be lost unnoticed.
    pub fn unmissable_replies(&self) -> impl Iterator<Item = RequestId> {
        let replies = self.entries.iter().filter(|one| one.is_unmissable_reply());
        replies.filter_map(Entry::reply_id)
    }

    /// Queues the first transmission of a reply.
    pub fn push_reply(&mut self, id: RequestId, bytes: Vec<u8>, announced: bool) {
        self.insert(Entry::reply(id, bytes, announced, Attempts::queued()));
    }

    /// Takes a sent reply back, idle as it was.
    pub fn restore_reply(&mut self, reply: SentReply) {
        let attempts = Attempts::made(reply.sends);
        self.insert(Entry::reply(
            reply.id,
            reply.bytes,
            reply.announced,
            attempts,
        ));
    }

    /// Removes the idle replies that are not fragmented, and passes each to `each`.
    pub fn drain_idle_replies(&mut self, mut each: impl FnMut(SentReply)) {
        let is_idle = |entry: &mut Entry| {
            entry.is_reply() && !entry.is_fragmented() && entry.attempts.is_idle()
        };
        for mut entry in self.entries.extract_if(.., is_idle) {
            if let Some(id) = entry.reply_id() {
                each(SentReply {
                    id,
                    announced: entry.is_announced(),
                    sends: entry.count(),
                    bytes: entry.take_bytes(),
                });
            }
        }
        self.give_back();
    }

    /// Stops retransmitting the oldest small sent reply. True if there was one.
    pub fn stop_oldest_small_reply(&mut self) -> bool {
        let has_left = |entry: &&mut Entry| {
            let is_small = !entry.is_fragmented() && entry.len() <= REPLY_KEPT_BYTES;
            entry.is_reply() && is_small && !entry.is_queued() && entry.count() > 0
        };
        let Some(oldest) = self.entries.iter_mut().find(has_left) else {
            return false;
        };
        oldest.attempts.stop();
        true
    }

    /// The items queued for the next packet, in order.
    pub fn queued(&self) -> impl Iterator<Item = &Entry> {
        let queued = self.entries.iter();
        queued.filter(|entry| entry.attempts.is_queued())
    }

    /// True if an item that is not paced is queued.
    pub fn has_prompt(&self) -> bool {
        self.queued().any(|entry| !entry.item.is_paced())
    }

    /// True if a fragment or a paced item is queued.
    pub fn has_paced(&self) -> bool {
        self.fragments_queued().next().is_some() || self.queued().any(|entry| entry.item.is_paced())
    }

    /// True if a request is queued again, a sign that the timeout may be shorter than the round
    /// trip.
    pub fn has_repeated_requests(&self) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.request_state().is_some() && entry.attempts.is_repeat())
    }

    /// Notes that a packet with these items was sent.
    pub fn sent(
        &mut self,
        now: Time,
        items: &[Item],
        rtt: &Rtt,
        jitter: &mut Jitter,
        lossy: Option<Lossy>,
    ) {
        let wait = rtt.repeat_after(self.timeouts, lossy.is_some(), self.urge(now), jitter);
        let gap = lossy.is_some().then(|| rtt.copy_gap());
        let is_small = lossy.is_some_and(|lossy| lossy.small || self.timeouts > 0);
        let is_reply = |item: &&Item| matches!(item, Item::Message(MessageId::Reply(_)));
        let replies_twice = items.iter().filter(is_reply).count() >= COPIED_TOGETHER;
        let is_silent = self.is_silent();
        for item in items {
            let Ok(at) = self.position(*item) else {
                debug_assert!(false, "{item:?} was sent and is not in the queue");
                continue;
            };
            let Some(entry) = self.entries.get_mut(at) else {
                continue;
            };
            let len = entry.len();
            let is_again = entry.attempts.count() > 0;
            if !entry.attempts.sent() {
                self.repeats.copies += 1;
                continue;
            }
            if is_again {
                *count_of(&mut self.repeats, *item) += 1;
            }
            let count = entry.attempts.count();
            let again = wait + rtt.allowance(len);
            let (again, twice) = match &mut entry.detail {
                Detail::Request(RequestState {
                    in_work: Some(asked_again),
                    ..
                }) => {
                    // Each wait is longer, because repeats of a slow command cost more than a lost
                    // one.
                    *asked_again = asked_again.saturating_add(1);
                    let patience = rtt.work_patience(len, lossy.is_some());
                    let wait = patience * (1 << (*asked_again).min(5));
                    // On the longest paths an answer takes at least one timeout.
                    (Some(wait.min(RTO_MAX.max(rtt.timeout()))), false)
                }
                Detail::Request(_) => (Some(again), is_small || count > 1),
                Detail::Reply { announced } => {
                    let is_seen_to = *announced && count <= REPEATS_MAX;
                    (is_seen_to.then_some(again), replies_twice)
                }
                Detail::Other => {
                    let waits = item.is_event() && is_silent;
                    let is_timed = count <= REPEATS_MAX && !item.is_paced() && !waits;
                    let held = match item {
                        Item::Message(_) => rtt.may_be_held(),
                        Item::Update | Item::Challenge | Item::Response | Item::Ping => {
                            Duration::ZERO
                        }
                    };
                    (is_timed.then_some(again + held), is_small || count > 1)
                }
            };
            let again = again.filter(|_| !is_planted(Fault::NeverRepeat));
            let copy = gap.filter(|_| twice).map(|gap| now + gap);
            entry.attempts.schedule(again.map(|wait| now + wait), copy);
        }
    }

    /// Notes that the other side has received a request and works on it.
    pub fn request_arrived(&mut self, now: Time, id: RequestId, rtt: &Rtt, lossy: bool) {
        let Some(entry) = self.get_mut(Item::request(id)) else {
            return;
        };
        let (len, is_fragmented) = (entry.len(), entry.is_fragmented());
        if let Some(state) = entry.request_state_mut()
            && state.in_work.is_none()
        {
            state.in_work = Some(0);
            // A long request is costly to resend, and its reply is probably in flight.
            let patience = if is_fragmented {
                RTO_MAX.max(rtt.timeout() * 4)
            } else {
                rtt.work_patience(len, lossy)
            };
            entry.attempts.stop();
            entry.attempts.schedule(Some(now + patience), None);
        }
    }

    /// Notes that a packet with the item was lost, and queues the item again, unless retransmission
    /// has stopped until something is heard.
    pub fn lost(&mut self, item: Item) {
        if let Some(entry) = self.get_mut(item) {
            let leaves = match entry.detail {
                Detail::Request(state) => state.in_work.is_none(),
                Detail::Reply { announced } => announced,
                Detail::Other => entry.attempts.count() <= REPEATS_MAX,
            };
            if leaves {
                entry.queue();
            }
        }
    }

    /// Notes that the other side was heard: timeouts are reset, and abandoned items are sent again.
    pub fn heard(&mut self, rtt: &Rtt) {
        self.unheard = 0;
        // On an unmeasured path the timeout may be far too short. Packets that arrive meanwhile do
        // not prove it right.
        if rtt.is_measured() {
            self.timeouts = 0;
        }
        for entry in &mut self.entries {
            if entry.is_reply() || entry.request_state().is_some() {
                continue;
            }
            if entry.count() > REPEATS_MAX {
                entry.attempts.forget();
                entry.queue();
            } else if entry.item == Item::Ping {
                entry.attempts.forget();
            } else if entry.item.is_event() && entry.attempts.is_idle() {
                // It was sent once while the other side was silent.
                entry.queue();
            }
        }
    }

    /// Returns the earliest timer or deadline.
    pub fn timeout(&self) -> Option<Time> {
        let each = |entry: &Entry| {
            let deadline = entry.request_state().map(|state| state.deadline);
            earliest(entry.attempts.timeout(), deadline)
        };
        self.entries.iter().map(each).fold(None, earliest)
    }

    /// The unfragmented items that are due at `now`.
    pub fn due(&self, now: Time) -> impl Iterator<Item = &Entry> {
        let is_due = move |entry: &&Entry| entry.attempts.timeout().is_some_and(|due| due <= now);
        let whole = self.entries.iter().filter(|one| !one.is_fragmented());
        whole.filter(is_due)
    }

    /// Advances time: queues due items, and returns the requests whose deadline has passed.
    pub fn expire(&mut self, now: Time) -> Vec<RequestId> {
        let mut over = Vec::new();
        self.entries
            .retain(|entry| match (entry.item, entry.request_state()) {
                (Item::Message(MessageId::Request(id)), Some(state)) if state.deadline <= now => {
                    over.push(id);
                    false
                }
                (_, Some(_) | None) => true,
            });
        let mut is_any_due = false;
        for entry in &mut self.entries {
            if !entry.attempts.expire(now) {
                continue;
            }
            match &mut entry.body {
                Body::Whole(_) => {
                    entry.attempts.queue();
                    is_any_due = true;
                }
                // All fragments arrived long ago, but no reply came: the message is sent anew.
                Body::Fragments(fragments) => {
                    fragments.restart();
                    entry.attempts.stop();
                    if let Some(state) = entry.request_state_mut() {
                        state.in_work = None;
                    }
                }
            }
        }
        if is_any_due {
            self.time_out();
            // A retransmission also carries all other unanswered requests: it costs few bytes and
            // may save each of them a timeout.
            let unheard = |entry: &&mut Entry| entry.is_unheard_request();
            self.entries
                .iter_mut()
                .filter(unheard)
                .for_each(Entry::queue);
        }
        over
    }

    /// Fragments the queued messages that are longer than `max` bytes.
    pub fn fragment(&mut self, max: usize) {
        for entry in &mut self.entries {
            if let Body::Whole(bytes) = &mut entry.body
                && entry.attempts.is_queued()
                && bytes.len() > max
            {
                let bytes = core::mem::take(bytes);
                entry.body = Body::Fragments(Box::new(Fragments::new(bytes)));
                entry.attempts.stop();
            }
        }
    }

    /// The messages with queued fragments, limited to as many as the other side reassembles at
    /// once. A message that has begun is completed before another begins, whatever their order.
    /// Else the other side would hold incomplete messages and have no room for the rest.
    pub fn fragments_queued(&self) -> impl Iterator<Item = (MessageId, &Fragments)> {
        let fragmented = self.entries.iter().filter_map(Entry::fragments);
        let missing = fragmented.filter(|(_, fragments)| !fragments.is_arrived());
        let begun = missing.clone().filter(|(_, one)| one.is_begun()).count();
        let mut free = ASSEMBLIES_MAX.saturating_sub(begun);
        let current = missing.filter(move |(_, fragments)| {
            let is_free = free > 0;
            if !fragments.is_begun() {
                free = free.saturating_sub(1);
            }
            fragments.is_begun() || is_free
        });
        current.filter(|(_, fragments)| fragments.has_queued())
    }

    /// The length in bytes of the next fragmented message; 0 if there is none.
    pub fn next_fragmented_len(&self) -> u64 {
        let mut queued = self.fragments_queued();
        queued.next().map_or(0, |(_, fragments)| fragments.total())
    }

    /// Bytes queued in fragments.
    pub fn fragments_queued_len(&self) -> u64 {
        let queued = self.fragments_queued();
        queued.map(|(_, fragments)| fragments.queued_len()).sum()
    }

    fn fragments_mut(&mut self, message: MessageId) -> Option<&mut Fragments> {
        match &mut self.get_mut(Item::Message(message))?.body {
            Body::Fragments(fragments) => Some(fragments),
            Body::Whole(_) => None,
        }
    }

    /// Notes that a fragment was sent.
    pub fn fragment_sent(&mut self, message: MessageId, part: &Range<u64>) {
        if let Some(fragments) = self.fragments_mut(message) {
            fragments.sent(part);
        }
    }

    /// Notes that a fragment has arrived. True if the whole message has arrived.
    pub fn fragment_arrived(&mut self, message: MessageId, part: Range<u64>) -> bool {
        self.fragments_mut(message).is_some_and(|fragments| {
            fragments.arrive(part);
            fragments.is_arrived()
        })
    }

    /// Notes that a fragment is lost. It will be sent again.
    pub fn fragment_lost(&mut self, message: MessageId, part: Range<u64>) {
        self.repeats.fragments += 1;
        if let Some(fragments) = self.fragments_mut(message) {
            fragments.lose(part);
        }
    }

    /// Handles a move of the other side: the packets in flight went to its old address, so no
    /// acknowledgement will arrive.
    pub fn moved(&mut self) {
        for entry in &mut self.entries {
            let is_timed = entry.attempts.again().is_some();
            let state = entry.request_state();
            let is_in_work = state.is_some_and(|state| state.in_work.is_some());
            if is_timed && !is_in_work {
                entry.queue();
            }
        }
    }

    /// Asserts that the entries are in order. With `is_open`, also that each request is queued, has
    /// a timer, or is fragmented: fragments have their own timers.
    pub fn check(&self, is_open: bool) {
        debug_assert!(
            self.entries.is_sorted_by(|one, next| one.item < next.item),
            "items are out of their order, or twice in it"
        );
        let mut requests = self.requests().map(|(_, entry)| entry);
        let has_nothing_idle = requests.all(|one| one.is_fragmented() || !one.attempts.is_idle());
        debug_assert!(
            !is_open || has_nothing_idle || is_planted(Fault::NeverRepeat),
            "a request neither leaves nor has a timer"
        );
    }
}

/// Returns the count of retransmissions for the kind of `item`.
const fn count_of(repeats: &mut Repeats, item: Item) -> &mut u64 {
    match item {
        Item::Update | Item::Challenge | Item::Response | Item::Ping => &mut repeats.controls,
        Item::Message(MessageId::Request(_)) => &mut repeats.requests,
        Item::Message(MessageId::Reply(_)) => &mut repeats.replies,
        Item::Message(MessageId::Event(_)) => &mut repeats.events,
    }
}
