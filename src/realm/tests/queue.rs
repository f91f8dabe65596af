//! The queue to other realms, and the outcomes of its messages.

use super::{
    peers::{asked, deliver, peer},
    *,
};
use crate::wire::command;

fn sendrealm(number: u64, text: &str) -> Command<'_> {
    Command::SendRealm(command::SendRealm {
        operation: op(number),
        session: SessionRef::Bound,
        src_address: Text(""),
        src_port: crate::wire::Port(0),
        realm: "beta".parse().unwrap(),
        from: "ann".parse().unwrap(),
        to: "bob".parse().unwrap(),
        message: Body(text.as_bytes()),
    })
}

/// Returns a realm with a user and a peer, and the receiver of its requests.
async fn with_beta() -> (Fixture, tokio::sync::mpsc::Receiver<PeerCall>) {
    let fixture = Fixture::new();
    let peer_calls = fixture.realm.network.reconnect();
    fixture.register(device(1), "ann").await;
    peer(&fixture, 50, "beta").await;
    (fixture, peer_calls)
}

/// Delivers the next message of the queue to beta, which answers with `answer`. Returns the outcome
/// and the request to beta.
async fn carry(
    realm: &Realm<Embedded>,
    peer_calls: &mut tokio::sync::mpsc::Receiver<PeerCall>,
    refused: u32,
    answer: &Answer,
) -> (Carried, Vec<u8>) {
    carry_at(realm, peer_calls, refused, answer, MOMENT).await
}

async fn carry_at(
    realm: &Realm<Embedded>,
    peer_calls: &mut tokio::sync::mpsc::Receiver<PeerCall>,
    refused: u32,
    answer: &Answer,
    now: Moment,
) -> (Carried, Vec<u8>) {
    let beta = realm.peers.peers().await.0.remove(0);
    let outgoing = realm.next_outgoing(beta.realm).await.unwrap().unwrap();
    let asked = async {
        match peer_calls.recv().await {
            Some(PeerCall::Ask {
                bytes,
                answer: told,
                ..
            }) => {
                told.send(answer.to_bytes()).unwrap();
                bytes
            }
            other => panic!("{other:?}"),
        }
    };
    tokio::join!(
        realm.deliver_outgoing(&beta, &outgoing, refused, now),
        asked
    )
}

/// PEER-5: a queue is bounded, and counts its messages.
#[tokio::test]
async fn queue_counts_messages_and_refuses_when_full() {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    peer(&fixture, 50, "beta").await;
    let beta = "beta".parse().unwrap();
    for waiting in 0..20 {
        assert_eq!(fixture.realm.queues.queued(beta).await.unwrap(), waiting);
        let mut batch = Batch::new();
        batch.append(records::queue(beta), vec![1]);
        fixture.realm.store().commit(batch).await.unwrap();
    }
    let mut batch = Batch::new();
    for _ in 0..5000 {
        batch.append(records::queue(beta), vec![1]);
    }
    fixture.realm.store().commit(batch).await.unwrap();
    let sendrealm = |operation, from: &str| {
        Command::SendRealm(command::SendRealm {
            operation: op(operation),
            session: SessionRef::Bound,
            src_address: Text(""),
            src_port: crate::wire::Port(0),
            realm: beta,
            from: from.parse().unwrap(),
            to: "bob".parse().unwrap(),
            message: Body(b"x"),
        })
    };
    let answer = fixture.ask(device(1), sendrealm(2, "ann")).await;
    assert_eq!(answer, refused(ErrorCode::QueueFull));
    let answer = fixture.ask(device(1), sendrealm(3, "bob")).await;
    assert_eq!(answer, refused(ErrorCode::NotYou));
}

/// PEER-6: a message that has waited for a week is given up, and its sender is told, whether the
/// peer answers or not.
#[tokio::test]
async fn queue_message_older_than_one_week_is_returned() {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    peer(&fixture, 50, "beta").await;
    let sendrealm = sendrealm(2, "hello");
    let queued = fixture.ask(device(1), sendrealm.clone()).await;
    assert_eq!(queued, Answer::Sent(Sent::Queued));
    let beta = fixture.realm.peers.peers().await.0.remove(0);
    let outgoing = fixture
        .realm
        .next_outgoing(beta.realm)
        .await
        .unwrap()
        .unwrap();
    // No request is answered here, so the peer is silent.
    let deliver = |now| fixture.realm.deliver_outgoing(&beta, &outgoing, 0, now);
    assert_eq!(deliver(fixture.now).await, Carried::Silent);
    let late = later(fixture.now, 7 * DAY);
    assert!(outgoing.is_expired(late));
    assert_eq!(deliver(late).await, Carried::Settled);
    assert!(
        fixture
            .realm
            .next_outgoing(beta.realm)
            .await
            .unwrap()
            .is_none()
    );
    let notice = ["perhaps not delivered (realm-unreachable): hello"];
    assert_eq!(fixture.texts(device(1)).await, notice);
    assert_eq!(
        fixture.ask(device(1), sendrealm).await,
        Answer::Sent(Sent::Queued),
        "the notice has told the end of it"
    );
}

