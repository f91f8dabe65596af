//! Tests of the state machine alone: its inputs, and the steps that it emits.

mod claims;
mod groups;
mod peer_links;
mod refusals;

use std::collections::BTreeSet;

use rand::RngExt as _;

use super::*;
use crate::{
    crypto::{PublicKey, SecretKey},
    realm::{NextOutgoing, Settling},
    wire::{Answer, Entry, Fragment, Page, PeerRequest, Position, Refusal, Sent, peer},
};

const STORED: Answer = Answer::Sent(Sent::Stored);
const BETA: PublicKey = PublicKey([50; 32]);

fn beta() -> RealmId {
    "beta".parse().unwrap()
}

fn crew() -> GroupName {
    "crew".parse().unwrap()
}

/// A state machine, the peers and the queue in its store, and the time.
struct Scene {
    machine: Federation,
    peers: Vec<Peer>,
    queue: VecDeque<u64>,
    has_replicas: bool,
    /// Writes to the store fail.
    is_full: bool,
    seconds: u64,
}

impl Scene {
    fn new() -> Self {
        let secret = SecretKey::from_bytes([9; 32]);
        let peer = Peer::sample(beta(), BETA, secret.public());
        Self {
            machine: Federation::new(RealmIdentity::sample("alpha".parse().unwrap(), secret), 1),
            peers: vec![peer],
            queue: VecDeque::new(),
            has_replicas: false,
            is_full: false,
            seconds: 0,
        }
    }

    fn now(&self) -> Moment {
        Moment {
            wall: 1_800_000_000,
            running: 1000,
            micros: self.seconds * 1_000_000,
        }
    }

    /// Passes an input to the machine.
    fn happens(&mut self, input: Input) {
        self.machine.handle(self.now(), input);
    }

    /// Returns the store's result of a step, or None for a request to a peer.
    fn read(&mut self, step: &Step) -> Option<StepResult> {
        Some(match step {
            Step::ListPeers => StepResult::Peers(self.peers.clone(), true),
            Step::ListReplicas(_) => StepResult::Replicas(Some(Vec::new())),
            Step::FindExpiries(peers) => StepResult::Searched(peers.clone()),
            Step::CleanUp => StepResult::CleanedUp(true),
            Step::ReturnExpired => StepResult::ExpiredReturned(None),
            Step::Look { peer, .. } => {
                let found = self.peers.iter().find(|known| known.realm == *peer);
                let next = self.queue.front().map(|position| NextOutgoing {
                    outgoing: Outgoing::sample(*position, 1000),
                    is_returned: false,
                    has_more: self.queue.len() > 1,
                });
                StepResult::Looked(Ok(found.map(|peer| {
                    Box::new(Glance {
                        peer: peer.clone(),
                        next: Ok(next),
                    })
                })))
            }
            Step::StoreIntroduction(..) | Step::StoreClaim(..) if self.is_full => {
                StepResult::Written(Written::Failed)
            }
            Step::StoreIntroduction(..) | Step::StoreClaim(..) => {
                StepResult::Written(Written::Durable)
            }
            Step::StoreOutcome(_, outgoing, settling) => {
                assert_eq!(self.queue.pop_front(), Some(outgoing.position()));
                if !matches!(settling, Settling::Told(_) | Settling::Returned) {
                    self.queue.push_back(outgoing.position() + 1000);
                }
                StepResult::Written(Written::Durable)
            }
            Step::LookAtReplica(..) if self.has_replicas => {
                StepResult::Replica(Box::new(ReplicaLook::At(ReplicaState::sample())))
            }
            Step::LookAtReplica(..) => StepResult::Replica(Box::new(ReplicaLook::Gone)),
            Step::StoreEntries(..) => StepResult::Written(Written::Durable),
            Step::Ask { .. } | Step::TryClaim { .. } => return None,
        })
    }

    /// Returns the next request to a peer, after all store steps before it. None if there is none
    /// now.
    fn next_question(&mut self) -> Option<(StepId, Vec<u8>)> {
        while let Some((id, step)) = self.machine.poll_step() {
            match self.read(&step) {
                Some(done) => self.happens(Input::StepDone(id, done)),
                None => match step {
                    Step::Ask { bytes, .. } => return Some((id, bytes)),
                    step => panic!("{step:?}"),
                },
            }
        }
        None
    }

