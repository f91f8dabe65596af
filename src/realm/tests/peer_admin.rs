//! What an operator sees of other realms, and decides about them.

use super::{
    acts::{BOUND, user},
    claims::{introduce, key_of},
    group_teardown::{notices, with_users},
    held::{Held, add_peer, give, realm_of},
    *,
};
use crate::wire::{
    PeerAddition, PeerDetail, PeerListing, PeerRemoval, PeeringState, Port, command,
};

const THERE: (&str, u16) = ("192.0.2.8", 7000);

async fn of_ann(realm: &Realm<Held>, options: Options, command: Command<'static>) -> Answer {
    let answer_limits = AnswerLimits {
        total: 1 << 20,
        ..DATAGRAM
    };
    let caller = Caller {
        answer_limits,
        ..caller(device(1), MOMENT)
    };
    let bytes = Request { options, command }.to_bytes();
    Answer::parse(&realm.answer(&caller, &bytes).await).unwrap()
}

async fn claim(realm: &Realm<Held>) {
    let command = Command::Claim(command::Claim {
        operation: op(2),
        session: BOUND,
        code: Password(b"open sesame"),
    });
    assert_eq!(of_ann(realm, Options::NONE, command).await, Answer::Done);
}

/// Returns a realm with `Peering::Listed`, whose operator is ann.
async fn listed(store: &Held) -> Realm<Held> {
    let realm = realm_of(store);
    let answer = give(&realm, 1, &Request::from(register(1, "ann")).to_bytes()).await;
    assert!(matches!(answer, Answer::Session(_)), "{answer:?}");
    claim(&realm).await;
    realm
}

