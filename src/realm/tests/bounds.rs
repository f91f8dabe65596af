//! Every bound is reported when it is exceeded: tests of one item more than each bound allows
//! (`docs/limits.md`).

use super::{
    acts::{BOUND, group, user},
    held::{Held, add_peer, give, realm_of},
    peers::rotate,
    *,
};
use crate::store::{Key, PageLimit};
use crate::wire::command;

/// ACC-4: a new password ends all other sessions, however many the configuration allows.
#[tokio::test]
async fn password_change_ends_more_than_thousand_sessions() {
    let store = Held::default();
    let realm = realm_of(&store);
    let answer = give(&realm, 1, &Request::from(register(1, "ann")).to_bytes()).await;
    assert!(matches!(answer, Answer::Session(_)), "{answer:?}");
    let mut batch = Batch::new();
    let mut others = Vec::new();
    for number in 0u64..1100 {
        let mut hash = [0; 16];
        for half in hash.chunks_mut(8) {
            half.copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
        let session = records::SessionRecord {
            user: "ann".into(),
            device: None,
            created: NOW,
            used: NOW,
            last: MOMENT.running,
            operator: false,
            since: 0,
        };
        let handle = crate::wire::Handle::of_session(&hash);
        let link = records::SessionLink { session: hash };
        batch
            .put(records::session(&hash), session.to_value().unwrap())
            .put(
                records::handle(user("ann"), handle),
                link.to_value().unwrap(),
            );
        others.push(hash);
    }
    store.memory().apply(batch).unwrap();
    let passwd = Command::Passwd(command::Passwd {
        operation: op(2),
        session: BOUND,
        old: Password(b"correct horse"),
        new: Password(b"battery staple"),
    });
    let answer = give(&realm, 1, &Request::from(passwd).to_bytes()).await;
    assert_eq!(answer, Answer::Done);
    let left = others
        .iter()
        .filter(|hash| store.memory().get(&records::session(hash)).is_some());
    assert_eq!(left.count(), 0);
}

/// PEER-2: all peers that the configuration names are peers, however many. A realm that introduces
/// itself then is refused.
#[tokio::test]
async fn config_peers_beyond_limit_are_all_listed() {
    let store = Held::default();
    let realm = realm_over(store.clone(), |own, _| own.peering = Peering::Open);
    for number in 0u16..300 {
        let name = format!("realm{number}").parse().unwrap();
        let mut key = [3; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        let place = ("192.0.2.9".to_string(), 6377);
        assert!(
            realm
                .peers
                .list_peer(name, PublicKey(key), place, None)
                .await
                .unwrap()
        );
    }
    assert_eq!(realm.peers.peers().await.0.len(), 300);
    let introduce = PeerRequest::Introduce(peer::Introduce {
        realm: "late".parse().unwrap(),
        address: Text("192.0.2.8"),
        port: crate::wire::Port(7000),
        numbers: None,
    });
    let answer = give(&realm, 99, &introduce.to_bytes()).await;
    assert_eq!(answer, refused(ErrorCode::PeerRefused));
}

/// PEER-8: a group has members of at most 64 realms. A join from one realm more is refused with the
/// limit.
#[tokio::test]
async fn group_with_members_of_64_realms_refuses_another_realm() {
    let store = Held::default();
    let realm = realm_of(&store);
    give(&realm, 1, &Request::from(register(1, "ann")).to_bytes()).await;
    let add = Command::AddGroup(command::AddGroup {
        operation: op(2),
        session: BOUND,
        group: group("crew"),
        password: Password(b""),
    });
    give(&realm, 1, &Request::from(add).to_bytes()).await;
    for n in 100..165 {
        add_peer(&realm, n, &format!("realm{n}")).await;
        let join = PeerRequest::Join(peer::Join {
            group: group("crew"),
            user: user("zoe"),
            password: Password(b""),
        });
        let answer = give(&realm, n, &join.to_bytes()).await;
        if n < 164 {
            assert!(matches!(answer, Answer::Joined { .. }), "{answer:?}");
        } else {
            assert_eq!(answer, Answer::Refused(Refusal::too_large(64)));
        }
    }
}

/// PEER-13: the number of keys kept for a peer is bounded, and a peer beyond the bound is told so.
#[tokio::test]
async fn key_rotation_beyond_64_former_keys_is_refused() {
    let store = Held::default();
    let realm = realm_of(&store);
    add_peer(&realm, 100, "beta").await;
    let mut key = PublicKey([100; 32]);
    for n in 100..165 {
        let new = SecretKey::from_bytes([n + 1; 32]);
        let rotate = rotate(key, &new).to_bytes();
        let answer = realm.answer(&caller(Some(key), MOMENT), &rotate).await;
        let answer = Answer::parse(&answer).unwrap();
        key = new.public();
        let wanted = if n < 164 {
            Answer::Done
        } else {
            Answer::Refused(Refusal::too_large(64))
        };
        assert_eq!(answer, wanted, "{n}");
    }
}

/// GRP-7: all messages of a group that has ended are deleted, even if there are more of them than
/// the store trims from a log at once. The messages of a group made again under the name stay.
#[tokio::test]
async fn group_end_deletes_all_messages_and_spares_new_group() {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    let crew = group("crew");
    let add = |number| {
        Command::AddGroup(command::AddGroup {
            operation: op(number),
            session: BOUND,
            group: crew,
            password: Password(b""),
        })
    };
    let post = Command::SendGroup(command::SendGroup {
        operation: op(5),
        session: BOUND,
        group: crew,
        message: Body(b"new"),
    });
    assert_eq!(fixture.ask(device(1), add(2)).await, Answer::Done);
    let realm = &fixture.realm;
    let found = realm.store().get(&records::group(crew)).await.unwrap();
    let record = records::GroupRecord::from_value(&found.unwrap().value).unwrap();
    let log = records::group_log(crew, record.log);
    let mut batch = Batch::new();
    for _ in 0..20_500 {
        batch.append(log.clone(), vec![1]);
    }
    realm.storage.commit(batch).await.unwrap();
    let end = Command::DelGroup(command::DelGroup {
        operation: op(3),
        session: BOUND,
        group: crew,
    });
    assert_eq!(fixture.ask(device(1), end).await, Answer::Done);
    assert_eq!(fixture.ask(device(1), add(4)).await, Answer::Done);
    assert_eq!(fixture.ask(device(1), post).await, STORED);
    assert!(realm.do_chores(NOW).await);
    let all = PageLimit {
        entries: usize::MAX,
        bytes: usize::MAX,
    };
    let page = realm.store().read(&log, Position(0), all).await.unwrap();
    let positions: Vec<_> = page.entries.iter().map(|(at, _)| at.0).collect();
    assert_eq!(positions, [20_501]);
}

/// PEER-6: a notice quotes the beginning of a long message, and shows that the quote is shortened.
#[tokio::test]
async fn notice_that_quotes_long_message_shows_cut() {
    for (text, quote) in [
        ("é".repeat(60), "é".repeat(60)),
        ("é".repeat(61), "é".repeat(60) + "…"),
    ] {
        let store = Held::default();
        let realm = realm_of(&store);
        give(&realm, 1, &Request::from(register(1, "ann")).to_bytes()).await;
        add_peer(&realm, 50, "beta").await;
        let write = Command::SendRealm(command::SendRealm {
            operation: op(2),
            session: BOUND,
            src_address: Text(""),
            src_port: crate::wire::Port(0),
            realm: "beta".parse().unwrap(),
            from: user("ann"),
            to: user("zoe"),
            message: Body(text.as_bytes()),
        });
        give(&realm, 1, &Request::from(write).to_bytes()).await;
        let beta = realm.peers.peers().await.0.remove(0);
        let next = realm.next_outgoing(beta.realm).await.unwrap().unwrap();
        let late = later(MOMENT, 8 * DAY);
        let carried = realm.deliver_outgoing(&beta, &next, 0, late).await;
        assert_eq!(carried, Carried::Settled);
        let read = Command::Inbox(command::Inbox { session: BOUND });
        match give(&realm, 1, &Request::from(read).to_bytes()).await {
            Answer::Page(page) => {
                let said = String::from_utf8(page.entries[0].body.clone()).unwrap();
                assert_eq!(
                    said,
                    format!("perhaps not delivered (realm-unreachable): {quote}")
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

/// READ-7: a new device takes over its user's cursors of all mailboxes, however many groups the
/// user has left.
#[tokio::test]
async fn cursors_of_all_mailboxes_are_taken_over_by_new_device() {
    let store = Held::default();
    let realm = realm_of(&store);
    give(&realm, 1, &Request::from(register(1, "ann")).to_bytes()).await;
    add_peer(&realm, 50, "beta").await;
    let ann = user("ann");
    let value = records::CursorRecord { position: 1 }.to_value().unwrap();
    let private = records::MailboxLog::private(ann);
    let from_beta = records::MailboxLog::from_realm(ann, "beta".parse().unwrap());
    let mut batch = Batch::new();
    for number in 0..10_500 {
        let name = format!("c/ann//a{number:06}");
        batch.put(Key(name.as_bytes().into()), value.clone());
    }
    for place in [&private, &from_beta] {
        batch.put(records::cursor(ann, None, place), value.clone());
    }
    store.memory().apply(batch).unwrap();
    give(
        &realm,
        2,
        &Request::from(auth(1, "ann", "correct horse")).to_bytes(),
    )
    .await;
    let owner = Owner::Device(PublicKey([2; 32]));
    for place in [&private, &from_beta] {
        assert_eq!(
            realm.cursors.confirmed(ann, &owner, place).await.unwrap(),
            1
        );
    }
}
