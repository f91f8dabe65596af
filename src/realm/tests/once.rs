//! Exactly once: repeats, dedup windows, concurrent commands.

use super::*;

/// EXACT-1, EXACT-2: a repeat gets the same answer and takes effect once, also after a restart.
#[tokio::test]
async fn dedup_repeat_is_answered_and_takes_effect_once() {
    let mut realm = Fixture::new();
    let id = realm.register(device(1), "ann").await;
    for _ in 0..3 {
        assert_eq!(
            realm.ask(device(1), register(1, "ann")).await,
            Answer::Session(id)
        );
        assert_eq!(realm.ask(device(1), send(2, "ann", "once")).await, STORED);
        realm = realm.restart();
    }
    assert_eq!(realm.texts(device(1)).await, ["once"]);
    assert_eq!(realm.ask(device(1), logout(3)).await, Answer::Done);
    assert_eq!(realm.ask(device(1), logout(3)).await, Answer::Done);
    assert_eq!(
        realm.ask(device(1), logout(4)).await,
        refused(ErrorCode::NoSession)
    );
}

/// EXACT-3, EXACT-4: a number that is too old to be told apart counts as done, and the dedup window
/// is bounded.
#[tokio::test]
async fn dedup_window_moves_and_refuses_older_numbers() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    for number in 2..=500 {
        assert_eq!(realm.ask(device(1), send(number, "ann", "x")).await, STORED);
    }
    assert_eq!(
        realm.ask(device(1), send(245, "ann", "x")).await,
        STORED,
        "the oldest of 256"
    );
    assert_eq!(
        realm.ask(device(1), send(244, "ann", "x")).await,
        refused_number(ErrorCode::AlreadyDone, 500)
    );
    let owner = Owner::Device(PublicKey([1; 32]));
    let kept = realm
        .realm
        .store()
        .list(&records::operations(&owner), None, 9999)
        .await
        .unwrap();
    assert_eq!(kept.len(), 256);
    let greeting = realm.realm.greet(&PublicKey([1; 32]), MOMENT).await;
    assert_eq!(
        greeting,
        Greeting {
            account: Some(Account::User("ann".parse().unwrap())),
            highest: OperationNumber(500)
        }
    );
    // A number may be skipped, and used later.
    assert_eq!(realm.ask(device(1), send(510, "ann", "x")).await, STORED);
    assert_eq!(realm.ask(device(1), send(505, "ann", "x")).await, STORED);
    let greeting = realm.realm.greet(&PublicKey([1; 32]), MOMENT).await;
    assert_eq!(greeting.highest, OperationNumber(510));
}

/// EXACT-8: a device whose session is damaged still learns its highest number. Fixed fault: it was
/// told 0, as if it had used none.
#[tokio::test]
async fn greeting_with_damaged_session_still_tells_highest_number() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    assert_eq!(realm.ask(device(1), send(70, "ann", "x")).await, STORED);
    let prefix = records::sessions();
    let sessions = realm.realm.store().list(&prefix, None, 2).await.unwrap();
    let [(key, found)] = &sessions[..] else {
        panic!("{} sessions", sessions.len())
    };
    let record = records::SessionRecord {
        user: "no user".into(),
        ..records::SessionRecord::from_value(&found.value).unwrap()
    };
    let mut batch = Batch::new();
    batch.put(key.clone(), record.to_value().unwrap());
    realm.realm.store().commit(batch).await.unwrap();
    let greeting = realm.realm.greet(&PublicKey([1; 32]), MOMENT).await;
    assert_eq!(
        greeting,
        Greeting {
            account: None,
            highest: OperationNumber(70)
        }
    );
}

/// EXACT-5: a restored profile that reuses a number is told so.
#[tokio::test]
async fn dedup_number_with_another_command_is_refused() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    assert_eq!(realm.ask(device(1), send(2, "ann", "one")).await, STORED);
    assert_eq!(
        realm.ask(device(1), send(2, "ann", "two")).await,
        refused_number(ErrorCode::NumberReused, 2)
    );
    assert_eq!(realm.texts(device(1)).await, ["one"]);
    assert_eq!(
        realm.ask(device(1), send(0, "ann", "x")).await,
        refused(ErrorCode::BadRequest)
    );
}

/// EXACT-12: a number at most 255 below the highest can still be used and asked for. One that is
/// 256 below cannot be told apart from a used one.
#[tokio::test]
async fn dedup_number_256_below_highest_is_refused() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    assert_eq!(realm.ask(device(1), send(3, "ann", "x")).await, STORED);
    assert_eq!(
        realm.ask(device(1), send(2 + 255, "ann", "x")).await,
        STORED
    );
    assert_eq!(realm.ask(device(1), send(2, "ann", "in use")).await, STORED);
    assert_eq!(
        realm.ask(device(1), send(2 + 256, "ann", "x")).await,
        STORED
    );
    assert_eq!(realm.ask(device(1), send(3, "ann", "x")).await, STORED);
    let too_old = realm.ask(device(1), send(2, "ann", "in use")).await;
    assert_eq!(too_old, refused_number(ErrorCode::AlreadyDone, 258));
    assert_eq!(realm.texts(device(1)).await.len(), 4);
}

