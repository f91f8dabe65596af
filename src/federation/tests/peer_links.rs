//! Tests of the links between two realms, one or both of which may be behind a firewall.

use super::*;
use crate::{
    crypto::SecretKey,
    federation::{Opener, PeerLinkCounters, PeerLinks, Seat},
};

const SEAT: Seat = Seat {
    listener: 0,
    worker: 0,
};
/// The keepalive interval of a link that is kept open, in seconds.
const KEEP_ALIVE: u64 = 25;
/// How long a packet is on its way.
const DELAY: u64 = 1;
/// How long an introduction waits for its answer.
const GIVES_UP: u64 = 180;
const DAY: u64 = 24 * 3600;

/// One of the two realms.
struct Side {
    table: PeerLinks<u32>,
    seen: PeerLinkCounters,
    /// Its links, with the time of the last packet.
    links: Vec<(u32, u64)>,
    /// When it last sent to the other side.
    sent: Option<u64>,
    /// The time after which its firewall forgets that it has sent. None without a firewall.
    forgets: Option<u64>,
    /// The number of links that it has tried to open.
    dialled: u32,
}

impl Side {
    fn new(now: u64, own: u8, forgets: Option<u64>) -> Self {
        let mut table = PeerLinks::new(PublicKey([own; 32]));
        table.keep_only(Duration::from_secs(now), &[key()]);
        Self {
            table,
            seen: PeerLinkCounters::default(),
            links: vec![],
            sent: None,
            forgets,
            dialled: 0,
        }
    }

    fn lets_in(&self, now: u64) -> bool {
        let sent = self.sent.map(|sent| now - sent);
        self.forgets
            .is_none_or(|forgets| sent.is_some_and(|since| since < forgets))
    }
}

fn key() -> PublicKey {
    SecretKey::from_bytes([9; 32]).public()
}

/// Two realms that have just started. Time advances by seconds.
struct Pair {
    now: u64,
    sides: [Side; 2],
    links: u32,
    /// A link that is not kept open ends after this time, in seconds.
    idle: u64,
    /// What is on its way, with the time at which it happens.
    pending: Vec<(u64, Event)>,
}

/// What happens later.
#[derive(Clone, Copy)]
enum Event {
    /// An introduction arrives, over a new link if one is named.
    Arrives { from: usize, link: Option<u32> },
    /// The answer arrives.
    IsAnswered { from: usize, link: Option<u32> },
    /// Nobody has answered.
    IsGivenUp { from: usize },
    /// The side is told that the other has closed a link.
    IsClosed { at: usize, link: u32 },
}

impl Pair {
    fn new(forgets: [Option<u64>; 2], idle: u64) -> Self {
        let mut pair = Self {
            now: 0,
            idle,
            sides: [Side::new(0, 0, forgets[0]), Side::new(0, 255, forgets[1])],
            links: 0,
            pending: vec![],
        };
        for which in [0, 1] {
            pair.introduce(which, false);
        }
        pair
    }

    /// Kills a side and starts it again. The other side is not notified.
    fn restart(&mut self, which: usize) {
        let forgets = self.sides[which].forgets;
        let before = core::mem::replace(
            &mut self.sides[which],
            Side::new(self.now, u8::try_from(which).unwrap() * 255, forgets),
        );
        self.sides[which].dialled = before.dialled;
        self.introduce(which, false);
    }

    fn at(&self) -> Duration {
        Duration::from_secs(self.now)
    }

    /// Sends to the other side. True if the other side's firewall lets it in.
    fn send(&mut self, from: usize) -> bool {
        self.sides[from].sent = Some(self.now);
        self.sides[1 - from].lets_in(self.now)
    }

    /// Introduces a side to the other, over an open link or one that it opens.
    fn introduce(&mut self, which: usize, must_open: bool) {
        self.sides[which].table.request_begun(&key());
        let is_open =
            !self.sides[which].links.is_empty() || !self.sides[1 - which].links.is_empty();
        let opens = must_open || !is_open;
        let is_let_in = self.send(which);
        let has_own = !self.sides[which].links.is_empty();
        let mut link = None;
        if opens {
            self.sides[which].dialled += 1;
            if !has_own {
                self.links += 1;
                link = Some(self.links);
            }
        }
        if is_let_in {
            self.later(DELAY, Event::Arrives { from: which, link });
            self.later(2 * DELAY, Event::IsAnswered { from: which, link });
        } else {
            self.later(GIVES_UP, Event::IsGivenUp { from: which });
        }
    }

    fn later(&mut self, after: u64, event: Event) {
        self.pending.push((self.now + after, event));
    }

