//! Realms that an operator has removed, and whoever has their names next.

use super::{
    acts::{BOUND, group, join_realm, user},
    ended::{BETA, GAMMA, add, answer_next, done, joins, notices, waiting, with_users},
    held::{Held, add_peer, give, realm_of},
    peers::deliver,
    *,
};
use crate::store::{Key, Prefix};

fn claim(number: u64) -> Command<'static> {
    Command::Claim {
        operation: op(number),
        session: BOUND,
        code: Password(b"open sesame"),
    }
}

fn remove(number: u64) -> Command<'static> {
    Command::RemoveRealm {
        operation: op(number),
        session: BOUND,
        realm: "beta".parse().unwrap(),
    }
}

/// A realm with a group in which two realms have users, a copy of a group of beta, a message from beta, and two messages for it.
async fn busy_with_beta(store: &Held) -> Realm<Held> {
    let mut realm = with_users(store, &["ann"]).await;
    let (network, mut errands) = Network::new();
    realm.network = network;
    done(&realm, 1, add(2, "crew")).await;
    for n in 0..300 {
        joins(&realm, BETA, "crew", &format!("u{n}")).await;
    }
    joins(&realm, GAMMA, "crew", "yan").await;
    let ban = Command::Ban {
        operation: op(3),
        session: BOUND,
        group: group("crew"),
        user: "xie@beta".parse().unwrap(),
    };
    done(&realm, 1, ban).await;
    let command = Request::from(join_realm(op(4), "devs")).to_bytes();
    let joined = Answer::Joined {
        epoch: 7,
        membership: 1,
        known_as: "alpha".parse().unwrap(),
    };
    let (answer, ()) = tokio::join!(give(&realm, 1, &command), answer_next(&mut errands, joined));
    assert_eq!(answer, Answer::Done);
    let letter = deliver(7, 1, "ann", "from the first beta").to_bytes();
    assert_eq!(give(&realm, BETA, &letter).await, STORED);
    for (number, text) in [(5, "one"), (6, "two")] {
        let send = Command::SendRealm {
            operation: op(number),
            session: BOUND,
            src_address: Text(""),
            src_port: crate::wire::Port(0),
            realm: "beta".parse().unwrap(),
            from: user("ann"),
            to: user("zoe"),
            message: Body(text.as_bytes()),
        };
        let queued = give(&realm, 1, &Request::from(send).to_bytes()).await;
        assert_eq!(queued, Answer::Sent(Sent::Queued));
    }
    done(&realm, 1, claim(7)).await;
    realm
}

/// What whoever has the name next finds of the former one: who asks has another key.
async fn finds_nothing(store: &Held, realm: &Realm<Held>) {
    const NEXT: u8 = 77;
    add_peer(realm, NEXT, "beta").await;
    let post = PeerRequest::Post {
        epoch: 1,
        sequence: OperationNumber(1),
        content: 0,
        from: user("u7"),
        group: group("crew"),
        message: Body(b"as one of them"),
    };
    assert_eq!(
        give(realm, NEXT, &post.to_bytes()).await,
        refused(ErrorCode::NotAMember)
    );
    let found = store.memory().get(&records::group(group("crew"))).unwrap();
    let record = records::GroupRecord::from_value(&found.value).unwrap();
    assert_eq!(record.realms, ["gamma"]);
    let read = PeerRequest::Read {
        group: group("crew"),
        epoch: record.epoch,
        after: Position(0),
        offset: 0,
    };
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
    let inbox = Command::InboxRealm {
        session: BOUND,
        realm: "beta".parse().unwrap(),
    };
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

/// PEER-22: whoever gets the name of a realm that was removed gets nothing else of it, and its users are told what becomes of theirs. The
/// name is free once all of that is done.
#[tokio::test]
async fn the_name_of_a_removed_realm_brings_nothing_else() {
    let store = Held::default();
    let realm = busy_with_beta(&store).await;
    for _ in 0..2 {
        done(&realm, 1, remove(8)).await;
    }
    let place = ("192.0.2.9".to_string(), 6377);
    let at_once = realm
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
        "not delivered (realm-unreachable): one",
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

/// PEER-22, EXACT-13: the same wherever it is cut off.
#[tokio::test]
async fn a_realm_departs_whole_over_restarts() {
    let store = Held::default();
    let realm = busy_with_beta(&store).await;
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
