//! What remains of ended groups and sessions: as little as later commands need (READ-6, EXACT-14).

use super::{
    super::records::MailboxLog,
    retention::{count, kept, shown},
    *,
};
use crate::wire::command;

/// Returns the number of cursors of groups and of replicas.
async fn group_cursors(fixture: &Fixture) -> usize {
    let prefix = records::all_cursors();
    let all = fixture
        .realm
        .store()
        .list(&prefix, None, 1000)
        .await
        .unwrap();
    let of_groups = |key| records::cursor_log(key).is_some();
    all.iter().filter(|(key, _)| of_groups(key)).count()
}

/// READ-6: cursors of an ended group are deleted. Those of a group that is made again stay, as do
/// those of a replica that can be read.
#[tokio::test]
async fn cursors_of_ended_group_are_deleted() {
    let fixture = kept(Retention::FOREVER).await;
    let group: GroupName = "g".parse().unwrap();
    fixture.send_many(2, 0..1, "bob").await;
    fixture.confirm(2, 1).await;
    let add = |operation| {
        Command::AddGroup(command::AddGroup {
            operation: op(operation),
            session: SessionRef::Bound,
            group,
            password: Password(b""),
        })
    };
    let post = |operation| {
        Command::SendGroup(command::SendGroup {
            operation: op(operation),
            session: SessionRef::Bound,
            group,
            message: Body(b"x"),
        })
    };
    let read = async |after| {
        let options = Options {
            after,
            ..Options::NONE
        };
        let command = Command::InboxGroup(command::InboxGroup {
            session: SessionRef::Bound,
            group,
        });
        match fixture.ask(device(1), Request { options, command }).await {
            Answer::Page(page) => page.entries.iter().map(shown).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    // The positions of each group go on behind those of the group before.
    for life in 0..2 {
        let (number, first) = (3 + 10 * life, 1 + 2 * life);
        assert_eq!(fixture.ask(device(1), add(number)).await, Answer::Done);
        for n in 1..=2 {
            assert_eq!(fixture.ask(device(1), post(number + n)).await, STORED);
        }
        let both = [format!("{first}: x"), format!("{}: x", first + 1)];
        assert_eq!(read(None).await, both);
        assert_eq!(read(Some(first)).await, both[1..]);
        // One cursor of the device, and one of any device.
        assert_eq!(group_cursors(&fixture).await, 2);
        fixture.tidy().await;
        assert_eq!(group_cursors(&fixture).await, 2);
        assert_eq!(read(None).await, both[1..]);
        let delete = Command::DelGroup(command::DelGroup {
            operation: op(number + 3),
            session: SessionRef::Bound,
            group,
        });
        assert_eq!(fixture.ask(device(1), delete).await, Answer::Done);
        if life == 1 {
            fixture.tidy().await;
            assert_eq!(group_cursors(&fixture).await, 0);
        }
    }
    assert_eq!(fixture.shown(2, None).await, [""; 0]);
    let (ann, beta) = ("ann".parse().unwrap(), "beta".parse().unwrap());
    let copy = |log| records::ReplicaRecord {
        epoch: 1,
        known_as: "alpha".into(),
        position: 5,
        log,
        floor: 0,
        ended: true,
    };
    let mut batch = Batch::new();
    batch.put(records::replica(beta, group), copy(1).to_value().unwrap());
    let cursor = records::CursorRecord { position: 5 }.to_value().unwrap();
    let stranger = records::Owner::Device(PublicKey([77; 32]));
    for (owner, log) in [(None, 1), (None, 2), (Some(&stranger), 2)] {
        let place = MailboxLog::replica(beta, group, &copy(log));
        batch.put(records::cursor(ann, owner, &place), cursor.clone());
    }
    fixture.realm.storage.commit(batch).await.unwrap();
    fixture.tidy().await;
    // The cursor of the readable replica, and that of a device from an earlier release, which would
    // begin elsewhere without it.
    assert_eq!(group_cursors(&fixture).await, 2);
}

/// EXACT-14: nothing of a plain link's session stays for good, because the session never comes
/// back. Until then repeats are answered as for any session.
#[tokio::test]
async fn dedup_numbers_of_ended_plain_session_are_deleted() {
    let fixture = kept(Retention::FOREVER).await;
    // One more for the session of bob's device: among sessions used at the same time any may be
    // evicted.
    let Fixture {
        directory, realm, ..
    } = fixture;
    drop(realm);
    let realm = open_with(&directory, |_, limits| limits.sessions_max = 4);
    realm.policy.begin_keeping(Some(Retention::FOREVER)).await;
    let mut fixture = Fixture {
        directory,
        realm,
        now: MOMENT,
    };
    let login = || {
        Command::Auth(command::Auth {
            operation: op(1),
            username: "bob".parse().unwrap(),
            password: Password(b"correct horse"),
        })
    };
    let mut named = Vec::new();
    for _ in 0..3 {
        let id = session_in(&fixture.ask(PLAIN, login()).await);
        named.push(SessionRef::Named(id));
    }
    let send = |session| {
        Command::Send(command::Send {
            operation: op(1),
            session,
            to: "ann".parse().unwrap(),
            message: Body(b"x"),
        })
    };
    let logout = |number, session| {
        Command::Logout(command::Logout {
            operation: op(number),
            session,
        })
    };
    // One session has sent something, one has not, and one has only begun.
    assert_eq!(fixture.ask(PLAIN, send(named[0])).await, STORED);
    for (number, session) in [(2, named[0]), (1, named[1])] {
        for _ in 0..2 {
            let answer = fixture.ask(PLAIN, logout(number, session)).await;
            assert_eq!(answer, Answer::Done);
        }
    }
    let before = count(&fixture.realm, b"o/").await;
    assert_eq!(count(&fixture.realm, b"I/").await, 2);
    fixture.tidy().await;
    fixture.now = later(fixture.now, 59 * DAY);
    fixture.tidy().await;
    assert_eq!(fixture.ask(PLAIN, send(named[0])).await, STORED);
    // The session that has only begun has expired, and no record of it is left.
    assert_eq!(count(&fixture.realm, b"o/").await, before);
    fixture.now = later(fixture.now, 2 * DAY);
    fixture.tidy().await;
    assert_eq!(count(&fixture.realm, b"o/").await, before - 3);
    let fixture = fixture.restart();
    for session in [named[0], named[1]] {
        for number in 1..=3 {
            let answer = fixture.ask(PLAIN, logout(number, session)).await;
            assert_eq!(answer, refused(ErrorCode::NoSession));
        }
        let answer = fixture.ask(PLAIN, send(session)).await;
        assert_eq!(answer, refused(ErrorCode::NoSession));
    }
    // The devices of ann and bob, whose sessions have expired meanwhile.
    assert_eq!(count(&fixture.realm, b"I/").await, 2);
}
