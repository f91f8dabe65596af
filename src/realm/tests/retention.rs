//! Retention: what is no longer needed is deleted, and nothing else (READ-10, READ-11, SES-8,
//! EXACT-14).

use std::time::Duration;

use super::{super::records::MailboxLog, *};
use crate::{
    store::Embedded,
    wire::{CONTENT_GONE, Cursors, Entry, Mailbox, Unread, command, parse_varint},
};

const ONE: crate::store::PageLimit = crate::store::PageLimit {
    entries: 1,
    bytes: 1,
};

/// Keeps read entries for a day, unread ones for ten days, and 100 messages.
const RETENTION: Retention = Retention {
    age: Some(Duration::from_hours(24)),
    unread_age: Some(Duration::from_hours(240)),
    entries: Some(100),
    bytes: None,
};

impl Fixture {
    /// Advances time by `days`, and tidies every hour.
    pub async fn pass(&mut self, days: u32) {
        for _ in 0..days * 24 {
            self.now = later(self.now, DAY / 24);
            self.tidy().await;
        }
    }

    pub async fn tidy(&self) {
        let mut next = Some(Pass::BEGIN);
        while let Some(pass) = next {
            next = self.realm.tidy(pass, &|| self.now).await;
        }
    }

    pub async fn send_many(&self, first: u64, texts: std::ops::Range<u32>, to: &str) {
        for (number, n) in (first..).zip(texts) {
            let text = n.to_string();
            assert_eq!(self.ask(device(1), send(number, to, &text)).await, STORED);
        }
    }

    /// Returns the private messages behind a position that a device is shown.
    pub async fn shown(&self, n: u8, after: Option<u64>) -> Vec<String> {
        let options = Options {
            after,
            offset: after.map(|_| 0),
            ..Options::NONE
        };
        self.inbox(device(n), options)
            .await
            .entries
            .iter()
            .map(shown)
            .collect()
    }

    pub async fn confirm(&self, n: u8, position: u64) {
        let options = Options {
            after: Some(position),
            ..Options::NONE
        };
        self.inbox(device(n), options).await;
    }
}

/// Returns an entry's text, or the number of gone entries that it reports.
pub fn shown(entry: &Entry) -> String {
    if entry.content == CONTENT_GONE {
        let (rest, count) = parse_varint(&entry.body).unwrap();
        assert!(rest.is_empty());
        format!("{}: {count} gone", entry.position)
    } else {
        format!(
            "{}: {}",
            entry.position,
            String::from_utf8_lossy(&entry.body)
        )
    }
}

pub async fn kept(retention: Retention) -> Fixture {
    let fixture = Fixture::new();
    fixture.realm.policy.begin_keeping(Some(retention)).await;
    fixture.register(device(1), "ann").await;
    fixture.register(device(2), "bob").await;
    fixture
}

/// READ-10: read entries are deleted after a day and not before, unread ones after ten days.
/// READ-11: the reader is told of the unread entries that are gone, at a position that can be
/// confirmed, and not of the read ones.
#[tokio::test]
async fn retention_deletes_old_entries_and_tells_of_unread_ones() {
    let mut fixture = kept(RETENTION).await;
    fixture.send_many(2, 0..6, "bob").await;
    fixture.confirm(2, 4).await;
    fixture.tidy().await;
    fixture.now = later(fixture.now, DAY - 100);
    fixture.tidy().await;
    assert_eq!(fixture.shown(2, Some(0)).await.len(), 6);
    fixture.pass(2).await;
    // A reader who asks for everything from the beginning is told where the mailbox begins now.
    let all = ["4: 4 gone", "5: 4", "6: 5"];
    assert_eq!(fixture.shown(2, Some(0)).await, all);
    assert_eq!(fixture.shown(2, None).await, all[1..]);
    fixture.send_many(8, 6..8, "bob").await;
    fixture.pass(11).await;
    let rest = ["8: 4 gone"];
    assert_eq!(fixture.shown(2, None).await, rest);
    // The entry is shown again until it is confirmed, and `unread` counts it.
    assert_eq!(fixture.shown(2, None).await, rest);
    let unread = async || {
        let command = Command::Unread(command::Unread {
            session: SessionRef::Bound,
            cursors: Cursors(Vec::new()),
        });
        fixture.ask(device(2), command).await
    };
    let one = Unread {
        mailbox: Mailbox::Private,
        count: 1,
    };
    assert_eq!(unread().await, Answer::Unread(vec![one]));
    fixture.confirm(2, 8).await;
    assert_eq!(fixture.shown(2, None).await, [""; 0]);
    assert_eq!(unread().await, Answer::Unread(vec![]));
    fixture.send_many(10, 8..9, "bob").await;
    assert_eq!(fixture.shown(2, None).await, ["9: 8"]);
}

