//! Bounds on what a realm stores and sends for strangers that introduce themselves.

use tokio::sync::mpsc;

use super::{
    acts::{BOUND, group},
    held::{Held, add_peer, give, realm_of},
    *,
};
use crate::wire::command;
use crate::{store::PageLimit, subnet::Subnet, wire::Port};

const THERE: (&str, u16) = ("192.0.2.8", 7000);

pub fn introduce<'a>(name: &str, (address, port): (&'a str, u16)) -> PeerRequest<'a> {
    PeerRequest::Introduce(peer::Introduce {
        realm: name.parse().unwrap(),
        address: Text(address),
        port: Port(port),
        numbers: None,
    })
}

fn open_realm(store: &Held) -> (Realm<Held>, mpsc::Receiver<PeerCall>) {
    let mut realm = realm_of(store);
    set_peering(&mut realm, Peering::Open);
    let peer_calls = realm.network.reconnect();
    (realm, peer_calls)
}

pub fn key_of(n: u16) -> PublicKey {
    let mut key = [77; 32];
    key[..2].copy_from_slice(&n.to_be_bytes());
    PublicKey(key)
}

/// Introduces a stranger from a subnet of its own.
async fn stranger(realm: &Realm<Held>, n: u16, now: Moment) -> Answer {
    let [high, low] = n.to_be_bytes();
    let caller = Caller {
        subnet: Subnet::from(std::net::IpAddr::from([10, high, low, 1])),
        ..caller(Some(key_of(n)), now)
    };
    let request = introduce(&format!("realm{n}"), THERE).to_bytes();
    Answer::parse(&realm.answer(&caller, &request).await).unwrap()
}

async fn only_peer(realm: &Realm<Held>) -> Peer {
    let mut peers = realm.peers.peers().await.0;
    assert_eq!(peers.len(), 1);
    peers.remove(0)
}

/// Returns the address that the realm asks next, and how it may dial it. Answers with `says`, or
/// not at all.
async fn next_question(
    peer_calls: &mut mpsc::Receiver<PeerCall>,
    says: Option<Answer>,
) -> ((String, u16), Dialing) {
    let Some(PeerCall::Ask {
        peer,
        dialing,
        answer,
        ..
    }) = peer_calls.recv().await
    else {
        panic!("nothing is asked")
    };
    if let Some(says) = says {
        let _ = answer.send(says.to_bytes());
    }
    let (host, port) = peer.address();
    ((host.into(), port), dialing)
}

/// PEER-23: a realm asks a peer once at the address that the peer claims. If the peer answers
/// there, the address replaces the former one.
#[tokio::test(start_paused = true)]
async fn claim_is_believed_once_peer_answers_there() {
    let (realm, mut peer_calls) = open_realm(&Held::default());
    let first = give(&realm, 50, &introduce("beta", THERE).to_bytes()).await;
    assert_eq!(first, Answer::Done);
    let there = (THERE.0.to_string(), THERE.1);
    let beta = only_peer(&realm).await;
    assert_eq!((beta.address(), beta.dialing()), (("", 0), Dialing::Never));
    assert!(realm.take_claim(&beta).await);
    assert!(!realm.take_claim(&beta).await, "once");
    let ((), asked) = tokio::join!(
        realm.try_claim(&beta, MOMENT),
        next_question(&mut peer_calls, None)
    );
    assert_eq!(asked, (there.clone(), Dialing::Once));
    let beta = only_peer(&realm).await;
    assert_eq!((beta.address(), beta.dialing()), (("", 0), Dialing::Never));
    assert!(!realm.take_claim(&beta).await, "nobody was there");
    let again = give(&realm, 50, &introduce("beta", THERE).to_bytes()).await;
    assert_eq!(again, Answer::Done);
    assert!(realm.take_claim(&beta).await);
    let ((), asked) = tokio::join!(
        realm.try_claim(&beta, MOMENT),
        next_question(&mut peer_calls, Some(Answer::Done))
    );
    assert_eq!(asked, (there, Dialing::Once));
    let beta = only_peer(&realm).await;
    assert_eq!((beta.address(), beta.dialing()), (THERE, Dialing::Freely));
    give(&realm, 50, &introduce("beta", THERE).to_bytes()).await;
    assert!(
        !realm.take_claim(&only_peer(&realm).await).await,
        "it is there"
    );
}