/// EXACT-8: a refusal because of the number tells the highest number, so that a client goes above
/// it in one step.
#[tokio::test]
async fn dedup_refusal_tells_highest_number() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    assert_eq!(realm.ask(device(1), send(700, "ann", "x")).await, STORED);
    let used = realm.ask(device(1), send(700, "ann", "y")).await;
    assert_eq!(used, refused_number(ErrorCode::NumberReused, 700));
    let old = realm.ask(device(1), send(400, "ann", "y")).await;
    assert_eq!(old, refused_number(ErrorCode::AlreadyDone, 700));
}

/// EXACT-10: the same text from another copy of a device is another message, never a repeat of the
/// first.
#[tokio::test]
async fn dedup_salt_tells_equal_texts_of_device_copies_apart() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    let salted = |salt| {
        let mut command = send(2, "ann", "same");
        *command.operation_mut().unwrap() = Operation::new(2, salt);
        command
    };
    assert_eq!(realm.ask(device(1), salted([1, 2])).await, STORED);
    assert_eq!(realm.ask(device(1), salted([1, 2])).await, STORED);
    let other = realm.ask(device(1), salted([1, 3])).await;
    assert_eq!(other, refused_number(ErrorCode::NumberReused, 2));
    assert_eq!(realm.texts(device(1)).await, ["same"]);
}

fn void(operation: u64) -> Command<'static> {
    Command::Void(command::Void {
        operation: op(operation),
        session: SessionRef::Bound,
    })
}

/// EXACT-11: a voided number is used up. A command that was sent under it before has no effect any
/// more, also after a restart. One that was carried out before is not undone.
#[tokio::test]
async fn void_makes_number_used_also_after_restart() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    assert_eq!(realm.ask(device(1), send(2, "ann", "done")).await, STORED);
    assert_eq!(realm.ask(device(1), void(3)).await, Answer::Done);
    let done = realm.ask(device(1), void(2)).await;
    assert_eq!(done, refused_number(ErrorCode::NumberReused, 3));
    let realm = realm.restart();
    assert_eq!(realm.ask(device(1), void(3)).await, Answer::Done);
    let late = realm.ask(device(1), send(3, "ann", "late")).await;
    assert_eq!(late, refused_number(ErrorCode::NumberReused, 3));
    assert_eq!(realm.texts(device(1)).await, ["done"]);
}

/// EXACT-11, EXACT-6: the number belongs to the device, whatever has become of its session.
#[tokio::test]
async fn void_without_session_makes_number_used() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    assert_eq!(realm.ask(device(1), logout(2)).await, Answer::Done);
    assert_eq!(realm.ask(device(1), void(3)).await, Answer::Done);
    session_in(&realm.ask(device(1), register(5, "bob")).await);
    // This number is from before the session, in another account, and is recorded nevertheless.
    assert_eq!(realm.ask(device(1), void(4)).await, Answer::Done);
    for number in [3, 4] {
        let late = realm.ask(device(1), send(number, "ann", "late")).await;
        assert_eq!(late, refused_number(ErrorCode::NumberReused, 5), "{number}");
    }
    assert_eq!(
        realm.ask(device(1), void(0)).await,
        refused(ErrorCode::BadRequest)
    );
}

/// EXACT-11: on a plain link the number belongs to the session. For a session that has ended
/// nothing is written, because it never comes back.
#[tokio::test]
async fn void_on_plain_link_makes_number_of_session_used() {
    let realm = Fixture::new();
    let id = realm.register(PLAIN, "ann").await;
    let named = |operation, id| {
        Command::Void(command::Void {
            operation: op(operation),
            session: SessionRef::Named(id),
        })
    };
    assert_eq!(realm.ask(PLAIN, named(1, id)).await, Answer::Done);
    let late = Command::Send(command::Send {
        operation: op(1),
        session: SessionRef::Named(id),
        to: "ann".parse().unwrap(),
        message: Body(b"late"),
    });
    let answer = realm.ask(PLAIN, late).await;
    assert_eq!(answer, refused_number(ErrorCode::NumberReused, 1));
    let nobody = SessionId([7; 16]);
    assert_eq!(realm.ask(PLAIN, named(1, nobody)).await, Answer::Done);
    let owner = records::Owner::Session(realm.realm.sessions.session_hash(&nobody));
    let operations = records::operations(&owner);
    let kept = realm
        .realm
        .store()
        .list(&operations, None, 9)
        .await
        .unwrap();
    assert!(kept.is_empty());
    assert_eq!(
        realm.ask(PLAIN, void(1)).await,
        refused(ErrorCode::NoSession)
    );
}