    fn happen(&mut self, event: Event) {
        let at = self.at();
        match event {
            Event::Arrives { from, link } => {
                let other = &mut self.sides[1 - from];
                other.sent = Some(self.now);
                if let Some(link) = link {
                    let link = (SEAT, link);
                    assert!(other.table.opened(at, &key(), link, Opener::Peer));
                }
                other.table.introduced(at, &key());
            }
            Event::IsAnswered { from, link } => {
                let side = &mut self.sides[from];
                if let Some(link) = link {
                    side.links.push((link, self.now));
                    let link = (SEAT, link);
                    assert!(side.table.opened(at, &key(), link, Opener::This));
                } else if let Some(link) = side.links.first_mut() {
                    link.1 = self.now;
                }
                side.table.request_ended(at, &key());
            }
            Event::IsGivenUp { from } => {
                self.sides[from].table.request_ended(at, &key());
            }
            Event::IsClosed { at: side, link } => {
                self.sides[side].table.closed(at, &key(), (SEAT, link));
            }
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        let at = self.at();
        let now = self.now;
        let due = self.pending.extract_if(.., |(due, _)| *due <= now);
        for (_, event) in due.collect::<Vec<_>>() {
            self.happen(event);
        }
        for which in [0, 1] {
            self.keep_links(which);
            let side = &mut self.sides[which];
            if self.now.is_multiple_of(60) {
                side.table.reintroduce(at);
            }
            side.table.handle_timeout(at);
            let (seen, counters) = (side.seen, side.table.counters(&key()));
            side.seen = counters;
            if counters.dial_backs > seen.dial_backs {
                self.introduce(which, true);
            } else if counters.reintroductions > seen.reintroductions {
                self.introduce(which, false);
            }
        }
    }

    /// Sends keepalives. Closes links that are idle or whose keepalive is not answered.
    fn keep_links(&mut self, which: usize) {
        let is_kept = self.sides[which].table.keeps_open(&key());
        let mut ended = vec![];
        for at in 0..self.sides[which].links.len() {
            let (link, used) = self.sides[which].links[at];
            let is_due = self.now - used >= if is_kept { KEEP_ALIVE } else { self.idle };
            if is_due && is_kept && self.send(which) {
                self.sides[1 - which].sent = Some(self.now);
                self.sides[which].links[at].1 = self.now;
            } else if is_due {
                // The other side learns of it if it can be reached.
                let is_told = self.send(which);
                ended.push((link, is_told));
            }
        }
        let now = self.at();
        for (link, is_told) in ended {
            self.sides[which].links.retain(|(own, _)| *own != link);
            self.sides[which].table.closed(now, &key(), (SEAT, link));
            if is_told {
                let at = 1 - which;
                self.later(DELAY, Event::IsClosed { at, link });
            }
        }
    }

    /// True if a message from that side would reach the other one now.
    fn reaches(&self, which: usize) -> bool {
        let has_link = self.sides.iter().any(|side| !side.links.is_empty());
        has_link || self.sides[1 - which].lets_in(self.now)
    }
}

/// PEER-24: a peer that can be dialled after a silence gets no link kept open. Both sides learn
/// that soon after a start, and then dial no more because of it.
#[test]
fn dial_back_of_reachable_peers_stops_soon_after_start() {
    for idle in [5, 60, 600] {
        let mut pair = Pair::new([None, None], idle);
        for _ in 0..2 * 3600 {
            pair.tick();
        }
        let dialled = pair.sides.each_ref().map(|side| side.dialled);
        assert!(dialled.iter().sum::<u32>() <= 12, "{dialled:?}");
        for side in &pair.sides {
            assert!(!side.table.keeps_open(&key()) && side.links.is_empty());
        }
        for _ in 0..DAY {
            pair.tick();
        }
        assert_eq!(pair.sides.each_ref().map(|side| side.dialled), dialled);
        // One of them restarts.
        for which in [0, 1] {
            pair.restart(which);
            for _ in 0..2 * 3600 {
                pair.tick();
            }
            let dialled = pair.sides.each_ref().map(|side| side.dialled);
            for _ in 0..DAY {
                pair.tick();
            }
            assert_eq!(pair.sides.each_ref().map(|side| side.dialled), dialled);
        }
    }
}

/// PEER-24: a realm behind a stateful firewall, or behind an address translator that keeps its
/// port, can be called only soon after it has sent something. It is reached within an hour
/// nevertheless. Fixed fault: the first such call was taken for a proof that it can be called, and
/// its messages waited until it sent again for another reason.
#[test]
fn dial_back_peer_behind_firewall_is_reached_within_hour() {
    for forgets in [10, 30, 120, 299] {
        let mut pair = Pair::new([None, Some(forgets)], 5);
        let (mut unreachable, mut longest) = (0, 0);
        for _ in 0..3 * DAY {
            pair.tick();
            unreachable = if pair.reaches(0) { 0 } else { unreachable + 1 };
            longest = longest.max(unreachable);
        }
        assert!(longest <= 3600, "{longest} s without a way, {forgets}");
        let dialled = pair.sides.each_ref().map(|side| side.dialled);
        assert!(dialled.iter().sum::<u32>() <= 900, "{dialled:?}");
        // The operator opens the port.
        pair.sides[1].forgets = None;
        for _ in 0..2 * 3600 {
            pair.tick();
        }
        let dialled = pair.sides.each_ref().map(|side| side.dialled);
        for _ in 0..DAY {
            pair.tick();
        }
        assert_eq!(pair.sides.each_ref().map(|side| side.dialled), dialled);
    }
}

/// PEER-24: the same holds for two realms that are both behind firewalls.
#[test]
fn dial_back_peers_behind_two_firewalls_are_reached_within_hour() {
    let mut pair = Pair::new([Some(60), Some(90)], 5);
    // Their operators have each other's address: both send until one gets through.
    let mut longest = [0; 2];
    let mut unreachable = [0; 2];
    for _ in 0..3 * DAY {
        pair.tick();
        for which in [0, 1] {
            let count = unreachable[which] + 1;
            unreachable[which] = if pair.reaches(which) { 0 } else { count };
            longest[which] = longest[which].max(unreachable[which]);
        }
    }
    assert!(
        longest.iter().all(|longest| *longest <= 3600),
        "{longest:?}"
    );
}