/// PEER-23: the address that an operator has named stays until the peer has answered at another
/// address. A peer without a reachable address may claim none.
#[tokio::test(start_paused = true)]
async fn claim_without_answer_does_not_replace_address() {
    let (realm, mut peer_calls) = open_realm(&Held::default());
    add_peer(&realm, 50, "beta").await;
    let named = ("192.0.2.9", 6377);
    for (place, is_claim) in [
        (THERE, true),
        (named, false),
        (THERE, true),
        (("", 0), false),
    ] {
        give(&realm, 50, &introduce("beta", place).to_bytes()).await;
        let beta = only_peer(&realm).await;
        assert_eq!((beta.address(), beta.dialing()), (named, Dialing::Freely));
        assert_eq!(realm.take_claim(&beta).await, is_claim, "{place:?}");
    }
    for place in [("", 7000), ("192.0.2.8", 0)] {
        let answer = give(&realm, 50, &introduce("beta", place).to_bytes()).await;
        assert_eq!(answer, refused(ErrorCode::BadRequest), "{place:?}");
    }
    // If the peer claims another address while one is tried, the answer proves only the tried one.
    give(&realm, 50, &introduce("beta", THERE).to_bytes()).await;
    let beta = only_peer(&realm).await;
    let elsewhere = introduce("beta", ("192.0.2.66", 7000)).to_bytes();
    let ((), ()) = tokio::join!(realm.try_claim(&beta, MOMENT), async {
        let Some(PeerCall::Ask { answer, .. }) = peer_calls.recv().await else {
            panic!("nothing is asked")
        };
        give(&realm, 50, &elsewhere).await;
        let _ = answer.send(Answer::Done.to_bytes());
    });
    assert_eq!(only_peer(&realm).await.address(), named);
}

/// PEER-23: a realm tries a peer's claims a few times an hour, however often the peer claims
/// another address. Other keys give a peer no more tries, and uninvited peers take no tries from
/// those that an operator has added.
#[tokio::test]
async fn claim_repeated_often_is_tried_few_times_per_hour() {
    let (realm, _peer_calls) = open_realm(&Held::default());
    add_stranger(&realm, 0).await;
    let (mut tried, mut key) = (0, key_of(0));
    for second in 0..3600 {
        if second % 100 == 99 {
            let new = SecretKey::from_bytes([u8::try_from(second / 100).unwrap() + 100; 32]);
            let caller = caller(Some(key), later(MOMENT, second));
            let rotate = super::peers::rotate(key, &new).to_bytes();
            let answer = realm.answer(&caller, &rotate).await;
            assert_eq!(Answer::parse(&answer).unwrap(), Answer::Done);
            key = new.public();
        }
        let caller = caller(Some(key), later(MOMENT, second));
        let place = (THERE.0, 7000 + u16::try_from(second % 2).unwrap());
        let claim = introduce("any", place).to_bytes();
        realm.answer(&caller, &claim).await;
        tried += u32::from(realm.take_claim(&only_peer(&realm).await).await);
    }
    assert_eq!(tried, 4, "at once, and one an hour");
    let peer = |n: u16, is_added: bool| {
        let mut peer = Peer::sample("any".parse().unwrap(), key_of(n), realm.own.key());
        peer.record.added = is_added;
        peer
    };
    let (mut taken, now) = (0, later(MOMENT, 3600));
    while realm.limiter.claim(now, &peer(taken, false)).is_ok() {
        taken += 1;
        assert!(taken < 1000, "there are bounds for all together");
    }
    assert!(realm.limiter.claim(now, &peer(taken, true)).is_ok());
}

