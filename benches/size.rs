//! The size and speed of a realm: the memory of idle links, the start, the restart, and the size of
//! a light client.
//!
//! `cargo bench --bench size` prints a table with the measured figures and their limits. It takes
//! some minutes. `-- --quick` does a hundredth of it, to check that it works. `-- --only tables`,
//! `start`, `restart` or `light` prints one row.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "figures are for reading"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fs,
    net::SocketAddr,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use merpati::{
    client::system_rng,
    crypto::{PublicKey, SecretKey},
    endpoint::{AccountId, Config, EarlyData, Endpoint, Event, Handshakes},
    link::Time,
    wire::{Command, OperationNumber, Protection, Request, SessionRef, command},
};
use support::{Home, Realm, finished, program};

/// The allocator of the program. It returns free memory to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Links in tables, without sockets.
const IN_TABLES: usize = 1_000_000;
/// Messages in the store of a realm that is restarted.
const MESSAGES: usize = 1_000_000;
/// After this time all links are dormant. Idle links become dormant after 3 minutes plus the
/// timer's granularity. If an answer took so long that the client was told to wait for it, its link
/// stays awake as long as the answer is sent to a device that is silent.
const UNTIL_REST: Duration = Duration::from_mins(7);
/// The number of starts; the median counts.
const STARTS: usize = 11;

fn row(what: &str, measured: &str, wanted: &str) {
    println!("| {what} | {measured} | {wanted} |");
}

fn command() -> Vec<u8> {
    let session = SessionRef::Bound;
    Request::from(Command::WhoAmI(command::WhoAmI { session })).to_bytes()
}

fn device() -> SecretKey {
    SecretKey::generate(&mut system_rng().unwrap())
}

/// Returns the memory of this process, in bytes.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}

/// Carries the datagrams of both sides until there are none, and lets the server answer all
/// requests.
fn settle(now: Time, from: SocketAddr, client: &mut Endpoint, server: &mut Endpoint, user: u64) {
    let realm = SocketAddr::from(([10, 0, 0, 1], 6377));
    let mut out = Vec::new();
    loop {
        let mut is_quiet = true;
        while client.poll_transmit(now, &mut out).is_some() {
            server.handle_datagram(now, from, &out);
            is_quiet = false;
        }
        while let Some(event) = server.poll_event() {
            match event {
                Event::Incoming { link, .. } => {
                    server.welcome(now, link, Some(AccountId::new(user)), OperationNumber(0));
                }
                Event::Request { link, number, .. } => server.reply(now, link, number, vec![0; 8]),
                _ => {}
            }
        }
        while server.poll_transmit(now, &mut out).is_some() {
            client.handle_datagram(now, realm, &out);
            is_quiet = false;
        }
        if is_quiet {
            return;
        }
    }
}

/// Returns an endpoint and its key.
fn endpoint() -> (Endpoint, PublicKey) {
    let key = device();
    let unlimited = Handshakes {
        all: "unlimited".parse().unwrap(),
        per_subnet: "unlimited".parse().unwrap(),
    };
    let config = Config {
        accept: Some(Protection::Sealed),
        handshakes: unlimited,
        ..Config::default()
    };
    let public = key.public();
    (Endpoint::new(config, &key.into(), [1; 32]), public)
}

/// Opens `count` more links, each of a device and a user of its own at an address of its own.
fn open_in(server: &mut Endpoint, key: PublicKey, begin: Time, count: usize) {
    let all = server.links() + count;
    for n in server.links()..all {
        let now = begin + Duration::from_micros(n as u64);
        let [_, a, b, c] = (n as u32).to_be_bytes();
        let from = SocketAddr::from(([11, a, b, c], 1000));
        let mut client = Endpoint::new(Config::default(), &device().into(), [2; 32]);
        let realm = SocketAddr::from(([10, 0, 0, 1], 6377));
        let link = client.connect(now, realm, key, None);
        let deadline = now + Duration::from_mins(1);
        client.request(now, link, command(), deadline, EarlyData::Forbidden);
        settle(now, from, &mut client, server, n as u64);
    }
    assert_eq!(server.links(), all);
}

