//! Realms that an operator has removed, and later realms of their names.

use super::{
    acts::{BOUND, group, join_realm, user},
    group_teardown::{BETA, GAMMA, add, answer_next, done, joins, notices, waiting, with_users},
    held::{Held, add_peer, give, realm_of},
    peers::{deliver, rotate},
    *,
};
use crate::wire::command;
use crate::{
    realm::storage::Unnoted,
    store::{Batch, Key, PageLimit, Prefix},
};

fn claim(number: u64) -> Command<'static> {
    Command::Claim(command::Claim {
        operation: op(number),
        session: BOUND,
        code: Password(b"open sesame"),
    })
}

fn remove(number: u64) -> Command<'static> {
    Command::RemoveRealm(command::RemoveRealm {
        operation: op(number),
        session: BOUND,
        realm: "beta".parse().unwrap(),
    })
}

/// Returns a realm with a group in which two realms have users, a replica of a group of beta, a
/// message from beta, and two messages queued for it.
async fn busy_with_beta(store: &Held, members: usize) -> Realm<Held> {
    let realm = with_users(store, &["ann"]).await;
    let mut peer_calls = realm.network.reconnect();
    done(&realm, 1, add(2, "crew")).await;
    for n in 0..members {
        joins(&realm, BETA, "crew", &format!("u{n}")).await;
    }
    joins(&realm, GAMMA, "crew", "yan").await;
    let ban = Command::Ban(command::Ban {
        operation: op(3),
        session: BOUND,
        group: group("crew"),
        user: "xie@beta".parse().unwrap(),
    });
    done(&realm, 1, ban).await;
    let command = Request::from(join_realm(op(4), "devs")).to_bytes();
    let joined = Answer::Joined {
        group_epoch: 7,
        membership: 1,
        known_as: "alpha".parse().unwrap(),
    };
    let (answer, ()) = tokio::join!(
        give(&realm, 1, &command),
        answer_next(&mut peer_calls, joined)
    );
    assert_eq!(answer, Answer::Done);
    let letter = deliver(7, 1, "ann", "from the first beta").to_bytes();
    assert_eq!(give(&realm, BETA, &letter).await, STORED);
    for (number, text) in [(5, "one"), (6, "two")] {
        let send = Command::SendRealm(command::SendRealm {
            operation: op(number),
            session: BOUND,
            src_address: Text(""),
            src_port: crate::wire::Port(0),
            realm: "beta".parse().unwrap(),
            from: user("ann"),
            to: user("zoe"),
            message: Body(text.as_bytes()),
        });
        let queued = give(&realm, 1, &Request::from(send).to_bytes()).await;
        assert_eq!(queued, Answer::Sent(Sent::Queued));
    }
    done(&realm, 1, claim(7)).await;
    realm
}

/// Checks that a later realm of the name, which has another key, finds nothing of the former one.
async fn finds_nothing(store: &Held, realm: &Realm<Held>) {
    const NEXT: u8 = 77;
    add_peer(realm, NEXT, "beta").await;
    let post = PeerRequest::Post(peer::Post {
        epoch: 1,
        sequence: OperationNumber(1),
        content: 0,
        from: user("u7"),
        group: group("crew"),
        message: Body(b"as one of them"),
    });
    assert_eq!(
        give(realm, NEXT, &post.to_bytes()).await,
        refused(ErrorCode::NotAMember)
    );
    let found = store.memory().get(&records::group(group("crew"))).unwrap();
    let record = records::GroupRecord::from_value(&found.value).unwrap();
    assert_eq!(record.realms, ["gamma"]);
    let read = PeerRequest::Read(peer::Read {
        group: group("crew"),
        group_epoch: record.epoch,
        after: Position(0),
        offset: Offset(0),
        life: None,
    });
    assert_eq!(
        give(realm, NEXT, &read.to_bytes()).await,
        refused(ErrorCode::NotAMember)
    );
    let of_beta = |prefix: Prefix| {
        let all = store.memory().list(&prefix, None, 9999);
        let names = all.into_iter().map(|(key, _)| key);
        let is_of = |key: &Key| key.0.windows(4).any(|part| part == b"beta");
        names.filter(is_of).count()
    };
    for kind in [b"m/", b"b/", b"i/", b"y/", b"z/", b"q/", b"D/"] {
        assert_eq!(of_beta(Prefix(kind[..].into())), 0, "{kind:?}");
    }
    let inbox = Command::InboxRealm(command::InboxRealm {
        session: BOUND,
        realm: "beta".parse().unwrap(),
    });
    let options = Options {
        after: Some(0),
        ..Options::NONE
    };
    let asked = Request {
        options,
        command: inbox,
    };
    let answer = give(realm, 1, &asked.to_bytes()).await;
    let Answer::Page(page) = answer else {
        panic!("{answer:?}")
    };
    let bodies: Vec<_> = page.entries.iter().map(|entry| &entry.body[..]).collect();
    assert!(!bodies.contains(&&b"from the first beta"[..]), "{bodies:?}");
    assert_eq!(waiting(store, "beta"), []);
}