    /// Returns the next request, after a wait if needed, with the length of the wait in seconds.
    fn wait_for_question(&mut self) -> (u64, StepId, Vec<u8>) {
        let began = self.seconds;
        loop {
            if let Some((id, bytes)) = self.next_question() {
                return (self.seconds - began, id, bytes);
            }
            let timeout = self.machine.poll_timeout().expect("it waits for something");
            self.seconds = self.seconds.max(timeout.as_secs() + 1);
            self.machine.handle_timeout(self.now());
        }
    }

    fn answer(&mut self, id: StepId, answer: Option<&Answer>) {
        let answer = answer.map(Answer::to_bytes);
        self.happens(Input::StepDone(id, StepResult::Answered(answer)));
    }

    /// Returns a scene in which the peer has accepted the peering.
    fn introduced() -> Self {
        let mut scene = Self::new();
        let (_, id, bytes) = scene.wait_for_question();
        let asked = PeerRequest::parse(&bytes).unwrap();
        assert!(matches!(asked, PeerRequest::Introduce(_)), "{asked:?}");
        scene.answer(id, Some(&Answer::Done));
        scene
    }

    fn queue(&mut self, position: u64) {
        self.queue.push_back(position);
        self.happens(Input::QueueGrown(beta()));
    }
}

fn sequence(bytes: &[u8]) -> u64 {
    match PeerRequest::parse(bytes) {
        Ok(PeerRequest::Deliver(peer::Deliver { sequence, .. })) => sequence.0,
        other => panic!("{other:?}"),
    }
}

/// PEER-2, PEER-5: after a start the introduction comes first. Then queued messages are delivered
/// in order, one at a time.
#[test]
fn introduction_after_start_comes_before_delivery_in_order() {
    let mut scene = Scene::introduced();
    assert!(scene.next_question().is_none());
    assert_eq!(scene.machine.poll_timeout(), None, "nothing is to be done");
    scene.queue(1);
    scene.queue(2);
    for position in [1, 2] {
        let (waited, id, bytes) = scene.wait_for_question();
        assert_eq!((waited, sequence(&bytes)), (0, position));
        assert!(scene.next_question().is_none(), "one at a time");
        scene.answer(id, Some(&STORED));
    }
    assert!(scene.next_question().is_none());
    assert!(scene.queue.is_empty());
}

/// PEER-5: a silent peer is asked again after growing waits, and at once when a packet from it
/// arrives. If a packet arrived while its answer was lost, it is asked soon. Fixed fault: it was
/// asked only after a silence as long as the one before.
#[test]
fn delivery_to_silent_peer_backs_off_until_peer_is_heard() {
    let mut scene = Scene::introduced();
    scene.queue(1);
    let mut waits = Vec::new();
    for _ in 0..12 {
        let (waited, id, _) = scene.wait_for_question();
        waits.push(waited);
        scene.answer(id, None);
    }
    assert!(waits[11] > 600 && waits[11] < 1300, "{waits:?}");
    assert!(waits[1] < 5, "{waits:?}");
    scene.happens(Input::Heard(beta()));
    let (waited, id, _) = scene.wait_for_question();
    assert_eq!(waited, 0);
    scene.happens(Input::Heard(beta()));
    scene.answer(id, None);
    let (waited, id, _) = scene.wait_for_question();
    assert!((2..5).contains(&waited), "{waited}");
    scene.answer(id, Some(&STORED));
    assert!(scene.next_question().is_none());
}

/// PEER-18: a peer that does not answer is soon shown as silent, before the request to it ends.
#[test]
fn peer_that_does_not_answer_is_shown_silent_before_request_ends() {
    let mut scene = Scene::introduced();
    scene.queue(1);
    let (_, id, _) = scene.wait_for_question();
    while scene.machine.poll_status().is_some() {}
    scene.seconds += 9;
    scene.machine.handle_timeout(scene.now());
    assert_eq!(scene.machine.poll_status(), None);
    scene.seconds += 2;
    scene.machine.handle_timeout(scene.now());
    assert_eq!(
        scene.machine.poll_status(),
        Some((beta(), PeerStatus::Silent))
    );
    assert_eq!(scene.machine.poll_timeout(), None, "it is told once");
    scene.answer(id, Some(&STORED));
    assert_eq!(
        scene.machine.poll_status(),
        Some((beta(), PeerStatus::Answering))
    );
}

