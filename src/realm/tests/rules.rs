//! Accounts, sessions, mailboxes: one rule in each test.

use super::*;

/// ACC-1, READ-1: registered users send each other messages, and positions begin at 1.
#[tokio::test]
async fn mailbox_receives_messages_of_other_user() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    realm.register(device(2), "bob").await;
    assert_eq!(realm.ask(device(1), send(2, "bob", "hi bob")).await, STORED);
    assert_eq!(realm.ask(device(2), send(2, "ann", "hi ann")).await, STORED);
    assert_eq!(realm.texts(device(2)).await, ["hi bob"]);
    let page = realm.inbox(device(1), Options::NONE).await;
    assert_eq!(page.entries[0].from.to_string(), "bob");
    assert_eq!(page.entries[0].time, NOW);
    assert_eq!(page.entries[0].position, Position(1));
}

/// ACC-2, ACC-3: a wrong password and an unknown user get the same answer.
#[tokio::test]
async fn account_wrong_password_and_unknown_user_answer_equally() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    let wrong = refused(ErrorCode::BadCredentials);
    assert_eq!(
        realm.ask(device(2), auth(1, "ann", "wrong horse")).await,
        wrong
    );
    assert_eq!(
        realm.ask(device(2), auth(2, "nobody", "wrong horse")).await,
        wrong
    );
    session_in(&realm.ask(device(2), auth(3, "ann", "correct horse")).await);
    assert_eq!(
        realm.ask(device(3), register(1, "ann")).await,
        refused(ErrorCode::UsernameTaken)
    );
}

#[tokio::test]
async fn limits_exceeded_are_refused_with_limit() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    let long = "x".repeat(1001);
    assert_eq!(
        realm.ask(device(1), send(2, "ann", &long)).await,
        Answer::Refused(Refusal::too_large(1000))
    );
    let named = |name: &'static str, password: &'static [u8]| {
        Command::Register(command::Register {
            operation: op(9),
            full_name: Text(name),
            country: Text("id"),
            username: "bob".parse().unwrap(),
            password: Password(password),
        })
    };
    let long: &'static str = "x".repeat(65).leak();
    assert_eq!(
        realm.ask(device(2), named(long, b"12345678")).await,
        Answer::Refused(Refusal::too_large(64))
    );
    assert_eq!(
        realm.ask(device(2), named("B", b"1234567")).await,
        refused(ErrorCode::BadRequest)
    );
    assert_eq!(
        realm.ask(device(2), named("B", &[b'x'; 129])).await,
        Answer::Refused(Refusal::too_large(128))
    );
    let invalid = Command::Send(command::Send {
        operation: op(9),
        session: SessionRef::Bound,
        to: "ann".parse().unwrap(),
        message: Body(b"\xff\xfe"),
    });
    assert_eq!(
        realm.ask(device(1), invalid).await,
        refused(ErrorCode::BadRequest)
    );
}

/// SES-1, SES-3: another device cannot use a leaked session id. On a plain link the id is all that
/// a session needs.
#[tokio::test]
async fn session_cannot_be_used_by_other_device() {
    let realm = Fixture::new();
    let id = realm.register(device(1), "ann").await;
    let whoami = |session| Command::WhoAmI(command::WhoAmI { session });
    let named = SessionRef::Named(id);
    assert!(matches!(
        realm.ask(device(1), whoami(named)).await,
        Answer::Account(_)
    ));
    let none = refused(ErrorCode::NoSession);
    assert_eq!(realm.ask(device(2), whoami(named)).await, none);
    assert_eq!(realm.ask(PLAIN, whoami(named)).await, none);
    assert_eq!(realm.ask(device(2), whoami(SessionRef::Bound)).await, none);
    let id = realm.register(PLAIN, "bob").await;
    let named = SessionRef::Named(id);
    assert!(matches!(
        realm.ask(PLAIN, whoami(named)).await,
        Answer::Account(_)
    ));
    assert_eq!(realm.ask(PLAIN, whoami(SessionRef::Bound)).await, none);
    let send = |operation| {
        Command::Send(command::Send {
            operation: op(operation),
            session: named,
            to: "bob".parse().unwrap(),
            message: Body(b"note"),
        })
    };
    for _ in 0..2 {
        assert_eq!(realm.ask(PLAIN, send(1)).await, STORED);
    }
    let inbox = Command::Inbox(command::Inbox { session: named });
    let Answer::Page(page) = realm.ask(PLAIN, inbox).await else {
        panic!("no page")
    };
    assert_eq!(
        page.entries.len(),
        1,
        "EXACT-1: the numbers belong to the session"
    );
}