/// PEER-22: a later realm of a removed realm's name gets nothing else of it. The users are told
/// what becomes of their messages and memberships. The name is free once all of that is done.
#[tokio::test]
async fn peer_removal_leaves_nothing_to_next_realm_of_its_name() {
    let store = Held::default();
    let realm = busy_with_beta(&store, 300).await;
    for _ in 0..2 {
        done(&realm, 1, remove(8)).await;
    }
    let place = ("192.0.2.9".to_string(), 6377);
    let at_once = realm
        .peers
        .list_peer("beta".parse().unwrap(), PublicKey([77; 32]), place, None)
        .await;
    assert!(
        at_once.is_err(),
        "what belonged to the former one has not ended"
    );
    assert!(realm.do_chores(NOW).await);
    finds_nothing(&store, &realm).await;
    let told = notices(&store, "ann");
    assert_eq!(told.len(), 3, "{told:?}");
    for said in [
        "perhaps not delivered (realm-unreachable): one",
        "not delivered (no-such-realm): two",
        "an operator has removed the realm of this group: you are not in it any more",
    ] {
        assert!(
            told.iter().any(|(_, told)| told == said),
            "{said}: {told:?}"
        );
    }
    assert!(realm.do_chores(NOW).await);
    assert_eq!(notices(&store, "ann").len(), 3, "once");
}

/// PEER-22, EXACT-13: the result is the same at whatever step the removal is interrupted.
#[tokio::test]
async fn peer_removal_interrupted_at_any_step_is_completed() {
    let store = Held::default();
    let realm = busy_with_beta(&store, 9).await;
    done(&realm, 1, remove(8)).await;
    drop(realm);
    for steps in (1..).step_by(3) {
        let copied = Held::over(store.memory().clone());
        let realm = realm_of(&copied);
        copied.hold.left.store(steps, Ordering::SeqCst);
        let is_held = tokio::select! {
            biased;
            _ = realm.do_chores(NOW) => false,
            () = copied.hold.held.notified() => true,
        };
        let copied = Held::over(copied.memory().clone());
        let realm = realm_of(&copied);
        assert!(realm.do_chores(NOW).await);
        assert_eq!(notices(&copied, "ann").len(), 3, "at step {steps}");
        finds_nothing(&copied, &realm).await;
        if !is_held {
            assert!(steps > 20, "{steps}");
            break;
        }
    }
}

/// PEER-22: an answer that arrives after the removal changes nothing. Before, a delivery that was
/// waiting for its answer when the peer was removed moved the queue back, told the sender again,
/// and left the message for the next realm of the name.
#[tokio::test]
async fn peer_removal_is_not_changed_by_late_answer() {
    let scene = Held::default();
    drop(busy_with_beta(&scene, 9).await);
    for answer in [
        STORED,
        Answer::Done,
        refused(ErrorCode::NoSuchUser),
        refused_number(ErrorCode::NumberReused, 9),
    ] {
        let store = Held::over(scene.memory().clone());
        let realm = realm_of(&store);
        let mut peer_calls = realm.network.reconnect();
        let beta = realm.peers.peers().await.0.remove(0);
        let next = realm.next_outgoing(beta.realm).await.unwrap().unwrap();
        let removal = async {
            let Some(PeerCall::Ask { answer: told, .. }) = peer_calls.recv().await else {
                panic!("asked")
            };
            done(&realm, 1, remove(8)).await;
            assert!(realm.do_chores(NOW).await);
            add_peer(&realm, 77, "beta").await;
            told.send(answer.to_bytes()).unwrap();
        };
        tokio::join!(realm.deliver_outgoing(&beta, &next, 0, MOMENT), removal);
        assert_eq!(waiting(&store, "beta"), [], "{answer:?}");
        assert_eq!(realm.queues.queued(beta.realm).await.unwrap(), 0);
        let told = notices(&store, "ann");
        let of_it = told.iter().filter(|(_, told)| told.ends_with(": one"));
        assert_eq!(of_it.count(), 1, "{told:?}");
    }
}

