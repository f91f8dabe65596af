//! The retransmission queue alone.

use alloc::vec;

use super::super::{
    backoff::Jitter,
    limits::{PUSHES_AT_ONCE, REQUEST_SPAN},
    pushed::Pushed,
    queue::{Entry, Item, Lossy, PendingRequest, Queue, REPEATS_MAX, Urgency},
    rtt::Rtt,
    *,
};
use crate::wire::MessageId;

const END: Time = Time(120_000_000);

struct Sender {
    queue: Queue,
    rtt: Rtt,
    jitter: Jitter,
}

impl Sender {
    fn new(rtt: Rtt) -> Self {
        Self {
            queue: Queue::default(),
            rtt,
            jitter: Jitter::new(1),
        }
    }

    fn near() -> Self {
        Self::new(Rtt::remembered(Duration::from_millis(50)))
    }

    fn ask(&mut self, bytes: Vec<u8>, deadline: Time, early: bool) -> RequestId {
        let request = PendingRequest {
            bytes,
            deadline,
            early,
        };
        self.queue.push_request(request).unwrap()
    }

    fn queued(&self) -> Vec<Item> {
        self.queue.queued().map(Entry::item).collect()
    }

    /// Sends everything that is queued in one packet.
    fn send(&mut self, now: Time, lossy: Option<Lossy>) -> Vec<Item> {
        let items = self.queued();
        self.queue
            .sent(now, &items, &self.rtt, &mut self.jitter, lossy);
        items
    }
}

fn requests(ids: &[u64]) -> Vec<Item> {
    ids.iter().map(|id| Item::request(RequestId(*id))).collect()
}

/// LINK-8: a request is retransmitted until its reply has arrived.
#[test]
fn retransmission_of_request_ends_with_its_reply() {
    let mut sender = Sender::new(Rtt::default());
    sender.ask(vec![1], END, false);
    sender.ask(vec![2], END, false);
    assert_eq!(sender.send(Time(0), None), requests(&[0, 1]));
    assert!(sender.queued().is_empty());
    let again = sender.queue.timeout().unwrap();
    assert!(
        // Two to three seconds, and the time that 101 bytes take on a narrow path.
        again >= Time(2_505_000) && again <= Time(3_505_000),
        "{again:?}"
    );
    assert!(sender.queue.expire(again).is_empty());
    assert_eq!(sender.queued(), requests(&[0, 1]));
    assert!(sender.queue.remove(Item::request(RequestId(0))).is_some());
    assert_eq!(sender.queued(), requests(&[1]));
}

/// LINK-8: a retransmission of one request carries the other unanswered requests.
#[test]
fn retransmission_carries_other_unanswered_requests() {
    let mut sender = Sender::near();
    sender.ask(vec![1], END, false);
    sender.send(Time(0), None);
    sender.ask(vec![2], END, false);
    let due = sender.queue.timeout().unwrap();
    sender.send(Time(due.0 - 1), None);
    sender.queue.expire(due);
    assert_eq!(sender.queued(), requests(&[0, 1]));
}

/// LINK-8: an acknowledged request waits longer. Password hashing and other realms are slow, and
/// repeats would only cost bytes.
#[test]
fn retransmission_of_acknowledged_request_waits_longer() {
    let mut sender = Sender::near();
    let id = sender.ask(vec![1], END, false);
    sender.send(Time(0), None);
    sender
        .queue
        .request_arrived(Time(60_000), id, &sender.rtt, false);
    assert!(sender.queue.timeout().unwrap() >= Time(1_060_000));
}

/// LINK-8: the longer a request is in work, the less often it is repeated.
#[test]
fn backoff_grows_while_request_is_in_work() {
    let mut sender = Sender::near();
    let id = sender.ask(vec![1], END, false);
    sender.send(Time(0), None);
    let mut now = Time(60_000);
    sender.queue.request_arrived(now, id, &sender.rtt, false);
    let mut asked = 0;
    while now < Time(60_000_000) {
        now = sender.queue.timeout().unwrap();
        sender.queue.expire(now);
        sender.queue.heard(&sender.rtt);
        sender.send(now, None);
        asked += 1;
    }
    assert!(asked <= 7, "{asked} times in a minute");
}

