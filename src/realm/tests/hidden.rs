//! What a reader is not shown of a group: the entries of users whom the reader blocks.

use std::{sync::Arc, time::Duration};

use super::{
    blocks::{
        SESSION, add_group, block, cats, grouped, join_group, post, text, unblock, with_group,
    },
    held::{Held, give, realm_of},
    *,
};
use crate::{
    realm::{
        groups::vouchers::Vouchers,
        mailboxes::blocks::{Blocked, HIDDEN_MAX, UNREAD_LOOKED_AT},
        mailboxes::reading::Reader,
        records::MailboxLog,
        storage::Unnoted,
    },
    wire::{
        CONTENT_HIDDEN, CONTENT_TEXT, Cursors, Entry, Event, Mailbox, Sender, command, parse_varint,
    },
};

/// BLK-3: what a blocked user writes in a group is not shown to who blocks them, is not counted,
/// and is shown again when the block has ended. Others and the user see it all the time.
#[tokio::test]
async fn group_message_of_blocked_user_is_hidden_while_blocked() {
    let fixture = with_group().await;
    fixture.obeyed(2, post(3, "1 of bob")).await;
    fixture.obeyed(3, post(3, "2 of cat")).await;
    fixture.obeyed(2, post(4, "3 of bob")).await;
    fixture.obeyed(1, block(3, "bob")).await;
    fixture.obeyed(2, post(5, "4 of bob")).await;
    fixture.obeyed(3, post(4, "5 of cat")).await;
    fixture.obeyed(2, post(6, "6 of bob")).await;
    let all = [
        "1 of bob", "2 of cat", "3 of bob", "4 of bob", "5 of cat", "6 of bob",
    ];
    assert_eq!(fixture.group_texts(1).await, ["2 of cat", "5 of cat"]);
    assert_eq!(fixture.unread_in(1, Mailbox::Group(cats())).await, 2);
    for n in [2, 3] {
        assert_eq!(fixture.group_texts(n).await, all);
        assert_eq!(fixture.unread_in(n, Mailbox::Group(cats())).await, 6);
    }
    // Page by page, with the position of the last one.
    let one = |after| Options {
        after: Some(after),
        limit: Some(1),
        ..Options::NONE
    };
    let page = fixture.group_page(1, one(0)).await;
    assert!(page.more);
    assert_eq!(page.entries[0].position, Position(2));
    let page = fixture.group_page(1, one(2)).await;
    assert_eq!(page.entries[0].position, Position(5));
    let page = fixture.group_page(1, one(5)).await;
    assert_eq!((page.entries.len(), page.more), (0, false));
    assert_eq!(fixture.unread_in(1, Mailbox::Group(cats())).await, 0);
    fixture.obeyed(1, unblock(4, "bob")).await;
    assert_eq!(fixture.group_texts(1).await, all);
}

/// BLK-4: however many entries are hidden, a reader comes to the end, and is told how many there
/// were. A count of unread entries looks at a bounded number of them.
#[tokio::test]
async fn many_hidden_entries_are_passed_in_bounded_steps() {
    let fixture = with_group().await;
    fixture.obeyed(1, block(3, "bob")).await;
    let many = 5 * HIDDEN_MAX as u64 + UNREAD_LOOKED_AT as u64 / 2;
    for number in 0..many {
        fixture.obeyed(2, post(3 + number, "x")).await;
    }
    fixture.obeyed(3, post(3, "of cat")).await;
    let group = Mailbox::Group(cats());
    let counted = many + 1 - UNREAD_LOOKED_AT as u64;
    assert_eq!(fixture.unread_in(1, group).await, counted);
    let (mut after, mut told, mut texts) = (0, 0, Vec::new());
    for _ in 0..many {
        let options = Options {
            after: Some(after),
            ..Options::NONE
        };
        let page = fixture.group_page(1, options).await;
        for entry in &page.entries {
            assert!(entry.position.0 > after);
            after = entry.position.0;
            if entry.content == CONTENT_HIDDEN {
                told += parse_varint(&entry.body).unwrap().1;
            } else {
                texts.push(text(entry));
            }
        }
        if page.entries.is_empty() {
            break;
        }
    }
    assert_eq!(texts, ["of cat"]);
    // Those just before a shown entry are passed without a word.
    assert!(told <= many && told + HIDDEN_MAX as u64 >= many, "{told}");
    assert_eq!(fixture.unread_in(1, group).await, 0);
}