/// PEER-14: a message that the peer does not accept makes way for those behind it, once the peer
/// has promised never to deliver it under its old number.
#[tokio::test]
async fn queue_message_refused_four_times_makes_way_once_withdrawn() {
    let (fixture, mut peer_calls) = with_beta().await;
    let realm = &fixture.realm;
    fixture.ask(device(1), sendrealm(2, "poison")).await;
    let busy = Answer::Refused(Refusal::busy(100));
    let fails = Answer::Refused(ErrorCode::Internal.into());
    let is_withdrawn =
        |bytes: &[u8]| matches!(PeerRequest::parse(bytes), Ok(PeerRequest::Withdraw(_)));
    for answer in [&fails, &Answer::Done] {
        for refused in 0..9 {
            let (carried, bytes) = carry(realm, &mut peer_calls, refused, answer).await;
            assert_eq!(
                (carried, is_withdrawn(&bytes)),
                (Carried::Refused, false),
                "it is alone, and *done* says nothing of what was brought"
            );
        }
    }
    fixture.ask(device(1), sendrealm(3, "good")).await;
    // Found by the simulator: the refusal of a peer whose disk is full is not about this message.
    // The next one would be refused too, and a message that makes way then loses its order for
    // nothing.
    for _ in 0..9 {
        let (carried, bytes) = carry(realm, &mut peer_calls, 0, &busy).await;
        assert_eq!((carried, is_withdrawn(&bytes)), (Carried::Busy, false));
    }
    for refused in 0..4 {
        let (carried, bytes) = carry(realm, &mut peer_calls, refused, &fails).await;
        assert_eq!(
            (carried, is_withdrawn(&bytes)),
            (Carried::Refused, false),
            "{refused}"
        );
    }
    let (carried, bytes) = carry(realm, &mut peer_calls, 4, &fails).await;
    assert_eq!(
        (carried, is_withdrawn(&bytes)),
        (Carried::Refused, true),
        "no promise yet"
    );
    let (carried, bytes) = carry(realm, &mut peer_calls, 5, &Answer::Done).await;
    assert_eq!((carried, is_withdrawn(&bytes)), (Carried::Settled, true));
    for text in ["good", "poison"] {
        let (carried, bytes) = carry(realm, &mut peer_calls, 0, &STORED).await;
        assert_eq!(carried, Carried::Settled);
        let Ok(PeerRequest::Deliver(peer::Deliver { message, .. })) = PeerRequest::parse(&bytes)
        else {
            panic!("{bytes:?}")
        };
        assert_eq!(message.0, text.as_bytes());
    }
    assert!(
        realm
            .next_outgoing("beta".parse().unwrap())
            .await
            .unwrap()
            .is_none()
    );
    let answer = fixture.ask(device(1), sendrealm(2, "poison")).await;
    assert_eq!(
        answer,
        Answer::Sent(Sent::Delivered),
        "the sender can ask for the end of it"
    );
}

/// PEER-14: a withdrawn message is never delivered under its number. A delivered message is not
/// withdrawn.
#[tokio::test]
async fn delivery_of_withdrawn_message_is_refused() {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    peer(&fixture, 50, "beta").await;
    let withdraw = |sequence| {
        PeerRequest::Withdraw(peer::Withdraw {
            epoch: 7,
            sequence: OperationNumber(sequence),
        })
    };
    assert_eq!(
        asked(&fixture, device(50), &deliver(7, 1, "ann", "one")).await,
        STORED
    );
    assert_eq!(asked(&fixture, device(50), &withdraw(1)).await, STORED);
    for _ in 0..2 {
        assert_eq!(
            asked(&fixture, device(50), &withdraw(2)).await,
            Answer::Done
        );
    }
    assert_eq!(
        asked(&fixture, device(50), &deliver(7, 2, "ann", "two")).await,
        refused(ErrorCode::Expired)
    );
    assert_eq!(
        asked(&fixture, device(50), &deliver(8, 2, "ann", "two")).await,
        STORED
    );
    assert_eq!(fixture.texts(device(1)).await, ["one", "two"]);
    assert_eq!(
        asked(&fixture, device(51), &withdraw(3)).await,
        refused(ErrorCode::PeerRefused)
    );
}

