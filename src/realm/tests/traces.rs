//! What is left of groups that have ended and of sessions that have: as little as what comes later allows (READ-6, EXACT-14).

use super::{
    super::records::Place,
    retention::{count, kept, shown},
    *,
};

/// How many cursors the store has of groups, and of copies of groups.
async fn group_cursors(fixture: &Fixture) -> usize {
    let prefix = records::all_cursors();
    let all = fixture.realm.store.list(&prefix, None, 1000).await.unwrap();
    let of_groups = |key| records::cursor_log(key).is_some();
    all.iter().filter(|(key, _)| of_groups(key)).count()
}

/// READ-6: cursors of a group that has ended go, and those of one that is made again stay, as do those of a copy that can be read.
#[tokio::test]
async fn cursors_of_groups_that_have_ended_leave_the_store() {
    let fixture = kept(Retention::FOREVER).await;
    let group: GroupName = "g".parse().unwrap();
    fixture.send_many(2, 0..1, "bob").await;
    fixture.confirm(2, 1).await;
    let add = |operation| Command::AddGroup {
        operation: op(operation),
        session: SessionRef::Bound,
        group,
        password: Password(b""),
    };
    let post = |operation| Command::SendGroup {
        operation: op(operation),
        session: SessionRef::Bound,
        group,
        message: Body(b"x"),
    };
    let read = async |after| {
        let options = Options {
            after,
            ..Options::NONE
        };
        let command = Command::InboxGroup {
            session: SessionRef::Bound,
            group,
        };
        match fixture.ask(device(1), Request { options, command }).await {
            Answer::Page(page) => page.entries.iter().map(shown).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    // Each time at the positions behind those of the group before.
    for life in 0..2 {
        let (number, first) = (3 + 10 * life, 1 + 2 * life);
        assert_eq!(fixture.ask(device(1), add(number)).await, Answer::Done);
        for n in 1..=2 {
            assert_eq!(fixture.ask(device(1), post(number + n)).await, STORED);
        }
        let both = [format!("{first}: x"), format!("{}: x", first + 1)];
        assert_eq!(read(None).await, both);
        assert_eq!(read(Some(first)).await, both[1..]);
        // The device's, and any device's.
        assert_eq!(group_cursors(&fixture).await, 2);
        fixture.tidy().await;
        assert_eq!(group_cursors(&fixture).await, 2);
        assert_eq!(read(None).await, both[1..]);
        let delete = Command::DelGroup {
            operation: op(number + 3),
            session: SessionRef::Bound,
            group,
        };
        assert_eq!(fixture.ask(device(1), delete).await, Answer::Done);
        if life == 1 {
            fixture.tidy().await;
            assert_eq!(group_cursors(&fixture).await, 0);
        }
    }
    assert_eq!(fixture.shown(2, None).await, [""; 0]);
    let (ann, beta) = ("ann".parse().unwrap(), "beta".parse().unwrap());
    let copy = |log| records::CopyRecord {
        epoch: 1,
        known_as: "alpha".into(),
        position: 5,
        log,
        floor: 0,
        ended: true,
    };
    let mut batch = Batch::new();
    batch.put(records::copy(beta, group), copy(1).to_value().unwrap());
    let cursor = records::CursorRecord { position: 5 }.to_value().unwrap();
    let stranger = records::Owner::Device(PublicKey([77; 32]));
    for (owner, log) in [(None, 1), (None, 2), (Some(&stranger), 2)] {
        let place = Place::copy(beta, group, &copy(log));
        batch.put(records::cursor(ann, owner, &place), cursor.clone());
    }
    fixture.realm.commit(batch).await.unwrap();
    fixture.tidy().await;
    // That of the copy, and one without which its owner, of a release before, would begin elsewhere.
    assert_eq!(group_cursors(&fixture).await, 2);
}