/// PEER-22: a removed realm's requests in progress are refused, at whatever step they are. Before,
/// a *join* that waited for its password check made a member of the next realm of the name.
#[tokio::test]
async fn peer_removal_refuses_requests_in_progress() {
    let join = PeerRequest::Join(peer::Join {
        group: group("crew"),
        user: user("new"),
        password: Password(b""),
    });
    let letter = deliver(7, 2, "ann", "late");
    let scene = Held::default();
    drop(busy_with_beta(&scene, 9).await);
    for request in [join, letter] {
        for steps in 1.. {
            let store = Held::over(scene.memory().clone());
            let realm = realm_of(&store);
            let asked = request.to_bytes();
            store.hold.left.store(steps, Ordering::SeqCst);
            let mut asking = core::pin::pin!(give(&realm, BETA, &asked));
            let is_held = tokio::select! {
                biased;
                _ = &mut asking => false,
                () = store.hold.held.notified() => true,
            };
            store.hold.left.store(0, Ordering::SeqCst);
            if is_held {
                done(&realm, 1, remove(8)).await;
                assert!(realm.do_chores(NOW).await);
                store.hold.release.notify_one();
                let answer = asking.await;
                assert_eq!(answer, refused(ErrorCode::PeerRefused), "at step {steps}");
            } else {
                assert!(steps > 4, "{steps}");
                done(&realm, 1, remove(8)).await;
                assert!(realm.do_chores(NOW).await);
            }
            finds_nothing(&store, &realm).await;
            if !is_held {
                break;
            }
        }
    }
}

/// PEER-22, PEER-13: a realm that changed its key, was removed and is added again repeats nothing.
#[tokio::test]
async fn peer_removed_and_returning_under_later_key_repeats_nothing() {
    let store = Held::default();
    let realm = with_users(&store, &["ann"]).await;
    let new = SecretKey::from_bytes([52; 32]);
    let ask = async |key: PublicKey, request: &PeerRequest<'_>| {
        let (caller, asked) = (caller(Some(key), MOMENT), request.to_bytes());
        Answer::parse(&realm.answer(&caller, &asked).await).unwrap()
    };
    let (old, letter) = (PublicKey([BETA; 32]), deliver(7, 1, "ann", "once"));
    assert_eq!(ask(old, &letter).await, STORED);
    assert_eq!(ask(old, &rotate(old, &new)).await, Answer::Done);
    done(&realm, 1, claim(7)).await;
    done(&realm, 1, remove(8)).await;
    assert!(realm.do_chores(NOW).await);
    let place = ("192.0.2.9".to_string(), 6377);
    let beta = "beta".parse().unwrap();
    assert!(
        realm
            .peers
            .list_peer(beta, new.public(), place, None)
            .await
            .unwrap()
    );
    assert_eq!(ask(new.public(), &letter).await, STORED);
    let all = PageLimit {
        entries: 9,
        bytes: usize::MAX,
    };
    let log = records::MailboxLog::private(user("ann")).log;
    assert_eq!(store.memory().read(&log, Position(0), all).entries.len(), 1);
    // The old key still belongs to nobody.
    assert_eq!(ask(old, &letter).await, refused(ErrorCode::PeerRefused));
}

/// PEER-13, PEER-22: a key that a peer has given up may have been stolen. After the peer was
/// removed, the key makes nobody a peer, because the peer's dedup windows would apply to that peer.
/// When the peer comes back, the key is its own again.
#[tokio::test]
async fn peer_removal_leaves_former_key_to_nobody() {
    let store = Held::default();
    let realm = with_users(&store, &["ann"]).await;
    let new = SecretKey::from_bytes([52; 32]);
    let old = PublicKey([BETA; 32]);
    let list = async |name: &str, key: PublicKey| {
        let place = ("192.0.2.9".to_string(), 6377);
        let listed = realm
            .peers
            .list_peer(name.parse().unwrap(), key, place, None);
        listed.await.unwrap()
    };
    assert_eq!(
        give(&realm, BETA, &rotate(old, &new).to_bytes()).await,
        Answer::Done
    );
    done(&realm, 1, claim(7)).await;
    done(&realm, 1, remove(8)).await;
    assert!(realm.do_chores(NOW).await);
    for name in ["beta", "eve"] {
        assert!(!list(name, old).await, "{name}");
    }
    assert!(list("beta", new.public()).await);
    let who = realm.peers.peer_of(&mut Unnoted, &old).await.unwrap();
    assert_eq!(who.unwrap().key(), new.public());
}

