//! Crash campaign: a realm that is killed repeatedly under load loses nothing that it acknowledged,
//! duplicates nothing, and keeps each sender's order (EXACT-2).
//!
//! `MERPATI_KILLS=200 cargo test --release --test crash -- --nocapture` runs a longer campaign.

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
};

use merpati::client::Client;
use rand::{RngExt as _, SeedableRng, rngs::ChaCha20Rng};
use support::{Home, PASSWORD, Realm};

const SENDERS: usize = 4;
/// Messages between two kills.
const MESSAGES: u64 = 100;

#[test]
fn recovery_realm_killed_under_load_loses_and_doubles_nothing() {
    let kills: u64 = std::env::var("MERPATI_KILLS").map_or(25, |n| n.parse().unwrap());
    let seed: u64 =
        std::env::var("MERPATI_SEED").map_or_else(|_| rand::random(), |n| n.parse().unwrap());
    println!("MERPATI_SEED={seed}");
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut realm = Realm::start();
    let (home, connect) = (Home::new(), realm.connect.clone());
    home.register("reader", &connect);
    let stored = Arc::new(AtomicU64::new(0));
    let (tell, progress) = channel();
    let all = kills * MESSAGES;
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let client = home.client(&format!("sender{sender}"), &connect);
            let (stored, tell) = (Arc::clone(&stored), tell.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime
                    .unwrap()
                    .block_on(send_all(&client, sender, all, &stored, &tell))
            })
        })
        .collect();
    for kill in 0..kills {
        // The kill comes at a random moment among the next hundred messages, whatever is in flight
        // then.
        let at = kill * MESSAGES + rng.random_range(1..MESSAGES);
        while stored.load(Ordering::Relaxed) < at {
            progress.recv().unwrap();
        }
        realm.kill();
        realm.start_again();
    }
    let sent: u64 = senders
        .into_iter()
        .map(|sender| sender.join().unwrap())
        .sum();
    let texts = home.texts("reader");
    let mut next = BTreeMap::<&str, u64>::new();
    for text in &texts {
        let (sender, number) = text.split_once(' ').unwrap();
        let expected = next.entry(sender).or_default();
        assert_eq!(
            number.parse(),
            Ok(*expected),
            "of sender {sender}, with seed {seed}"
        );
        *expected += 1;
    }
    assert_eq!(texts.len() as u64, sent);
    println!("{kills} kills, {sent} messages stored, none lost, none doubled, all in order");
}

/// Sends one message after another until all senders together have sent enough.
async fn send_all(
    client: &Client,
    sender: usize,
    all: u64,
    stored: &AtomicU64,
    tell: &Sender<()>,
) -> u64 {
    let name = format!("sender{sender}").parse().unwrap();
    client
        .register("S", "id", name, PASSWORD.as_bytes())
        .await
        .unwrap();
    let mut number = 0;
    while stored.load(Ordering::Relaxed) < all {
        let text = format!("{sender} {number}");
        client
            .send("reader".parse().unwrap(), text.as_bytes())
            .await
            .unwrap();
        stored.fetch_add(1, Ordering::Relaxed);
        let _ = tell.send(());
        number += 1;
    }
    number
}
