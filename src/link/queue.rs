//! The retransmission queue: every item until it is acknowledged, and requests until they are
//! answered. One policy sets retransmission (LINK-8, LINK-12, LINK-16, LINK-18) and redundant
//! copies (LINK-19).

use alloc::{boxed::Box, vec::Vec};
use core::{ops::Range, time::Duration};

use super::{
    BURST, FEW,
    backoff::{Jitter, RTO_MAX, Urge},
    fragments::Fragments,
    item::{Ask, Item},
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

/// The bytes of a message.
#[derive(Clone, Debug)]
pub enum Body {
    /// The message fits a datagram.
    Whole(Vec<u8>),
    /// The message is sent in fragments only.
    Fragments(Box<Fragments>),
}

/// The state of an item apart from its transmissions.
#[derive(Clone, Copy, Debug)]
pub enum Detail {
    /// A reply.
    Reply {
        /// The request was acknowledged and is not repeated soon, so this side must retransmit the
        /// reply.
        announced: bool,
    },
    /// A request.
    Request(Ask),
    /// Anything else.
    Other,
}

/// An item in the queue.
#[derive(Clone, Debug)]
pub struct Entry {
    pub item: Item,
    pub attempts: Attempts,
    pub body: Body,
    pub detail: Detail,
}

impl Entry {
    /// The length of the message in bytes.
    pub fn len(&self) -> usize {
        match &self.body {
            Body::Whole(bytes) => bytes.len(),
            Body::Fragments(fragments) => usize::try_from(fragments.total()).unwrap_or(usize::MAX),
        }
    }

    /// True if the message is sent in fragments.
    pub const fn is_fragmented(&self) -> bool {
        matches!(self.body, Body::Fragments(_))
    }

    /// Removes and returns the message.
    pub fn take_bytes(&mut self) -> Vec<u8> {
        match core::mem::replace(&mut self.body, Body::Whole(Vec::new())) {
            Body::Whole(bytes) => bytes,
            Body::Fragments(fragments) => fragments.into_bytes(),
        }
    }

    /// Queues the item for (re)transmission, unless it is fragmented: fragments are queued singly.
    pub const fn queue(&mut self) {
        if !self.is_fragmented() {
            self.attempts.queue();
        }
    }

    /// The state of a request; `None` for another item.
    pub const fn ask(&self) -> Option<&Ask> {
        match &self.detail {
            Detail::Request(ask) => Some(ask),
            Detail::Reply { .. } | Detail::Other => None,
        }
    }

    /// True for a reply.
    pub const fn is_reply(&self) -> bool {
        matches!(self.detail, Detail::Reply { .. })
    }

    /// True for a request that is not known to have arrived.
    pub const fn is_unheard_request(&self) -> bool {
        matches!(&self.detail, Detail::Request(Ask { in_work: None, .. }))
    }

    /// True for a reply that this side retransmits.
    pub const fn is_announced(&self) -> bool {
        matches!(self.detail, Detail::Reply { announced: true })
    }
}

/// The retransmission queue.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// Sorted by item.
    pub(super) entries: Vec<Entry>,
    /// Consecutive timeouts since the other side was heard on a measured path.
    pub(super) timeouts: u32,
    /// Consecutive timeouts since anything was heard, measured path or not.
    pub(super) unheard: u32,
    /// Counts of retransmissions.
    pub(super) repeats: Repeats,
}

