//! Copies of groups that live in other realms.

use tokio::sync::mpsc;

use super::*;
use crate::wire::{Entry, Fragment};

/// Answers what is asked of another realm, one question after another.
async fn answer_all(errands: &mut mpsc::Receiver<Errand>, answers: Vec<Answer>) {
    for answer in answers {
        match errands.recv().await {
            Some(Errand::Ask { answer: told, .. }) => told.send(answer.to_bytes()).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

fn piece(offset: u64, text: &str) -> Answer {
    let entry = Entry {
        position: Position(1),
        time: 0,
        content: crate::wire::CONTENT_TEXT,
        fragment: Some(Fragment { offset, total: 12 }),
        from: "bob".parse().unwrap(),
        body: text.as_bytes().to_vec(),
    };
    Answer::Page(Page {
        more: true,
        entries: vec![entry],
    })
}

/// PEER-9: found by the simulator: an entry that came in three pieces or more was written down after the second.
#[tokio::test]
async fn an_entry_is_copied_whole_in_however_many_pieces_it_comes() {
    let mut fixture = Fixture::new();
    let (network, mut errands) = Network::new();
    fixture.realm.network = network;
    fixture.register(device(1), "ann").await;
    let (beta, crew) = ("beta".parse().unwrap(), "crew".parse().unwrap());
    let place = ("192.0.2.9".to_string(), 6377);
    let realm = &fixture.realm;
    assert!(
        realm
            .list_peer(beta, PublicKey([50; 32]), place, None)
            .await
    );
    let join = Command::JoinGroupRealm {
        operation: OperationNumber(2),
        session: SessionRef::Bound,
        src_address: Text(""),
        src_port: crate::wire::Port(0),
        realm: beta,
        group: crew,
        password: Password(b""),
    };
    let known_as = "alpha".parse().unwrap();
    let joined = vec![Answer::Joined { epoch: 1, known_as }];
    let (answer, ()) = tokio::join!(
        fixture.ask(device(1), join),
        answer_all(&mut errands, joined)
    );
    assert_eq!(answer, Answer::Done);
    let peer = realm.peers().await.remove(0);
    // What brings nothing new is asked for again later.
    let short = vec![piece(0, "thr"), piece(3, "")];
    let (outcome, ()) = tokio::join!(
        realm.read_copy(&peer, crew),
        answer_all(&mut errands, short)
    );
    assert_eq!(outcome, ReadOutcome::Silent);
    let nothing = Answer::Page(Page::default());
    let whole = vec![
        piece(0, "thr"),
        piece(3, "ee p"),
        piece(7, "ieces"),
        nothing,
    ];
    let (outcome, ()) = tokio::join!(
        realm.read_copy(&peer, crew),
        answer_all(&mut errands, whole)
    );
    assert_eq!(outcome, ReadOutcome::Equal);
    let read = Command::InboxGroupRealm {
        session: SessionRef::Bound,
        realm: beta,
        group: crew,
    };
    match fixture.ask(device(1), read).await {
        Answer::Page(page) => assert_eq!(page.entries[0].body, b"three pieces"),
        other => panic!("{other:?}"),
    }
}
