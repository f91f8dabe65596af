//! Fair shares of the queue to a peer.

use super::{
    acts::{BOUND, user},
    group_teardown::{waiting, with_users},
    held::{Held, give, realm_of},
    *,
};
use crate::realm::records::{CursorRecord, QueuedKind};
use crate::wire::command;

fn send(number: u64, from: &str) -> Vec<u8> {
    let command = Command::SendRealm(command::SendRealm {
        operation: op(number),
        session: BOUND,
        src_address: Text(""),
        src_port: crate::wire::Port(0),
        realm: "beta".parse().unwrap(),
        from: user(from),
        to: user("zoe"),
        message: Body(b"x"),
    });
    Request::from(command).to_bytes()
}

/// Queues messages for beta as an earlier release, or this one, has written them.
fn put(store: &Held, count: usize, from: &str, kind: QueuedKind) {
    let written = QueuedRecord {
        queued: 0,
        content: 0,
        kind,
        from: from.into(),
        to: "zoe".into(),
        body: 7_u64.to_be_bytes().to_vec(),
        operation: None,
        source: None,
        set_aside: false,
        lifetime: 1000,
        epoch: 1,
        membership: 0,
    };
    let mut batch = Batch::new();
    for _ in 0..count {
        let log = records::queue("beta".parse().unwrap());
        batch.append(log, written.to_value().unwrap());
    }
    store.memory().apply(batch).unwrap();
}

/// Removes what beta has accepted from the queue.
fn settle(store: &Held, position: u64) {
    let beta = "beta".parse().unwrap();
    let mut batch = Batch::new();
    batch
        .put(
            records::settled(beta),
            CursorRecord { position }.to_value().unwrap(),
        )
        .trim(records::queue(beta), Position(position + 1));
    store.memory().apply(batch).unwrap();
}

const QUEUED: Answer = Answer::Sent(Sent::Queued);

/// PEER-25: a user who has filled a queue is refused, and others are not. This also holds after a
/// restart, because the queue is the only record of its use.
#[tokio::test(start_paused = true)]
async fn queue_filled_by_one_account_has_room_for_others() {
    let store = Held::default();
    let realm = with_users(&store, &["ann", "bob"]).await;
    let full = refused(ErrorCode::QueueFull);
    // Messages about memberships take no room from users.
    put(&store, 5000, "zoe", QueuedKind::Expelled);
    put(&store, 2047, "ann", QueuedKind::Private);
    assert_eq!(give(&realm, 1, &send(2, "ann")).await, QUEUED);
    assert_eq!(give(&realm, 1, &send(3, "ann")).await, full);
    assert_eq!(give(&realm, 2, &send(2, "bob")).await, QUEUED);
    let realm = realm_of(&store);
    assert_eq!(give(&realm, 1, &send(4, "ann")).await, full);
    // The last places are for users who have nothing in the queue.
    put(&store, 1900, "ann", QueuedKind::Private);
    settle(&store, 5000);
    assert_eq!(give(&realm, 2, &send(3, "bob")).await, full);
    let mut fewer = waiting(&store, "beta").len() as u64;
    assert_eq!(fewer, 2048 + 1 + 1900);
    settle(&store, 5000 + 2049);
    fewer -= 2049;
    assert_eq!(give(&realm, 1, &send(5, "ann")).await, QUEUED);
    assert_eq!(waiting(&store, "beta").len() as u64, fewer + 1);
}

/// PEER-25: a message that moves to the end of the queue under another number counts once, as
/// before. So does one that cannot be read.
#[tokio::test(start_paused = true)]
async fn queue_share_counts_moved_message_once() {
    let store = Held::default();
    let realm = with_users(&store, &["ann", "bob"]).await;
    let mut peer_calls = realm.network.reconnect();
    put(&store, 2046, "ann", QueuedKind::Private);
    let mut batch = Batch::new();
    batch.append(records::queue("beta".parse().unwrap()), vec![1]);
    store.memory().apply(batch).unwrap();
    let peers = realm.peers.peers().await.0;
    let beta = peers.iter().find(|peer| peer.realm.as_str() == "beta");
    for _ in 0..5 {
        let beta = beta.unwrap();
        let outgoing = realm.next_outgoing(beta.realm).await.unwrap().unwrap();
        let used = refused_number(ErrorCode::NumberReused, 9);
        let (carried, ()) = tokio::join!(
            realm.deliver_outgoing(beta, &outgoing, 0, MOMENT),
            super::group_teardown::answer_next(&mut peer_calls, used)
        );
        assert_eq!(carried, Carried::Refused);
    }
    assert_eq!(give(&realm, 1, &send(2, "ann")).await, QUEUED);
    let full = refused(ErrorCode::QueueFull);
    assert_eq!(give(&realm, 1, &send(3, "ann")).await, full);
}

/// PEER-22, PEER-25: the queue of a removed realm takes no room from the next realm of its name.
#[tokio::test(start_paused = true)]
async fn queue_of_removed_peer_takes_no_room_from_next_peer() {
    let store = Held::default();
    let realm = with_users(&store, &["ann"]).await;
    put(&store, 2048, "ann", QueuedKind::Private);
    let full = refused(ErrorCode::QueueFull);
    assert_eq!(give(&realm, 1, &send(2, "ann")).await, full);
    let claim = Command::Claim(command::Claim {
        operation: op(3),
        session: BOUND,
        code: Password(b"open sesame"),
    });
    super::group_teardown::done(&realm, 1, claim).await;
    let remove = Command::RemoveRealm(command::RemoveRealm {
        operation: op(4),
        session: BOUND,
        realm: "beta".parse().unwrap(),
    });
    super::group_teardown::done(&realm, 1, remove).await;
    assert!(realm.departures.do_departures(NOW).await);
    super::held::add_peer(&realm, 99, "beta").await;
    assert_eq!(give(&realm, 1, &send(5, "ann")).await, QUEUED);
    assert_eq!(waiting(&store, "beta").len(), 1);
}