impl Queue {
    fn position(&self, item: Item) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&item, |entry| entry.item)
    }

    /// Returns the entry of an item, if it is in the queue.
    pub fn get(&self, item: Item) -> Option<&Entry> {
        self.entries.get(self.position(item).ok()?)
    }

    /// Returns the entry of an item for modification.
    pub fn get_mut(&mut self, item: Item) -> Option<&mut Entry> {
        let at = self.position(item).ok()?;
        self.entries.get_mut(at)
    }

    /// True if a request waits that may not be sent as early data.
    pub fn asks_in_secret(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.ask().is_some_and(|ask| !ask.early))
    }

    /// Inserts an item, or replaces the one that is there.
    pub fn insert(&mut self, entry: Entry) {
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
            None => self.insert(Entry {
                item,
                attempts: Attempts::queued(),
                body: Body::Whole(Vec::new()),
                detail: Detail::Other,
            }),
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
    pub fn give_back(&mut self) {
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
        let asks = self.entries.iter().filter_map(Entry::ask);
        let soon = now + AWAITED_FOR;
        if asks.into_iter().any(|ask| ask.deadline <= soon) {
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

    /// Counts another timeout.
    pub const fn time_out(&mut self) {
        self.timeouts = self.timeouts.saturating_add(1);
        self.unheard = self.unheard.saturating_add(1);
    }

    /// Memory held for the other side, in bytes: replies and events.
    pub fn memory(&self) -> usize {
        let is_theirs = |entry: &&Entry| entry.ask().is_none();
        let each = self.entries.iter().filter(is_theirs).map(Entry::len);
        let room = self.entries.capacity().saturating_sub(FEW);
        room * size_of::<Entry>() + each.sum::<usize>()
    }

    /// Bytes of long replies that are not acknowledged.
    pub fn held_replies(&self) -> usize {
        let long = self.replies().map(Entry::len);
        long.filter(|len| *len > REPLY_KEPT_BYTES).sum()
    }

    /// The replies.
    pub fn replies(&self) -> impl Iterator<Item = &Entry> {
        let is_reply = |entry: &&Entry| matches!(entry.detail, Detail::Reply { .. });
        self.entries.iter().filter(is_reply)
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
        entries.any(|entry| entry.ask().is_some() && entry.attempts.is_repeat())
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
            let Ok(at) = self.entries.binary_search_by_key(item, |entry| entry.item) else {
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
                *self.repeats.of(*item) += 1;
            }
            let count = entry.attempts.count();
            let again = wait + rtt.allowance(len);
            let (again, twice) = match &mut entry.detail {
                Detail::Request(Ask {
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
                        _ => Duration::ZERO,
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
        if let Detail::Request(ask) = &mut entry.detail
            && ask.in_work.is_none()
        {
            ask.in_work = Some(0);
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
                Detail::Request(ask) => ask.in_work.is_none(),
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
            let is_given_up = entry.attempts.count() > REPEATS_MAX;
            match entry.item {
                Item::Message(MessageId::Request(_) | MessageId::Reply(_)) => {}
                _ if is_given_up => {
                    entry.attempts.forget();
                    entry.queue();
                }
                Item::Ping => entry.attempts.forget(),
                // It was sent once while the other side was silent.
                _ if entry.item.is_event() && entry.attempts.is_idle() => entry.queue(),
                Item::Update | Item::Challenge | Item::Response | Item::Message(_) => {}
            }
        }
    }

    /// Returns the earliest timer or deadline.
    pub fn timeout(&self) -> Option<Time> {
        let each = |entry: &Entry| {
            let deadline = entry.ask().map(|ask| ask.deadline);
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
            .retain(|entry| match (entry.item, entry.ask()) {
                (Item::Message(MessageId::Request(id)), Some(ask)) if ask.deadline <= now => {
                    over.push(id);
                    false
                }
                _ => true,
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
                    if let Detail::Request(ask) = &mut entry.detail {
                        ask.in_work = None;
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
}

/// Fragments.
impl Queue {
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
        let fragmented = self
            .entries
            .iter()
            .filter_map(|entry| match (entry.item, &entry.body) {
                (Item::Message(message), Body::Fragments(fragments)) => {
                    Some((message, &**fragments))
                }
                _ => None,
            });
        let missing = fragmented.filter(|(_, fragments)| !fragments.is_arrived());
        let begun = missing.clone().filter(|(_, one)| one.is_begun()).count();
        let mut room = ASSEMBLIES_MAX.saturating_sub(begun);
        let current = missing.filter(move |(_, fragments)| {
            let has_room = room > 0;
            if !fragments.is_begun() {
                room = room.saturating_sub(1);
            }
            fragments.is_begun() || has_room
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

    /// Notes that a fragment is lost.
    pub fn fragment_lost(&mut self, message: MessageId, part: Range<u64>) {
        if let Some(fragments) = self.fragments_mut(message) {
            fragments.lose(part);
        }
    }
}
