//! Tests of failing groups: they delay neither the other groups nor the queue.

use super::{
    super::reader::{Reader, Reading},
    *,
};

fn group(n: u8) -> GroupName {
    format!("crew{n}").parse().unwrap()
}

fn is_about_a_group(bytes: &[u8]) -> bool {
    matches!(
        PeerRequest::parse(bytes),
        Ok(PeerRequest::Read(_) | PeerRequest::Grown(_))
    )
}

/// PEER-10: many unreadable groups do not delay a message. Fixed fault: each group had its turn,
/// and a wait of the whole peer, before the next message.
#[test]
fn group_failures_in_many_groups_do_not_delay_queue() {
    let internal = Answer::Refused(ErrorCode::Internal.into());
    let mut scene = Scene::introduced();
    scene.has_replicas = true;
    for n in 0..20 {
        scene.happens(Input::GroupWork(beta(), GroupWork::Read(group(n))));
        scene.happens(Input::GroupWork(beta(), GroupWork::Tell(group(n))));
    }
    (1..=60).for_each(|position| scene.queue(position));
    let mut brought = 0;
    while brought < 60 {
        let (waited, id, bytes) = scene.wait_for_question();
        assert_eq!(waited, 0);
        let is_group = is_about_a_group(&bytes);
        brought += u32::from(!is_group);
        scene.answer(id, Some(if is_group { &internal } else { &STORED }));
    }
}

/// PEER-10: a failing group is asked about after growing waits, whatever the peer sends about it.
#[test]
fn group_that_fails_is_asked_about_with_growing_waits() {
    let internal = Answer::Refused(ErrorCode::Internal.into());
    let mut scene = Scene::introduced();
    let mut asked = 0;
    let more = || Input::GroupWork(beta(), GroupWork::Tell(crew()));
    while scene.seconds < 3600 {
        scene.happens(more());
        let (_, id, _) = scene.wait_for_question();
        // The group has work again while the request is under way.
        scene.happens(more());
        scene.answer(id, Some(&internal));
        asked += 1;
    }
    assert!((20..60).contains(&asked), "{asked}");
}

/// PEER-5: a busy peer is not asked about one group after the other.
#[test]
fn group_work_waits_while_peer_is_busy() {
    let busy = Answer::Refused(Refusal::busy(100));
    let mut scene = Scene::introduced();
    for n in 0..20 {
        scene.happens(Input::GroupWork(beta(), GroupWork::Tell(group(n))));
    }
    let mut told = BTreeSet::new();
    for _ in 0..3 {
        let (_, id, _) = scene.wait_for_question();
        scene.answer(id, Some(&busy));
        assert!(scene.next_question().is_none(), "it is busy");
    }
    while told.len() < 20 {
        let (_, id, bytes) = scene.wait_for_question();
        let Ok(PeerRequest::Grown(peer::Grown { group })) = PeerRequest::parse(&bytes) else {
            panic!("{bytes:?}")
        };
        told.insert(group);
        scene.answer(id, Some(&Answer::Done));
    }
    assert!(scene.next_question().is_none());
    assert_eq!(scene.machine.poll_timeout(), None);
}

/// PEER-6: a peer that no longer knows this realm also says so in an answer about a group, and gets
/// an introduction.
#[test]
fn introduction_is_repeated_after_refusal_about_group() {
    let unknown = Answer::Refused(ErrorCode::PeerRefused.into());
    for work in [GroupWork::Tell(crew()), GroupWork::Read(crew())] {
        let mut scene = Scene::introduced();
        scene.has_replicas = true;
        scene.happens(Input::GroupWork(beta(), work));
        let (_, id, bytes) = scene.wait_for_question();
        assert!(is_about_a_group(&bytes));
        scene.answer(id, Some(&unknown));
        let (_, id, bytes) = scene.wait_for_question();
        let asked = PeerRequest::parse(&bytes).unwrap();
        assert!(matches!(asked, PeerRequest::Introduce(_)), "{asked:?}");
        scene.answer(id, Some(&Answer::Done));
        let (_, _, bytes) = scene.wait_for_question();
        assert!(is_about_a_group(&bytes), "it is still to be done");
    }
}

/// PEER-10, READ-11: an entry that replaced another at its position is read from its beginning: its
/// tail is never taken for the whole entry.
#[test]
fn replica_entry_replaced_while_read_is_read_from_beginning() {
    let mut reader = Reader::new(crew(), 0, 0, None);
    let first = part(0).to_bytes();
    assert!(matches!(reader.take(Some(&first)), Reading::Ask(_)));
    let Answer::Page(mut page) = part(1 << 20) else {
        panic!("a page")
    };
    page.entries[0].time = 7;
    let other = Answer::Page(page).to_bytes();
    assert!(matches!(reader.take(Some(&other)), Reading::Unread));
}