/// PEER-6: a sender who was answered *queued* is told of a refusal. Found by the simulator: the
/// repeat of a command was answered *queued* while the first still waited for the peer's answer.
/// That answer went to a link that was gone, and no notice was written.
#[tokio::test]
async fn delivery_refusal_is_told_to_sender_answered_queued() {
    let (fixture, mut peer_calls) = with_beta().await;
    let beta = "beta".parse().unwrap();
    let repeats = async {
        while fixture.realm.next_outgoing(beta).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        let refusal = refused(ErrorCode::NoSuchUser);
        tokio::join!(
            fixture.ask(device(1), sendrealm(2, "hello")),
            carry(&fixture.realm, &mut peer_calls, 0, &refusal)
        )
        .0
    };
    let answers = tokio::join!(fixture.ask(device(1), sendrealm(2, "hello")), repeats);
    let is_queued = |answer: &Answer| *answer == Answer::Sent(Sent::Queued);
    let is_told = !fixture.texts(device(1)).await.is_empty();
    assert_eq!(
        is_queued(&answers.0) || is_queued(&answers.1),
        is_told,
        "{answers:?}"
    );
}

fn for_a_minute(command: Command<'_>) -> Request<'_> {
    let options = Options {
        ttl: Some(60),
        ..Options::NONE
    };
    Request { options, command }
}

/// Makes the other realm accept this realm's introduction.
async fn introduced(
    realm: &Realm<Embedded>,
    peer_calls: &mut tokio::sync::mpsc::Receiver<PeerCall>,
) {
    let beta = realm.peers.peers().await.0.remove(0);
    let accepts = async {
        match peer_calls.recv().await {
            Some(PeerCall::Ask { answer, .. }) => answer.send(Answer::Done.to_bytes()).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let (is_introduced, ()) = tokio::join!(realm.introduce_again(&beta, MOMENT), accepts);
    assert_eq!(is_introduced, Carried::Settled);
}

/// PEER-17: a message that waits behind others is returned when its deadline passes, and is not
/// sent any more.
#[tokio::test]
async fn queue_message_past_deadline_is_returned_before_its_turn() {
    let (fixture, mut peer_calls) = with_beta().await;
    introduced(&fixture.realm, &mut peer_calls).await;
    fixture.ask(device(1), sendrealm(2, "first")).await;
    let hurried = for_a_minute(sendrealm(3, "hurried"));
    fixture.ask(device(1), hurried.clone()).await;
    fixture.ask(device(1), sendrealm(4, "last")).await;
    let zero = Request {
        options: Options {
            ttl: Some(0),
            ..Options::NONE
        },
        command: sendrealm(5, "never"),
    };
    let answer = fixture.ask(device(1), zero).await;
    assert_eq!(answer, refused(ErrorCode::BadRequest));
    let realm = &fixture.realm;
    assert_eq!(realm.queues.next_expiry(), Some(MOMENT.running + 60));
    realm.queues.return_expired(later(MOMENT, 59)).await;
    assert!(fixture.texts(device(1)).await.is_empty());
    realm.queues.return_expired(later(MOMENT, 61)).await;
    let returned = ["not delivered (expired): hurried"];
    assert_eq!(fixture.texts(device(1)).await, returned);
    // PEER-6: the notice has told the outcome.
    let answer = fixture.ask(device(1), hurried).await;
    assert_eq!(answer, Answer::Sent(Sent::Queued));
    let mut asked = vec![];
    while let Some(next) = realm.next_outgoing("beta".parse().unwrap()).await.unwrap() {
        let beta = realm.peers.peers().await.0.remove(0);
        if next.position() == 2 {
            let carried = realm.deliver_outgoing(&beta, &next, 0, MOMENT).await;
            assert_eq!(carried, Carried::Settled);
            continue;
        }
        let (carried, bytes) = carry(realm, &mut peer_calls, 0, &STORED).await;
        assert_eq!(carried, Carried::Settled);
        match PeerRequest::parse(&bytes) {
            Ok(PeerRequest::Deliver(peer::Deliver { message, .. })) => {
                asked.push(message.0.to_vec());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(asked, [b"first".to_vec(), b"last".to_vec()]);
    assert_eq!(fixture.texts(device(1)).await, returned, "told once");
}

/// PEER-17: a message that may have been delivered is withdrawn first, and the peer's answer
/// decides.
#[tokio::test]
async fn queue_message_maybe_delivered_is_withdrawn_before_return() {
    for was_delivered in [false, true] {
        let (fixture, mut peer_calls) = with_beta().await;
        introduced(&fixture.realm, &mut peer_calls).await;
        fixture
            .ask(device(1), for_a_minute(sendrealm(2, "hurried")))
            .await;
        let late = later(MOMENT, 61);
        fixture.realm.queues.return_expired(late).await;
        assert!(
            fixture.texts(device(1)).await.is_empty(),
            "nothing is certain"
        );
        let answer = if was_delivered { STORED } else { Answer::Done };
        let realm = &fixture.realm;
        let (carried, bytes) = carry_at(realm, &mut peer_calls, 0, &answer, late).await;
        assert_eq!(carried, Carried::Settled);
        assert!(matches!(
            PeerRequest::parse(&bytes),
            Ok(PeerRequest::Withdraw(_))
        ));
        let notices = fixture.texts(device(1)).await;
        let expected: &[&str] = if was_delivered {
            &[]
        } else {
            &["not delivered (expired): hurried"]
        };
        assert_eq!(notices, expected);
    }
}

/// PEER-17: a message that was returned before its turn is still in the queue after a restart, and
/// is not returned again. Found by the simulator.
#[tokio::test]
async fn queue_message_returned_before_restart_is_not_returned_again() {
    let (fixture, mut peer_calls) = with_beta().await;
    introduced(&fixture.realm, &mut peer_calls).await;
    fixture.ask(device(1), sendrealm(2, "first")).await;
    fixture
        .ask(device(1), for_a_minute(sendrealm(3, "hurried")))
        .await;
    fixture.realm.queues.return_expired(later(MOMENT, 60)).await;
    let fixture = fixture.restart();
    fixture
        .realm
        .queues
        .find_expiries("beta".parse().unwrap())
        .await
        .unwrap();
    fixture.realm.queues.return_expired(later(MOMENT, 60)).await;
    let returned = ["not delivered (expired): hurried"];
    assert_eq!(fixture.texts(device(1)).await, returned);
}

/// PEER-17: after a restart the queue is searched for deadlines.
#[tokio::test]
async fn queue_deadlines_are_found_again_after_restart() {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    peer(&fixture, 50, "beta").await;
    fixture
        .ask(device(1), for_a_minute(sendrealm(2, "hurried")))
        .await;
    let fixture = fixture.restart();
    assert_eq!(fixture.realm.queues.next_expiry(), None);
    fixture
        .realm
        .queues
        .find_expiries("beta".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(
        fixture.realm.queues.next_expiry(),
        Some(MOMENT.running + 60)
    );
    // Beta was never contacted, so nothing can have been delivered.
    fixture.realm.queues.return_expired(later(MOMENT, 60)).await;
    let returned = ["not delivered (expired): hurried"];
    assert_eq!(fixture.texts(device(1)).await, returned);
}

/// Returns the epoch, the sequence number and the text of a delivery.
fn numbered(bytes: &[u8]) -> (u64, u64, Vec<u8>) {
    match PeerRequest::parse(bytes) {
        Ok(PeerRequest::Deliver(peer::Deliver {
            epoch,
            sequence,
            message,
            ..
        })) => (epoch, sequence.0, message.0.to_vec()),
        other => panic!("{other:?}"),
    }
}

/// PEER-7: a queued message keeps its number across a restart. Messages queued afterwards are
/// numbered in another epoch. Before, a realm restored from a copy sent a user the same text as
/// after the copy, was told that it had been delivered, and nothing was stored.
#[tokio::test]
async fn queue_numbers_messages_in_new_epoch_after_each_start() {
    let (fixture, mut peer_calls) = with_beta().await;
    fixture.ask(device(1), sendrealm(2, "hello")).await;
    let busy = Answer::Refused(Refusal::busy(100));
    let (_, before) = carry(&fixture.realm, &mut peer_calls, 0, &busy).await;
    let fixture = fixture.restart();
    let mut peer_calls = fixture.realm.network.reconnect();
    fixture.ask(device(1), sendrealm(3, "hello")).await;
    let (carried, again) = carry(&fixture.realm, &mut peer_calls, 0, &STORED).await;
    assert_eq!((carried, &again), (Carried::Settled, &before));
    let (_, next) = carry(&fixture.realm, &mut peer_calls, 0, &STORED).await;
    assert_ne!(numbered(&next).0, numbered(&before).0);
    // The restored copy sends this message again, with the same place in the queue and the same
    // text.
    let (copy, mut peer_calls) = with_beta().await;
    copy.ask(device(1), sendrealm(2, "hello")).await;
    let (_, restored) = carry(&copy.realm, &mut peer_calls, 0, &STORED).await;
    let ((then, place, text), (now, same, words)) = (numbered(&before), numbered(&restored));
    assert_eq!((place, text), (same, words));
    assert_ne!(then, now);
}

/// PEER-7: if a peer knows a number for another message, the message is numbered anew, and sent
/// when it is its turn again. Before, a peer that always answered so made the realm send as fast as
/// it could, for a week.
#[tokio::test]
async fn queue_message_whose_number_is_used_gets_new_number() {
    let (fixture, mut peer_calls) = with_beta().await;
    let realm = &fixture.realm;
    fixture.ask(device(1), sendrealm(2, "one")).await;
    fixture.ask(device(1), sendrealm(3, "two")).await;
    let used = refused_number(ErrorCode::NumberReused, 9);
    let (carried, first) = carry(realm, &mut peer_calls, 0, &used).await;
    assert_eq!(
        carried,
        Carried::Refused,
        "it is waited before the next is asked"
    );
    let (_, second) = carry(realm, &mut peer_calls, 0, &STORED).await;
    let (carried, again) = carry(realm, &mut peer_calls, 0, &STORED).await;
    assert_eq!(carried, Carried::Settled);
    assert_eq!(numbered(&second).2, b"two");
    let ((then, _, text), (now, _, same)) = (numbered(&first), numbered(&again));
    assert_eq!(
        (text.as_slice(), same.as_slice()),
        (&b"one"[..], &b"one"[..])
    );
    assert_ne!(then, now);
}

/// PEER-6: a message that is damaged beyond reading does not block the queue. A delivered message
/// is not remembered until its deadline (PEER-17).
#[tokio::test(start_paused = true)]
async fn queue_passes_over_damaged_message_and_forgets_delivered_one() {
    let (fixture, mut peer_calls) = with_beta().await;
    let beta: RealmId = "beta".parse().unwrap();
    let mut batch = Batch::new();
    batch.append(records::queue(beta), Vec::new());
    fixture.realm.store().commit(batch).await.unwrap();
    let mut hurried = Request::from(sendrealm(2, "hello"));
    hurried.options.ttl = Some(60);
    fixture.ask(device(1), hurried).await;
    let due = Some(MOMENT.running + 60);
    assert_eq!(fixture.realm.queues.next_expiry(), due);
    let glance = fixture
        .realm
        .queues
        .look(beta, false)
        .await
        .unwrap()
        .unwrap();
    let next = glance.next.unwrap().expect("it waits behind");
    assert_eq!(next.outgoing.position(), 2);
    let (carried, asked) = carry(&fixture.realm, &mut peer_calls, 0, &STORED).await;
    assert_eq!(carried, Carried::Settled);
    let asked = PeerRequest::parse(&asked).unwrap();
    assert!(matches!(
        asked,
        PeerRequest::Deliver(peer::Deliver {
            message: Body(b"hello"),
            ..
        })
    ));
    assert_eq!(fixture.realm.queues.next_expiry(), None);
}

/// PEER-5: a message that cannot be read now, for example one queued by a newer release, is not
/// lost. It waits, and is not passed over.
#[tokio::test(start_paused = true)]
async fn queue_message_of_newer_release_waits() {
    let (fixture, _peer_calls) = with_beta().await;
    let beta: RealmId = "beta".parse().unwrap();
    let mut batch = Batch::new();
    batch.append(records::queue(beta), vec![200, 1, 2, 3]);
    fixture.realm.store().commit(batch).await.unwrap();
    fixture.ask(device(1), sendrealm(2, "hello")).await;
    for _ in 0..3 {
        let glance = fixture
            .realm
            .queues
            .look(beta, false)
            .await
            .unwrap()
            .unwrap();
        assert!(glance.next.is_err());
    }
    assert_eq!(fixture.realm.queues.queued(beta).await.unwrap(), 2);
}