/// PEER-7: a peer that reports every number as used is asked with growing waits, not without pause.
#[test]
fn delivery_refused_as_number_reused_is_retried_with_growing_waits() {
    let mut scene = Scene::introduced();
    scene.queue(1);
    let reused = Answer::Refused(ErrorCode::NumberReused.into());
    let mut asked = 0;
    while scene.seconds < 3600 && asked < 1000 {
        let (_, id, _) = scene.wait_for_question();
        scene.answer(id, Some(&reused));
        asked += 1;
    }
    assert!((20..120).contains(&asked), "{asked}");
}

/// PEER-14: a message that the peer does not take makes way for those behind it, after the peer has
/// promised not to deliver it.
#[test]
fn queue_message_refused_four_times_makes_way() {
    let mut scene = Scene::introduced();
    scene.queue(1);
    scene.queue(2);
    let internal = Answer::Refused(ErrorCode::Internal.into());
    let mut asked = 0;
    loop {
        let (_, id, bytes) = scene.wait_for_question();
        if let Ok(PeerRequest::Withdraw(peer::Withdraw { sequence, .. })) =
            PeerRequest::parse(&bytes)
        {
            assert_eq!(sequence.0, 1);
            scene.answer(id, Some(&Answer::Done));
            break;
        }
        assert_eq!(sequence(&bytes), 1);
        asked += 1;
        scene.answer(id, Some(&internal));
    }
    assert_eq!(asked, 4);
    let (_, _, bytes) = scene.wait_for_question();
    assert_eq!(sequence(&bytes), 2);
}

/// PEER-14, PEER-5: two messages that the peer does not take make way for each other after growing
/// waits. Fixed fault: they did so as fast as the shortest wait allowed.
#[test]
fn queue_messages_that_make_way_for_each_other_wait_longer_each_time() {
    let mut scene = Scene::introduced();
    scene.queue(1);
    scene.queue(2);
    let internal = Answer::Refused(ErrorCode::Internal.into());
    let mut asked = 0;
    while scene.seconds < 3600 {
        let (_, id, bytes) = scene.wait_for_question();
        let withdraws = matches!(PeerRequest::parse(&bytes), Ok(PeerRequest::Withdraw(_)));
        scene.answer(id, Some(if withdraws { &Answer::Done } else { &internal }));
        asked += 1;
    }
    assert!((20..120).contains(&asked), "{asked}");
}

/// PEER-24: a peer that opens a link while this realm introduces itself gets a link back
/// afterwards. The queue does not wait for that.
#[test]
fn dial_back_during_introduction_follows_and_does_not_delay_queue() {
    let mut scene = Scene::new();
    let (_, id, _) = scene.wait_for_question();
    scene.happens(Input::DialBack(beta()));
    assert!(scene.next_question().is_none());
    scene.answer(id, Some(&Answer::Done));
    let (back, bytes) = scene.next_question().expect("it is called back");
    let introduces = matches!(PeerRequest::parse(&bytes), Ok(PeerRequest::Introduce(_)));
    assert!(introduces);
    scene.queue(1);
    let (waited, id, bytes) = scene.wait_for_question();
    assert_eq!((waited, sequence(&bytes)), (0, 1));
    scene.answer(id, Some(&STORED));
    scene.answer(back, None);
    assert!(scene.next_question().is_none(), "once");
    scene.happens(Input::DialBack(beta()));
    assert!(scene.next_question().is_some());
}

/// PEER-24: if a link is lost during an introduction over it, another introduction follows.
#[test]
fn introduction_whose_link_is_lost_is_repeated() {
    let mut scene = Scene::new();
    let (_, id, _) = scene.wait_for_question();
    scene.happens(Input::Reintroduce(beta()));
    scene.answer(id, Some(&Answer::Done));
    let (id, bytes) = scene.next_question().expect("once more");
    let again = PeerRequest::parse(&bytes).unwrap();
    assert!(matches!(again, PeerRequest::Introduce(_)), "{again:?}");
    scene.answer(id, Some(&Answer::Done));
    assert!(scene.next_question().is_none());
}

