//! The lives of a store, and the cursors of clients that remember another store (HS-14, READ-9).

use std::sync::Arc;

use super::{super::lives::KnownLives, *};
use crate::{
    crypto::{Initiator, LifeClaim, Responder},
    realm::records::{LivesRecord, Record as _, lives},
    store::{Asked, Faulty},
    wire::{Cursors, Event, Life, Mailbox, command},
};

/// Returns the claim of a device that remembers `life`.
fn claim(life: Life) -> LifeClaim {
    let mut rng = StdRng::seed_from_u64(5);
    let (device, realm) = (
        SecretKey::from_bytes([1; 32]),
        SecretKey::from_bytes([2; 32]),
    );
    let (ours, one) = Initiator::start(&mut rng, &device, &realm.public(), b"").unwrap();
    let (theirs, _) = Responder::read(&mut rng, &realm, &one).unwrap();
    LifeClaim::new(theirs.life_key, ours.life_key.tag(life))
}

fn news(life: Option<Life>, is_unknown: bool) -> LifeNews {
    LifeNews { life, is_unknown }
}

impl Fixture {
    async fn begin(self) -> (Self, Life) {
        let fixture = self.restart();
        fixture.realm.lives.begin_life(false).await;
        let current = fixture
            .realm
            .lives
            .known
            .get()
            .and_then(KnownLives::current);
        let current = current.unwrap();
        (fixture, current)
    }

    fn judge(&self, life: Life) -> LifeNews {
        self.realm.lives.judge_claim(Some(&claim(life)))
    }
}

/// HS-14: a claim is compared with all lives of the store.
#[tokio::test]
async fn life_claim_is_compared_with_all_lives_of_store() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.judge(Life([1; 4])),
        news(None, false),
        "no life has begun"
    );
    let (fixture, first) = fixture.begin().await;
    let (fixture, second) = fixture.begin().await;
    assert_ne!(first, second);
    assert_eq!(fixture.judge(second), news(None, false));
    assert_eq!(fixture.judge(first), news(Some(second), false));
    assert_eq!(fixture.judge(Life::NONE), news(Some(second), false));
    assert_eq!(fixture.judge(Life([1; 4])), news(Some(second), true));
    assert_eq!(fixture.realm.lives.judge_claim(None), news(None, false));
    // A store that was copied while in use forgets all former lives: it may know the life from
    // which clients remember entries that the copy lacks.
    let fixture = fixture.restart();
    fixture.realm.lives.begin_life(true).await;
    assert!(fixture.judge(second).is_unknown && fixture.judge(first).is_unknown);
    assert!(!fixture.judge(Life::NONE).is_unknown);
}

/// HS-14: the oldest lives are dropped beyond 1024.
#[tokio::test]
async fn life_records_are_bounded() {
    let fixture = Fixture::new();
    let former: Vec<[u8; 4]> = (1..=1024_u32).map(u32::to_be_bytes).collect();
    let mut batch = Batch::new();
    let record = LivesRecord { lives: former };
    batch.put(lives(), record.to_value().unwrap());
    fixture.realm.store().commit(batch).await.unwrap();
    let (fixture, current) = fixture.begin().await;
    let KnownLives { known, .. } = fixture.realm.lives.known.get().unwrap();
    assert_eq!(known.len(), 1024);
    let life = |n: u32| Life(n.to_be_bytes());
    assert_eq!(fixture.judge(life(1)), news(Some(current), false));
    assert_eq!(fixture.judge(life(1023)), news(Some(current), false));
    assert_eq!(fixture.judge(life(1024)), news(Some(current), true));
}

/// Sends a command from a link whose claim is unknown.
async fn ask_unknown(fixture: &Fixture, options: Options, command: Command<'_>) -> Answer {
    let caller = Caller {
        trusts_cursors: false,
        ..fixture.caller(device(2))
    };
    let bytes = Request { options, command }.to_bytes();
    Answer::parse(&fixture.realm.answer(&caller, &bytes).await).unwrap()
}