/// PEER-22: a former key of a removed peer that now belongs to another peer stays that peer's.
#[tokio::test]
async fn peer_removal_keeps_former_key_that_another_peer_has() {
    let store = Held::default();
    let realm = with_users(&store, &["ann"]).await;
    let other = PublicKey([77; 32]);
    add_peer(&realm, 77, "delta").await;
    // As a release without this check may have left it.
    let key = records::peer("beta".parse().unwrap());
    let found = store.memory().get(&key).unwrap();
    let mut record = records::PeerRecord::from_value(&found.value).unwrap();
    record.former.push(other.0);
    let mut batch = Batch::new();
    batch.put(key, record.to_value().unwrap());
    store.memory().apply(batch).unwrap();
    done(&realm, 1, claim(7)).await;
    done(&realm, 1, remove(8)).await;
    assert!(realm.do_chores(NOW).await);
    let who = realm.peers.peer_of(&mut Unnoted, &other).await.unwrap();
    assert_eq!(who.unwrap().realm, "delta".parse().unwrap());
}

/// PEER-22: a group of the next realm of the name is another group, even if that realm gives it the
/// former epoch.
#[tokio::test]
async fn peer_removal_makes_group_of_next_realm_another_group() {
    let store = Held::default();
    let realm = busy_with_beta(&store, 9).await;
    done(&realm, 1, remove(8)).await;
    assert!(realm.do_chores(NOW).await);
    add_peer(&realm, 77, "beta").await;
    let mut peer_calls = realm.network.reconnect();
    let key = records::replica("beta".parse().unwrap(), group("devs"));
    let kept =
        || records::ReplicaRecord::from_value(&store.memory().get(&key).unwrap().value).unwrap();
    let mut batch = Batch::new();
    let log = records::MailboxLog::replica("beta".parse().unwrap(), group("devs"), &kept()).log;
    batch.append(log.clone(), vec![1]);
    store.memory().apply(batch).unwrap();
    let command = Request::from(join_realm(op(9), "devs")).to_bytes();
    let joined = Answer::Joined {
        group_epoch: 7,
        membership: 2,
        known_as: "alpha".parse().unwrap(),
    };
    let (answer, ()) = tokio::join!(
        give(&realm, 1, &command),
        answer_next(&mut peer_calls, joined)
    );
    assert_eq!(answer, Answer::Done);
    assert_eq!((kept().position, kept().floor), (0, 1));
    let all = PageLimit {
        entries: 9,
        bytes: usize::MAX,
    };
    assert_eq!(store.memory().read(&log, Position(0), all).entries.len(), 0);
}

/// PEER-22: damaged records of a removed realm block neither its name nor the deletion of the rest.
/// A record that merely cannot be read is read a few times more: it may be sound, and the next
/// realm of the name would find it.
#[tokio::test]
async fn peer_removal_is_not_blocked_by_damaged_records() {
    for (value, tries) in [(Vec::new(), 0), (vec![99], 5)] {
        let store = Held::default();
        let realm = busy_with_beta(&store, 9).await;
        done(&realm, 1, remove(8)).await;
        let of_copy = || records::replica("beta".parse().unwrap(), group("aaa"));
        let mut batch = Batch::new();
        batch.put(Key(b"g/aaa"[..].into()), value.clone());
        batch.put(of_copy(), value.clone());
        // The idempotency records of the commands that queued the messages.
        let operations = crate::store::Prefix(b"o/"[..].into());
        for (key, _) in store.list(&operations, None, 99).await.unwrap() {
            batch.put(key, Vec::new());
        }
        store.memory().apply(batch).unwrap();
        for _ in 0..tries {
            assert!(!realm.do_chores(NOW).await);
        }
        assert!(realm.do_chores(NOW).await);
        let mut batch = Batch::new();
        batch.delete(of_copy());
        store.memory().apply(batch).unwrap();
        finds_nothing(&store, &realm).await;
        assert_eq!(notices(&store, "ann").len(), 3);
    }
}
