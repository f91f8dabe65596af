//! Requests of other realms, and their refusals.

use super::{
    held::{Held, give, realm_of},
    *,
};
use crate::crypto::show_possession;

pub async fn peer(fixture: &Fixture, n: u8, name: &str) {
    let address = ("192.0.2.9".to_string(), 6377);
    let key = PublicKey([n; 32]);
    let id = name.parse().unwrap();
    let listed = fixture.realm.peers.list_peer(id, key, address, None);
    assert!(listed.await.unwrap());
    fixture.realm.agree_with(id).await;
}

/// Listing a peer with unchanged data writes nothing. A start with an unchanged configuration must
/// not write.
#[tokio::test]
async fn peer_listed_unchanged_is_not_written_again() {
    let fixture = Fixture::new();
    let mut versions = Vec::new();
    for port in [6377, 6377, 6378] {
        let address = ("192.0.2.9".to_string(), port);
        let listed = fixture.realm.peers.list_peer(
            "beta".parse().unwrap(),
            PublicKey([50; 32]),
            address,
            None,
        );
        assert!(listed.await.unwrap());
        versions.push(fixture.realm.peers.peers().await.0.remove(0).version);
    }
    assert_eq!(versions[0], versions[1]);
    assert_ne!(versions[1], versions[2]);
}

/// PEER-1: without a key, an address at which nobody tells one is answered `realm-unreachable`.
#[tokio::test(start_paused = true)]
async fn addrealm_at_silent_address_is_unreachable() {
    let realm = realm_of(&Held::default());
    let peer_calls = realm.network.reconnect();
    let claim = Command::Claim(command::Claim {
        operation: op(2),
        session: SessionRef::Bound,
        code: Password(b"open sesame"),
    });
    let add = Command::AddRealm(command::AddRealm {
        operation: op(3),
        session: SessionRef::Bound,
        realm: "gamma".parse().unwrap(),
        address: Text("127.0.0.1"),
        port: crate::wire::Port(9),
        src_address: Text(""),
        src_port: crate::wire::Port(0),
    });
    let mut answers = Vec::new();
    let begun = tokio::time::Instant::now();
    for command in [register(1, "ann"), claim, add] {
        answers.push(give(&realm, 1, &Request::from(command).to_bytes()).await);
    }
    assert_eq!(answers.pop(), Some(refused(ErrorCode::RealmUnreachable)));
    // A path of many seconds is given the time.
    assert!(begun.elapsed() > std::time::Duration::from_mins(1));
    drop(peer_calls);
}

pub async fn asked(
    fixture: &Fixture,
    device: Option<PublicKey>,
    request: &PeerRequest<'_>,
) -> Answer {
    let caller = fixture.caller(device);
    let answer = fixture.realm.answer(&caller, &request.to_bytes()).await;
    Answer::parse(&answer).unwrap()
}

pub fn deliver<'a>(epoch: u64, sequence: u64, to: &str, text: &'a str) -> PeerRequest<'a> {
    PeerRequest::Deliver(peer::Deliver {
        epoch,
        sequence: OperationNumber(sequence),
        content: 0,
        from: "bob".parse().unwrap(),
        to: to.parse().unwrap(),
        message: Body(text.as_bytes()),
    })
}

fn introduce(name: &str) -> PeerRequest<'static> {
    PeerRequest::Introduce(peer::Introduce {
        realm: name.parse().unwrap(),
        address: Text("192.0.2.8"),
        port: crate::wire::Port(7000),
        numbers: None,
    })
}

/// PEER-4: a message is delivered once, across repeats and restarts. The same number in another
/// epoch is another message.
#[tokio::test]
async fn delivery_repeated_across_restarts_stores_message_once() {
    let mut fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    peer(&fixture, 50, "beta").await;
    for _ in 0..2 {
        assert_eq!(
            asked(&fixture, device(50), &deliver(7, 1, "ann", "one")).await,
            STORED
        );
        assert_eq!(
            asked(&fixture, device(50), &deliver(7, 2, "ann", "two")).await,
            STORED
        );
        fixture = fixture.restart();
    }
    assert_eq!(
        asked(&fixture, device(50), &deliver(7, 2, "ann", "other")).await,
        refused(ErrorCode::NumberReused)
    );
    assert_eq!(
        asked(&fixture, device(50), &deliver(8, 2, "ann", "other")).await,
        STORED
    );
    assert_eq!(fixture.texts(device(1)).await, ["one", "two", "other"]);
    let page = fixture.inbox(device(1), Options::NONE).await;
    assert_eq!(page.entries[0].from.to_string(), "bob@beta");
}

