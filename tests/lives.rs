//! A realm whose store is restored from a backup gives positions out again. A client that remembers
//! positions of the lost store is shown the entries that are there now (HS-14, READ-9). An ordinary
//! restart shows nothing twice, and costs no byte from the second link on.

mod support;

use std::{fs, path::PathBuf, time::Duration};

use merpati::{client::CallError, wire::Mailbox};
use support::{
    Home, PASSWORD, Realm, copy_directory,
    relay::{Carried, Relay},
    watch::Watch,
};

/// The bytes of an UPDATE with a life.
const LIFE_BYTES: usize = 6;

fn numbered(numbers: std::ops::RangeInclusive<u32>) -> Vec<String> {
    numbers.map(|n| format!("message {n}")).collect()
}

/// ann and bob at a realm that can be restored.
struct Restorable {
    realm: Realm,
    home: Home,
}

impl Restorable {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(options: &[&str]) -> Self {
        let (realm, home) = (Realm::start_with(options), Home::new());
        for name in ["ann", "bob"] {
            home.register(name, &realm.connect);
        }
        Self { realm, home }
    }

    fn send(&self, numbers: std::ops::RangeInclusive<u32>) {
        for text in numbered(numbers) {
            self.home.run("ann", &["send", "bob", &text]).ok();
        }
    }

    fn inbox(&self) -> Vec<String> {
        self.home.run("bob", &["inbox"]).texts()
    }

    /// Waits until the entries that a watch has printed are recorded as shown, which happens later.
    fn until_noted(&self) {
        let is_noted = |_| self.home.run("bob", &["unread"]).out.is_empty();
        assert!((0..1000).any(is_noted), "it is never noted");
    }

    fn backup(&self) -> PathBuf {
        self.realm.directory.path().join("backup")
    }

    fn back_up(&mut self) {
        assert_eq!(self.realm.stop(), Some(0));
        copy_directory(&self.realm.data(), &self.backup());
        self.realm.start_again();
    }

    fn restore(&mut self) {
        assert_eq!(self.realm.stop(), Some(0));
        fs::remove_dir_all(self.realm.data()).unwrap();
        copy_directory(&self.backup(), &self.realm.data());
        self.realm.start_again();
    }
}

/// READ-9: lost entries stay lost, but every entry after the restore is shown, once.
#[test]
fn restored_store_shows_new_entries_in_inbox() {
    let mut at = Restorable::new();
    at.send(1..=8);
    assert_eq!(at.inbox(), numbered(1..=8));
    assert!(at.inbox().is_empty());
    at.back_up();
    at.send(9..=10);
    assert_eq!(at.inbox(), numbered(9..=10));
    at.restore();
    at.send(11..=13);
    assert_eq!(at.inbox(), numbered(11..=13));
    assert!(at.inbox().is_empty());
    // Another restore of the same backup begins another life.
    at.restore();
    at.send(14..=14);
    assert_eq!(at.inbox(), numbered(14..=14));
    at.send(15..=15);
    assert_eq!(at.inbox(), numbered(15..=15));
    assert!(at.inbox().is_empty());
    assert_eq!(at.home.run("bob", &["unread"]).out, "");
}

/// READ-9: entries that were shown before the backup and not confirmed may be shown again. None is
/// left out.
#[test]
fn restored_store_shows_unconfirmed_entries_again() {
    let mut at = Restorable::new();
    at.send(1..=8);
    assert_eq!(at.inbox(), numbered(1..=8));
    at.back_up();
    at.send(9..=10);
    assert_eq!(at.inbox(), numbered(9..=10));
    at.restore();
    at.send(11..=13);
    let shown = at.inbox();
    assert!(shown.ends_with(&numbered(11..=13)), "{shown:?}");
    assert!(at.inbox().is_empty());
}

/// READ-9, WATCH-3: a watch that stays open all the time shows all new entries after a restore.
#[test]
fn restored_store_shows_new_entries_to_watch() {
    let mut at = Restorable::new();
    let mut watch = Watch::start(&at.home, "bob", &[]);
    at.send(1..=8);
    assert_eq!(watch.texts(8), numbered(1..=8));
    at.until_noted();
    assert!(at.inbox().is_empty());
    at.back_up();
    at.send(9..=10);
    assert_eq!(watch.texts(2), numbered(9..=10));
    at.restore();
    at.send(11..=13);
    assert_eq!(watch.texts(3), numbered(11..=13));
    at.send(14..=14);
    assert_eq!(watch.texts(1), numbered(14..=14));
    // An ordinary restart, and another restore.
    assert_eq!(at.realm.stop(), Some(0));
    at.realm.start_again();
    at.send(15..=15);
    assert_eq!(watch.texts(1), numbered(15..=15));
    at.restore();
    at.send(16..=17);
    assert_eq!(watch.texts(2), numbered(16..=17));
    watch.stop();
    assert!(at.inbox().is_empty());
}