/// SES-2: the store holds no session id.
#[tokio::test]
async fn session_id_is_not_in_store() {
    let realm = Fixture::new();
    let ids = [
        realm.register(device(1), "ann").await,
        realm.register(PLAIN, "bob").await,
    ];
    let all = realm
        .realm
        .store()
        .list(
            &crate::store::Prefix(crate::store::NameBytes::new()),
            None,
            9999,
        )
        .await
        .unwrap();
    for id in ids {
        let holds = |bytes: &[u8]| bytes.windows(16).any(|window| window == id.0);
        assert!(
            !all.iter()
                .any(|(key, found)| holds(&key.0) || holds(&found.value))
        );
    }
}

/// SES-7: setting the clock while the realm runs ends no session, and a wrong clock loses nothing.
#[tokio::test]
async fn session_is_not_ended_by_clock_jump() {
    let mut realm = Fixture::new();
    realm.register(device(1), "ann").await;
    for wall in [0, NOW + 10 * 365 * DAY, NOW - 10 * 365 * DAY, u32::MAX, NOW] {
        realm.now.wall = wall;
        realm.now.running += 3600;
        realm
            .ask(device(1), send(u64::from(realm.now.running), "ann", "x"))
            .await;
        let page = realm.inbox(device(1), Options::NONE).await;
        assert_eq!(page.entries.last().map(|entry| entry.time), Some(wall));
    }
    assert_eq!(realm.texts(device(1)).await.len(), 5);
}

/// SES-4: a session that is unused for its lifetime ends.
#[tokio::test]
async fn session_unused_for_its_lifetime_ends() {
    let mut realm = Fixture::new();
    realm.register(device(1), "ann").await;
    let whoami = Command::WhoAmI(command::WhoAmI {
        session: SessionRef::Bound,
    });
    for _ in 0..3 {
        realm.now = later(realm.now, 29 * DAY);
        assert!(matches!(
            realm.ask(device(1), whoami.clone()).await,
            Answer::Account(_)
        ));
    }
    realm.now = later(realm.now, 30 * DAY);
    assert_eq!(
        realm.ask(device(1), whoami).await,
        refused(ErrorCode::NoSession)
    );
    let greeting = realm.realm.greet(&PublicKey([1; 32]), realm.now).await;
    assert_eq!(greeting.account, None);
}

/// SES-5, SES-6: sessions are listed and revoked, and their number is bounded.
#[tokio::test]
async fn sessions_are_listed_revoked_and_bounded() {
    let mut realm = Fixture::new();
    realm.register(device(1), "ann").await;
    for n in 2..=3 {
        realm.now = later(realm.now, 1);
        session_in(&realm.ask(device(n), auth(1, "ann", "correct horse")).await);
    }
    let list = async |realm: &Fixture, n| {
        let command = Command::Sessions(command::Sessions {
            session: SessionRef::Bound,
        });
        match realm.ask(device(n), command).await {
            Answer::Sessions(sessions) => sessions,
            other => panic!("{other:?}"),
        }
    };
    let sessions = list(&realm, 2).await;
    assert_eq!(sessions.len(), 3);
    assert_eq!(
        sessions.iter().map(|s| s.current).collect::<Vec<_>>(),
        [false, true, false]
    );
    let revoke = |operation, handle| {
        Command::Revoke(command::Revoke {
            operation: op(operation),
            session: SessionRef::Bound,
            handle,
        })
    };
    let third = sessions[2].handle;
    assert_eq!(realm.ask(device(2), revoke(2, third)).await, Answer::Done);
    assert_eq!(
        realm.ask(device(3), send(9, "ann", "x")).await,
        refused(ErrorCode::NoSession)
    );
    assert_eq!(
        realm.ask(device(2), revoke(3, third)).await,
        refused(ErrorCode::NoSession)
    );
    // The session that has been unused for longest is evicted.
    for n in 4..=5 {
        realm.now = later(realm.now, 1);
        session_in(&realm.ask(device(n), auth(1, "ann", "correct horse")).await);
    }
    assert_eq!(list(&realm, 5).await.len(), 3);
    assert_eq!(
        realm.ask(device(1), send(9, "ann", "x")).await,
        refused(ErrorCode::NoSession)
    );
}