/// LINK-13: a peer is known before its first request. Found by the simulator: a long message was
/// refused with `too-large` if it was the first on a new link.
#[tokio::test]
async fn peer_is_known_before_its_first_request() {
    let fixture = Fixture::new();
    peer(&fixture, 50, "beta").await;
    for (n, known) in [(50, true), (51, false)] {
        let greeting = fixture.realm.greet(&PublicKey([n; 32]), MOMENT).await;
        assert_eq!(greeting.account.is_some(), known, "{n}");
    }
}

/// PEER-4: a refused delivery stays refused. Otherwise what the sender was told would be wrong.
#[tokio::test]
async fn delivery_refused_once_stays_refused() {
    let fixture = Fixture::new();
    peer(&fixture, 50, "beta").await;
    let late = deliver(7, 1, "ann", "too early");
    let unknown = refused(ErrorCode::NoSuchUser);
    assert_eq!(asked(&fixture, device(50), &late).await, unknown);
    fixture.register(device(1), "ann").await;
    assert_eq!(asked(&fixture, device(50), &late).await, unknown);
    let long = "x".repeat(1001);
    assert_eq!(
        asked(&fixture, device(50), &deliver(7, 2, "ann", &long)).await,
        Answer::Refused(Refusal::too_large(1000))
    );
    assert!(fixture.texts(device(1)).await.is_empty());
}

/// PEER-3, PEER-4: a realm that lies about its identity changes nothing.
#[tokio::test]
async fn peer_request_by_non_peer_is_refused() {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    peer(&fixture, 50, "beta").await;
    let no = refused(ErrorCode::PeerRefused);
    for stranger in [device(51), device(1), PLAIN] {
        assert_eq!(
            asked(&fixture, stranger, &deliver(7, 1, "ann", "x")).await,
            no
        );
        assert_eq!(asked(&fixture, stranger, &introduce("beta")).await, no);
    }
    assert!(fixture.texts(device(1)).await.is_empty());
    let caller = fixture.caller(device(50));
    let answer = fixture.realm.answer(&caller, &[0x7e, 1, 2]).await;
    assert_eq!(Answer::parse(&answer), Ok(refused(ErrorCode::Unsupported)));
    let answer = fixture.realm.answer(&caller, &[0x61, 1, 2]).await;
    assert_eq!(Answer::parse(&answer), Ok(refused(ErrorCode::Unsupported)));
}

/// PEER-2: a name belongs to the key that had it first.
#[tokio::test]
async fn introduction_to_open_realm_binds_name_to_first_key() {
    let mut fixture = Fixture::new();
    set_peering(&mut fixture.realm, Peering::Open);
    assert_eq!(
        asked(&fixture, device(50), &introduce("beta")).await,
        Answer::Done
    );
    assert_eq!(
        asked(&fixture, device(50), &introduce("other")).await,
        Answer::Done
    );
    let clash = refused(ErrorCode::RealmExists);
    assert_eq!(asked(&fixture, device(51), &introduce("beta")).await, clash);
    assert_eq!(
        asked(&fixture, device(51), &introduce("alpha")).await,
        clash,
        "our own name"
    );
    let peers = fixture.realm.peers.peers().await.0;
    assert_eq!(peers.len(), 1);
    assert_eq!(
        (peers[0].realm.as_str(), peers[0].address()),
        ("beta", ("", 0)),
        "it has shown nowhere that it is"
    );
    set_peering(&mut fixture.realm, Peering::Closed);
    assert_eq!(
        asked(&fixture, device(52), &introduce("gamma")).await,
        refused(ErrorCode::PeerRefused)
    );
}