/// READ-10: beyond the number or size limit the oldest entries are deleted, read or not, also while
/// nobody reads. READ-6: positions go on.
#[tokio::test]
async fn retention_bounds_entries_and_bytes_of_mailbox() {
    let mut fixture = kept(RETENTION).await;
    for day in 0..5 {
        let first = 2 + u64::from(day) * 60;
        fixture
            .send_many(first, day * 60..day * 60 + 60, "bob")
            .await;
        fixture.pass(1).await;
    }
    let page = fixture.shown(2, None).await;
    assert_eq!(page[0], "200: 200 gone");
    assert_eq!(page[1], "201: 200");
    let bytes = 10 * 1024;
    let retention = Retention {
        bytes: Some(bytes),
        ..Retention::FOREVER
    };
    let mut fixture = kept(retention).await;
    for n in 0..400_u32 {
        let text = format!("{n:0200}");
        let number = 2 + u64::from(n);
        assert_eq!(
            fixture.ask(device(1), send(number, "bob", &text)).await,
            STORED
        );
        if n % 20 == 0 {
            fixture.now = later(fixture.now, 60);
            fixture.tidy().await;
        }
    }
    fixture.tidy().await;
    let place = MailboxLog::private("bob".parse().unwrap());
    let all = crate::store::PageLimit {
        entries: usize::MAX,
        bytes: usize::MAX,
    };
    let page = fixture
        .realm
        .store()
        .read(&place.log, crate::store::Position(0), all)
        .await
        .unwrap();
    let kept: usize = page.entries.iter().map(|(_, entry)| entry.len() + 40).sum();
    let bytes = usize::try_from(bytes).unwrap();
    assert!(kept <= bytes && kept >= bytes * 7 / 8, "{kept} bytes");
}

/// READ-10: in a mailbox with one message an hour, unread entries are deleted one after another
/// when they are ten days old: not all at once, and not never.
#[tokio::test]
async fn retention_deletes_unread_entries_of_busy_mailbox_one_by_one() {
    let mut fixture = kept(Retention {
        entries: None,
        bytes: Some(1 << 20),
        ..RETENTION
    })
    .await;
    let mut oldest = Vec::new();
    for hour in 0..20 * 24_u32 {
        let text = hour.to_string();
        let number = 2 + u64::from(hour);
        assert_eq!(
            fixture.ask(device(1), send(number, "bob", &text)).await,
            STORED
        );
        fixture.now = later(fixture.now, DAY / 24);
        fixture.tidy().await;
        let first = fixture.shown(2, Some(0)).await;
        let gone = first[0].split_once(": ").unwrap();
        let gone: u32 = if gone.1.ends_with("gone") {
            gone.0.parse().unwrap()
        } else {
            0
        };
        oldest.push(hour - gone.min(hour));
    }
    // In hours: never before ten days, and no more than two sixteenths of that later.
    assert_eq!(oldest[239], 239);
    let late = &oldest[300..];
    assert!(late.iter().all(|age| (238..272).contains(age)), "{late:?}");
}

/// READ-10: the bound also holds for a mailbox that grows in one pass by more than is read at once.
#[tokio::test]
async fn retention_counts_fast_growing_mailbox_to_its_end() {
    let fixture = kept(RETENTION).await;
    let place = MailboxLog::private("bob".parse().unwrap());
    for _ in 0..6 {
        let mut batch = Batch::new();
        for _ in 0..1000 {
            batch.append(place.log.clone(), vec![1; 40]);
        }
        fixture.realm.storage.commit(batch).await.unwrap();
    }
    fixture.tidy().await;
    let first = fixture
        .realm
        .store()
        .read(&place.log, crate::store::Position(0), ONE)
        .await
        .unwrap();
    assert_eq!(first.entries[0].0.0, 5901);
}

/// READ-10: a clock set to another year deletes nothing, and entries do not age while the realm is
/// stopped.
#[tokio::test]
async fn retention_ages_entries_by_running_time_whatever_clock_says() {
    let mut fixture = kept(RETENTION).await;
    fixture.send_many(2, 0..3, "bob").await;
    fixture.confirm(2, 3).await;
    fixture.tidy().await;
    fixture.now.wall += 365 * DAY;
    fixture.tidy().await;
    assert_eq!(fixture.shown(2, Some(0)).await.len(), 3);
    fixture.now.wall = 5;
    fixture.pass(2).await;
    assert_eq!(fixture.shown(2, Some(0)).await, ["3: 3 gone"]);
}

