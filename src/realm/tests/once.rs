//! Exactly once: repeats, windows, commands under way together.

use super::*;

/// EXACT-1, EXACT-2: a repeat is answered as before and done once, also after a restart.
#[tokio::test]
async fn a_repeat_is_answered_and_not_done_again() {
    let mut realm = Fixture::new();
    let id = realm.register(device(1), "ann").await;
    for _ in 0..3 {
        assert_eq!(
            realm.ask(device(1), register(1, "ann")).await,
            Answer::Session(id)
        );
        assert_eq!(realm.ask(device(1), send(2, "ann", "once")).await, STORED);
        realm = realm.restart();
    }
    assert_eq!(realm.texts(device(1)).await, ["once"]);
    assert_eq!(realm.ask(device(1), logout(3)).await, Answer::Done);
    assert_eq!(realm.ask(device(1), logout(3)).await, Answer::Done);
    assert_eq!(
        realm.ask(device(1), logout(4)).await,
        refused(ErrorCode::NoSession)
    );
}

/// EXACT-3, EXACT-4: what is too old to be told apart counts as done, and the memory has an end.
#[tokio::test]
async fn the_window_moves_on() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    for number in 2..=500 {
        assert_eq!(realm.ask(device(1), send(number, "ann", "x")).await, STORED);
    }
    assert_eq!(
        realm.ask(device(1), send(244, "ann", "x")).await,
        STORED,
        "256 back"
    );
    assert_eq!(
        realm.ask(device(1), send(100, "ann", "x")).await,
        refused(ErrorCode::AlreadyDone)
    );
    let owner = Owner::Device(PublicKey([1; 32]));
    let kept = realm
        .realm
        .store
        .list(&records::operations(&owner), None, 9999)
        .await
        .unwrap();
    assert!(kept.len() <= 320, "{}", kept.len());
    let greeting = realm.realm.greet(&PublicKey([1; 32]), MOMENT).await;
    assert_eq!(
        greeting,
        Greeting {
            known: true,
            highest: OperationNumber(500)
        }
    );
    // A number may be skipped, and used later.
    assert_eq!(realm.ask(device(1), send(510, "ann", "x")).await, STORED);
    assert_eq!(realm.ask(device(1), send(505, "ann", "x")).await, STORED);
    let greeting = realm.realm.greet(&PublicKey([1; 32]), MOMENT).await;
    assert_eq!(greeting.highest, OperationNumber(510));
}

/// EXACT-5: a restored profile uses numbers again, and is told so.
#[tokio::test]
async fn a_number_with_another_command_is_refused() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    assert_eq!(realm.ask(device(1), send(2, "ann", "one")).await, STORED);
    assert_eq!(
        realm.ask(device(1), send(2, "ann", "two")).await,
        refused(ErrorCode::NumberReused)
    );
    assert_eq!(realm.texts(device(1)).await, ["one"]);
    assert_eq!(
        realm.ask(device(1), send(0, "ann", "x")).await,
        refused(ErrorCode::BadRequest)
    );
}

/// EXACT-6: what was refused has changed nothing, and may be asked again under the same number.
#[tokio::test]
async fn a_refusal_is_not_remembered() {
    let realm = Fixture::new();
    realm.register(device(1), "ann").await;
    assert_eq!(
        realm.ask(device(1), send(2, "bob", "hi")).await,
        refused(ErrorCode::NoSuchUser)
    );
    realm.register(device(2), "bob").await;
    assert_eq!(realm.ask(device(1), send(2, "bob", "hi")).await, STORED);
}

/// EXACT-1: commands of one device that are under way together are each done once.
#[tokio::test]
async fn commands_under_way_together_do_not_disturb_each_other() {
    let fixture = Fixture::new();
    fixture.register(device(1), "ann").await;
    let realm = std::sync::Arc::new(fixture.realm);
    let caller = Caller {
        own: None,
        subnet: std::net::IpAddr::from([192, 0, 2, 7]).into(),
        device: device(1),
        early: false,
        room: 1100,
        longest: 1100,
        now: MOMENT,
    };
    let mut tasks = tokio::task::JoinSet::new();
    for repeat in 0..300u64 {
        let realm = std::sync::Arc::clone(&realm);
        tasks.spawn(async move {
            let number = 2 + repeat % 100;
            let text = format!("message {number}");
            let bytes = Request::from(send(number, "ann", &text)).to_bytes();
            Answer::parse(&realm.handle(&caller, &bytes).await).unwrap()
        });
    }
    assert!(
        tasks
            .join_all()
            .await
            .iter()
            .all(|answer| *answer == STORED)
    );
    let log = records::Place::private("ann".parse().unwrap()).log;
    let limit = crate::store::PageLimit {
        entries: 999,
        bytes: 1 << 20,
    };
    let page = realm.store.read(&log, Position(0), limit).await.unwrap();
    assert_eq!(page.entries.len(), 100);
}