/// BLK-3, WATCH-4: a watch follows what is blocked while it lasts. Nothing that it has read ahead
/// is pushed any more.
#[tokio::test]
async fn watch_pushes_no_group_entry_of_blocked_user() {
    let fixture = with_group().await;
    for number in 3..6 {
        fixture.obeyed(2, post(number, "of bob")).await;
    }
    fixture.obeyed(3, post(3, "of cat")).await;
    let caller = fixture.caller(device(1));
    let realm = Arc::new(fixture.realm);
    let command = Command::Watch(command::Watch {
        session: SESSION,
        cursors: Cursors::default(),
    });
    let bytes = Request::from(command).to_bytes();
    let mut watch = realm.watch_of(&caller, &bytes).await.unwrap();
    let mut pushed = async || {
        let next = watch.next(&|| MOMENT, Backlog::Arrived);
        let next = tokio::time::timeout(Duration::from_secs(10), next).await;
        let push = next.expect("there is one").unwrap();
        text(&Event::parse(&push.bytes).unwrap().entry)
    };
    let ask = async |n: u8, command: Command<'_>| {
        let bytes = Request::from(command).to_bytes();
        let answer = realm
            .answer(&super::caller(device(n), MOMENT), &bytes)
            .await;
        let answer = Answer::parse(&answer).unwrap();
        assert!(matches!(answer, Answer::Done | STORED), "{answer:?}");
    };
    // The other entries are read ahead now.
    assert_eq!(pushed().await, "of bob");
    ask(1, block(3, "bob")).await;
    assert_eq!(pushed().await, "of cat");
    for number in 6..30 {
        ask(2, post(number, "of bob")).await;
        ask(2, send(100 + number, "ann", "to ann")).await;
    }
    ask(3, post(4, "of cat again")).await;
    assert_eq!(pushed().await, "of cat again");
    ask(1, unblock(4, "bob")).await;
    ask(2, post(200, "of bob again")).await;
    assert_eq!(pushed().await, "of bob again");
}

/// BLK-3, PEER-26: what a home realm says that a blocked user of this realm wrote, and this realm
/// cannot confirm, is a notice in its name, and hidden all the same. What the realm itself says is
/// not.
#[tokio::test]
async fn unconfirmed_text_of_blocked_user_is_hidden() {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    let copy = records::ReplicaRecord {
        epoch: 7,
        known_as: "alpha".into(),
        position: 0,
        log: 7,
        floor: 0,
        ended: false,
    };
    let which = ("beta".parse().unwrap(), cats());
    let place = MailboxLog::replica(which.0, which.1, &copy);
    let bob = |realm: Option<&str>| Sender {
        user: "bob".parse().unwrap(),
        realm: realm.map(|realm| realm.parse().unwrap()),
    };
    let mut batch = Batch::new();
    for (position, from, content) in [
        (1, bob(Some("alpha")), CONTENT_TEXT),
        (2, bob(Some("alpha")), 77),
        (3, bob(None), CONTENT_TEXT),
        (4, bob(Some("gamma")), CONTENT_TEXT),
    ] {
        let entry = Entry {
            position: Position(position),
            time: NOW,
            content,
            fragment: None,
            from,
            read: false,
            body: b"text".to_vec(),
        };
        let mut vouchers = Vouchers::default();
        let kept = fixture
            .realm
            .posts
            .replicated_entry(which, &copy, entry, &mut vouchers);
        batch.append(place.log.clone(), kept.await.unwrap().to_value().unwrap());
    }
    fixture.realm.storage.commit(batch).await.unwrap();
    let positions = async |users: &[Sender]| {
        let blocked = Blocked::of(users);
        let reader = Reader {
            blocked: &blocked,
            ..Reader::REALM
        };
        let limit = crate::store::PageLimit {
            entries: 9,
            bytes: 9999,
        };
        let shown = fixture
            .realm
            .mailboxes
            .shown(&place, Position(0), reader, limit);
        let entries = shown.await.unwrap().entries;
        let shown = entries.iter().map(|entry| entry.position.0);
        shown.collect::<Vec<_>>()
    };
    assert_eq!(positions(&[]).await, [1, 2, 3, 4]);
    assert_eq!(positions(&[bob(None)]).await, [3, 4]);
    assert_eq!(positions(&[bob(Some("beta"))]).await, [1, 2, 4]);
    assert_eq!(positions(&[bob(Some("gamma"))]).await, [1, 2, 3]);
}