/// PEER-10: a peer cannot fill this realm's memory with groups that have no members here.
#[tokio::test]
async fn group_hint_without_members_is_forgotten() {
    let fixture = Fixture::new();
    peer(&fixture, 50, "beta").await;
    let grown = PeerRequest::Grown(peer::Grown {
        group: "cats".parse().unwrap(),
    });
    assert_eq!(asked(&fixture, device(50), &grown).await, Answer::Done);
    let beta = "beta".parse().unwrap();
    assert_eq!(fixture.realm.group_work(beta).await, []);
}

/// Returns the request in which a peer with the key `old` names its new key.
pub fn rotate(old: PublicKey, new: &SecretKey) -> PeerRequest<'static> {
    PeerRequest::Rotate(peer::Rotate {
        key: new.public().0,
        proof: show_possession(new, &old, &realm_key()).unwrap(),
    })
}

/// PEER-13: an old key vouches for a new one, once. What was delivered under the old key stays
/// delivered.
#[tokio::test]
async fn key_rotation_is_vouched_for_by_old_key_once() {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    peer(&fixture, 50, "beta").await;
    peer(&fixture, 60, "gamma").await;
    let [second, third] = [51, 52].map(|n| SecretKey::from_bytes([n; 32]));
    let rotate = |new: &SecretKey| rotate(PublicKey([50; 32]), new);
    let no = refused(ErrorCode::PeerRefused);
    assert_eq!(
        asked(&fixture, device(50), &deliver(7, 1, "ann", "one")).await,
        STORED
    );
    assert_eq!(
        asked(&fixture, device(49), &rotate(&second)).await,
        no,
        "a stranger"
    );
    assert_eq!(asked(&fixture, PLAIN, &rotate(&second)).await, no);
    for _ in 0..2 {
        assert_eq!(
            asked(&fixture, device(50), &rotate(&second)).await,
            Answer::Done
        );
    }
    assert_eq!(
        asked(&fixture, device(50), &rotate(&third)).await,
        no,
        "it has vouched"
    );
    assert_eq!(asked(&fixture, device(50), &introduce("beta")).await, no);
    assert_eq!(
        asked(&fixture, device(50), &deliver(7, 2, "ann", "x")).await,
        no
    );
    for (sequence, text) in [(1, "one"), (2, "two")] {
        let request = deliver(7, sequence, "ann", text);
        assert_eq!(
            asked(&fixture, Some(second.public()), &request).await,
            STORED
        );
    }
    assert_eq!(fixture.texts(device(1)).await, ["one", "two"]);
    // The configuration may still name the old key.
    peer(&fixture, 50, "beta").await;
    assert_eq!(
        fixture.realm.peers.peers().await.0[0].key(),
        second.public()
    );
}

/// PEER-13: a peer can change only to a key whose secret it has. Before, a peer that took another
/// realm's key spoke for that realm's users.
#[tokio::test]
async fn key_rotation_without_secret_of_new_key_is_refused() {
    let fixture = Fixture::new();
    peer(&fixture, 50, "mal").await;
    let (mal, victim) = (
        SecretKey::from_bytes([50; 32]),
        SecretKey::from_bytes([77; 32]),
    );
    let old = PublicKey([50; 32]);
    let PeerRequest::Rotate(peer::Rotate { proof, .. }) = rotate(old, &mal) else {
        unreachable!()
    };
    for key in [
        victim.public(),
        realm_key(),
        PublicKey([8; 32]),
        PublicKey([0; 32]),
    ] {
        let forged = PeerRequest::Rotate(peer::Rotate { key: key.0, proof });
        assert_eq!(
            asked(&fixture, device(50), &forged).await,
            refused(ErrorCode::PeerRefused)
        );
    }
    assert_eq!(fixture.realm.peers.peers().await.0[0].key(), old);
    // A proof that another realm gave of its key under another old key is not valid here.
    let PeerRequest::Rotate(peer::Rotate { proof, .. }) = rotate(PublicKey([60; 32]), &victim)
    else {
        unreachable!()
    };
    let replayed = PeerRequest::Rotate(peer::Rotate {
        key: victim.public().0,
        proof,
    });
    assert_eq!(
        asked(&fixture, device(50), &replayed).await,
        refused(ErrorCode::PeerRefused)
    );
}

