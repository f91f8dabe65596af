//! Crash campaign with two realms that send to each other under load, are killed repeatedly, and
//! move to other addresses: no accepted message is lost, none is duplicated, and each sender's
//! order is kept (PEER-2, PEER-4, PEER-5).
//!
//! `MERPATI_MESSAGES=10000 cargo test --release --test crash_realms -- --nocapture` runs a longer
//! campaign.

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use merpati::{client::Client, wire::Username};
use rand::{RngExt as _, SeedableRng, rngs::ChaCha20Rng};
use support::{Home, PASSWORD, Realm, relay::Relay};

/// Senders in each realm.
const SENDERS: u64 = 8;
/// Average number of messages of one realm between two kills.
const MESSAGES_PER_KILL: u64 = 100;
/// On average, one of this many kills begins a move.
const KILLS_PER_MOVE: u32 = 3;
/// Maximum number of moves of a realm. A new address is tried four times at once, and then once an
/// hour (PEER-23).
const MOVES_MAX: u32 = 3;

#[test]
fn delivery_realms_killed_under_load_lose_and_double_nothing() {
    let variable = |name: &str| std::env::var(name).ok().map(|n| n.parse().unwrap());
    let all: u64 = variable("MERPATI_MESSAGES").unwrap_or(600);
    let seed: u64 = variable("MERPATI_SEED").unwrap_or_else(rand::random);
    println!("MERPATI_SEED={seed}");
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let home = Home::new();
    let mut realms = [home.realm("alpha", "open"), home.realm("beta", "open")];
    // Users know their realm's address. Here a relay knows it for them.
    let relays = [0, 1].map(|which| Relay::to(realms[which].address));
    let through = [0, 1].map(|which| realms[which].connect_through(relays[which].address));
    for (connect, reader) in through.iter().zip(["ann", "bob"]) {
        home.register(reader, connect);
    }
    for (realm, operator) in realms.iter().zip(["ann", "bob"]) {
        let code = realm.data().join("operator-code");
        let claim = ["claim", "--password-file", code.to_str().unwrap()];
        home.run(operator, &claim).ok();
    }
    let (_, key) = realms[1].connect.split_once('#').unwrap();
    let port = realms[1].address.port().to_string();
    let add = ["addrealm", "beta", "127.0.0.1", &port, "--key", key];
    home.run("ann", &add).ok();
    let accepted = Arc::new(AtomicU64::new(0));
    let senders: Vec<_> = (0..2 * SENDERS)
        .map(|sender| {
            let from = usize::from(sender >= SENDERS);
            let client = home.client(&format!("sender{sender}"), &through[from]);
            let to = [("beta", "bob"), ("alpha", "ann")][from];
            let accepted = Arc::clone(&accepted);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let sending = send_all(&client, sender, to, all / SENDERS, &accepted);
                runtime.unwrap().block_on(sending);
            })
        })
        .collect();
    let (mut kills, mut moves) = (0, [0; 2]);
    while accepted.load(Ordering::Relaxed) < 2 * all / SENDERS * SENDERS {
        let next = accepted.load(Ordering::Relaxed) + rng.random_range(1..2 * MESSAGES_PER_KILL);
        while accepted.load(Ordering::Relaxed) < next.min(2 * all / SENDERS * SENDERS) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let which: usize = rng.random_range(0..2);
        // Realms that both move before either has told the other find each other by an operator or
        // a name only, so a move waits until both know each other's address.
        let moves_now = moves[which] < MOVES_MAX
            && rng.random_ratio(1, KILLS_PER_MOVE)
            && are_known(&home, &realms);
        let victim = &mut realms[which];
        victim.kill();
        if moves_now {
            victim.start_elsewhere();
            relays[which].point_at(victim.address);
            moves[which] += 1;
        } else {
            victim.start_again();
        }
        kills += 1;
    }
    for sender in senders {
        sender.join().unwrap();
    }
    let each = usize::try_from(all / SENDERS * SENDERS).unwrap();
    for (reader, first) in [("ann", SENDERS), ("bob", 0)] {
        let texts = all_texts(&home, reader, each);
        let mut next = BTreeMap::<u64, u64>::new();
        for text in &texts {
            let (sender, number) = text.split_once(' ').unwrap();
            let sender: u64 = sender.parse().unwrap();
            assert!((first..first + SENDERS).contains(&sender));
            let expected = next.entry(sender).or_default();
            assert_eq!(
                number.parse(),
                Ok(*expected),
                "of sender {sender}, with seed {seed}"
            );
            *expected += 1;
        }
        assert_eq!(texts.len(), each, "for {reader}, with seed {seed}");
    }
    let moves: u32 = moves.iter().sum();
    println!(
        "{kills} kills, {moves} of them moves, {each} messages each way, none lost, none doubled, all in order"
    );
}

/// True if each realm knows the other's address.
fn are_known(home: &Home, realms: &[Realm; 2]) -> bool {
    [("ann", &realms[1]), ("bob", &realms[0])]
        .iter()
        .all(|(operator, other)| {
            let peers = home.run(operator, &["realms"]).objects();
            peers[0]["address"] == other.address.to_string()
        })
}

/// Returns the reader's messages as soon as there are `wanted` of them.
fn all_texts(home: &Home, reader: &str, wanted: usize) -> Vec<String> {
    let began = Instant::now();
    loop {
        let texts = home.texts(reader);
        if texts.len() >= wanted || began.elapsed() > Duration::from_mins(2) {
            return texts;
        }
    }
}

/// Sends messages to a user of the other realm, one after another.
async fn send_all(
    client: &Client,
    sender: u64,
    (realm, user): (&str, &str),
    count: u64,
    accepted: &AtomicU64,
) {
    let name: Username = format!("sender{sender}").parse().unwrap();
    client
        .register("S", "id", name, PASSWORD.as_bytes())
        .await
        .unwrap();
    for number in 0..count {
        let text = format!("{sender} {number}");
        client
            .sendrealm(
                None,
                realm.parse().unwrap(),
                name,
                user.parse().unwrap(),
                text.as_bytes(),
            )
            .await
            .unwrap();
        accepted.fetch_add(1, Ordering::Relaxed);
    }
}