/// EXACT-11: keys cost nothing, so strangers can void only as often as they can make accounts.
#[tokio::test]
async fn void_by_strangers_is_rate_limited() {
    let realm = Fixture::new();
    let mut refused = 0;
    for n in 1..=200 {
        match realm.ask(device(n), void(1)).await {
            Answer::Done => assert_eq!(realm.ask(device(n), void(2)).await, Answer::Done),
            Answer::Refused(refusal) if refusal.is_transient() => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(refused >= 100, "{refused}");
}

/// EXACT-6: a command that was refused does not take effect later. Found by the simulator: a
/// message was refused because the user did not exist. After the user was made, somebody sent the
/// packet again, and the message was delivered.
#[tokio::test]
async fn dedup_refused_command_is_not_done_later() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    let refusal = refused(ErrorCode::NoSuchUser);
    assert_eq!(realm.ask(device(1), send(2, "bob", "hi")).await, refusal);
    realm.register(device(2), "bob").await;
    assert_eq!(realm.ask(device(1), send(2, "bob", "hi")).await, refusal);
    assert_eq!(realm.ask(device(1), send(3, "bob", "hi")).await, STORED);
    assert_eq!(realm.texts(device(2)).await, ["hi"]);
}

/// EXACT-6: a command that was refused without a session does not take effect in the next session.
/// A command that was not sent before does.
#[tokio::test]
async fn dedup_number_from_before_session_is_refused() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    let logout = Command::Logout(command::Logout {
        operation: op(2),
        session: SessionRef::Bound,
    });
    assert_eq!(realm.ask(device(1), logout).await, Answer::Done);
    let refusal = refused(ErrorCode::NoSession);
    assert_eq!(realm.ask(device(1), send(3, "ann", "hi")).await, refusal);
    let auth = Command::Auth(command::Auth {
        operation: op(4),
        username: "ann".parse().unwrap(),
        password: Password(b"correct horse"),
    });
    let answer = realm.ask(device(1), auth).await;
    assert!(matches!(answer, Answer::Session(_)), "{answer:?}");
    // The highest number in the answer distinguishes this from having no session.
    let before = Answer::Refused(Refusal::number(ErrorCode::NoSession, OperationNumber(4)));
    assert_eq!(realm.ask(device(1), send(3, "ann", "hi")).await, before);
    assert_eq!(realm.ask(device(1), send(5, "ann", "hi")).await, STORED);
    // Nothing is written for a device without a session. Otherwise a stranger could fill the disk.
    let operations = records::operations(&records::Owner::Device(PublicKey([9; 32])));
    let stranger = realm.ask(device(9), send(1, "ann", "hi")).await;
    assert_eq!(stranger, refusal);
    let kept = realm
        .realm
        .store()
        .list(&operations, None, 9)
        .await
        .unwrap();
    assert!(kept.is_empty());
}

/// EXACT-6: a command with a password never travels early, so a user who mistyped it may try again
/// under the same number.
#[tokio::test]
async fn dedup_number_is_usable_again_after_wrong_password() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    realm.register(device(2), "bob").await;
    let group = |operation| {
        Command::AddGroup(command::AddGroup {
            operation: op(operation),
            session: SessionRef::Bound,
            group: "cats".parse().unwrap(),
            password: Password(b"purr"),
        })
    };
    assert_eq!(realm.ask(device(1), group(2)).await, Answer::Done);
    let join = |password| {
        Command::JoinGroup(command::JoinGroup {
            operation: op(2),
            session: SessionRef::Bound,
            group: "cats".parse().unwrap(),
            password: Password(password),
        })
    };
    let answer = realm.ask(device(2), join(b"woof")).await;
    assert_eq!(answer, refused(ErrorCode::WrongPassword));
    assert_eq!(realm.ask(device(2), join(b"purr")).await, Answer::Done);
}

/// EXACT-1: concurrent commands of one device take effect once each.
#[tokio::test]
async fn dedup_concurrent_commands_take_effect_once_each() {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    let realm = std::sync::Arc::new(fixture.realm);
    let caller = caller(device(1), MOMENT);
    let mut tasks = tokio::task::JoinSet::new();
    for repeat in 0..300u64 {
        let realm = std::sync::Arc::clone(&realm);
        tasks.spawn(async move {
            let number = 2 + repeat % 100;
            let text = format!("message {number}");
            let bytes = Request::from(send(number, "ann", &text)).to_bytes();
            Answer::parse(&realm.answer(&caller, &bytes).await).unwrap()
        });
    }
    assert!(
        tasks
            .join_all()
            .await
            .iter()
            .all(|answer| *answer == STORED)
    );
    let log = records::MailboxLog::private("ann".parse().unwrap()).log;
    let limit = crate::store::PageLimit {
        entries: 999,
        bytes: 1 << 20,
    };
    let page = realm.store().read(&log, Position(0), limit).await.unwrap();
    assert_eq!(page.entries.len(), 100);
}