/// Adds a stranger as a peer, listed at another address than the one that it claims.
async fn add_stranger(realm: &Realm<Held>, n: u16) {
    let name = format!("realm{n}").parse().unwrap();
    let place = ("192.0.2.99".to_string(), 6377);
    let listed = realm.peers.list_peer(name, key_of(n), place, None);
    assert!(listed.await.unwrap());
}

/// PEER-2: uninvited peers have a bounded number of places, and take none from added peers.
/// Uninvited peers of no use are evicted one at a time.
#[tokio::test]
async fn uninvited_peers_give_way_to_added_peers_and_to_each_other() {
    let store = Held::default();
    let (realm, peer_calls) = open_realm(&store);
    // No request is answered.
    drop(peer_calls);
    give(&realm, 1, &Request::from(register(1, "ann")).to_bytes()).await;
    let add = Command::AddGroup(command::AddGroup {
        operation: op(2),
        session: BOUND,
        group: group("crew"),
        password: Password(b""),
    });
    give(&realm, 1, &Request::from(add).to_bytes()).await;
    let add = Command::AddGroup(command::AddGroup {
        operation: op(4),
        session: BOUND,
        group: group("club"),
        password: Password(b""),
    });
    give(&realm, 1, &Request::from(add).to_bytes()).await;
    let mut now = MOMENT;
    for n in 0..300 {
        now = later(now, 3600);
        assert_eq!(stranger(&realm, n, now).await, Answer::Done, "{n}");
        if n < 40 {
            // A peer with a user in a group is of use.
            let join = PeerRequest::Join(peer::Join {
                group: group(if n < 20 { "crew" } else { "club" }),
                user: "zoe".parse().unwrap(),
                password: Password(b""),
            });
            let answer = realm
                .answer(&caller(Some(key_of(n)), now), &join.to_bytes())
                .await;
            let joined = Answer::parse(&answer).unwrap();
            assert!(matches!(joined, Answer::Joined { .. }), "{joined:?}");
        }
        if n == 45 {
            // Forgetting the peer would lift the ban of its user.
            let ban = Command::Ban(command::Ban {
                operation: op(5),
                session: BOUND,
                group: group("crew"),
                user: "eve@realm45".parse().unwrap(),
            });
            let banned = give(&realm, 1, &Request::from(ban).to_bytes()).await;
            assert_eq!(banned, Answer::Done);
        }
        assert!(realm.do_chores(NOW).await);
    }
    let names = async || -> Vec<String> {
        let peers = realm.peers.peers().await.0;
        peers.iter().map(|peer| peer.realm.to_string()).collect()
    };
    let there = names().await;
    assert_eq!(there.len(), 64);
    for n in (0..40).chain([45]).chain(277..300) {
        assert!(there.contains(&format!("realm{n}")), "{n}");
    }
    let claim = Command::Claim(command::Claim {
        operation: op(3),
        session: BOUND,
        code: Password(b"open sesame"),
    });
    give(&realm, 1, &Request::from(claim).to_bytes()).await;
    for n in 0..216u8 {
        let command = Command::AddRealm(command::AddRealm {
            operation: op(10 + u64::from(n)),
            session: BOUND,
            realm: format!("asked{n}").parse().unwrap(),
            address: Text("192.0.2.9"),
            port: Port(6377),
            src_address: Text(""),
            src_port: Port(0),
        });
        let mut key = [99; 32];
        key[0] = n;
        let options = Options {
            key: Some(key),
            ..Options::NONE
        };
        let bytes = Request { options, command }.to_bytes();
        let answer = give(&realm, 1, &bytes).await;
        // Peers of use stay.
        let expected = match n {
            215 => Answer::Refused(Refusal::too_large(256)),
            _ => Answer::Sent(Sent::Queued),
        };
        assert_eq!(answer, expected, "{n}");
        assert!(realm.do_chores(NOW).await);
    }
    let there = names().await;
    assert_eq!(there.len(), 256);
    let mut of_use = (0..40).chain([45]);
    assert!(of_use.all(|n| there.contains(&format!("realm{n}"))));
}

