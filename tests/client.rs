//! Tests of the client library with a real realm: what was begun is completed, in order, and what
//! was read and not shown is read again (EXACT-7, READ-3).

mod support;

use std::time::Duration;

use merpati::{
    client::{Client, Direct, Options, Profile, system_rng},
    crypto::SecretKey,
    wire::{Command, Mailbox, OperationNumber, Position, Request, SessionRef, command},
};
use support::{
    Home, Realm,
    device::Target,
    relay::{Carried, Relay},
};

/// The first byte of an Init.
const INIT: u8 = 0x03;
/// The first byte of a Resume.
const RESUME: u8 = 0x07;

fn open(home: &Home, server: &str) -> Client {
    let directory = home.directory.path().join("profiles");
    let profile = Profile::open(&directory, "ann", &mut system_rng().unwrap()).unwrap();
    let options = Options {
        server: Some(server.parse().unwrap()),
        deadline: Duration::from_mins(1),
        ..Options::default()
    };
    Client::open(profile, options).unwrap()
}

async fn texts(client: &Client) -> Vec<String> {
    let entries = client
        .read_whole(Mailbox::Private, Some(Position(0)), usize::MAX)
        .await
        .unwrap();
    let texts = entries.into_iter().map(|one| one.entry.body);
    texts.map(|body| String::from_utf8(body).unwrap()).collect()
}

/// EXACT-7: a call continues when its caller stops waiting. Found by the simulator: such a call was
/// forgotten until the next run, and other calls to the same user went before it.
#[tokio::test]
async fn outbox_call_abandoned_by_caller_is_completed_first() {
    let realm = Realm::start();
    let relay = Relay::to(realm.address);
    let home = Home::new();
    let client = open(&home, &realm.connect_through(relay.address));
    let ann = "ann".parse().unwrap();
    client
        .register("A", "id", ann, b"correct horse")
        .await
        .unwrap();
    relay.lose(|_, _| true);
    let stopped = tokio::time::timeout(Duration::from_secs(1), client.send(ann, b"first")).await;
    assert!(stopped.is_err());
    assert_eq!(client.outbox().unwrap().len(), 1);
    relay.lose(|_, _| false);
    let (second, third) = tokio::join!(client.send(ann, b"second"), client.send(ann, b"third"));
    second.unwrap();
    third.unwrap();
    let texts = texts(&client).await;
    assert_eq!((texts.len(), texts[0].as_str()), (3, "first"), "{texts:?}");
    assert_eq!(client.take_notices().len(), 1);
}

/// Entries that were read and not shown are read again. Found by the simulator: asking for the
/// second page told the realm that the first had been shown, and a client that was cut off before
/// it showed anything never showed it.
#[tokio::test]
async fn cursor_entries_read_but_not_shown_are_read_again() {
    let realm = Realm::start();
    let home = Home::new();
    let client = open(&home, &realm.connect);
    let ann = "ann".parse().unwrap();
    client
        .register("A", "id", ann, b"correct horse")
        .await
        .unwrap();
    for n in 0..30_u8 {
        client.send(ann, &vec![b'a' + n % 26; 6000]).await.unwrap();
    }
    assert_eq!(client.unread(Mailbox::Private).await.unwrap().len(), 30);
    drop(client);
    let client = open(&home, &realm.connect);
    assert_eq!(client.unread(Mailbox::Private).await.unwrap().len(), 30);
}

/// WATCH-3: a watch that ends ends its link. Found by the simulator: entries that an earlier watch
/// had pushed were taken for entries of the next one.
#[tokio::test]
async fn watch_end_closes_its_link() {
    let realm = Realm::start();
    let relay = Relay::to(realm.address);
    let home = Home::new();
    let client = open(&home, &realm.connect_through(relay.address));
    let ann = "ann".parse().unwrap();
    client
        .register("A", "id", ann, b"correct horse")
        .await
        .unwrap();
    let inits = || {
        let carried = relay.take_carried();
        let opens = |one: &&Carried| [INIT, RESUME].contains(&one.bytes[0]);
        let inits = carried.iter().filter(opens);
        inits.count()
    };
    assert_eq!(inits(), 1);
    for round in 0..5 {
        let text = format!("message {round}");
        let mut watching = client.watch().await.unwrap();
        client.send(ann, text.as_str()).await.unwrap();
        let entry = watching.next().await.unwrap();
        assert_eq!(entry.body, text.as_bytes());
        client.shown(&entry).unwrap();
        // Nobody watches, so this message is not shown and comes with the next watch.
        drop(watching);
        client.whoami().await.unwrap();
    }
    assert_eq!(inits(), 5, "a link for each watch that followed another");
    assert_eq!(texts(&client).await.len(), 5);
}

/// LINK-8: a process that was suspended for longer than a timeout finds the answer, and retransmits
/// nothing.
#[tokio::test]
async fn retransmission_after_process_pause_repeats_nothing() {
    let realm = Realm::start();
    let Target { address, key } = Target::of(&realm);
    let device = SecretKey::generate(&mut system_rng().unwrap());
    let begun = Direct::begin(&device, OperationNumber(0), address, Some(key));
    let (mut link, mut told) = (begun.await.unwrap(), Vec::new());
    let whoami = || {
        let session = SessionRef::Bound;
        Request::from(Command::WhoAmI(command::WhoAmI { session })).to_bytes()
    };
    // These exchanges measure the path, which is short.
    for _ in 0..10 {
        assert!(link.ask(whoami()));
        while link.in_flight() > 0 {
            told.clear();
            link.step(&mut told).await.unwrap();
        }
    }
    let before = link.repeats();
    for round in 0..4 {
        assert!(link.ask(whoami()));
        told.clear();
        // The request leaves, and then nothing runs here for a while.
        let leaving = link.step(&mut told);
        let _ = tokio::time::timeout(Duration::ZERO, leaving).await;
        std::thread::sleep(Duration::from_secs(1));
        while link.in_flight() > 0 {
            told.clear();
            link.step(&mut told).await.unwrap();
        }
        assert_eq!(link.repeats(), before, "round {round}");
    }
}

/// Two clients of one profile in one process keep their locks on the profile's database while a
/// command of another process runs in between, and continue.
#[tokio::test]
async fn profile_shared_by_two_clients_keeps_database_locks() {
    let realm = Realm::start();
    let home = Home::new();
    home.register("ann", &realm.connect);
    let first = open(&home, &realm.connect);
    first.whoami().await.unwrap();
    for _ in 0..3 {
        let other = open(&home, &realm.connect);
        home.run("ann", &["send", "ann", "of another process"]).ok();
        for client in [&first, &other] {
            let to = "ann".parse().unwrap();
            client.send(to, b"of this one").await.unwrap();
        }
    }
    assert_eq!(texts(&first).await.len(), 9);
}