/// PEER-21: requests that undo something are refused as early data, because an attacker can replay
/// recorded early data. Before, an old `leave` ended a membership, and an old `introduce` moved a
/// peer back.
#[tokio::test]
async fn early_data_with_undoing_peer_request_is_refused() {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    peer(&fixture, 50, "beta").await;
    let own = SecretKey::from_bytes([51; 32]);
    let (crew, zoe) = ("crew".parse().unwrap(), "zoe".parse().unwrap());
    let join = PeerRequest::Join(peer::Join {
        group: crew,
        user: zoe,
        password: Password(b""),
    });
    let leave = PeerRequest::Leave(peer::Leave {
        group: crew,
        user: zoe,
        membership: 0,
    });
    for request in [
        introduce("beta"),
        rotate(PublicKey([50; 32]), &own),
        join,
        leave,
    ] {
        assert!(!request.may_travel_early());
        let caller = Caller {
            secrecy: Secrecy::Early,
            ..caller(device(50), fixture.now)
        };
        let answer = fixture.realm.answer(&caller, &request.to_bytes()).await;
        assert_eq!(
            Answer::parse(&answer).unwrap(),
            refused(ErrorCode::BadRequest),
            "{request:?}"
        );
    }
    assert_eq!(
        fixture.realm.peers.peers().await.0[0].address(),
        ("192.0.2.9", 6377)
    );
}

/// PEER-18: users see the names of the realms that they can write to, and nothing else of them.
#[tokio::test]
async fn peer_names_are_shown_to_users_and_addresses_to_operators() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    let inner = &realm.realm;
    for (n, name) in [(50, "beta"), (51, "gamma")] {
        let place = ("192.0.2.9".to_string(), 6377);
        let name = name.parse().unwrap();
        assert!(
            inner
                .peers
                .list_peer(name, PublicKey([n; 32]), place, None)
                .await
                .unwrap()
        );
    }
    let peer = inner.peers.peers().await.0.remove(0);
    let record = records::PeerRecord {
        introduced: true,
        ..peer.record.clone()
    };
    let mut batch = Batch::new();
    batch.put(records::peer(peer.realm), record.to_value().unwrap());
    inner.storage.commit(batch).await.unwrap();
    let realms = Command::Realms(command::Realms {
        session: SessionRef::Bound,
    });
    let seen = crate::wire::Peer {
        realm: "beta".parse().unwrap(),
        address: String::new(),
        state: 1,
        queued: 0,
        age: 0,
        heard: 0,
    };
    let answer = realm.ask(device(1), realms.clone()).await;
    assert_eq!(answer, Answer::Realms(vec![seen]), "gamma has not accepted");
    let claim = Command::Claim(command::Claim {
        operation: op(2),
        session: SessionRef::Bound,
        code: Password(b"open sesame"),
    });
    assert_eq!(realm.ask(device(1), claim).await, Answer::Done);
    match realm.ask(device(1), realms).await {
        Answer::Realms(peers) => {
            assert_eq!(peers.len(), 2);
            assert_eq!(peers[0].address, "192.0.2.9:6377");
        }
        other => panic!("{other:?}"),
    }
}

/// PEER-9: only its home realm may say that a group does not exist. A user who is not a member gets
/// `not-a-member` here.
#[tokio::test]
async fn group_of_other_realm_answers_not_a_member_to_non_member() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    let beta = "beta".parse().unwrap();
    let place = ("192.0.2.9".to_string(), 6377);
    let inner = &realm.realm;
    assert!(
        inner
            .peers
            .list_peer(beta, PublicKey([50; 32]), place, None)
            .await
            .unwrap()
    );
    let commands = [
        Command::SendGroupRealm(command::SendGroupRealm {
            operation: op(2),
            session: SessionRef::Bound,
            src_address: Text(""),
            src_port: crate::wire::Port(0),
            realm: beta,
            group: "cats".parse().unwrap(),
            message: Body(b"x"),
        }),
        Command::InboxGroupRealm(command::InboxGroupRealm {
            session: SessionRef::Bound,
            realm: beta,
            group: "cats".parse().unwrap(),
        }),
        Command::LeaveGroupRealm(command::LeaveGroupRealm {
            operation: op(3),
            session: SessionRef::Bound,
            realm: beta,
            group: "cats".parse().unwrap(),
        }),
    ];
    for command in commands {
        let answer = realm.ask(device(1), command).await;
        assert_eq!(answer, refused(ErrorCode::NotAMember));
    }
}