/// ACC-4: a new password ends the user's other sessions.
#[tokio::test]
async fn password_change_ends_other_sessions() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    session_in(&realm.ask(device(2), auth(1, "ann", "correct horse")).await);
    let passwd = |operation, old: &'static str| {
        Command::Passwd(command::Passwd {
            operation: op(operation),
            session: SessionRef::Bound,
            old: Password(old.as_bytes()),
            new: Password(b"battery staple"),
        })
    };
    assert_eq!(
        realm.ask(device(1), passwd(2, "wrong")).await,
        refused(ErrorCode::WrongPassword)
    );
    assert_eq!(
        realm.ask(device(1), passwd(3, "correct horse")).await,
        Answer::Done
    );
    assert_eq!(
        realm.ask(device(1), passwd(3, "correct horse")).await,
        Answer::Done
    );
    assert_eq!(
        realm.ask(device(2), send(2, "ann", "x")).await,
        refused(ErrorCode::NoSession)
    );
    assert_eq!(realm.ask(device(1), send(4, "ann", "x")).await, STORED);
    assert_eq!(
        realm.ask(device(2), auth(3, "ann", "correct horse")).await,
        refused(ErrorCode::BadCredentials)
    );
    session_in(&realm.ask(device(2), auth(4, "ann", "battery staple")).await);
}

/// READ-2, READ-3, READ-5: a read continues behind the position that its reader has confirmed.
#[tokio::test]
async fn cursor_confirmed_makes_next_read_continue_behind_it() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    for number in 2..=6 {
        realm.ask(device(1), send(number, "ann", "x")).await;
    }
    let read = async |n, after| {
        let options = Options {
            after,
            ..Options::NONE
        };
        let page = realm.inbox(device(n), options).await;
        page.entries
            .iter()
            .map(|entry| entry.position.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(read(1, None).await, [1, 2, 3, 4, 5]);
    assert_eq!(
        read(1, None).await,
        [1, 2, 3, 4, 5],
        "nothing is confirmed by being sent"
    );
    assert_eq!(read(1, Some(3)).await, [4, 5]);
    assert_eq!(read(1, None).await, [4, 5]);
    assert_eq!(
        read(1, Some(1)).await,
        [2, 3, 4, 5],
        "reading back is possible"
    );
    assert_eq!(read(1, None).await, [4, 5], "and takes nothing back");
    assert_eq!(
        read(1, Some(1 << 40)).await,
        [4, 5],
        "READ-6: a cursor that is ahead of the mailbox is none of its own"
    );
    assert_eq!(
        read(1, None).await,
        [4, 5],
        "what does not exist cannot be confirmed"
    );
    // A new device begins where the user has read to, and has its own cursors from there on.
    session_in(&realm.ask(device(2), auth(1, "ann", "correct horse")).await);
    assert_eq!(read(2, None).await, [4, 5]);
    assert!(read(2, Some(5)).await.is_empty());
    assert_eq!(read(1, None).await, [4, 5]);
}

/// READ-4: a page is no larger than the link carries, and no larger than the reader asks for.
#[tokio::test]
async fn page_fits_link_and_requested_size() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    for number in 2..=4 {
        realm
            .ask(device(1), send(number, "ann", &"y".repeat(600)))
            .await;
    }
    let (mut after, mut offset, mut bytes) = (0, 0, 0);
    for asked in [
        Some(10),
        Some(300),
        None,
        Some(5000),
        None,
        None,
        None,
        None,
        None,
    ] {
        let options = Options {
            after: Some(after),
            offset: Some(offset),
            bytes: asked,
            ..Options::NONE
        };
        let command = Command::Inbox(command::Inbox {
            session: SessionRef::Bound,
        });
        let request = Request { options, command }.to_bytes();
        let answer = realm.realm.answer(&realm.caller(device(1)), &request).await;
        let limit = asked.map_or(1100, |n: u64| usize::try_from(n.clamp(127, 1100)).unwrap());
        assert!(answer.len() <= limit, "{} > {limit}", answer.len());
        let Ok(Answer::Page(page)) = Answer::parse(&answer) else {
            panic!("no page")
        };
        for entry in &page.entries {
            bytes += entry.body.len() as u64;
            let end = entry
                .fragment
                .map_or(600, |f| f.offset + entry.body.len() as u64);
            (after, offset) = if end == 600 {
                (entry.position.0, 0)
            } else {
                (after, end)
            };
        }
        if !page.more {
            break;
        }
    }
    assert_eq!(bytes, 1800);
}