async fn positions(fixture: &Fixture, after: Option<u64>, offset: Option<u64>) -> Vec<u64> {
    let options = Options {
        after,
        offset,
        ..Options::NONE
    };
    let command = Command::Inbox(command::Inbox {
        session: SessionRef::Bound,
    });
    match ask_unknown(fixture, options, command).await {
        Answer::Page(page) => {
            assert!(page.entries.iter().all(|entry| entry.fragment.is_none()));
            let entries = page.entries.iter();
            entries.map(|entry| entry.position.0).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// Returns a realm in which bob has confirmed 2 of the 5 messages from ann.
async fn with_messages() -> Fixture {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    fixture.register(device(2), "bob").await;
    for number in 2..=6 {
        let sent = fixture.ask(device(1), send(number, "bob", "x")).await;
        assert_eq!(sent, STORED);
    }
    let confirms = Options {
        after: Some(2),
        ..Options::NONE
    };
    assert_eq!(fixture.inbox(device(2), confirms).await.entries.len(), 3);
    fixture
}

/// READ-9: on a link whose claim is unknown, reading begins behind what is confirmed.
#[tokio::test]
async fn life_unknown_makes_read_begin_behind_confirmed_position() {
    let fixture = with_messages().await;
    assert_eq!(positions(&fixture, Some(5), None).await, [3, 4, 5]);
    assert_eq!(positions(&fixture, Some(4), Some(1)).await, [3, 4, 5]);
    assert_eq!(positions(&fixture, Some(0), None).await, [1, 2, 3, 4, 5]);
    // The reads have confirmed nothing.
    assert_eq!(positions(&fixture, None, None).await, [3, 4, 5]);
    let unread = ask_unknown(
        &fixture,
        Options::NONE,
        Command::Unread(command::Unread {
            session: SessionRef::Bound,
            cursors: Cursors::default(),
        }),
    );
    let Answer::Unread(counts) = unread.await else {
        panic!("no counts")
    };
    assert_eq!(counts[0].count, 3);
}

/// READ-9, WATCH-1: on a link whose claim is unknown, watching begins behind what is confirmed.
#[tokio::test]
async fn life_unknown_makes_watch_begin_behind_confirmed_position() {
    let fixture = with_messages().await;
    let watch = |position| {
        Command::Watch(command::Watch {
            session: SessionRef::Bound,
            cursors: Cursors(vec![(Mailbox::Private, Position(position))]),
        })
    };
    assert_eq!(
        ask_unknown(&fixture, Options::NONE, watch(5)).await,
        Answer::Done
    );
    assert_eq!(positions(&fixture, None, None).await, [3, 4, 5]);
    let trusting = fixture.caller(device(2));
    let distrusting = Caller {
        trusts_cursors: false,
        ..trusting
    };
    let realm = Arc::new(fixture.realm);
    for (caller, named, first) in [(distrusting, 5, 3), (distrusting, 0, 1), (trusting, 4, 5)] {
        let command = Request::from(watch(named)).to_bytes();
        let mut watch = realm.watch_of(&caller, &command).await.unwrap();
        let push = watch.next(&|| MOMENT, Backlog::Arrived).await.unwrap();
        let pushed = Event::parse(&push.bytes).unwrap();
        assert_eq!(pushed.entry.position, Position(first), "{named}");
    }
}

/// HS-14, READ-9: a life whose name could not be written, as on a full disk, is not the life
/// before. No copy of the life before holds what is written in it. Before, the former life went on,
/// so one life named two histories. What a restored copy assigned to a position that the lost store
/// had assigned was never shown.
#[tokio::test]
async fn life_that_cannot_be_written_differs_from_former_life() {
    let store = Faulty::default();
    let realm = || realm_over(store.clone(), |_, _| {});
    let current = |realm: &Realm<Faulty>| {
        realm
            .lives
            .known
            .get()
            .and_then(KnownLives::current)
            .unwrap()
    };
    let judge = |realm: &Realm<Faulty>, life| realm.lives.judge_claim(Some(&claim(life)));
    let full = |is_full: bool| {
        store.fail_when(move |asked| is_full && matches!(asked, Asked::Commit(_)));
    };
    let first = realm();
    assert!(first.lives.begin_life(false).await);
    let written = current(&first);
    let second = realm();
    full(true);
    assert!(!second.lives.begin_life(false).await);
    let unwritten = current(&second);
    assert_ne!(unwritten, written);
    assert_eq!(judge(&second, written), news(Some(unwritten), false));
    assert_eq!(judge(&second, unwritten), news(None, false));
    // Peers are told the life before, which ends nothing.
    let name = |Life(name): Life| u64::from(u32::from_be_bytes(name));
    assert_eq!(second.lives.in_this_life(0), name(written));
    full(false);
    let third = realm();
    assert!(third.lives.begin_life(false).await);
    assert!(judge(&third, unwritten).is_unknown);
    assert!(!judge(&third, written).is_unknown);
}
