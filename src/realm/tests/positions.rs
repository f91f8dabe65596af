//! Positions and cursors: where they begin anew, and the cursors of each device.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::*;
use crate::wire::{Cursors, Entry, Event, GroupName, Mailbox, command};

const SESSION: SessionRef = SessionRef::Bound;
fn cats() -> GroupName {
    "cats".parse().unwrap()
}

fn add(number: u64) -> Command<'static> {
    Command::AddGroup(command::AddGroup {
        operation: op(number),
        session: SESSION,
        group: cats(),
        password: Password(b""),
    })
}

fn join(number: u64) -> Command<'static> {
    Command::JoinGroup(command::JoinGroup {
        operation: op(number),
        session: SESSION,
        group: cats(),
        password: Password(b""),
    })
}

fn post(number: u64, text: &str) -> Command<'_> {
    Command::SendGroup(command::SendGroup {
        operation: op(number),
        session: SESSION,
        group: cats(),
        message: Body(text.as_bytes()),
    })
}

fn del(number: u64) -> Command<'static> {
    Command::DelGroup(command::DelGroup {
        operation: op(number),
        session: SESSION,
        group: cats(),
    })
}

const INBOX: Command<'static> = Command::Inbox(command::Inbox { session: SESSION });

fn inboxgroup() -> Command<'static> {
    Command::InboxGroup(command::InboxGroup {
        session: SESSION,
        group: cats(),
    })
}

fn at(position: u64, text: &str) -> (u64, String) {
    (position, text.into())
}

/// READ-6, GRP-7: positions go on in a group made again, so no former cursor hides anything, and
/// former entries are not shown. Before, `unread` said 3 and `inboxgroup` showed nothing.
#[tokio::test]
async fn cursor_of_former_group_hides_nothing_in_group_made_again() {
    let mut realm = Fixture::new();
    realm.register(device(1), "ann").await;
    realm.register(device(2), "bob").await;
    realm
        .all_done(1, [add(2), post(3, "old 1"), post(4, "old 2")])
        .await;
    realm.all_done(2, [join(2)]).await;
    assert!(realm.read(2, inboxgroup(), Some(2)).await.is_empty());
    let mailbox = Mailbox::Group(cats());
    for (round, floor) in [(0, 2), (1, 5)] {
        let number = 5 + 10 * round;
        realm.all_done(1, [del(number), add(number + 1)]).await;
        realm = realm.restart();
        realm.all_done(2, [join(3 + round)]).await;
        assert_eq!(realm.unread(2, mailbox, &[]).await, 0);
        let posts = ["new 1", "new 2", "new 3"];
        let posts = (number + 2..)
            .zip(posts)
            .map(|(number, text)| post(number, text));
        realm.all_done(1, posts).await;
        assert_eq!(realm.unread(2, mailbox, &[]).await, 3);
        let shown = [
            at(floor + 1, "new 1"),
            at(floor + 2, "new 2"),
            at(floor + 3, "new 3"),
        ];
        for after in [None, Some(0), Some(1), Some(floor)] {
            assert_eq!(realm.read(2, inboxgroup(), after).await, shown, "{after:?}");
        }
        // A cursor at the end of the former group confirms nothing.
        assert_eq!(realm.unread(2, mailbox, &[(mailbox, floor)]).await, 3);
        assert_eq!(realm.unread(2, mailbox, &[(mailbox, floor + 3)]).await, 0);
    }
}

/// READ-6: entries that a very large deleted group leaves behind are not shown in the next one.
#[tokio::test]
async fn group_made_again_shows_no_entries_of_deleted_one() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    realm.all_done(1, [add(2), post(3, "old 1")]).await;
    let group = realm
        .realm
        .groups
        .group(&mut storage::Unnoted, cats())
        .await
        .unwrap();
    let log = group.place().log;
    let entry = realm.realm.store().read(
        &log,
        Position(0),
        crate::store::PageLimit {
            entries: 1,
            bytes: 1,
        },
    );
    let (_, entry) = entry.await.unwrap().entries.remove(0);
    realm.all_done(1, [del(4)]).await;
    let mut batch = Batch::new();
    batch.append(log, entry);
    realm.realm.storage.commit(batch).await.unwrap();
    realm.all_done(1, [add(5), post(6, "new")]).await;
    assert_eq!(realm.read(1, inboxgroup(), Some(0)).await, [at(3, "new")]);
    assert_eq!(realm.unread(1, Mailbox::Group(cats()), &[]).await, 1);
}

