//! A watch ends with its session, however the session ends, and at once (WATCH-4).

use std::{sync::Arc, time::Duration};

use super::{
    held::{Held, give, realm_of},
    *,
};
use crate::wire::Cursors;
use crate::wire::command;

const SESSION: SessionRef = SessionRef::Bound;

/// A clock that follows the simulated time.
#[derive(Clone)]
struct Ticking(tokio::time::Instant);

impl Ticking {
    fn new() -> Self {
        Self(tokio::time::Instant::now())
    }

    fn now(&self) -> Moment {
        let seconds = u32::try_from(self.0.elapsed().as_secs()).unwrap();
        later(MOMENT, seconds)
    }
}

/// ann on two devices. The second one watches.
struct Watching {
    realm: Arc<Realm<Held>>,
    watch: Watch<Held>,
    clock: Ticking,
}

impl Watching {
    async fn new() -> Self {
        let realm = Arc::new(realm_of(&Held::default()));
        for (n, command) in [
            (1, register(1, "ann")),
            (2, auth(1, "ann", "correct horse")),
            (9, register(1, "bob")),
        ] {
            let answer = give(&realm, n, &Request::from(command).to_bytes()).await;
            assert!(matches!(answer, Answer::Session(_)), "{answer:?}");
        }
        let bytes = Request::from(Command::Watch(command::Watch {
            session: SESSION,
            cursors: Cursors::default(),
        }))
        .to_bytes();
        let caller = caller(device(2), MOMENT);
        let watch = realm.watch_of(&caller, &bytes).await.unwrap();
        Self {
            realm,
            watch,
            clock: Ticking::new(),
        }
    }

    async fn ask(&self, n: u8, command: Command<'_>) -> Answer {
        let bytes = Request::from(command).to_bytes();
        let answer = self
            .realm
            .answer(&caller(device(n), self.clock.now()), &bytes)
            .await;
        Answer::parse(&answer).unwrap()
    }

    /// Returns how long it takes until the watch ends while nobody sends.
    async fn ends(&mut self) -> Duration {
        let began = tokio::time::Instant::now();
        let clock = self.clock.clone();
        let now = move || clock.now();
        let next = self.watch.next(&now, Backlog::Arrived).await;
        assert!(next.is_none(), "{next:?}");
        began.elapsed()
    }

    async fn pushed(&mut self) -> bool {
        let clock = self.clock.clone();
        let now = move || clock.now();
        self.watch.next(&now, Backlog::Arrived).await.is_some()
    }
}

#[tokio::test(start_paused = true)]
async fn watch_ends_with_its_session() {
    let handle = async |at: &Watching| {
        let Answer::Sessions(all) = at
            .ask(2, Command::Sessions(command::Sessions { session: SESSION }))
            .await
        else {
            panic!("no sessions")
        };
        all.into_iter().find(|one| one.current).unwrap().handle
    };
    for way in 0..4 {
        let mut at = Watching::new().await;
        // Eight entries are read at once, and one is pushed.
        for number in 2..12 {
            assert_eq!(at.ask(9, send(number, "ann", "x")).await, STORED);
        }
        assert!(at.pushed().await);
        let answer = match way {
            0 => at.ask(2, logout(20)).await,
            1 => {
                let handle = handle(&at).await;
                let revoke = Command::Revoke(command::Revoke {
                    operation: op(20),
                    session: SESSION,
                    handle,
                });
                at.ask(1, revoke).await
            }
            2 => {
                let passwd = Command::Passwd(command::Passwd {
                    operation: op(20),
                    session: SESSION,
                    old: Password(b"correct horse"),
                    new: Password(b"battery staple"),
                });
                at.ask(1, passwd).await
            }
            // Two sessions are allowed, and the other one is used later.
            _ => {
                tokio::time::advance(Duration::from_hours(2)).await;
                assert!(matches!(
                    at.ask(1, Command::WhoAmI(command::WhoAmI { session: SESSION }))
                        .await,
                    Answer::Account(_)
                ));
                at.ask(3, auth(1, "ann", "correct horse")).await
            }
        };
        assert!(!matches!(answer, Answer::Refused(_)), "{way}: {answer:?}");
        assert_eq!(at.ends().await, Duration::ZERO, "way {way}");
    }
}

/// SES-4: a watch without pushes does not use its session. A push does.
#[tokio::test(start_paused = true)]
async fn watch_without_pushes_ends_with_unused_session() {
    let day = Duration::from_hours(24);
    let mut at = Watching::new().await;
    let ended = at.ends().await;
    assert!(
        (30 * day..30 * day + Duration::from_secs(3)).contains(&ended),
        "{ended:?}"
    );
    let mut at = Watching::new().await;
    for number in 2..5 {
        tokio::time::advance(29 * day).await;
        // bob, who sends, logs in anew each time.
        at.ask(9, auth(number * 10, "bob", "correct horse")).await;
        let answer = at.ask(9, send(number * 10 + 1, "ann", "x")).await;
        assert_eq!(answer, STORED);
        assert!(at.pushed().await, "{number}");
    }
    let ended = at.ends().await;
    assert!(
        (30 * day..30 * day + Duration::from_secs(3)).contains(&ended),
        "{ended:?}"
    );
    // An entry that arrives after the session's end is not pushed.
    let mut at = Watching::new().await;
    tokio::time::advance(31 * day).await;
    at.ask(9, auth(2, "bob", "correct horse")).await;
    assert_eq!(at.ask(9, send(3, "ann", "x")).await, STORED);
    assert!(!at.pushed().await);
}