async fn seen(realm: &Realm<Held>, listing: PeerListing) -> Vec<PeerDetail> {
    match of_ann(
        realm,
        listing.into(),
        Command::Realms(command::Realms { session: BOUND }),
    )
    .await
    {
        Answer::Details(details) => details.read().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn with(key: Option<PublicKey>, form: Option<u8>) -> Options {
    Options {
        key: key.map(|key| key.0),
        form,
        ..Options::NONE
    }
}

fn about(number: u64, name: &str, (address, port): (&'static str, u16)) -> Command<'static> {
    Command::AddRealm(command::AddRealm {
        operation: op(number),
        session: BOUND,
        realm: name.parse().unwrap(),
        address: Text(address),
        port: Port(port),
        src_address: Text(""),
        src_port: Port(0),
    })
}

fn remove(number: u64, name: &str) -> Command<'static> {
    Command::RemoveRealm(command::RemoveRealm {
        operation: op(number),
        session: BOUND,
        realm: name.parse().unwrap(),
    })
}

const NOWHERE: (&str, u16) = ("", 0);

async fn knock(realm: &Realm<Held>, n: u16, name: &str, now: Moment) {
    let [high, low] = n.to_be_bytes();
    let caller = Caller {
        subnet: std::net::IpAddr::from([10, high, low, 1]).into(),
        ..caller(Some(key_of(n)), now)
    };
    let answer = realm
        .answer(&caller, &introduce(name, THERE).to_bytes())
        .await;
    let answer = Answer::parse(&answer).unwrap();
    assert_eq!(answer, refused(ErrorCode::PeerRefused));
}

/// PEER-28: a realm with listed peers refuses one that introduces itself, and keeps it for an
/// operator. The operator accepts it by the key that was shown, under any name.
#[tokio::test(start_paused = true)]
async fn pending_realm_is_accepted_by_its_key() {
    let realm = listed(&Held::default()).await;
    knock(&realm, 7, "beta", MOMENT).await;
    knock(&realm, 7, "beta", later(MOMENT, 60)).await;
    knock(&realm, 8, "beta", later(MOMENT, 70)).await;
    let pending = seen(&realm, PeerListing::Pending).await;
    let first = &pending[0];
    assert_eq!((first.realm.as_str(), first.key), ("beta", key_of(7).0));
    assert_eq!(
        (first.address.as_str(), first.claimed.as_str()),
        ("", "192.0.2.8:7000")
    );
    assert_eq!((first.state, first.times), (PeeringState::Pending, 2));
    assert_eq!((first.since, first.heard), (NOW, NOW + 60));
    assert_eq!(pending[1].key, key_of(8).0, "the same name, another key");
    assert!(realm.peers.peers().await.0.is_empty());
    let accept = |n, name| {
        (
            with(Some(key_of(n)), None),
            about(u64::from(n) + 10, name, NOWHERE),
        )
    };
    let (options, command) = accept(9, "beta");
    let unknown = of_ann(&realm, options, command).await;
    assert_eq!(unknown, refused(ErrorCode::NoSuchRealm));
    let (options, command) = accept(8, "the-second");
    assert_eq!(of_ann(&realm, options, command.clone()).await, Answer::Done);
    assert_eq!(
        of_ann(&realm, options, command).await,
        Answer::Done,
        "repeated"
    );
    let peers = realm.peers.peers().await.0;
    let peer = &peers[0];
    assert_eq!((peer.realm.as_str(), peer.key()), ("the-second", key_of(8)));
    assert!(peer.record.added && peer.is_introduced());
    assert_eq!((peer.address(), peer.dialing()), (NOWHERE, Dialing::Never));
    assert!(
        realm.take_claim(peer).await,
        "it is to show that it is there"
    );
    assert_eq!(seen(&realm, PeerListing::Pending).await.len(), 1);
    let (options, command) = accept(7, "the-second");
    let taken = of_ann(&realm, options, command).await;
    assert_eq!(taken, refused(ErrorCode::RealmExists));
}

/// PEER-28: the number of pending realms is bounded, one for each key, and the one heard longest
/// ago is evicted. A realm that an operator has refused is not kept for a day.
#[tokio::test(start_paused = true)]
async fn pending_realms_are_bounded_and_refused_ones_not_kept_for_one_day() {
    let realm = listed(&Held::default()).await;
    let mut now = MOMENT;
    for n in 0..40 {
        now = later(now, 3600);
        knock(&realm, n, "beta", now).await;
        knock(&realm, 0, "alef", now).await;
    }
    let pending = seen(&realm, PeerListing::Pending).await;
    let keys: Vec<_> = pending.iter().map(|one| one.key).collect();
    let expected: Vec<_> = (9..40).chain([0]).map(|n| key_of(n).0).collect();
    assert_eq!(keys, expected, "the first asks all the time");
    let (key, operation) = (Some(key_of(39)), 30);
    let wrong = of_ann(&realm, with(key, None), remove(operation, "alef")).await;
    assert_eq!(
        wrong,
        refused(ErrorCode::NoSuchRealm),
        "it has another name"
    );
    let right = of_ann(&realm, with(key, None), remove(operation + 1, "beta")).await;
    assert_eq!(right, Answer::Done);
    let waits = async |n| {
        let pending = seen(&realm, PeerListing::Pending).await;
        pending.iter().any(|one| one.key == key_of(n).0)
    };
    knock(&realm, 39, "beta", now).await;
    assert!(!waits(39).await);
    tokio::time::advance(std::time::Duration::from_hours(24)).await;
    knock(&realm, 39, "beta", later(now, 86_400)).await;
    assert!(waits(39).await);
}

/// PEER-28: only operators see pending realms and decide about them. Only a realm with listed peers
/// keeps realms that introduce themselves.
#[tokio::test(start_paused = true)]
async fn pending_realms_are_for_operators_of_listed_peering_only() {
    let mut realm = listed(&Held::default()).await;
    set_peering(&mut realm, Peering::Closed);
    knock(&realm, 7, "beta", MOMENT).await;
    assert!(seen(&realm, PeerListing::Pending).await.is_empty());
    set_peering(&mut realm, Peering::Listed);
    knock(&realm, 7, "beta", MOMENT).await;
    give(&realm, 2, &Request::from(register(1, "bob")).to_bytes()).await;
    let of_bob =
        async |options, command| give(&realm, 2, &Request { options, command }.to_bytes()).await;
    let key = Some(key_of(7));
    for (options, command) in [
        (
            PeerListing::Pending.into(),
            Command::Realms(command::Realms { session: BOUND }),
        ),
        (
            PeerListing::Details.into(),
            Command::Realms(command::Realms { session: BOUND }),
        ),
        (with(key, None), about(2, "beta", NOWHERE)),
        (with(key, None), remove(3, "beta")),
        (
            PeerAddition::Move { key: None }.into(),
            about(4, "beta", THERE),
        ),
        (PeerRemoval::Drop.into(), remove(5, "beta")),
    ] {
        let answer = of_bob(options, command.clone()).await;
        assert_eq!(answer, refused(ErrorCode::NotOperator), "{command:?}");
    }
    assert_eq!(seen(&realm, PeerListing::Pending).await.len(), 1);
    for (form, number) in [(3, 40), (255, 41)] {
        let answer = of_ann(&realm, with(None, Some(form)), remove(number, "beta")).await;
        assert_eq!(answer, refused(ErrorCode::Unsupported));
        let realms = Command::Realms(command::Realms { session: BOUND });
        let answer = of_ann(&realm, with(None, Some(form)), realms).await;
        assert_eq!(answer, refused(ErrorCode::Unsupported));
    }
}

/// PEER-28: an operator moves a peer to another address, which is used at once.
#[tokio::test(start_paused = true)]
async fn peer_moved_by_operator_is_called_at_new_address() {
    let realm = listed(&Held::default()).await;
    let moves = PeerAddition::Move { key: None }.into();
    let unknown = of_ann(&realm, moves, about(3, "beta", THERE)).await;
    assert_eq!(unknown, refused(ErrorCode::NoSuchRealm));
    add_peer(&realm, 50, "beta").await;
    give(&realm, 50, &introduce("beta", ("192.0.2.55", 1)).to_bytes()).await;
    assert_eq!(
        seen(&realm, PeerListing::Details).await[0].claimed,
        "192.0.2.55:1"
    );
    let nowhere = of_ann(&realm, moves, about(4, "beta", NOWHERE)).await;
    assert_eq!(nowhere, refused(ErrorCode::BadRequest));
    let other = with(Some(key_of(1)), Some(1));
    let other = of_ann(&realm, other, about(5, "beta", THERE)).await;
    assert_eq!(other, refused(ErrorCode::NoSuchRealm), "of another key");
    let moved = of_ann(&realm, moves, about(6, "beta", THERE)).await;
    assert_eq!(moved, Answer::Done);
    let peer = &realm.peers.peers().await.0[0];
    assert_eq!((peer.address(), peer.dialing()), (THERE, Dialing::Freely));
    assert!(!realm.take_claim(peer).await);
    let again = of_ann(&realm, Options::NONE, about(7, "beta", THERE)).await;
    assert_eq!(
        again,
        refused(ErrorCode::RealmExists),
        "it is no other command"
    );
}

fn to_beta(number: u64) -> Command<'static> {
    Command::SendRealm(command::SendRealm {
        operation: op(number),
        session: BOUND,
        src_address: Text(""),
        src_port: Port(0),
        realm: "beta".parse().unwrap(),
        from: user("ann"),
        to: user("zoe"),
        message: Body(b"hi"),
    })
}

/// PEER-28: the queue of a removed realm is returned to its senders, or dropped, also across a
/// restart.
#[tokio::test(start_paused = true)]
async fn peer_removal_returns_queue_or_drops_it_on_request() {
    for (removal, told) in [(PeerRemoval::Return, 2), (PeerRemoval::Drop, 0)] {
        let store = Held::default();
        let realm = with_users(&store, &["ann"]).await;
        claim(&realm).await;
        for number in [3, 4] {
            let queued = of_ann(&realm, Options::NONE, to_beta(number)).await;
            assert_eq!(queued, Answer::Sent(Sent::Queued));
        }
        let removed = of_ann(&realm, removal.into(), remove(5, "beta")).await;
        assert_eq!(removed, Answer::Done);
        let departing = seen(&realm, PeerListing::Details).await;
        let beta = departing.iter().find(|one| one.realm.as_str() == "beta");
        let beta = beta.unwrap();
        assert_eq!((beta.state, beta.queued), (PeeringState::Departing, 2));
        let realm = realm_of(&store);
        assert!(realm.do_chores(NOW).await);
        assert_eq!(notices(&store, "ann").len(), told, "{removal:?}");
        let gone = seen(&realm, PeerListing::Details).await;
        assert!(gone.iter().all(|one| one.realm.as_str() != "beta"));
        assert_eq!(
            realm.queues.queued("beta".parse().unwrap()).await.unwrap(),
            0
        );
        add_peer(&realm, 60, "beta").await;
        let queued = of_ann(&realm, Options::NONE, to_beta(6)).await;
        assert_eq!(queued, Answer::Sent(Sent::Queued));
    }
}

/// PEER-18, PEER-28: an operator sees the state of a peer, since when, why, and when it is tried
/// next.
#[tokio::test(start_paused = true)]
async fn peer_details_show_state_reason_and_next_try() {
    let realm = listed(&Held::default()).await;
    add_peer(&realm, 50, "beta").await;
    let beta = "beta".parse().unwrap();
    let one = async |realm: &Realm<Held>| seen(realm, PeerListing::Details).await.remove(0);
    let new = one(&realm).await;
    assert_eq!(
        (new.state, new.why, new.next),
        (PeeringState::Introduced, None, 0)
    );
    assert_eq!(
        (new.address.as_str(), new.key),
        ("192.0.2.9:6377", [50; 32])
    );
    let peer_calls = realm.network.reconnect();
    drop(peer_calls);
    let peer = realm.peer_now(beta).await.unwrap().unwrap();
    assert_eq!(realm.introduce_again(&peer, MOMENT).await, Carried::Silent);
    realm
        .network
        .waits(beta, std::time::Duration::from_secs(90));
    tokio::time::advance(std::time::Duration::from_secs(30)).await;
    let silent = one(&realm).await;
    assert_eq!((silent.state, silent.why), (PeeringState::Trying, None));
    assert_eq!((silent.since, silent.next), (NOW - 30, NOW + 60));
    realm.network.refused(beta, ErrorCode::PeerRefused);
    let no = one(&realm).await;
    assert_eq!(
        (no.state, no.why),
        (PeeringState::Refused, Some(ErrorCode::PeerRefused))
    );
    assert_eq!(no.since, NOW);
    give(
        &realm,
        50,
        &introduce("beta", ("192.0.2.9", 6377)).to_bytes(),
    )
    .await;
    let open = one(&realm).await;
    assert_eq!(
        (open.state, open.why, open.heard),
        (PeeringState::Open, None, NOW)
    );
    let new_key = super::peers::rotate(PublicKey([50; 32]), &SecretKey::from_bytes([51; 32]));
    assert_eq!(give(&realm, 50, &new_key.to_bytes()).await, Answer::Done);
    assert_eq!(one(&realm).await.former, 1);
}

/// PEER-28: a queue that cannot be read does not keep an operator from seeing the rest, and is
/// shown itself. Before, one such entry made *realms* answer `internal`.
#[tokio::test(start_paused = true)]
async fn peer_details_show_queue_that_cannot_be_read() {
    let realm = listed(&Held::default()).await;
    add_peer(&realm, 50, "beta").await;
    add_peer(&realm, 51, "gamma").await;
    let mut batch = Batch::new();
    let of_a_newer_release = vec![200, 1, 2, 3];
    batch.append(records::queue("beta".parse().unwrap()), of_a_newer_release);
    realm.store().commit(batch).await.unwrap();
    let seen = seen(&realm, PeerListing::Details).await;
    let found: Vec<_> = seen.iter().map(|one| (one.queued, one.why)).collect();
    assert_eq!(found, [(1, Some(ErrorCode::Internal)), (0, None)]);
}