/// LINK-8: a request in work is not repeated before the answer to the last repeat can arrive.
/// Before, it was, on paths with a round trip of more than 30 s.
#[test]
fn retransmission_of_request_in_work_waits_timeout_on_long_paths() {
    let mut sender = Sender::new(Rtt::remembered(Duration::from_mins(1)));
    let id = sender.ask(vec![1], Time(u64::MAX), false);
    sender.send(Time(0), None);
    let mut now = Time(60_000_000);
    sender.queue.request_arrived(now, id, &sender.rtt, false);
    for _ in 0..4 {
        now = sender.queue.timeout().unwrap();
        sender.queue.expire(now);
        sender.send(now, None);
        let wait = sender.queue.timeout().unwrap() - now;
        assert!(wait >= sender.rtt.timeout(), "{wait:?}");
    }
}

/// LINK-13: a fragmented request leaves in fragments only. Before, a redundant copy was due when
/// the path had become too small for it, and left as an empty packet.
#[test]
fn fragments_of_request_are_its_only_way_out() {
    let mut sender = Sender::near();
    let id = sender.ask(vec![1; 400], END, false);
    sender.send(Time(0), Some(Lossy { small: true }));
    sender.queue.lost(Item::request(id));
    sender.queue.fragment(100);
    assert_eq!(sender.queue.fragments_queued_len(), 400);
    sender.queue.lost(Item::request(id));
    sender.queue.expire(Time(END.0 - 1));
    assert!(sender.queued().is_empty());
    assert_eq!(sender.queue.timeout(), Some(END));
    let taken = sender.queue.take_requests();
    assert_eq!(taken.first().unwrap().1.bytes, vec![1; 400]);
}

/// LINK-13: a message that has begun is completed before another begins, because the other side
/// reassembles two messages at once. Before, a begun message gave way to an earlier one that was
/// fragmented later. Neither of two begun messages was completed, and there was never room for the
/// third (seed 13002018).
#[test]
fn fragments_of_begun_message_leave_before_another_begins() {
    let mut sender = Sender::near();
    let [first, second, third] = [100, 200, 300].map(|len| sender.ask(vec![1; len], END, false));
    let which = |sender: &Sender| {
        let queued = sender.queue.fragments_queued();
        queued.map(|(message, _)| message).collect::<Vec<_>>()
    };
    let message = MessageId::Request;
    // The longest is fragmented first, and some of it leaves. Then the path shrinks.
    sender.queue.fragment(250);
    sender.queue.fragment_sent(message(third), &(0..50));
    sender.queue.fragment(50);
    assert_eq!(which(&sender), [first, third].map(message));
    sender.queue.fragment_sent(message(first), &(0..100));
    assert_eq!(which(&sender), [third].map(message));
    sender.queue.fragment_lost(message(third), 0..50);
    sender.queue.fragment_arrived(message(first), 0..100);
    assert_eq!(which(&sender), [second, third].map(message));
}

#[test]
fn deadline_ends_waiting_of_request() {
    let mut sender = Sender::new(Rtt::default());
    let id = sender.ask(vec![1], Time(1000), false);
    sender.send(Time(0), None);
    assert_eq!(sender.queue.timeout(), Some(Time(1000)));
    assert_eq!(sender.queue.expire(Time(1000)), [id]);
    assert!(sender.queue.is_empty());
}

/// HS-7: an early request is sent again when its link restarts.
#[test]
fn early_data_request_is_sent_again_after_link_restart() {
    let mut sender = Sender::near();
    let early = sender.ask(vec![1], END, true);
    sender.ask(vec![2], END, false);
    sender.queue.carry_early(&[Item::request(early)]);
    let rtt = sender.rtt.clone();
    sender
        .queue
        .early_arrived(Time(0), &rtt, false, &mut sender.jitter);
    assert_eq!(sender.queued(), requests(&[1]), "the first has arrived");
    assert!(sender.queue.awaits_early());
    sender.queue = sender.queue.restart();
    assert_eq!(sender.queued(), requests(&[0, 1]));
    assert!(!sender.queue.awaits_early());
}

