//! Crowds that watch over a bad path, one waiting message each: how long the slowest of them waits.
//!
//! ```text
//! MERPATI_SEEDS=500 cargo test --lib simulation::watchers -- --nocapture       500 crowds, from MERPATI_FIRST on
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

/// Who watch at once.
const CROWD: u8 = 20;
/// Crowds that are tried unless more are asked for.
const CROWDS: u64 = 8;
/// The slowest is to have its message within this,
const PROMISED: Duration = Duration::from_secs(3);
/// in so many of 1000 crowds, where the path is known.
const KEPT: usize = 990;
/// So much is asked by the process before, which is enough to know the path.
const ASKED_BEFORE: usize = 40;

const CALM: Weather = Weather {
    delay: Duration::from_millis(30),
    ..Weather::CALM
};
const LOSSY: Weather = Weather { loss: 0.3, ..CALM };

/// One of the crowd, and what its device keeps.
struct Watcher {
    number: u8,
    memory: Memory,
}

impl Watcher {
    fn user(&self) -> Username {
        format!("user{}", self.number).parse().unwrap()
    }

    /// Another process on its device.
    fn process(&self, setting: &Setting) -> (Client, Machine) {
        let machine = setting.machine(&format!("watcher {}", self.number));
        let process = machine.clone();
        let memory = self.memory.of(move || process.is_dead());
        let key = [100 + self.number; 32];
        (setting.client_on(machine.clone(), key, memory), machine)
    }
}

/// A realm, and a crowd with one waiting message each.
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

/// All begin to watch at once: how long the slowest takes to its message.
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

/// How long the slowest of a crowd waits whose last processes were on the same path, and the same in a network where nobody has been.
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

/// Says how many crowds keep what is promised, and gives it of 1000.
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

/// LINK-25, LINK-19, LINK-16: twenty watchers, each of whom knows the path, have what waits for them within the promised time. Where nobody knows the path,
/// nothing is promised, and it is only said how long it takes.
#[tokio::test(start_paused = true)]
async fn watchers_on_a_bad_path_have_what_waits_for_them() {
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