/// Returns a realm in which ann is in `groups` groups with 8 unread messages each, and the command
/// that begins her watch.
async fn with_backlog(groups: u32) -> (Arc<Realm<Held>>, Vec<u8>) {
    let at = Watching::new().await;
    let text = "x".repeat(900);
    let mut number = 100;
    for n in 0..groups {
        let group = || format!("g{n}").parse().unwrap();
        number += 10;
        let add = Command::AddGroup(command::AddGroup {
            operation: op(number),
            session: SESSION,
            group: group(),
            password: Password(b""),
        });
        assert_eq!(at.ask(9, add).await, Answer::Done);
        let join = Command::JoinGroup(command::JoinGroup {
            operation: op(number),
            session: SESSION,
            group: group(),
            password: Password(b""),
        });
        assert_eq!(at.ask(1, join).await, Answer::Done);
        for post in 1..9 {
            let post = Command::SendGroup(command::SendGroup {
                operation: op(number + post),
                session: SESSION,
                group: group(),
                message: Body(text.as_bytes()),
            });
            assert_eq!(at.ask(9, post).await, STORED);
        }
    }
    let command = Request::from(Command::Watch(command::Watch {
        session: SESSION,
        cursors: Cursors::default(),
    }));
    (at.realm, command.to_bytes())
}

/// Returns the most that a watch has read ahead. Checks that everything is pushed once, and in
/// order in each mailbox.
async fn most_read_ahead(realm: &Arc<Realm<Held>>, command: &[u8], groups: usize) -> usize {
    let mut watch = realm
        .watch_of(&caller(device(2), MOMENT), command)
        .await
        .unwrap();
    let mut seen = std::collections::BTreeMap::<String, Vec<u64>>::new();
    let mut most = 0;
    for _ in 0..groups * 8 {
        let push = watch.next(&|| MOMENT, Backlog::Underway).await.unwrap();
        let event = crate::wire::Event::parse(&push.bytes).unwrap();
        let mailbox = seen.entry(event.mailbox.to_string()).or_default();
        mailbox.push(event.entry.position.0);
        most = most.max(watch.read_ahead());
    }
    assert_eq!(seen.len(), groups);
    for positions in seen.values() {
        assert_eq!(*positions, (1..9).collect::<Vec<_>>());
    }
    most
}

/// A watch over many mailboxes with unread entries reads a bounded part of them ahead, and pushes
/// all.
#[tokio::test]
async fn watch_over_many_mailboxes_reads_bounded_part_ahead() {
    let (realm, command) = with_backlog(40).await;
    let most = most_read_ahead(&realm, &command, 40).await;
    assert!(most <= 64 << 10, "{most}");
    crate::faults::plant(Some(crate::faults::Fault::ReadAheadWithoutEnd));
    let without = most_read_ahead(&realm, &command, 40).await;
    crate::faults::plant(None);
    assert!(
        without > 128 << 10,
        "the mend taken back is found: {without}"
    );
}

/// An account that watches more than its share is told to wait, and no other account is. A watch
/// that ends makes room.
#[tokio::test]
async fn watches_of_one_account_leave_room_for_others() {
    let at = Watching::new().await;
    let command = Request::from(Command::Watch(command::Watch {
        session: SESSION,
        cursors: Cursors::default(),
    }))
    .to_bytes();
    let begin = async |n| {
        let answer = give(&at.realm, n, &command).await;
        if answer != Answer::Done {
            return Err(answer);
        }
        Ok(at
            .realm
            .watch_of(&caller(device(n), MOMENT), &command)
            .await
            .unwrap())
    };
    let mut watches = Vec::new();
    let refused = loop {
        match begin(2).await {
            Ok(watch) => watches.push(watch),
            Err(refused) => break refused,
        }
    };
    let Answer::Refused(refusal) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refusal.code, ErrorCode::Busy);
    let share = Limits::default().watch_memory / 8;
    assert!(watches.len() <= share / (8 << 10), "{}", watches.len());
    assert!(begin(9).await.is_ok());
    watches.pop();
    watches.pop();
    assert!(begin(2).await.is_ok());
}

/// LINK-13: an entry that an earlier release accepted may be longer than clients reassemble. Its
/// first fragment is pushed, and the rest is read.
#[tokio::test]
async fn push_of_long_entry_carries_first_fragment() {
    let directory = tempfile::tempdir().unwrap();
    let realm = Arc::new(open_with(&directory, |_, limits| {
        limits.max_message = 100_000;
    }));
    let text = "x".repeat(90_000);
    for (n, command) in [
        (1, register(1, "ann")),
        (2, register(1, "bob")),
        (1, send(2, "bob", &text)),
    ] {
        let bytes = Request::from(command).to_bytes();
        let answer = realm.answer(&caller(device(n), MOMENT), &bytes).await;
        assert!(!Answer::is_refusal(&answer));
    }
    let command = Request::from(Command::Watch(command::Watch {
        session: SESSION,
        cursors: Cursors::default(),
    }));
    let mut watch = realm
        .watch_of(&caller(device(2), MOMENT), &command.to_bytes())
        .await
        .unwrap();
    let push = watch.next(&|| MOMENT, Backlog::Underway).await.unwrap();
    let entry = crate::wire::Event::parse(&push.bytes).unwrap().entry;
    let fragment = entry.fragment.unwrap();
    assert_eq!((fragment.offset, fragment.total), (0, 90_000));
    assert_eq!(entry.body.len(), 64 << 10);
}