/// LINK-8: the reply to early data may be lost like any other, and its request is repeated as soon.
#[test]
fn retransmission_of_early_data_request_is_as_soon_as_any() {
    let mut sender = Sender::near();
    let early = sender.ask(vec![1], END, true);
    sender.queue.carry_early(&[Item::request(early)]);
    let rtt = sender.rtt.clone();
    sender
        .queue
        .early_arrived(Time(0), &rtt, false, &mut sender.jitter);
    let mut waits = Vec::new();
    let mut now = Time(0);
    for _ in 0..4 {
        let due = sender.queue.timeout().unwrap();
        waits.push(due - now);
        now = due;
        sender.queue.expire(now);
        assert_eq!(sender.send(now, None), requests(&[0]));
    }
    let mut other = Sender::near();
    other.ask(vec![1], END, false);
    other.send(Time(0), None);
    let longest = (other.queue.timeout().unwrap() - Time(0)) * 11 / 10;
    assert!(waits[0] <= longest, "{waits:?}");
    // The path is only remembered: each wait is twice the one before, and the request has left
    // once.
    assert!(waits[3] <= longest * 8, "{waits:?}");
}

/// LINK-9: request numbers run no further ahead than the other side remembers.
#[test]
fn request_numbers_run_no_further_than_other_side_remembers() {
    let mut sender = Sender::near();
    let ask = |sender: &mut Sender| {
        let request = PendingRequest {
            bytes: vec![],
            deadline: END,
            early: false,
        };
        sender.queue.push_request(request)
    };
    for _ in 0..REQUEST_SPAN {
        assert!(ask(&mut sender).is_some());
    }
    assert_eq!(ask(&mut sender), None);
    sender.queue.remove(Item::request(RequestId(5)));
    assert_eq!(ask(&mut sender), None, "the oldest is still unanswered");
    sender.queue.remove(Item::request(RequestId(0)));
    assert!(ask(&mut sender).is_some());
}

/// LINK-19: a redundant copy leaves an eighth of a round trip later, and once.
#[test]
fn redundancy_copy_follows_once_after_eighth_of_round_trip() {
    let mut sender = Sender::near();
    sender.ask(vec![1], END, false);
    sender.queue.push_event(vec![2], Urgency::Backlog).unwrap();
    let lossy = Some(Lossy { small: true });
    let items = sender.send(Time(0), lossy);
    assert_eq!(items.len(), 2);
    let copy = sender.queue.timeout().unwrap();
    assert_eq!(copy, Time(50_000 / 8));
    sender.queue.expire(copy);
    assert_eq!(sender.send(copy, lossy), items);
    assert!(sender.queue.timeout().unwrap() >= Time(100_000));
    // At low loss there is none.
    let mut sender = Sender::near();
    sender.ask(vec![1], END, false);
    sender.send(Time(0), None);
    assert!(sender.queue.timeout().unwrap() >= Time(100_000));
}