/// PEER-8: anybody can make many uninvited peers. They leave room in a group for users of other
/// realms.
#[tokio::test]
async fn uninvited_peers_leave_room_in_group() {
    let (realm, _peer_calls) = open_realm(&Held::default());
    give(&realm, 1, &Request::from(register(1, "ann")).to_bytes()).await;
    let add = Command::AddGroup(command::AddGroup {
        operation: op(2),
        session: BOUND,
        group: group("crew"),
        password: Password(b""),
    });
    give(&realm, 1, &Request::from(add).to_bytes()).await;
    let join = PeerRequest::Join(peer::Join {
        group: group("crew"),
        user: "zoe".parse().unwrap(),
        password: Password(b""),
    });
    let mut now = MOMENT;
    for n in 0..34 {
        now = later(now, 3600);
        assert_eq!(stranger(&realm, n, now).await, Answer::Done, "{n}");
        let caller = caller(Some(key_of(n)), now);
        let answer = Answer::parse(&realm.answer(&caller, &join.to_bytes()).await).unwrap();
        match n {
            0..32 => assert!(matches!(answer, Answer::Joined { .. }), "{n} {answer:?}"),
            _ => assert_eq!(answer, Answer::Refused(Refusal::too_large(32)), "{n}"),
        }
    }
    add_peer(&realm, 50, "beta").await;
    let answer = give(&realm, 50, &join.to_bytes()).await;
    assert!(matches!(answer, Answer::Joined { .. }), "{answer:?}");
}

/// PEER-22, PEER-13: an uninvited peer that changed its key and was evicted repeats nothing when it
/// comes back. Before, a recorded message of such a peer was delivered once more.
#[tokio::test]
async fn uninvited_peer_returning_under_later_key_repeats_nothing() {
    let store = Held::default();
    let (realm, _peer_calls) = open_realm(&store);
    give(&realm, 1, &Request::from(register(1, "ann")).to_bytes()).await;
    let (old, new) = (key_of(900), SecretKey::from_bytes([52; 32]));
    let mut now = MOMENT;
    let ask = async |key: PublicKey, request: &PeerRequest<'_>, now| {
        let asked = request.to_bytes();
        Answer::parse(&realm.answer(&caller(Some(key), now), &asked).await).unwrap()
    };
    let letter = super::peers::deliver(7, 1, "ann", "once");
    let stored = Answer::Sent(Sent::Stored);
    assert_eq!(ask(old, &introduce("beta", THERE), now).await, Answer::Done);
    assert_eq!(ask(old, &letter, now).await, stored);
    let rotate = super::peers::rotate(old, &new);
    assert_eq!(ask(old, &rotate, now).await, Answer::Done);
    for n in 0..64 {
        now = later(now, 3600);
        assert_eq!(stranger(&realm, n, now).await, Answer::Done, "{n}");
        assert!(realm.do_chores(NOW).await);
    }
    let there = realm.peers.peers().await.0;
    assert!(there.iter().all(|peer| peer.realm.as_str() != "beta"));
    now = later(now, 3600);
    let again = ask(new.public(), &introduce("beta", THERE), now).await;
    assert_eq!(again, Answer::Done);
    assert_eq!(ask(new.public(), &letter, now).await, stored);
    let all = PageLimit {
        entries: 9,
        bytes: usize::MAX,
    };
    let log = records::MailboxLog::private("ann".parse().unwrap()).log;
    assert_eq!(store.memory().read(&log, Position(0), all).entries.len(), 1);
}