/// READ-6: groups and replicas written by an earlier release are read unchanged.
#[test]
fn group_records_of_earlier_release_are_read() {
    use records::{GroupRecord, ReplicaMemberRecord, ReplicaRecord};
    #[derive(serde::Serialize)]
    struct Group(&'static str, Option<String>, u32, u64, Vec<String>);
    let before = |record: &[u8]| [&[1], record].concat();
    let group = postcard::to_stdvec(&Group("ann", None, 7, 99, vec!["beta".into()])).unwrap();
    let group = GroupRecord::from_value(&before(&group)).unwrap();
    assert_eq!(
        (group.owner.as_str(), group.log, group.floor),
        ("ann", 99, 0)
    );
    let copy = postcard::to_stdvec(&(98u64, "alpha", 12u64)).unwrap();
    let copy = ReplicaRecord::from_value(&before(&copy)).unwrap();
    assert_eq!(
        (copy.epoch, copy.position, copy.log, copy.floor),
        (98, 12, 98, 0)
    );
    let member = postcard::to_stdvec(&7u32).unwrap();
    let member = ReplicaMemberRecord::from_value(&before(&member)).unwrap();
    assert!(member.is_of(&copy));
    assert_eq!(
        GroupRecord::from_value(&group.to_value().unwrap()).unwrap(),
        group
    );
    assert!(GroupRecord::from_value(&[3, 1]).is_err());
    // No other record has a second format.
    assert!(records::GroupLogRecord::from_value(&[2, 1]).is_err());
}

/// READ-6: positions go on in the replica of a group that was made again at its home. Users who
/// were members of the former group only are not in the new one.
#[tokio::test]
async fn replica_of_group_made_again_is_shown_from_beginning() {
    let fixture = Fixture::new();
    let peer_calls = fixture.realm.network.reconnect();
    let peer_calls = tokio::sync::Mutex::new(peer_calls);
    fixture.register(device(1), "ann").await;
    fixture.register(device(2), "bob").await;
    let (beta, crew): (RealmId, GroupName) = ("beta".parse().unwrap(), "crew".parse().unwrap());
    let place = ("192.0.2.9".to_string(), 6377);
    let realm = &fixture.realm;
    assert!(
        realm
            .peers
            .list_peer(beta, PublicKey([50; 32]), place, None)
            .await
            .unwrap()
    );
    realm.agree_with(beta).await;
    let peer = realm.peers.peers().await.0.remove(0);
    let join = |number| {
        Command::JoinGroupRealm(command::JoinGroupRealm {
            operation: op(number),
            session: SESSION,
            src_address: Text(""),
            src_port: crate::wire::Port(0),
            realm: beta,
            group: crew,
            password: Password(b""),
        })
    };
    let read = Command::InboxGroupRealm(command::InboxGroupRealm {
        session: SESSION,
        realm: beta,
        group: crew,
    });
    let mailbox = Mailbox::RealmGroup(beta, crew);
    let joins = async |n, number, epoch| {
        let known_as = "alpha".parse().unwrap();
        let joined = Answer::Joined {
            group_epoch: epoch,
            membership: 1,
            known_as,
        };
        let (answer, ()) = tokio::join!(
            fixture.ask(device(n), join(number)),
            answer_with(&peer_calls, joined)
        );
        assert_eq!(answer, Answer::Done);
    };
    joins(1, 2, 7).await;
    joins(2, 2, 7).await;
    let reads = async |texts: &[(u64, &str)]| {
        let entry = |(position, text): &(u64, &str)| Entry {
            position: Position(*position),
            time: 0,
            content: 0,
            fragment: None,
            from: "cat".parse().unwrap(),
            read: false,
            body: text.as_bytes().to_vec(),
        };
        let page = Page {
            more: false,
            entries: texts.iter().map(entry).collect(),
        };
        let (outcome, ()) = tokio::join!(
            realm.read_copy(&peer, crew, MOMENT),
            answer_with(&peer_calls, Answer::Page(page))
        );
        assert_eq!(outcome, ReadOutcome::Equal);
    };
    reads(&[(1, "old 1"), (2, "old 2")]).await;
    assert!(fixture.read(1, read.clone(), Some(2)).await.is_empty());
    joins(1, 3, 8).await;
    assert_eq!(fixture.unread(1, mailbox, &[]).await, 0);
    reads(&[(3, "new")]).await;
    for after in [None, Some(0), Some(2)] {
        let shown = fixture.read(1, read.clone(), after).await;
        assert_eq!(shown, [at(3, "new")], "{after:?}");
    }
    assert_eq!(fixture.unread(1, mailbox, &[]).await, 1);
    let not_in = fixture.ask(device(2), read).await;
    assert_eq!(not_in, refused(ErrorCode::NotAMember));
    assert_eq!(fixture.unread(2, mailbox, &[]).await, 0);
}

async fn answer_with(peer_calls: &tokio::sync::Mutex<mpsc::Receiver<PeerCall>>, answer: Answer) {
    match peer_calls.lock().await.recv().await {
        Some(PeerCall::Ask { answer: told, .. }) => told.send(answer.to_bytes()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// READ-2, READ-7: from its login on a device has its own cursors, also in mailboxes where it has
/// confirmed nothing. What another device reads is still shown to it. Before, it was hidden.
#[tokio::test]
async fn cursor_of_other_device_hides_nothing() {
    let mut realm = Fixture::new();
    realm.register(device(1), "ann").await;
    realm.all_done(1, [send(2, "ann", "early")]).await;
    assert!(realm.read(1, INBOX, Some(1)).await.is_empty());
    realm.all_done(2, [auth(1, "ann", "correct horse")]).await;
    realm
        .all_done(1, [send(3, "ann", "later"), add(4), post(5, "meow")])
        .await;
    assert!(realm.read(1, INBOX, Some(2)).await.is_empty());
    assert!(realm.read(1, inboxgroup(), Some(1)).await.is_empty());
    for _ in 0..2 {
        assert_eq!(realm.read(2, INBOX, None).await, [at(2, "later")]);
        assert_eq!(realm.read(2, inboxgroup(), None).await, [at(1, "meow")]);
        assert_eq!(realm.unread(2, Mailbox::Private, &[]).await, 1);
        realm = realm.restart();
    }
    // After another login the device continues where it was.
    realm.all_done(2, [auth(2, "ann", "correct horse")]).await;
    assert_eq!(realm.read(2, INBOX, None).await, [at(2, "later")]);
    assert!(realm.read(2, INBOX, Some(2)).await.is_empty());
    assert_eq!(realm.unread(2, Mailbox::Private, &[]).await, 0);
    // The device's cursors end with its last session.
    realm.all_done(2, [logout(3)]).await;
    let owner = Owner::Device(PublicKey([2; 32]));
    let prefix = records::cursors("ann".parse().unwrap(), Some(&owner));
    let left = async || {
        realm
            .realm
            .store()
            .list(&prefix, None, 9)
            .await
            .unwrap()
            .len()
    };
    assert_ne!(left().await, 0, "an older session of the device is left");
    let sessions = realm
        .realm
        .sessions
        .sessions_of(&mut storage::Unnoted, "ann".parse().unwrap())
        .await
        .unwrap();
    let older = sessions.iter().find(|session| session.owner() == owner);
    let mut batch = Batch::new();
    let older = std::slice::from_ref(older.unwrap());
    realm
        .realm
        .sessions
        .end_sessions(older, None, &mut batch)
        .await
        .unwrap();
    realm.realm.storage.commit(batch).await.unwrap();
    assert_eq!(left().await, 0);
    realm.all_done(2, [auth(4, "ann", "correct horse")]).await;
    assert!(
        realm.read(2, inboxgroup(), None).await.is_empty(),
        "linked anew"
    );
}

/// READ-7: a device keeps its cursors when its new session evicts an older one.
#[tokio::test]
async fn cursor_is_kept_when_device_logs_in_repeatedly() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    realm
        .all_done(1, [send(2, "ann", "one"), send(3, "ann", "two")])
        .await;
    realm.all_done(2, [auth(1, "ann", "correct horse")]).await;
    assert!(realm.read(1, INBOX, Some(2)).await.is_empty());
    for number in 2..8 {
        realm
            .all_done(2, [auth(number, "ann", "correct horse")])
            .await;
        let shown = realm.read(2, INBOX, None).await;
        assert_eq!(shown, [at(1, "one"), at(2, "two")], "{number}");
    }
}

/// READ-7: this also holds if the device's only session is evicted by its next one.
#[tokio::test]
async fn cursor_is_kept_when_only_session_of_device_is_evicted() {
    let directory = tempfile::tempdir().unwrap();
    let realm = Fixture {
        realm: open_with(&directory, |_, limits| limits.sessions_max = 1),
        directory,
        now: MOMENT,
    };
    realm.register(device(1), "ann").await;
    realm
        .all_done(1, [send(2, "ann", "one"), send(3, "ann", "two")])
        .await;
    assert_eq!(realm.read(1, INBOX, Some(1)).await.len(), 1);
    // As if another device had read more.
    let user = "ann".parse().unwrap();
    let any = records::cursor(user, None, &records::MailboxLog::private(user));
    let mut batch = Batch::new();
    let position = records::CursorRecord { position: 2 };
    batch.put(any, position.to_value().unwrap());
    realm.realm.storage.commit(batch).await.unwrap();
    realm.all_done(1, [auth(4, "ann", "correct horse")]).await;
    assert_eq!(realm.read(1, INBOX, None).await, [at(2, "two")]);
}

/// READ-7: a new device takes over all cursors, even if there are more than are listed at once. A
/// device key that begins with a slash is not taken for a mailbox.
#[tokio::test]
async fn cursors_beyond_list_limit_are_taken_over_by_new_device() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    realm.register(device(b'/'), "bob").await;
    realm
        .all_done(b'/', [auth(2, "ann", "correct horse")])
        .await;
    let user = "ann".parse().unwrap();
    let mut batch = Batch::new();
    let place = |n: u64| {
        let record = records::GroupRecord {
            owner: String::new(),
            password: None,
            created: 0,
            epoch: n,
            realms: Vec::new(),
            log: n,
            floor: 0,
        };
        records::MailboxLog::group(cats(), &record)
    };
    for position in 0..2500 {
        let value = records::CursorRecord { position }.to_value().unwrap();
        batch.put(records::cursor(user, None, &place(position)), value);
    }
    realm.realm.storage.commit(batch).await.unwrap();
    realm.all_done(2, [auth(1, "ann", "correct horse")]).await;
    let owner = Owner::Device(PublicKey([2; 32]));
    let prefix = records::cursors(user, Some(&owner));
    let own = realm.realm.store().list(&prefix, None, 9999).await.unwrap();
    assert_eq!(own.len(), 1 + 2500);
    for n in [0, 999, 1000, 2499] {
        let at = realm
            .realm
            .cursors
            .confirmed(user, &owner, &place(n))
            .await
            .unwrap();
        assert_eq!(at, n);
    }
}

/// READ-8: entries that another device has read are marked. Those that this one has read are not.
#[tokio::test]
async fn mailbox_marks_entries_read_by_other_device() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    realm.all_done(2, [auth(1, "ann", "correct horse")]).await;
    let sends = (2..6).map(|number| send(number, "ann", "x"));
    realm.all_done(1, sends).await;
    let marked = async |n, after| {
        let page = realm.read_page(n, INBOX, after).await;
        let entries = page.entries.iter();
        entries.map(|entry| entry.read).collect::<Vec<_>>()
    };
    assert_eq!(marked(1, None).await, [false; 4]);
    assert_eq!(marked(1, Some(2)).await, [false; 2]);
    assert_eq!(marked(1, Some(0)).await, [false; 4], "its own reading");
    assert_eq!(marked(2, None).await, [true, true, false, false]);
    assert_eq!(marked(2, Some(1)).await, [true, false, false]);
    assert_eq!(marked(2, Some(3)).await, [false]);
    assert_eq!(marked(2, Some(0)).await, [false; 4]);
}

/// Returns the next pushed entry. Fails, and does not wait, if there is none.
async fn pushed(watch: &mut Watch<Embedded>) -> Push {
    let now = || MOMENT;
    let next = watch.next(&now, Backlog::Arrived);
    let next = tokio::time::timeout(std::time::Duration::from_secs(10), next);
    next.await.expect("there is one").unwrap()
}

/// READ-8, READ-6, WATCH-1: pushed entries are marked too. A group made again shows its own only.
#[tokio::test]
async fn watch_marks_entries_read_by_other_device() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    realm.all_done(2, [auth(1, "ann", "correct horse")]).await;
    realm
        .all_done(1, [send(2, "ann", "one"), send(3, "ann", "two")])
        .await;
    realm.all_done(1, [add(4), post(5, "old")]).await;
    assert_eq!(realm.read(1, INBOX, Some(1)).await.len(), 1);
    let caller = realm.caller(device(2));
    let inner = Arc::new(realm.realm);
    let bytes = Request::from(Command::Watch(command::Watch {
        session: SESSION,
        cursors: Cursors::default(),
    }))
    .to_bytes();
    let mut watch = inner.watch_of(&caller, &bytes).await.unwrap();
    let mut shown = async || {
        let push = pushed(&mut watch).await;
        let event = Event::parse(&push.bytes).unwrap();
        let text = String::from_utf8(event.entry.body).unwrap();
        (text, event.entry.position.0, event.entry.read)
    };
    let mut backlog = [shown().await, shown().await, shown().await];
    backlog.sort();
    let is = |text: &str, position, read| (text.to_string(), position, read);
    let expected = [is("old", 1, false), is("one", 1, true), is("two", 2, false)];
    assert_eq!(backlog, expected);
    let ask = async |command: Command<'_>| {
        let caller = super::caller(device(1), MOMENT);
        let bytes = Request::from(command).to_bytes();
        Answer::parse(&inner.answer(&caller, &bytes).await).unwrap()
    };
    assert_eq!(ask(del(6)).await, Answer::Done);
    assert_eq!(ask(add(7)).await, Answer::Done);
    assert_eq!(ask(post(8, "new")).await, STORED);
    assert_eq!(shown().await, is("new", 2, false));
}