/// Lets time pass until `until`. Datagrams are dropped.
fn pass(endpoint: &mut Endpoint, until: Time) {
    let mut out = Vec::new();
    while let Some(due) = endpoint.poll_timeout().filter(|due| *due <= until) {
        endpoint.handle_timeout(due);
        while endpoint.poll_transmit(due, &mut out).is_some() {}
        while endpoint.poll_event().is_some() {}
    }
}

/// Measures the memory of each idle link, without sockets. Each processor has one table, which a
/// thread of its own fills and keeps, as a worker does.
fn tables(count: usize) {
    let before = memory();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let count = count / threads * threads;
    let each = || memory().saturating_sub(before) / count as u64;
    let begin = Time(1_000_000);
    let later = begin + Duration::from_micros(count as u64) + UNTIL_REST;
    // All threads wait for one another before and after each measurement.
    let look = Barrier::new(threads + 1);
    let [mut busy, mut idle] = [0; 2];
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let (mut table, key) = endpoint();
                open_in(&mut table, key, begin, count / threads);
                look.wait();
                look.wait();
                pass(&mut table, later);
                // Further links are opened. After a second the allocator returns free memory on the
                // way.
                thread::sleep(Duration::from_secs(2));
                open_in(&mut table, key, later, count / threads / 100);
                look.wait();
                look.wait();
            });
        }
        for seen in [&mut busy, &mut idle] {
            look.wait();
            *seen = each();
            look.wait();
        }
    });
    row(
        &format!("an idle link of {count}"),
        &format!("{idle} bytes (just opened: {busy})"),
        "≤ 1024",
    );
}

/// Measures the program of a device: `examples/light.rs`, in the smallest build.
fn light() {
    let arguments =
        "build --quiet --profile light --no-default-features --features client --example light";
    let cargo = env!("CARGO");
    let built = std::process::Command::new(cargo)
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(built.success());
    let program = std::env::current_exe().unwrap();
    // The program is target/release/deps/size-…
    let target = program.ancestors().nth(3).unwrap();
    let bytes = fs::metadata(target.join("light/examples/light"))
        .unwrap()
        .len();
    row(
        "a light client",
        &format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20)),
        "≤ 1 MiB",
    );
}

/// Measures starts with an empty store.
fn start(times: usize) {
    let mut took: Vec<Duration> = (0..times)
        .map(|_| {
            let begun = Instant::now();
            let realm = Realm::start();
            let took = begun.elapsed();
            drop(realm);
            took
        })
        .collect();
    took.sort_unstable();
    let middle = took.get(times / 2).copied().unwrap_or_default();
    let worst = took.last().copied().unwrap_or_default();
    row(
        "a start in an empty directory",
        &format!("{middle:.1?} (the slowest of {times}: {worst:.1?})"),
        "≤ 50 ms",
    );
}

/// Measures the restart of a realm with `count` messages after it was killed.
fn restart(count: usize) {
    let home = Home::new();
    let mut realm = home.realm_as(
        "[limits]\nhandshakes = \"unlimited\"\nhandshakes_per_subnet = \"unlimited\"\n\
         registrations_per_subnet = \"unlimited\"\nlogins_per_subnet = \"unlimited\"\n\
         commands_per_link = \"unlimited\"\ncommands_per_account = \"unlimited\"\n\
         commands_per_subnet = \"unlimited\"",
    );
    let count_text = count.to_string();
    let load = ["bench", "--json", "--connections", "64", "--in-flight", "8"];
    let bounds = ["--time", "1h", "--count", &count_text, &realm.connect];
    let run = finished(program().args(load).args(bounds));
    assert_eq!(run.code, Some(0), "{run:?}");
    realm.kill();
    let begun = Instant::now();
    realm.start_again();
    let took = begun.elapsed();
    row(
        &format!("a start after kill -9, with {count} messages"),
        &format!("{took:.1?}"),
        "≤ 1 s",
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let is_quick = arguments.iter().any(|one| one == "--quick");
    let part = if is_quick { 100 } else { 1 };
    let only = arguments.iter().skip_while(|one| *one != "--only").nth(1);
    let is_wanted = |name| only.is_none_or(|only| only == name);
    println!("| what | measured | must hold |");
    println!("| --- | --- | --- |");
    if is_wanted("start") {
        start(STARTS);
    }
    if is_wanted("restart") {
        restart(MESSAGES / part);
    }
    if is_wanted("light") {
        light();
    }
    if is_wanted("tables") {
        tables(IN_TABLES / part);
    }
}