/// READ-9: a copy of a running store contains the life in which it was made, unless its operator
/// declares it as restored.
#[test]
fn restored_store_copied_while_running_shows_new_entries() {
    let mut at = Restorable::with(&["--restored"]);
    at.send(1..=8);
    assert_eq!(at.inbox(), numbered(1..=8));
    assert!(at.inbox().is_empty());
    copy_directory(&at.realm.data(), &at.backup());
    at.send(9..=10);
    assert_eq!(at.inbox(), numbered(9..=10));
    at.restore();
    at.send(11..=13);
    assert_eq!(at.inbox(), numbered(11..=13));
    assert!(at.inbox().is_empty());
}

/// READ-7: a client that was connected before the restore leaves the link on which its positions
/// are refused, and reads pages on another.
#[tokio::test]
async fn restored_store_shows_new_entries_to_connected_client() {
    /// More than one page.
    const MANY: u32 = 130;
    let mut at = Restorable::new();
    let [ann, bob] = ["ann", "bob"].map(|name| at.home.client(name, &at.realm.connect));
    let send = async |numbers: std::ops::RangeInclusive<u32>| {
        for text in numbered(numbers) {
            let sent = ann.send("bob".parse().unwrap(), text.as_bytes());
            sent.await.unwrap();
        }
    };
    let read = async || {
        let entries = bob.unread(Mailbox::Private).await.unwrap();
        for entry in &entries {
            bob.shown(entry).unwrap();
        }
        let texts = entries.into_iter().map(|one| one.entry.body);
        texts
            .map(|body| String::from_utf8(body).unwrap())
            .collect::<Vec<_>>()
    };
    send(1..=8).await;
    assert_eq!(read().await, numbered(1..=8));
    assert!(read().await.is_empty());
    at.back_up();
    send(9..=10).await;
    assert_eq!(read().await, numbered(9..=10));
    at.restore();
    send(11..=MANY).await;
    assert_eq!(read().await, numbered(11..=MANY));
    assert!(read().await.is_empty());
    send(MANY + 1..=MANY + 2).await;
    assert_eq!(read().await, numbered(MANY + 1..=MANY + 2));
}

/// READ-9: a client that was connected before the restore reports at its deadline that its realm is
/// away, also if another program of the profile has learnt of the restore. It asked again and again
/// for as long as the realm was away.
#[tokio::test]
async fn restored_store_realm_away_read_ends_at_deadline() {
    let mut at = Restorable::new();
    let deadline = Duration::from_secs(2);
    let bob = at.home.client_until(deadline, "bob", &at.realm.connect);
    at.send(1..=2);
    at.back_up();
    at.send(3..=3);
    assert_eq!(bob.unread(Mailbox::Private).await.unwrap().len(), 3);
    at.restore();
    at.inbox();
    assert_eq!(at.realm.stop(), Some(0));
    let read = bob.unread(Mailbox::Private);
    let read = tokio::time::timeout(Duration::from_mins(1), read).await;
    let read = read.expect("it comes to an end");
    assert!(
        matches!(
            read,
            Err(CallError::Unreachable { .. } | CallError::OutcomeUnknown { .. })
        ),
        "{read:?}"
    );
}

fn bytes(carried: &[Carried]) -> usize {
    carried.iter().map(|datagram| datagram.bytes.len()).sum()
}

/// HS-14: after a restart the life travels once, and then costs nothing. Nothing is shown twice.
#[tokio::test]
async fn life_after_restart_travels_once_and_shows_nothing_twice() {
    const TRIES: usize = 20;
    let mut realm = Realm::start();
    let (relay, home) = (Relay::to(realm.address), Home::new());
    let connect = realm.connect_through(relay.address);
    let ann = home.client("ann", &connect);
    let name = "ann".parse().unwrap();
    ann.register("Ann", "id", name, PASSWORD.as_bytes())
        .await
        .unwrap();
    ann.send(name, b"hello").await.unwrap();
    drop(ann);
    // Measures a command of a client without an open link. The first after registering no longer
    // learns the life.
    let measure = async || {
        let mut least = usize::MAX;
        for _ in 0..TRIES {
            relay.take_carried();
            let client = home.client("ann", &connect);
            client.whoami().await.unwrap();
            let carried = relay.take_carried();
            drop(client);
            // A busy machine retransmits what is answered late.
            if carried.len() == 2 {
                least = least.min(bytes(&carried));
                break;
            }
        }
        least
    };
    let usual = measure().await;
    assert_eq!(home.texts("ann"), ["hello"]);
    assert!(home.run("ann", &["inbox"]).out.is_empty());
    realm.kill();
    realm.start_again();
    let first = measure().await;
    assert!(
        [usual, usual + LIFE_BYTES].contains(&first),
        "{first} instead of {usual}"
    );
    assert_eq!(measure().await, usual);
    assert!(home.run("ann", &["inbox"]).out.is_empty());
}