/// PEER-22: results of steps of a removed peer are ignored, and another peer with its name starts
/// anew.
#[test]
fn peer_replaced_under_same_name_starts_with_introduction() {
    let mut scene = Scene::introduced();
    scene.queue(1);
    let (_, old, _) = scene.wait_for_question();
    let own = SecretKey::from_bytes([9; 32]).public();
    scene.peers = vec![Peer::sample(beta(), PublicKey([51; 32]), own)];
    scene.queue.clear();
    scene.happens(Input::PeersChanged);
    let (_, new, bytes) = scene.wait_for_question();
    assert_eq!(
        scene.machine.poll_cancelled(),
        Some(old),
        "it is asked no more"
    );
    let introduces = matches!(PeerRequest::parse(&bytes), Ok(PeerRequest::Introduce(_)));
    assert!(introduces, "the sample has not accepted");
    scene.answer(old, Some(&STORED));
    assert!(scene.next_question().is_none(), "nothing is settled");
    scene.answer(new, Some(&Answer::Done));
    assert!(scene.next_question().is_none());
}

/// PEER-10, PEER-5: a group that cannot be read, or that has no end, does not delay the queue,
/// which has its turn in between. Fixed fault: messages to a peer were not delivered as long as one
/// of its groups could not be read.
#[test]
fn group_unreadable_or_endless_does_not_delay_queue() {
    let internal = Answer::Refused(ErrorCode::Internal.into());
    for endless in [false, true] {
        let mut scene = Scene::introduced();
        scene.has_replicas = true;
        scene.happens(Input::GroupWork(beta(), GroupWork::Read(crew())));
        scene.queue(1);
        let mut position = 0;
        let (mut asked, mut brought) = (0, false);
        while !brought {
            let (_, id, bytes) = scene.wait_for_question();
            let answer = match PeerRequest::parse(&bytes).unwrap() {
                PeerRequest::Read(_) if endless => {
                    position += 1;
                    let Answer::Page(mut page) = part(15 << 20) else {
                        panic!("a page")
                    };
                    (page.entries[0].position, page.more) = (Position(position), true);
                    page.entries[0].fragment = None;
                    Answer::Page(page)
                }
                PeerRequest::Read(_) => internal.clone(),
                PeerRequest::Deliver(_) => {
                    brought = true;
                    STORED
                }
                other => panic!("{other:?}"),
            };
            scene.answer(id, Some(&answer));
            asked += 1;
            assert!(asked < 5, "it waits for the group");
        }
        // The group is read on after that.
        let (_, _, bytes) = scene.wait_for_question();
        let asked = PeerRequest::parse(&bytes).unwrap();
        assert!(matches!(asked, PeerRequest::Read(_)), "{asked:?}");
    }
}

/// PEER-10: work for a group is repeated until it succeeds.
#[test]
fn group_work_that_fails_is_repeated_until_settled() {
    let mut scene = Scene::introduced();
    assert!(scene.next_question().is_none());
    scene.happens(Input::GroupWork(beta(), GroupWork::Tell(crew())));
    let busy = Answer::Refused(Refusal::busy(100));
    for (answer, is_over) in [
        (None, false),
        (Some(busy), false),
        (Some(Answer::Done), true),
    ] {
        let (_, id, bytes) = scene.wait_for_question();
        let told = PeerRequest::parse(&bytes).unwrap();
        assert!(matches!(told, PeerRequest::Grown(_)), "{told:?}");
        scene.answer(id, answer.as_ref());
        assert!(scene.next_question().is_none());
        assert_eq!(scene.machine.poll_timeout().is_none(), is_over);
    }
}

/// Returns a fragment of the only entry of a group. The entry has the largest possible size.
fn part(offset: u64) -> Answer {
    const PART: u64 = 1 << 20;
    let fragment = Some(Fragment {
        offset,
        total: 16 << 20,
    });
    let entry = Entry {
        position: Position(1),
        time: 0,
        content: 0,
        fragment,
        from: "ann".parse().unwrap(),
        read: false,
        body: vec![7; usize::try_from(PART).unwrap()],
    };
    let entries = vec![entry];
    let more = offset + PART < 16 << 20;
    Answer::Page(Page { more, entries })
}