/// HS-7, WIRE-13: a command that is malformed, unknown or not allowed as early data is refused.
#[tokio::test]
async fn command_malformed_unknown_or_not_allowed_early_is_refused() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    let early = Caller {
        secrecy: Secrecy::Early,
        ..realm.caller(device(1))
    };
    let ask = async |caller, bytes: Vec<u8>| {
        Answer::parse(&realm.realm.answer(caller, &bytes).await).unwrap()
    };
    let bytes = Request::from(auth(2, "ann", "correct horse")).to_bytes();
    assert_eq!(ask(&early, bytes).await, refused(ErrorCode::BadRequest));
    assert_eq!(
        ask(&early, Request::from(send(2, "ann", "x")).to_bytes()).await,
        STORED
    );
    let caller = realm.caller(device(1));
    assert_eq!(ask(&caller, vec![]).await, refused(ErrorCode::BadRequest));
    assert_eq!(
        ask(&caller, vec![0x5f, 1, 2]).await,
        refused(ErrorCode::BadRequest)
    );
    let mut unknown = vec![0x9a, 0x41, 0, 0];
    SessionRef::Bound.emit(&mut unknown);
    assert_eq!(ask(&caller, unknown).await, refused(ErrorCode::Unsupported));
    let options = Options {
        reply_to: Some(60),
        ..Options::NONE
    };
    let command = send(9, "ann", "x");
    let with_reply = Request { options, command }.to_bytes();
    assert_eq!(
        ask(&caller, with_reply).await,
        refused(ErrorCode::Unsupported)
    );
    let narrow = Caller {
        answer_limits: AnswerLimits {
            inline: 5,
            total: 5,
        },
        ..caller
    };
    let whoami = Command::WhoAmI(command::WhoAmI {
        session: SessionRef::Bound,
    });
    assert_eq!(
        ask(&narrow, Request::from(whoami).to_bytes()).await,
        Answer::Refused(Refusal::too_large(5))
    );
}

/// ACC-8: only the realm itself makes notices, such as that a message came back.
#[tokio::test]
async fn notice_content_from_user_or_peer_is_refused() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    realm.register(device(2), "bob").await;
    let mut number = 1;
    for (content, is_taken) in [
        (0, true),
        (1, false),
        (2, false),
        (15, false),
        (16, true),
        (127, true),
        (128, false),
    ] {
        number += 1;
        let options = Options {
            content: Some(content),
            ..Options::NONE
        };
        let command = send(number, "bob", "not delivered");
        let answer = realm.ask(device(1), Request { options, command }).await;
        let expected = if is_taken {
            STORED
        } else {
            refused(ErrorCode::BadRequest)
        };
        assert_eq!(answer, expected, "{content}");
    }
    super::peers::peer(&realm, 50, "beta").await;
    for (sequence, content, is_taken) in
        [(1, 0, true), (2, 1, false), (3, 15, false), (4, 16, true)]
    {
        let deliver = PeerRequest::Deliver(peer::Deliver {
            epoch: 7,
            sequence: OperationNumber(sequence),
            content,
            from: "bob".parse().unwrap(),
            to: "ann".parse().unwrap(),
            message: Body(b"not delivered"),
        });
        let expected = if is_taken {
            STORED
        } else {
            refused(ErrorCode::BadRequest)
        };
        let answer = super::peers::asked(&realm, device(50), &deliver).await;
        assert_eq!(answer, expected, "{content}");
    }
}
