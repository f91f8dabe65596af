//! Tests of crowds that watch over a lossy path, with one waiting message for each watcher. They
//! measure the wait of the slowest watcher.
//!
//! ```text
//! 500 crowds, from MERPATI_FIRST on:
//!     MERPATI_SEEDS=500 cargo test --lib simulation::watchers -- --nocapture
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::{
    campaign::variable,
    machine::Machine,
    network::Weather,
    routes::{LIVE, PASSWORD, Setting},
};
use crate::{
    client::{Client, Memory},
    wire::Username,
};

/// The number of watchers in a crowd.
const CROWD: u8 = 20;
/// The number of crowds, unless a number is given.
const CROWDS: u64 = 8;
/// The slowest watcher must get its message within this time.
const PROMISED: Duration = Duration::from_secs(3);
/// That must hold for this many of 1000 crowds that know the path.
const KEPT: usize = 990;
/// The process before sends this many requests, which is enough to learn the path.
const ASKED_BEFORE: usize = 40;

const CALM: Weather = Weather {
    delay: Duration::from_millis(30),
    ..Weather::CALM
};
const LOSSY: Weather = Weather { loss: 0.3, ..CALM };

/// A watcher, with what its device stores.
struct Watcher {
    number: u8,
    memory: Memory,
}

impl Watcher {
    fn user(&self) -> Username {
        format!("user{}", self.number).parse().unwrap()
    }

    /// Starts another process on the watcher's device.
    fn process(&self, setting: &Setting) -> (Client, Machine) {
        let machine = setting.machine(&format!("watcher {}", self.number));
        let process = machine.clone();
        let memory = self.memory.of(move || process.is_dead());
        let key = [100 + self.number; 32];
        (setting.client_on(machine.clone(), key, memory), machine)
    }
}

/// Creates a realm, and a crowd with one waiting message for each watcher.
async fn crowd(seed: u64) -> (Setting, Vec<Watcher>) {
    let setting = Setting::seeded(&[LIVE], seed);
    setting.network.set_weather(CALM);
    let writer = setting.client_on(setting.machine("writer"), [9; 32], Memory::default());
    let bob = "bob".parse().unwrap();
    writer.register("B", "id", bob, PASSWORD).await.unwrap();
    let mut watchers = Vec::new();
    for number in 0..CROWD {
        let memory = Memory::default();
        let watcher = Watcher { number, memory };
        let (client, machine) = watcher.process(&setting);
        let user = watcher.user();
        client.register("W", "id", user, PASSWORD).await.unwrap();
        drop(client);
        machine.kill();
        writer.send(user, b"waiting").await.unwrap();
        watchers.push(watcher);
    }
    (setting, watchers)
}

/// Lets all watchers begin at once. Returns how long the slowest one waits for its message.
async fn slowest(setting: &Setting, watchers: &[Watcher]) -> Duration {
    let each = watchers.iter().map(|watcher| {
        let (client, machine) = watcher.process(setting);
        tokio::spawn(async move {
            let begun = Instant::now();
            let mut watching = loop {
                if let Ok(watching) = client.watch().await {
                    break watching;
                }
                machine.note(|| "asks anew".into());
            };
            assert_eq!(watching.next().await.unwrap().body, b"waiting");
            let took = begun.elapsed();
            machine.note(|| format!("has it after {took:?}"));
            machine.kill();
            took
        })
    });
    let each: Vec<_> = each.collect();
    let mut slowest = Duration::ZERO;
    for one in each {
        slowest = slowest.max(one.await.unwrap());
    }
    slowest
}

/// Returns how long the slowest watcher of a crowd waits: on the path of the watchers' last
/// processes, and in a network that is new to all of them.
async fn waits(seed: u64) -> (Duration, Duration) {
    let (setting, watchers) = crowd(seed).await;
    setting.network.set_weather(LOSSY);
    let learning = watchers.iter().map(|watcher| {
        let (client, machine) = watcher.process(&setting);
        tokio::spawn(async move {
            for _ in 0..ASKED_BEFORE {
                client.whoami().await.unwrap();
            }
            machine.kill();
        })
    });
    for one in learning.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    let known = slowest(&setting, &watchers).await;
    setting.network.move_on();
    (known, slowest(&setting, &watchers).await)
}

/// Prints how many crowds keep the promise. Returns that number of 1000.
fn report(what: &str, mut waits: Vec<Duration>) -> usize {
    waits.sort();
    let kept = waits.iter().filter(|wait| **wait <= PROMISED).count();
    let share = kept * 1000 / waits.len();
    eprintln!(
        "{what}: {kept} of {} crowds within {PROMISED:?}, median {:?}, worst {:?}",
        waits.len(),
        waits[waits.len() / 2],
        waits[waits.len() - 1],
    );
    share
}

/// LINK-25, LINK-19, LINK-16: twenty watchers that know the path get their waiting messages within
/// the promised time. If they do not know the path, there is no promise, and the time is only
/// printed.
#[tokio::test(start_paused = true)]
async fn watch_on_known_lossy_path_gets_messages_in_promised_time() {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    let first = variable("MERPATI_FIRST").unwrap_or(0);
    for seed in first..first + variable("MERPATI_SEEDS").unwrap_or(CROWDS) {
        let (with, without) = waits(seed).await;
        if with > PROMISED {
            eprintln!("seed {seed}: {with:?}");
        }
        known.push(with);
        unknown.push(without);
    }
    let share = report("path known", known);
    report("path unknown", unknown);
    assert!(share >= KEPT, "{share} of 1000");
}