/// PEER-10: the buffer for long entries is bounded, whatever peers send and however many there are.
/// All entries are read in the end.
#[test]
fn replica_long_entries_of_many_peers_stay_within_buffer_bound() {
    let mut scene = Scene::introduced();
    scene.has_replicas = true;
    let own = SecretKey::from_bytes([9; 32]).public();
    let name = |n: u8| -> RealmId { format!("peer{n}").parse().unwrap() };
    scene.peers = (0..9)
        .map(|n| Peer::sample(name(n), PublicKey([100 + n; 32]), own))
        .collect();
    scene.happens(Input::PeersChanged);
    let (mut asked, mut kept, mut most) = (VecDeque::new(), BTreeSet::new(), 0);
    for n in 0..9 {
        scene.happens(Input::GroupWork(name(n), GroupWork::Read(crew())));
    }
    loop {
        while let Some((id, step)) = scene.machine.poll_step() {
            if let Step::StoreEntries(peer, ..) = &step {
                kept.insert(peer.realm);
            }
            match scene.read(&step) {
                Some(done) => scene.happens(Input::StepDone(id, done)),
                None => asked.push_back((id, step)),
            }
        }
        let Some((id, step)) = asked.pop_front() else {
            let Some(timeout) = scene.machine.poll_timeout() else {
                break;
            };
            scene.seconds = scene.seconds.max(timeout.as_secs() + 1);
            scene.machine.handle_timeout(scene.now());
            continue;
        };
        let Step::Ask { peer, bytes } = step else {
            panic!("{step:?}")
        };
        let answer = match PeerRequest::parse(&bytes) {
            Ok(PeerRequest::Read(_)) if kept.contains(&peer.realm) => Answer::Page(Page::default()),
            Ok(PeerRequest::Read(peer::Read { offset, .. })) => part(offset.0),
            _ => Answer::Done,
        };
        scene.answer(id, Some(&answer));
        let held = scene.machine.peers.values().map(PeerTask::held);
        most = most.max(held.sum());
    }
    assert_eq!(kept.len(), 9);
    assert!((48 << 20..66 << 20).contains(&most), "{most}");
}

/// PEER-5: with events in any order, a peer has at most one step under way. Once the peer takes
/// messages, its queue becomes empty.
#[test]
fn queue_empties_after_events_in_any_order() {
    for seed in 0..2000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut scene = Scene::new();
        let mut asked: Option<(StepId, Vec<u8>)> = None;
        let mut position = 0;
        for _ in 0..60 {
            match rng.random_range(0..8) {
                0 => {
                    position += 1;
                    scene.queue(position);
                }
                1 => scene.happens(Input::Heard(beta())),
                2 => scene.happens(Input::GroupWork(beta(), GroupWork::Tell(crew()))),
                3 => scene.happens(Input::GroupWork(beta(), GroupWork::Read(crew()))),
                4 => scene.happens(Input::PeersChanged),
                5 => {
                    scene.seconds += rng.random_range(0..100);
                    scene.machine.handle_timeout(scene.now());
                }
                _ => {
                    let Some((id, ..)) = asked.take() else {
                        continue;
                    };
                    let answer = match rng.random_range(0..6) {
                        0 => None,
                        1 => Some(Answer::Refused(Refusal::busy(100))),
                        2 => Some(Answer::Refused(ErrorCode::Internal.into())),
                        3 => Some(Answer::Refused(ErrorCode::NumberReused.into())),
                        4 => Some(Answer::Done),
                        _ => Some(STORED),
                    };
                    scene.answer(id, answer.as_ref());
                }
            }
            if let Some(question) = scene.next_question() {
                assert!(
                    asked.replace(question).is_none(),
                    "seed {seed}: one at a time"
                );
            }
        }
        let mut questions = 0;
        loop {
            let (id, bytes) = match asked.take().or_else(|| scene.next_question()) {
                Some(question) => question,
                None if scene.machine.poll_timeout().is_none() => break,
                None => {
                    let (_, id, bytes) = scene.wait_for_question();
                    (id, bytes)
                }
            };
            let brings = matches!(PeerRequest::parse(&bytes), Ok(PeerRequest::Deliver(_)));
            // *done* is not a valid answer to a delivery.
            scene.answer(id, Some(if brings { &STORED } else { &Answer::Done }));
            questions += 1;
            assert!(questions < 1000, "seed {seed}: it never ends");
        }
        assert!(scene.queue.is_empty(), "seed {seed}");
    }
}