/// BLK-3, READ-10: entries that are hidden from a reader are kept no longer than others that were
/// read; otherwise their author could tell. No cursor moves over them: after `unblock` the reader
/// is shown them, and they are not marked as read.
#[tokio::test]
async fn hidden_entries_are_kept_no_longer_than_read_ones() {
    for is_blocked in [true, false] {
        let mut fixture = with_group().await;
        let retention = Retention {
            age: Some(Duration::from_hours(24)),
            unread_age: Some(Duration::from_hours(240)),
            entries: None,
            bytes: None,
        };
        fixture.realm.policy.begin_keeping(Some(retention)).await;
        fixture.obeyed(3, post(3, "of cat")).await;
        for number in 3..6 {
            fixture.obeyed(2, post(number, "of bob")).await;
        }
        let page = async |fixture: &Fixture, n, after| {
            let options = Options {
                after,
                ..Options::NONE
            };
            fixture.group_page(n, options).await.entries
        };
        for n in [2, 3] {
            page(&fixture, n, Some(4)).await;
        }
        if is_blocked {
            fixture.obeyed(1, block(3, "bob")).await;
        }
        page(&fixture, 1, Some(1)).await;
        fixture.pass(3).await;
        let user = "ann".parse().unwrap();
        let group = fixture
            .realm
            .groups
            .group(&mut Unnoted, cats())
            .await
            .unwrap();
        let read = fixture.realm.cursors.any_cursor(user, &group.place()).await;
        assert_eq!(read.unwrap(), 1);
        fixture.obeyed(1, unblock(4, "bob")).await;
        let entries = page(&fixture, 1, None).await;
        let kept = entries.iter().filter(|entry| entry.content == CONTENT_TEXT);
        assert_eq!(kept.count(), if is_blocked { 0 } else { 3 });
        fixture.obeyed(2, post(6, "later")).await;
        let entries = page(&fixture, 1, None).await;
        assert!(entries.iter().all(|entry| !entry.read));
    }
}

/// BLK-4: a watch, too, says at a position how many entries were hidden, so that its client need
/// not begin before them the next time.
#[tokio::test(start_paused = true)]
async fn watch_says_how_many_entries_were_hidden() {
    let realm = Arc::new(realm_of(&Held::default()));
    let ask = async |n: u8, command: Command<'_>| {
        let answer = give(&realm, n, &Request::from(command).to_bytes()).await;
        assert!(!matches!(answer, Answer::Refused(_)), "{answer:?}");
    };
    ask(1, register(1, "ann")).await;
    ask(2, register(1, "bob")).await;
    ask(1, add_group(2)).await;
    ask(2, join_group(2)).await;
    ask(1, block(3, "bob")).await;
    let command = Command::Watch(command::Watch {
        session: SESSION,
        cursors: Cursors::default(),
    });
    let bytes = Request::from(command).to_bytes();
    let caller = super::caller(device(1), MOMENT);
    let mut watch = realm.watch_of(&caller, &bytes).await.unwrap();
    let mut told = Vec::new();
    for number in 3..3 + 3 * HIDDEN_MAX as u64 {
        ask(2, post(number, "x")).await;
        let next = watch.next(&|| MOMENT, Backlog::Arrived);
        // Time passes only once nothing else is to be done.
        if let Ok(push) = tokio::time::timeout(Duration::from_millis(1), next).await {
            let entry = Event::parse(&push.unwrap().bytes).unwrap().entry;
            assert_eq!(entry.content, CONTENT_HIDDEN);
            told.push((entry.position.0, parse_varint(&entry.body).unwrap().1));
        }
    }
    let many = HIDDEN_MAX as u64;
    assert_eq!(told, [(many, many), (2 * many, many), (3 * many, many)]);
}

/// BLK-4: hidden entries are looked at within bounds whatever the reader asks for, and are charged
/// to the reader.
#[tokio::test]
async fn hidden_entries_are_charged_to_reader() {
    let directory = tempfile::tempdir().unwrap();
    let realm = open_with(&directory, |_, limits| {
        limits.rates.commands = crate::rate_limit::RateLimit::per_hour(600);
    });
    let fixture = Fixture {
        directory,
        realm,
        now: MOMENT,
    };
    let fixture = grouped(fixture).await;
    fixture.obeyed(1, block(3, "bob")).await;
    for number in 3..203 {
        fixture.obeyed(2, post(number, "x")).await;
    }
    let one = Options {
        after: Some(0),
        offset: Some(0),
        limit: Some(1),
        bytes: Some(1),
        ..Options::NONE
    };
    let command = Command::InboxGroup(command::InboxGroup {
        session: SESSION,
        group: cats(),
    });
    let mut answered = 0;
    loop {
        let request = Request {
            options: one,
            command: command.clone(),
        };
        match fixture.ask(device(1), request).await {
            Answer::Page(_) => answered += 1,
            refused => {
                let code = |refusal: Refusal| refusal.code;
                let Answer::Refused(refusal) = refused else {
                    panic!("{refused:?}");
                };
                assert_eq!(code(refusal), ErrorCode::RateLimited);
                break;
            }
        }
        // As many as there are without hidden entries.
        assert!(answered < 2000);
    }
    assert!(answered > 1 && answered < 2000 / 10, "{answered}");
}
