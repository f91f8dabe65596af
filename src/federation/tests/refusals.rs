//! A peer that refuses, or says nothing that helps.

use super::*;

/// PEER-6: a peer that does not know this realm any more, as when it was restored from a copy, is introduced to before anything else is brought to it.
/// All that waited came back at once to its senders.
#[test]
fn peer_that_knows_this_realm_no_more_is_introduced_to_again() {
    let unknown = Answer::Refused(ErrorCode::PeerRefused.into());
    let mut scene = Scene::introduced();
    let introduces =
        |bytes: &[u8]| matches!(PeerRequest::parse(bytes), Ok(PeerRequest::Introduce { .. }));
    (1..=3).for_each(|position| scene.queue(position));
    let (_, id, bytes) = scene.wait_for_question();
    assert_eq!(sequence(&bytes), 1);
    scene.answer(id, Some(&unknown));
    for answer in [
        None,
        Some(&unknown),
        Some(&Answer::Refused(ErrorCode::Busy.into())),
    ] {
        let (_, id, bytes) = scene.wait_for_question();
        assert!(introduces(&bytes));
        while scene.machine.poll_news().is_some() {}
        scene.answer(id, answer);
        let refuses = (beta(), News::Refuses(ErrorCode::PeerRefused));
        let news: Vec<_> = std::iter::from_fn(|| scene.machine.poll_news()).collect();
        assert_eq!(
            news.contains(&refuses),
            answer == Some(&unknown),
            "{news:?}"
        );
        assert_eq!(scene.queue.len(), 3);
    }
    let (_, id, _) = scene.wait_for_question();
    scene.answer(id, Some(&Answer::Done));
    for position in 1..=3 {
        let (_, id, bytes) = scene.wait_for_question();
        assert_eq!(sequence(&bytes), position);
        scene.answer(id, Some(&STORED));
    }
    assert!(scene.next_question().is_none() && scene.queue.is_empty());
}

/// PEER-6: one that accepts the peering and does not know this realm the next moment says nothing of the message, is not asked without a wait, and is brought all once it
/// does.
#[test]
fn peer_that_accepts_and_refuses_loses_nothing() {
    let unknown = Answer::Refused(ErrorCode::PeerRefused.into());
    let mut scene = Scene::introduced();
    scene.queue(1);
    scene.queue(2);
    let mut asked = 0;
    while scene.seconds < 600 {
        let (_, id, bytes) = scene.wait_for_question();
        let delivers = matches!(PeerRequest::parse(&bytes), Ok(PeerRequest::Deliver { .. }));
        scene.answer(id, Some(if delivers { &unknown } else { &Answer::Done }));
        asked += 1;
    }
    assert!(asked < 700, "{asked}");
    assert_eq!(scene.queue, [1, 2]);
    let (_, id, _) = scene.wait_for_question();
    scene.answer(id, Some(&STORED));
}

/// PEER-13: *rotate* that is not answered for good is asked again: the peer would take whoever is introduced to it under the new key for another realm.
#[test]
fn peer_that_is_busy_is_told_of_the_new_key_again() {
    let mut scene = Scene::new();
    let former = SecretKey::from_bytes([8; 32]).public();
    scene.peers = vec![Peer::sample(beta(), BETA, former)];
    for answer in [ErrorCode::Busy, ErrorCode::Internal, ErrorCode::PeerRefused] {
        let (_, id, bytes) = scene.wait_for_question();
        let asked = PeerRequest::parse(&bytes).unwrap();
        assert!(matches!(asked, PeerRequest::Rotate { .. }), "{asked:?}");
        scene.answer(id, Some(&Answer::Refused(answer.into())));
    }
    let (_, _, bytes) = scene.wait_for_question();
    let asked = PeerRequest::parse(&bytes).unwrap();
    assert!(matches!(asked, PeerRequest::Introduce { .. }), "{asked:?}");
}

/// PEER-6: what says neither that a message was delivered nor that it is refused says nothing of it.
#[test]
fn odd_answers_say_nothing_of_a_message() {
    for odd in [
        Answer::Sent(Sent::Queued),
        Answer::Done,
        Answer::Unread(Vec::new()),
    ] {
        let mut scene = Scene::introduced();
        scene.queue(1);
        let (_, id, _) = scene.wait_for_question();
        scene.answer(id, Some(&odd));
        let (_, _, bytes) = scene.wait_for_question();
        assert_eq!((sequence(&bytes), scene.queue.len()), (1, 1));
    }
}
