//! Tests of peers that refuse, or give no useful answer.

use super::{
    super::queue::{Content, Purpose, Verdict, verdict},
    *,
};

/// PEER-6: a peer that no longer knows this realm, for example after a restore from a backup, gets
/// an introduction before anything else is delivered to it. Fixed fault: all queued messages were
/// returned to their senders at once.
#[test]
fn introduction_is_repeated_to_peer_that_forgot_this_realm() {
    let unknown = Answer::Refused(ErrorCode::PeerRefused.into());
    let mut scene = Scene::introduced();
    let introduces =
        |bytes: &[u8]| matches!(PeerRequest::parse(bytes), Ok(PeerRequest::Introduce(_)));
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
        while scene.machine.poll_status().is_some() {}
        scene.answer(id, answer);
        let refuses = (beta(), PeerStatus::Refusing(ErrorCode::PeerRefused));
        let news: Vec<_> = std::iter::from_fn(|| scene.machine.poll_status()).collect();
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

/// PEER-6, PEER-5: if a peer accepts the peering and then does not know this realm, its refusal
/// says nothing about the message. The peer is asked after growing waits, is shown as refusing, and
/// gets all messages once it knows this realm.
#[test]
fn delivery_refused_by_peer_that_accepts_introduction_is_kept() {
    let unknown = Answer::Refused(ErrorCode::PeerRefused.into());
    let mut scene = Scene::introduced();
    scene.queue(1);
    scene.queue(2);
    let mut asked = 0;
    while scene.seconds < 600 {
        let (_, id, bytes) = scene.wait_for_question();
        let delivers = matches!(PeerRequest::parse(&bytes), Ok(PeerRequest::Deliver(_)));
        scene.answer(id, Some(if delivers { &unknown } else { &Answer::Done }));
        asked += 1;
    }
    assert!((10..40).contains(&asked), "{asked}");
    assert_eq!(scene.queue, [1, 2]);
    let refuses = (beta(), PeerStatus::Refusing(ErrorCode::PeerRefused));
    assert!(std::iter::from_fn(|| scene.machine.poll_status()).any(|news| news == refuses));
    let (_, id, _) = scene.wait_for_question();
    scene.answer(id, Some(&STORED));
}

/// PEER-13: *rotate* is repeated until it has a final answer. Otherwise the peer would take an
/// introduction under the new key for another realm.
#[test]
fn key_rotation_refused_by_busy_peer_is_repeated() {
    let mut scene = Scene::new();
    let former = SecretKey::from_bytes([8; 32]).public();
    scene.peers = vec![Peer::sample(beta(), BETA, former)];
    for answer in [ErrorCode::Busy, ErrorCode::Internal, ErrorCode::PeerRefused] {
        let (_, id, bytes) = scene.wait_for_question();
        let asked = PeerRequest::parse(&bytes).unwrap();
        assert!(matches!(asked, PeerRequest::Rotate(_)), "{asked:?}");
        while scene.machine.poll_status().is_some() {}
        scene.answer(id, Some(&Answer::Refused(answer.into())));
        let shown = std::iter::from_fn(|| scene.machine.poll_status())
            .any(|news| news == (beta(), PeerStatus::Refusing(answer)));
        assert_eq!(shown, answer == ErrorCode::Internal, "it is in trouble");
    }
    let (_, _, bytes) = scene.wait_for_question();
    let asked = PeerRequest::parse(&bytes).unwrap();
    assert!(matches!(asked, PeerRequest::Introduce(_)), "{asked:?}");
}

/// PEER-14: a message that may have been withdrawn is not delivered again under its number, even if
/// nothing waits behind it any more.
#[test]
fn queue_message_maybe_withdrawn_is_delivered_under_new_number() {
    let internal = Answer::Refused(ErrorCode::Internal.into());
    let mut scene = Scene::introduced();
    scene.queue(1);
    scene.queue(2);
    let withdraws =
        |bytes: &[u8]| matches!(PeerRequest::parse(bytes), Ok(PeerRequest::Withdraw(_)));
    loop {
        let (_, id, bytes) = scene.wait_for_question();
        if withdraws(&bytes) {
            // The answer is lost.
            scene.answer(id, None);
            break;
        }
        scene.answer(id, Some(&internal));
    }
    scene.queue.pop_back();
    let (_, id, bytes) = scene.wait_for_question();
    assert!(withdraws(&bytes));
    scene.answer(id, Some(&Answer::Done));
    let (_, _, bytes) = scene.wait_for_question();
    assert_eq!(sequence(&bytes), 1001);
}

/// PEER-7: a message that was withdrawn in a life unknown to this realm may have been delivered. A
/// membership report is delivered again anyway: it has no effect twice, and must not be lost.
#[test]
fn membership_report_withdrawn_in_unknown_life_is_delivered_again() {
    let expired = Answer::Refused(ErrorCode::Expired.into()).to_bytes();
    for content in [Content::Message, Content::MembershipReport] {
        let verdict = verdict(Purpose::Deliver, content, Some(&expired));
        let Verdict::Settle(settling) = verdict else {
            panic!("{verdict:?}")
        };
        let is_again = content == Content::MembershipReport;
        assert_eq!(settling == Settling::Anew, is_again, "{settling:?}");
    }
}

/// PEER-6: an answer that says neither delivered nor refused leaves the outcome of a message open.
#[test]
fn delivery_with_unexpected_answer_is_repeated() {
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

/// PEER-6: refusals about sessions and numbers are not passed on from a peer to users. Their
/// clients would take them for refusals of their own realm: they would log the device out, or
/// resend under another number for as long as the peer likes. A message with such a refusal is
/// retried.
#[test]
fn delivery_refusal_about_session_or_number_is_not_passed_on() {
    let told = |code, detail| match verdict(
        Purpose::Deliver,
        Content::Message,
        Some(&Answer::Refused(Refusal { code, detail }).to_bytes()),
    ) {
        Verdict::Settle(Settling::Told(Err(refusal))) => Some(refusal),
        _ => None,
    };
    for code in ErrorCode::ALL {
        let expected = match code {
            ErrorCode::TooLarge => Some(Refusal::too_large(7)),
            ErrorCode::BadRequest
            | ErrorCode::NoSuchUser
            | ErrorCode::NoSuchGroup
            | ErrorCode::WrongPassword
            | ErrorCode::NotAMember
            | ErrorCode::RealmExists
            | ErrorCode::RealmUnreachable
            | ErrorCode::QueueFull
            | ErrorCode::Unsupported
            | ErrorCode::NotPermitted
            | ErrorCode::Banned => Some((*code).into()),
            // The outcome is unknown: the number is an old one at the peer.
            ErrorCode::AlreadyDone | ErrorCode::Expired => Some(ErrorCode::RealmUnreachable.into()),
            _ => None,
        };
        assert_eq!(told(*code, Some(7)), expected, "{code}");
    }
    // The outcome of a message that was to be withdrawn is unknown too. Without a result its queue
    // would stand still.
    let old = Answer::Refused(ErrorCode::AlreadyDone.into()).to_bytes();
    for purpose in [Purpose::Withdraw, Purpose::MakeWay] {
        let settled = verdict(purpose, Content::Message, Some(&old));
        let told = Err(ErrorCode::RealmUnreachable.into());
        assert!(
            matches!(&settled, Verdict::Settle(Settling::Told(answer)) if *answer == told),
            "{settled:?}"
        );
    }
}