/// PEER-13: a peer restored from a backup that is older than this realm's key rotation calls by the
/// former key. It is told of the new key again. Before, this realm's messages for it were refused
/// for good, because this realm asked by a key that the peer did not know.
#[tokio::test]
async fn key_rotation_is_repeated_to_peer_that_calls_by_former_key() {
    let (realm, _peer_calls) = open_realm(&Held::default());
    add_peer(&realm, 50, "beta").await;
    let (now, former) = (realm.own.key(), PublicKey([8; 32]));
    let calls_by = async |own: PublicKey| {
        let device = PublicKey([50; 32]);
        let caller = Caller {
            origin: Origin::Sealed { device, own },
            ..caller(Some(device), MOMENT)
        };
        let request = introduce("beta", THERE).to_bytes();
        let answer = Answer::parse(&realm.answer(&caller, &request).await).unwrap();
        assert_eq!(answer, Answer::Done);
        only_peer(&realm).await.knows()
    };
    realm.network.signals().await;
    for own in [now, former, now] {
        let knew = only_peer(&realm).await.knows();
        assert_eq!(calls_by(own).await, own);
        let signals = realm.network.signals().await;
        let is_due = knew != own && own == former;
        assert_eq!(!signals.introductions.is_empty(), is_due);
    }
}