/// READ-10: a group's messages are deleted once all members of this realm have read them. What is
/// left of an ended group is deleted at once.
#[tokio::test]
async fn retention_keeps_group_messages_until_members_have_read_them() {
    let mut fixture = kept(RETENTION).await;
    fixture.register(device(3), "eve").await;
    let group = || "g".parse().unwrap();
    let join = |operation| {
        Command::JoinGroup(command::JoinGroup {
            operation: op(operation),
            session: SessionRef::Bound,
            group: group(),
            password: Password(b""),
        })
    };
    let add = Command::AddGroup(command::AddGroup {
        operation: op(2),
        session: SessionRef::Bound,
        group: group(),
        password: Password(b""),
    });
    assert_eq!(fixture.ask(device(1), add).await, Answer::Done);
    assert_eq!(fixture.ask(device(2), join(2)).await, Answer::Done);
    for n in 3..7_u64 {
        let text = n.to_string();
        let post = Command::SendGroup(command::SendGroup {
            operation: op(n),
            session: SessionRef::Bound,
            group: group(),
            message: Body(text.as_bytes()),
        });
        assert_eq!(fixture.ask(device(1), post).await, STORED);
    }
    let read = async |fixture: &Fixture, n, after, confirms: bool| {
        let options = Options {
            after: Some(after),
            offset: (!confirms).then_some(0),
            ..Options::NONE
        };
        let command = Command::InboxGroup(command::InboxGroup {
            session: SessionRef::Bound,
            group: group(),
        });
        match fixture.ask(device(n), Request { options, command }).await {
            Answer::Page(page) => page.entries.iter().map(shown).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    read(&fixture, 1, 4, true).await;
    read(&fixture, 2, 2, true).await;
    fixture.pass(3).await;
    assert_eq!(
        read(&fixture, 2, 0, false).await,
        ["2: 2 gone", "3: 5", "4: 6"]
    );
    // A later member is told that there were more messages.
    assert_eq!(fixture.ask(device(3), join(2)).await, Answer::Done);
    assert_eq!(read(&fixture, 3, 0, false).await[0], "2: 2 gone");
    let delete = Command::DelGroup(command::DelGroup {
        operation: op(7),
        session: SessionRef::Bound,
        group: group(),
    });
    assert_eq!(fixture.ask(device(1), delete).await, Answer::Done);
    fixture.tidy().await;
    let logs = fixture.realm.store().logs(None, 100).await.unwrap();
    assert!(logs.is_empty(), "{logs:?}");
}

/// READ-11: the read of an entry that is deleted meanwhile is not continued with the end of another
/// entry.
#[tokio::test]
async fn retention_deleting_entry_being_read_does_not_mix_entries() {
    let fixture = kept(RETENTION).await;
    let long = "x".repeat(900);
    for n in 2..4 {
        assert_eq!(fixture.ask(device(1), send(n, "bob", &long)).await, STORED);
    }
    let options = |offset| Options {
        after: Some(0),
        offset: Some(offset),
        bytes: Some(300),
        ..Options::NONE
    };
    let first = fixture.inbox(device(2), options(0)).await;
    let have = first.entries[0].body.len() as u64;
    assert!(first.entries[0].fragment.is_some());
    let mut batch = Batch::new();
    batch.trim(
        MailboxLog::private("bob".parse().unwrap()).log,
        crate::store::Position(2),
    );
    fixture.realm.storage.commit(batch).await.unwrap();
    let next = fixture.inbox(device(2), options(have)).await;
    assert_eq!(shown(&next.entries[0]), "1: 1 gone");
    assert!(next.more);
    let second = Options {
        after: Some(1),
        ..options(0)
    };
    let second = fixture.inbox(device(2), second).await.entries[0]
        .fragment
        .unwrap();
    assert_eq!((second.offset, second.total), (0, 900));
}

/// READ-11: a watch is told of gone entries as a read is, also of those deleted while it waits.
#[tokio::test]
async fn watch_tells_of_entries_that_are_gone() {
    let fixture = kept(RETENTION).await;
    fixture.send_many(2, 0..5, "bob").await;
    let mut batch = Batch::new();
    batch.trim(
        MailboxLog::private("bob".parse().unwrap()).log,
        crate::store::Position(4),
    );
    fixture.realm.storage.commit(batch).await.unwrap();
    let caller = fixture.caller(device(2));
    let now = fixture.now;
    let command = Request::from(Command::Watch(command::Watch {
        session: SessionRef::Bound,
        cursors: Cursors(Vec::new()),
    }))
    .to_bytes();
    let realm = std::sync::Arc::new(fixture.realm);
    realm.answer(&caller, &command).await;
    let mut watch = realm.watch_of(&caller, &command).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let push = watch.next(&|| now, Backlog::Arrived).await.unwrap();
        seen.push(shown(
            &crate::wire::Event::parse(&push.bytes).unwrap().entry,
        ));
    }
    assert_eq!(seen, ["3: 3 gone", "4: 3", "5: 4"]);
}

/// A store from before retention limits keeps everything until its operator sets a limit. A new
/// store begins with the default, and keeps it.
#[tokio::test]
async fn retention_of_older_store_is_unlimited_until_configured() {
    let fixture = Fixture::new();
    let default = (Keeping::Default, Retention::DEFAULT);
    assert_eq!(fixture.realm.policy.begin_keeping(None).await, default);
    fixture.realm.lives.begin_life(false).await;
    let fixture = fixture.restart();
    assert_eq!(fixture.realm.policy.begin_keeping(None).await, default);
    let fixture = Fixture::new();
    fixture.realm.lives.begin_life(false).await;
    let fixture = fixture.restart();
    let forever = (Keeping::Forever, Retention::FOREVER);
    assert_eq!(fixture.realm.policy.begin_keeping(None).await, forever);
    let fixture = fixture.restart();
    let configured = (Keeping::Configured, RETENTION);
    assert_eq!(
        fixture.realm.policy.begin_keeping(Some(RETENTION)).await,
        configured
    );
}

/// Returns the number of records of a kind.
pub async fn count(realm: &Realm<Embedded>, kind: &[u8]) -> usize {
    let prefix = crate::store::Prefix(kind.into());
    realm
        .store()
        .list(&prefix, None, 10_000)
        .await
        .unwrap()
        .len()
}

/// SES-8: an expired session is deleted with all its records, and no other session is.
#[tokio::test]
async fn session_that_has_expired_is_deleted_with_its_records() {
    let mut fixture = kept(Retention::FOREVER).await;
    fixture.send_many(2, 0..1, "bob").await;
    fixture.confirm(2, 1).await;
    fixture.now = later(fixture.now, 20 * DAY);
    fixture.confirm(2, 1).await;
    fixture.now = later(fixture.now, 11 * DAY);
    fixture.tidy().await;
    for kind in [&b"s/"[..], b"d/"] {
        assert_eq!(
            count(&fixture.realm, kind).await,
            1,
            "{}",
            kind.escape_ascii()
        );
    }
    assert_eq!(count(&fixture.realm, b"h/ann/").await, 0);
    assert_eq!(count(&fixture.realm, b"c/ann/\x01").await, 0);
    assert_eq!(fixture.shown(2, Some(0)).await.len(), 1);
    // The user of the expired session logs in again.
    let again = fixture
        .ask(device(1), auth(3, "ann", "correct horse"))
        .await;
    session_in(&again);
}

/// EXACT-14: the answers to a device without a session are deleted, and its numbers stay used. No
/// recorded command takes effect again.
#[tokio::test]
async fn dedup_numbers_of_device_without_session_stay_used() {
    let mut fixture = kept(Retention::FOREVER).await;
    for n in 2..40 {
        fixture.ask(device(1), send(n, "bob", "x")).await;
    }
    assert_eq!(fixture.ask(device(1), logout(40)).await, Answer::Done);
    let of_ann = [b"o/", &[1; 16][..]].concat();
    fixture.now = later(fixture.now, 40 * DAY);
    fixture.tidy().await;
    fixture.now = later(fixture.now, 59 * DAY);
    fixture.tidy().await;
    assert_eq!(count(&fixture.realm, &of_ann).await, 40);
    // A repeat within that time gets the same answer, and does not count as use.
    assert_eq!(fixture.ask(device(1), logout(40)).await, Answer::Done);
    fixture.now = later(fixture.now, 2 * DAY);
    fixture.tidy().await;
    assert_eq!(count(&fixture.realm, &of_ann).await, 1);
    let mut fixture = fixture.restart();
    for number in [1, 17, 39] {
        let done = refused_number(ErrorCode::AlreadyDone, 40);
        assert_eq!(fixture.ask(device(1), logout(number)).await, done);
    }
    // A device that was away that long is still told the outcome of its last command.
    assert_eq!(fixture.ask(device(1), logout(40)).await, Answer::Done);
    let reused = refused_number(ErrorCode::NumberReused, 40);
    assert_eq!(fixture.ask(device(1), send(40, "bob", "z")).await, reused);
    session_in(
        &fixture
            .ask(device(1), auth(41, "ann", "correct horse"))
            .await,
    );
    assert_eq!(fixture.ask(device(1), send(42, "bob", "y")).await, STORED);
    fixture.tidy().await;
    // The device is in use again, so its records are not deleted.
    fixture.now = later(fixture.now, 10 * DAY);
    fixture.tidy().await;
    fixture.realm.age();
    fixture.realm.age();
    assert_eq!(fixture.ask(device(1), send(42, "bob", "y")).await, STORED);
    session_in(
        &fixture
            .ask(device(2), auth(2, "bob", "correct horse"))
            .await,
    );
    assert_eq!(fixture.shown(2, Some(0)).await.len(), 39);
    assert_eq!(count(&fixture.realm, b"I/").await, 0);
}