/// LINK-16: the events for a silent reader are bounded, and so are their retransmissions until it
/// is heard.
#[test]
fn push_to_silent_reader_is_bounded_until_heard() {
    let mut sender = Sender::near();
    for _ in 0..PUSHES_AT_ONCE {
        sender.queue.push_event(vec![1], Urgency::Live).unwrap();
    }
    let live = sender.queue.push_event(vec![1], Urgency::Live);
    assert_eq!(live, None, "too many are on their way");
    let backlog = sender.queue.push_event(vec![1], Urgency::Backlog);
    assert_eq!(backlog, Some(EventId(0)));
    assert!(!Pushed::default().takes(EventId(2 * PUSHES_AT_ONCE as u64)));
    let (mut backlogs, mut lives) = (0, 0);
    while !sender.queued().is_empty() {
        let left = sender.send(Time(0), None);
        backlogs += u32::from(left.contains(&Item::event(EventId(0))));
        lives += u32::from(left.contains(&Item::event(EventId(1))));
        // Losses of backlog are noticed as with fragments, and of other events by their own timers.
        sender.queue.lost(Item::event(EventId(0)));
        sender.queue.expire(Time(u64::MAX));
    }
    assert_eq!((lives, backlogs), (REPEATS_MAX + 1, REPEATS_MAX + 1));
    assert_eq!(sender.queue.timeout(), None);
    sender.queue.heard(&sender.rtt);
    assert!(sender.queued().contains(&Item::event(EventId(0))));
    assert!(sender.queued().contains(&Item::event(EventId(1))));
}

/// LINK-18: a control frame is queued once, and is queued again at once when it is wanted again.
#[test]
fn retransmission_of_control_frame_ends_with_its_arrival() {
    let mut sender = Sender::near();
    sender.queue.control(Item::Challenge);
    sender.queue.control(Item::Challenge);
    assert_eq!(sender.send(Time(0), None), [Item::Challenge]);
    let again = sender.queue.timeout().unwrap();
    sender.queue.expire(again);
    assert_eq!(sender.send(again, None), [Item::Challenge]);
    sender.queue.control(Item::Challenge);
    assert_eq!(sender.queued(), [Item::Challenge]);
    sender.queue.remove(Item::Challenge);
    assert!(sender.queue.is_empty());
}

/// LINK-7, LINK-16: an event is not repeated while its acknowledgement may be held back: on a path
/// of a millisecond that may take 25 ms more.
#[test]
fn retransmission_of_event_waits_for_held_back_acknowledgement() {
    let mut sender = Sender::new(Rtt::default());
    for _ in 0..20 {
        sender
            .rtt
            .sample(Duration::from_millis(1), Duration::from_millis(3));
    }
    for urgency in [Urgency::Live, Urgency::Backlog] {
        sender.queue.push_event(vec![1], urgency).unwrap();
    }
    let held = sender.rtt.acknowledgement_delay();
    sender.send(Time(0), None);
    let again = sender.queue.timeout().unwrap();
    assert!(again > Time(1_000) + held, "{again:?}");
    let paced = |unpaced| {
        sender
            .rtt
            .paced_repeat_after(0, unpaced, &mut Jitter::new(1))
    };
    assert!(paced(None) > held + Duration::from_millis(1));
}

/// LINK-16: an event to a silent side leaves once, because one datagram is enough there. All events
/// are sent again when the side is heard.
#[test]
fn push_to_silent_side_leaves_once_until_heard() {
    let mut sender = Sender::near();
    sender.queue.push_event(vec![1], Urgency::Live).unwrap();
    sender.send(Time(0), None);
    let mut now = Time(0);
    while let Some(due) = sender.queue.timeout() {
        now = due;
        sender.queue.expire(now);
        sender.send(now, None);
        if sender.queue.is_silent() {
            break;
        }
        // Events that come before the side is known to be silent are repeated.
        sender.queue.push_event(vec![2], Urgency::Live);
        sender.send(now, None);
    }
    assert!(sender.queue.is_silent());
    let late = sender.queue.push_event(vec![3], Urgency::Live).unwrap();
    let mut sent = 0;
    loop {
        sent += sender
            .send(now, None)
            .iter()
            .filter(|item| **item == Item::event(late))
            .count();
        let Some(due) = sender.queue.timeout() else {
            break;
        };
        now = due;
        sender.queue.expire(now);
    }
    assert_eq!(sent, 1);
    sender.queue.heard(&sender.rtt);
    let waiting: Vec<_> = sender.queue.events().map(|(id, _)| id).collect();
    assert_eq!(sender.queued().len(), waiting.len());
    assert!(sender.queued().contains(&Item::event(late)));
}