/// PEER-2: introductions of uninvited peers are rate-limited: 20 at once from one subnet, 120 from
/// all. Places for them are limited to 64.
#[tokio::test]
async fn introduction_of_uninvited_peers_is_rate_limited() {
    let (realm, _peer_calls) = open_realm(&Held::default());
    let mut of_one = 0;
    for n in 0..100 {
        let caller = caller(Some(key_of(n)), MOMENT);
        let request = introduce(&format!("realm{n}"), THERE).to_bytes();
        let answer = Answer::parse(&realm.answer(&caller, &request).await).unwrap();
        match answer {
            Answer::Done => of_one += 1,
            Answer::Refused(refusal) => assert_eq!(refusal.code, ErrorCode::RateLimited),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(of_one, 20);
    let mut of_all = of_one;
    for n in 100..300 {
        match stranger(&realm, n, MOMENT).await {
            Answer::Done => of_all += 1,
            Answer::Refused(refusal) => assert!(refusal.is_transient(), "{refusal:?}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(of_all, 120);
    assert_eq!(realm.peers.peers().await.0.len(), 64);
}

/// PEER-2: two strangers that introduce themselves at once take one place each. Together they do
/// not exceed the number of places.
#[tokio::test]
async fn introduction_of_two_peers_at_once_does_not_exceed_quota() {
    let (realm, _peer_calls) = open_realm(&Held::default());
    let realm = std::sync::Arc::new(realm);
    let mut now = MOMENT;
    for n in 0..63 {
        now = later(now, 3600);
        assert_eq!(stranger(&realm, n, now).await, Answer::Done);
    }
    let both = tokio::join!(stranger(&realm, 70, now), stranger(&realm, 71, now));
    assert_eq!(both, (Answer::Done, Answer::Done));
    assert_eq!(realm.peers.peers().await.0.len(), 64);
}

/// PEER-1: an operator adds a realm under a name that an introduction has taken only if the same
/// realm answers at the address. Before, the stranger's key was taken for the key of the realm that
/// the operator had named.
#[tokio::test(start_paused = true)]
async fn peer_added_under_taken_name_needs_same_key_at_address() {
    for (there, expected) in [
        (Some(60), refused(ErrorCode::RealmExists)),
        (None, refused(ErrorCode::RealmUnreachable)),
        (Some(50), Answer::Done),
    ] {
        let (realm, mut peer_calls) = open_realm(&Held::default());
        let taken = give(&realm, 50, &introduce("beta", THERE).to_bytes()).await;
        assert_eq!(taken, Answer::Done);
        give(&realm, 1, &Request::from(register(1, "ann")).to_bytes()).await;
        let claim = Command::Claim(command::Claim {
            operation: op(2),
            session: BOUND,
            code: Password(b"open sesame"),
        });
        give(&realm, 1, &Request::from(claim).to_bytes()).await;
        let add = Command::AddRealm(command::AddRealm {
            operation: op(3),
            session: BOUND,
            realm: "beta".parse().unwrap(),
            address: Text("192.0.2.9"),
            port: Port(6377),
            src_address: Text(""),
            src_port: Port(0),
        });
        let add = Request::from(add).to_bytes();
        let (answer, ()) = tokio::join!(give(&realm, 1, &add), async {
            let Some(PeerCall::Who { answer, .. }) = peer_calls.recv().await else {
                panic!("nobody is asked who is there")
            };
            if let Some(n) = there {
                answer.send(PublicKey([n; 32])).unwrap();
            }
        });
        assert_eq!(answer, expected);
        let is_added = only_peer(&realm).await.record.added;
        assert_eq!(is_added, there == Some(50));
    }
}

/// PEER-13, PEER-24: a new key of a peer is signalled to the code that keeps links up, because a
/// link under the former key reaches nobody.
#[tokio::test]
async fn key_rotation_of_peer_signals_changed_peers() {
    let (realm, _peer_calls) = open_realm(&Held::default());
    add_peer(&realm, 50, "beta").await;
    realm.network.heard("beta".parse().unwrap(), NOW);
    realm.network.signals().await;
    let new_key = super::peers::rotate(PublicKey([50; 32]), &SecretKey::from_bytes([51; 32]));
    assert_eq!(give(&realm, 50, &new_key.to_bytes()).await, Answer::Done);
    assert!(realm.network.signals().await.are_peers_changed);
}

/// PEER-23: a peer that claims another address each time costs one look at itself, and no listing
/// of all peers.
#[tokio::test]
async fn claim_that_changes_does_not_list_all_peers() {
    let (realm, _peer_calls) = open_realm(&Held::default());
    let first = give(&realm, 50, &introduce("beta", THERE).to_bytes()).await;
    assert_eq!(first, Answer::Done);
    assert!(realm.network.signals().await.are_peers_changed, "it is new");
    for port in 1..9 {
        give(&realm, 50, &introduce("beta", (THERE.0, port)).to_bytes()).await;
        assert!(!realm.network.signals().await.are_peers_changed);
    }
}

/// PEER-13: an answer that a peer gave when it knew this realm by a former key does not restore
/// that key when it is recorded late. Before, all later requests were sent under that key and
/// refused.
#[tokio::test]
async fn key_rotation_is_not_undone_by_late_answer() {
    let (realm, _peer_calls) = open_realm(&Held::default());
    add_peer(&realm, 50, "beta").await;
    let now = realm.own.key();
    let beta = only_peer(&realm).await;
    let before = beta.known_by(PublicKey([8; 32]));
    for peer in [&before, &beta.known_by(now), &before] {
        let noted = realm.note_introduced(peer, None, MOMENT).await;
        assert_eq!(noted, Written::Durable);
    }
    assert_eq!(only_peer(&realm).await.knows(), now);
}

/// PEER-2: a realm that claims a host longer than the limit is refused. The details of the largest
/// number of peers, each with the longest host, fit one answer.
#[tokio::test]
async fn peer_details_of_all_peers_fit_one_answer() {
    const LONGEST_ANSWER: usize = 65 << 10;
    let realm = realm_of(&Held::default());
    for (len, answer) in [(65, ErrorCode::BadRequest), (64, ErrorCode::PeerRefused)] {
        let host = "h".repeat(len);
        let introduce = introduce("beta", (&host, 7000));
        assert_eq!(
            give(&realm, 50, &introduce.to_bytes()).await,
            refused(answer)
        );
    }
    let address = format!("{}:65535", "h".repeat(crate::realm::HOST_MAX));
    let mut details = crate::wire::PeerDetails::default();
    for _ in 0..crate::realm::limits::PEERS_MAX {
        details.add(&crate::wire::PeerDetail {
            realm: "r".repeat(32).parse().unwrap(),
            key: [7; 32],
            address: address.clone(),
            claimed: address.clone(),
            state: crate::wire::PeeringState::Introduced,
            why: Some(ErrorCode::Internal),
            since: u32::MAX,
            next: u32::MAX,
            heard: u32::MAX,
            queued: 4096,
            age: u64::from(u32::MAX),
            former: 64,
            times: 1 << 20,
        });
    }
    let answer = Answer::Details(details).to_bytes();
    assert!(answer.len() <= LONGEST_ANSWER, "{}", answer.len());
}
