//! Attacks of strangers on a realm: a real one, in a process of its own, under floods; and the
//! amplification of their datagrams.
//!
//! `cargo bench --bench strangers` prints a table with the measured figures and their limits. It
//! takes some minutes and needs the machine for itself. `-- --quick` does a hundredth of it, to
//! check that it works. `-- --only handshakes`, or `amplification`, `junk`, `logins` or `names`,
//! prints one row.
//!
//! It also measures insiders: honest users beside one greedy party after another (`insiders.rs`,
//! `greedy.rs`). `-- --only insiders`, or the name of a party, measures only these. The benchmark
//! fails if a message of the honest users is not stored. It never fails because one took long.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are for reading"
)]

mod amplification;
mod flood;
mod greedy;
mod insiders;
mod logins;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use flood::{Flood, junk, spoofed};
use greedy::PARTIES;
use insiders::Length;
use logins::{Samples, What, commands, guesses, logins};
use support::{Home, Realm};

/// Spoofed handshakes and junk datagrams, a second.
const HANDSHAKES_A_SECOND: u64 = 20_000;
const JUNK_A_SECOND: u64 = 100_000;

fn row(what: &str, measured: &str, wanted: &str) {
    println!("| {what} | {measured} | {wanted} |");
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Starts a realm without limits on logins, and with a high limit on handshakes from one machine.
/// Else most of the load would be refused.
fn realm(home: &Home) -> Realm {
    home.realm_as(
        "[limits]\nhandshakes_per_subnet = \"100/s\"\nlogins_per_subnet = \"unlimited\"\nregistrations_per_subnet = \"unlimited\"\n\
         commands_per_link = \"unlimited\"\ncommands_per_account = \"unlimited\"\n\
         commands_per_subnet = \"unlimited\"",
    )
}

fn ratio(under: &Samples, idle: &Samples) -> String {
    let (under, idle) = (under.quantile(0.99), idle.quantile(0.99));
    let times = under.as_secs_f64() / idle.as_secs_f64();
    format!("{idle:.1?} → {under:.1?}, {times:.2} ×")
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let part = if arguments.iter().any(|one| one == "--quick") {
        100
    } else {
        1
    };
    let only = arguments.iter().skip_while(|one| *one != "--only").nth(1);
    let is_wanted = |name| only.is_none_or(|only| only == name);
    println!("| what strangers do | measured | must hold |");
    println!("| --- | --- | --- |");
    if is_wanted("amplification") {
        amplification::measure(10_000_000 / part);
    }
    if is_wanted("handshakes") {
        spoofed_handshakes(1_000_000 / part);
    }
    if is_wanted("junk") {
        junk_datagrams(Duration::from_secs(30) / part as u32);
    }
    if is_wanted("logins") {
        login_flood(2000 / part as usize);
    }
    if is_wanted("names") {
        user_names(40 / (part as usize).min(10));
    }
    let length = if part == 1 {
        Length::FULL
    } else {
        Length::QUICK
    };
    let mut is_well = true;
    for party in PARTIES {
        if is_wanted("insiders") || only.is_some_and(|only| only == party.name) {
            is_well &= insiders::measure(party, length);
        }
    }
    if !is_well {
        std::process::exit(1);
    }
}

fn spoofed_handshakes(count: u64) {
    let home = Home::new();
    let realm = realm(&home);
    home.register("ann", &realm.connect);
    let wanted = (count / 2000).max(10) as usize;
    logins(&home, &realm, 3, "first");
    let empty = realm.memory();
    let idle = logins(&home, &realm, wanted, "idle");
    // The memory that logins take by themselves is not counted for the flood.
    let each = realm.memory().saturating_sub(empty) / wanted as u64;
    let before = realm.memory();
    let flood = Flood::start(&realm, HANDSHAKES_A_SECOND, count, spoofed(&realm));
    let mut under = Samples::default();
    let (busy, began) = (realm.processor_time(), Instant::now());
    let mut most = before;
    let mut round = 0;
    while !flood.is_over() {
        round += 1;
        under.extend(logins(&home, &realm, 5, &format!("flood{round}")));
        most = most.max(realm.memory());
    }
    let busy =
        realm.processor_time().saturating_sub(busy).as_secs_f64() / began.elapsed().as_secs_f64();
    let sent = flood.end();
    row(
        &format!("{sent} spoofed handshakes, {HANDSHAKES_A_SECOND} a second"),
        &format!(
            "{:+.1} MiB; a login's p99 {} ({} logins); {:.0} % of a processor",
            mib(most) - mib(before) - mib(each * under.len() as u64),
            ratio(&under, &idle),
            under.len(),
            100.0 * busy
        ),
        "≤ 4 MiB; ≤ 2 ×",
    );
}

fn junk_datagrams(span: Duration) {
    let home = Home::new();
    let realm = realm(&home);
    home.register("ann", &realm.connect);
    commands(
        &home,
        &realm,
        Duration::from_secs(1),
        Duration::from_secs(1),
        What::Ask,
    );
    let before = realm.memory();
    let flood = Flood::start(&realm, JUNK_A_SECOND, u64::MAX, junk(&realm));
    // A command counts as served if it is answered within the time that a user would wait.
    let served = commands(&home, &realm, span, Duration::from_secs(1), What::Ask);
    let most = realm.memory();
    let rate = flood.end() as f64 / span.as_secs_f64();
    row(
        &format!("junk, {rate:.0} datagrams a second"),
        &format!(
            "{:.2} % of {} commands served in a second; {:+.1} MiB",
            100.0 * served.within(Duration::from_secs(1)),
            served.len(),
            mib(most) - mib(before)
        ),
        "≥ 95 %; flat",
    );
}

fn login_flood(count: usize) {
    let home = Home::new();
    let realm = realm(&home);
    home.register("ann", &realm.connect);
    let span = Duration::from_millis(10 * count as u64).max(Duration::from_secs(1));
    let idle = commands(&home, &realm, span, Duration::from_mins(1), What::Write);
    let before = realm.memory();
    let (under, most) = guesses(&home, &realm, count);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    row(
        &format!("{count} logins with wrong passwords, 64 at once"),
        &format!(
            "{:+.1} MiB; a command's p99 {} ({} commands)",
            mib(most) - mib(before),
            ratio(&under, &idle),
            under.len()
        ),
        &format!("≤ {cores} × 19 + 8 MiB; ≤ 2 ×"),
    );
}

fn user_names(users: usize) {
    let home = Home::new();
    let realm = realm(&home);
    let (known, unknown) = logins::wrong_passwords(&home, &realm, users);
    let medians = (known.quantile(0.5), unknown.quantile(0.5));
    row(
        "a wrong password for a user there is, and for one there is not",
        &format!(
            "{:.2?} and {:.2?}, {:.3} × (medians of {}; the middle half of the first is {:.2?} wide)",
            medians.0,
            medians.1,
            medians.1.as_secs_f64() / medians.0.as_secs_f64(),
            known.len(),
            known.quantile(0.75).saturating_sub(known.quantile(0.25)),
        ),
        "the same",
    );
}