/// PEER-20: a peer that begins too many epochs of its queue is told to wait. Epochs that it has
/// used stay usable.
#[tokio::test]
async fn peer_that_begins_many_epochs_is_rate_limited() {
    let mut fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    peer(&fixture, 50, "beta").await;
    let withdraw = |epoch| {
        PeerRequest::Withdraw(peer::Withdraw {
            epoch,
            sequence: OperationNumber(1),
        })
    };
    assert_eq!(
        asked(&fixture, device(50), &deliver(7, 1, "ann", "one")).await,
        STORED
    );
    let mut done = 0;
    for epoch in 1000..2000 {
        done += usize::from(asked(&fixture, device(50), &withdraw(epoch)).await == Answer::Done);
    }
    assert_eq!(done, 79);
    assert_eq!(
        asked(&fixture, device(50), &deliver(7, 2, "ann", "two")).await,
        STORED
    );
    let limited = asked(&fixture, device(50), &deliver(8, 1, "ann", "three")).await;
    assert!(matches!(limited, Answer::Refused(refusal) if refusal.code == ErrorCode::RateLimited));
    fixture.now = later(fixture.now, 3600);
    assert_eq!(
        asked(&fixture, device(50), &deliver(8, 1, "ann", "three")).await,
        STORED
    );
}

/// PEER-20: a peer has a storage quota. Beyond it the peer is told to wait, so that nothing is
/// lost.
#[tokio::test]
async fn storage_quota_of_peer_used_up_delays_deliveries() {
    let directory = tempfile::tempdir().unwrap();
    let realm = open_with(&directory, |_, limits| {
        limits.rates.stored_peer = crate::rate_limit::RateLimit::per_day(1 << 13);
    });
    let mut fixture = Fixture {
        realm,
        directory,
        now: MOMENT,
    };
    fixture.register(device(1), "ann").await;
    peer(&fixture, 50, "beta").await;
    let text = "x".repeat(900);
    let mut sequence = 1;
    while asked(&fixture, device(50), &deliver(7, sequence, "ann", &text)).await == STORED {
        sequence += 1;
    }
    assert!((10..=20).contains(&sequence), "{sequence}");
    fixture.now = later(fixture.now, DAY);
    assert_eq!(
        asked(&fixture, device(50), &deliver(7, sequence, "ann", &text)).await,
        STORED
    );
}

/// PEER-2: a realm that has moved tells its new address, whatever was recorded when the peering was
/// made. A realm that listens on all addresses tells none, because it does not know by which of
/// them it is reached.
#[tokio::test]
async fn introduction_by_moved_realm_tells_new_address() {
    let directory = tempfile::tempdir().unwrap();
    let place = |host: &str, port| (host.to_string(), port);
    let beta = || "beta".parse().unwrap();
    let told = |here: Vec<(String, u16)>, listed: Option<(String, u16)>| {
        let realm = open_with(&directory, |own, _| own.addresses = here);
        async move {
            if listed.is_some() {
                let address = ("192.0.2.9".to_string(), 6377);
                let listing = realm
                    .peers
                    .list_peer(beta(), PublicKey([50; 32]), address, listed);
                assert!(listing.await.unwrap());
            }
            realm.own.told_to(&realm.peers.peers().await.0.remove(0))
        }
    };
    let (first, second) = (place("192.0.2.1", 1), place("192.0.2.1", 2));
    let both = vec![first.clone(), second.clone()];
    assert_eq!(told(both.clone(), Some(second.clone())).await, second);
    assert_eq!(told(both, None).await, second, "the one that was named");
    let elsewhere = place("198.51.100.1", 1);
    assert_eq!(told(vec![elsewhere.clone()], None).await, elsewhere);
    for everywhere in [place("0.0.0.0", 1), place("::", 1)] {
        assert_eq!(told(vec![everywhere], None).await, place("", 0));
    }
}