/// WATCH-1, WATCH-5: the cursors that `watch` and `unread` name are confirmed durably before the
/// answer, also if the session's use is recorded at the same moment.
#[tokio::test]
async fn cursor_named_by_watch_or_unread_is_confirmed() {
    let mut realm = Fixture::new();
    realm.register(device(1), "ann").await;
    let sends = (2..6).map(|number| send(number, "ann", "x"));
    realm.all_done(1, sends).await;
    assert_eq!(realm.unread(1, Mailbox::Private, &[]).await, 4);
    assert_eq!(
        realm
            .unread(1, Mailbox::Private, &[(Mailbox::Private, 2)])
            .await,
        2
    );
    assert_eq!(
        realm
            .unread(1, Mailbox::Private, &[(Mailbox::Private, 99)])
            .await,
        2
    );
    realm = realm.restart();
    assert_eq!(realm.unread(1, Mailbox::Private, &[]).await, 2);
    let caller = realm.caller(device(1));
    let current = realm
        .realm
        .sessions
        .session(&caller, SESSION)
        .await
        .unwrap();
    // Another command records the session's use meanwhile.
    let mut batch = Batch::new();
    let record = current.record.to_value().unwrap();
    batch.put(records::session(&current.hash), record);
    realm.realm.storage.commit(batch).await.unwrap();
    let place = records::MailboxLog::private("ann".parse().unwrap());
    let owner = current.owner();
    let confirmed = realm
        .realm
        .cursors
        .confirm(&current, &owner, &place, 3)
        .await;
    confirmed.unwrap();
    assert_eq!(realm.unread(1, Mailbox::Private, &[]).await, 1);
    realm
        .all_done(
            1,
            [Command::Watch(command::Watch {
                session: SESSION,
                cursors: Cursors(vec![(Mailbox::Private, Position(4))]),
            })],
        )
        .await;
    let realm = realm.restart();
    assert_eq!(realm.unread(1, Mailbox::Private, &[]).await, 0);
}

/// READ-6, WATCH-1: a cursor from before a restore from an older copy hides nothing.
#[tokio::test]
async fn watch_with_cursor_ahead_of_mailbox_shows_entries() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    realm
        .all_done(1, [send(2, "ann", "one"), send(3, "ann", "two")])
        .await;
    assert_eq!(realm.read(1, INBOX, Some(1)).await, [at(2, "two")]);
    assert_eq!(realm.read(1, INBOX, Some(20)).await, [at(2, "two")]);
    let caller = realm.caller(device(1));
    let inner = Arc::new(realm.realm);
    let bytes = Request::from(Command::Watch(command::Watch {
        session: SESSION,
        cursors: Cursors(vec![(Mailbox::Private, Position(20))]),
    }))
    .to_bytes();
    let mut watch = inner.watch_of(&caller, &bytes).await.unwrap();
    let push = pushed(&mut watch).await;
    let event = Event::parse(&push.bytes).unwrap();
    assert_eq!(event.entry.position, Position(2));
}
