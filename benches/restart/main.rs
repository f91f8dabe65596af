//! The cost of a restart: a real realm is killed and started again, under devices that wait for
//! messages and under devices that all send at once.
//!
//! `cargo bench --bench restart` prints the figures and the promised limits. It takes 6 minutes on
//! two cores, most of them for the passwords of 11,000 accounts. `-- --quick` uses a tenth of the
//! devices and half of the sends. `-- --only sends`, `devices` or `watches` does a part. Watches
//! are clients with profiles of their own. The devices that send use the same protocol without a
//! profile on disk. Else the load would need more of the machine than the realm.

#![allow(clippy::cast_precision_loss, reason = "figures are for reading")]

mod device;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use device::{Device, Link, Spoken};
use merpati::{
    client::Client,
    wire::{Command, Cursors, Request, SessionRef, command},
};
use support::{Home, PASSWORD, Realm, device::Target};
use tokio::task::{JoinSet, LocalSet};

/// The number of watches, and of devices that send after a restart.
const WATCHES: u16 = 1000;
const DEVICES: u16 = 10_000;
/// The number of sends of each kind that are compared, and of turns.
const SENDS: usize = 20_000;
const TURNS: usize = 10;
/// Parallel work while accounts are made and sends are compared.
const AT_ONCE: usize = 16;
/// When the realm is killed under its watches: after this silence, or as soon as they are served
/// again.
const KILLS: [Option<Duration>; 4] = [Some(QUIET), None, Some(QUIET), None];
/// After this silence all messages and their consequences are sent and stored.
const QUIET: Duration = Duration::from_secs(10);
/// A watch must be served again within this time after the realm's start.
const SERVED: Duration = Duration::from_secs(3);
/// A message that has not arrived within this time does not arrive.
const PATIENCE: Duration = Duration::from_mins(1);
/// The time for which unrequested datagrams are counted.
const UNASKED: Duration = Duration::from_secs(10);
const MESSAGE: &[u8] = b"twenty bytes of text";
const GROUP: &str = "everybody";

/// Restarts the realm as after a power cut. Other tasks continue meanwhile.
async fn restart(mut realm: Realm) -> Realm {
    let restarted = tokio::task::spawn_blocking(move || {
        realm.kill();
        realm.start_again();
        realm
    });
    restarted.await.unwrap()
}

fn row(what: &str, measured: &str, promised: &str, is_kept: bool) {
    let kept = if is_kept { "" } else { " MISSED" };
    println!("| {what} | {measured} | {promised}{kept} |");
}

/// Does the same work with each item, at most `at_once` of them at a time. Returns the results.
async fn with_each<A, T: 'static, F: Future<Output = T> + 'static>(
    all: impl IntoIterator<Item = A>,
    at_once: usize,
    work: impl Fn(A) -> F,
) -> Vec<T> {
    let (mut done, mut at_work, mut all) = (Vec::new(), JoinSet::new(), all.into_iter());
    loop {
        while at_work.len() < at_once
            && let Some(next) = all.next()
        {
            at_work.spawn_local(work(next));
        }
        match at_work.join_next().await {
            Some(one) => done.push(one.unwrap()),
            None => return done,
        }
    }
}

async fn register_all(target: Target, count: u16) -> Vec<Device> {
    let devices = (0..count).map(Device::new);
    let register = |mut device: Device| async move {
        device.register(target).await;
        device
    };
    with_each(devices, AT_ONCE, register).await
}

/// Starts a realm without limits on one machine. The limit on all handshakes without a cookie is
/// the default. Without it, handshakes that begin at once crowd each other out, and each is made
/// many times.
fn realm(home: &Home) -> Realm {
    let limits = [
        "handshakes_per_subnet",
        "commands_per_link",
        "commands_per_account",
        "commands_per_subnet",
        "registrations_per_subnet",
        "joins_per_subnet",
    ]
    .map(|limit| format!("{limit} = \"unlimited\"\n"))
    .concat();
    home.realm_as(&format!("[limits]\npassword_threads = 2\n{limits}"))
}

/// Measures watches of clients with profiles: the share that is served in time after each kill.
async fn watches(mut realm: Realm, home: &Home, count: usize) -> Realm {
    let connect = realm.connect.clone();
    let group = GROUP.parse().unwrap();
    let writer = Arc::new(home.client("writer", &connect));
    let password = PASSWORD.as_bytes();
    let name = "writer".parse().unwrap();
    writer.register("W", "id", name, password).await.unwrap();
    writer.addgroup(group, b"").await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel::<(String, Instant)>();
    let join = |n| {
        let client = home.client(&format!("watcher{n}"), &connect);
        let tell = tell.clone();
        async move {
            let name = format!("watcher{n}").parse().unwrap();
            client.register("W", "id", name, password).await.unwrap();
            client.joingroup(group, b"").await.unwrap();
            tokio::task::spawn_local(watch(client, tell));
        }
    };
    with_each(0..count, AT_ONCE, join).await;
    // All clients watch once they have all received a message.
    writer.sendgroup(group, b"0".as_slice()).await.unwrap();
    served(&mut told, "0", count, Instant::now() + PATIENCE).await;
    for (kill, silence) in (1..).zip(KILLS) {
        tokio::time::sleep(silence.unwrap_or_default()).await;
        realm = restart(realm).await;
        let started = Instant::now();
        let text = kill.to_string();
        let (writer, message) = (Arc::clone(&writer), text.clone());
        tokio::task::spawn_local(async move {
            writer.sendgroup(group, message.as_bytes()).await.unwrap();
        });
        let at = served(&mut told, &text, count, started + PATIENCE).await;
        let mut took: Vec<Duration> = at.iter().map(|at| *at - started).collect();
        took.sort_unstable();
        let in_time = took.iter().filter(|took| **took <= SERVED).count();
        let share = in_time as f64 * 100.0 / count as f64;
        row(
            &format!(
                "{count} watches, killed {}: shown a message from after the start within 3 s of it",
                silence.map_or("again at once", |_| "in silence")
            ),
            &format!(
                "{share:.1} %; half in {:.2?}, the last in {:.2?}, {} never",
                took.get(took.len() / 2).copied().unwrap_or_default(),
                took.last().copied().unwrap_or_default(),
                count - took.len()
            ),
            "≥ 99 %",
            share >= 99.0,
        );
    }
    realm
}

async fn watch(client: Client, tell: tokio::sync::mpsc::UnboundedSender<(String, Instant)>) {
    let mut watching = client.watch().await.unwrap();
    while let Ok(message) = watching.next().await {
        let text = String::from_utf8(message.body.clone()).unwrap();
        let _ = tell.send((text, Instant::now()));
        client.shown(&message).unwrap();
    }
}

/// Returns the times at which watches received a message, up to `until`.
async fn served(
    told: &mut tokio::sync::mpsc::UnboundedReceiver<(String, Instant)>,
    text: &str,
    count: usize,
    until: Instant,
) -> Vec<Instant> {
    let mut times = Vec::new();
    while times.len() < count {
        match tokio::time::timeout_at(until.into(), told.recv()).await {
            Ok(Some((of, at))) if of == text => times.push(at),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    times
}

/// Measures devices that watch and then stay silent: the datagrams that the realm sends each of
/// them after its start.
async fn unasked(realm: Realm, devices: Vec<Device>) -> (Realm, Vec<Device>) {
    let target = Target::of(&realm);
    let count = devices.len();
    let watching = with_each(devices, AT_ONCE, |mut device: Device| async move {
        let mut link = device.begin(target, true).await;
        link.keep_alive();
        let watch = Command::Watch(command::Watch {
            session: SessionRef::Bound,
            cursors: Cursors::default(),
        });
        let whoami = Command::WhoAmI(command::WhoAmI {
            session: SessionRef::Bound,
        });
        // The second command proves the link. The third comes after everything that the proof
        // causes.
        for command in [watch, whoami.clone(), whoami] {
            let request = Request::from(command).to_bytes();
            device.answer(&mut link, request, false).await;
        }
        (device, link)
    });
    let (devices, links): (Vec<_>, Vec<_>) = watching.await.into_iter().unzip();
    tokio::time::sleep(QUIET).await;
    for link in &links {
        link.take_waiting();
    }
    let realm = restart(realm).await;
    tokio::time::sleep(UNASKED).await;
    let mut came: Vec<usize> = links.iter().map(Link::take_waiting).collect();
    came.sort_unstable();
    let most = came.last().copied().unwrap_or_default();
    let none = came.iter().filter(|came| **came == 0).count();
    row(
        &format!("datagrams that each of {count} watches gets unasked in the 10 s after the start"),
        &format!("at most {most}; {none} get none"),
        "≤ 1",
        most <= 1,
    );
    (realm, devices)
}

/// Measures devices that all send right after a start: the realm's processor time, and the longest
/// wait.
async fn all_speak(realm: Realm, devices: Vec<Device>, resumes: bool) -> (Realm, Vec<Device>, f64) {
    let realm = restart(realm).await;
    let (target, count) = (Target::of(&realm), devices.len());
    let before = realm.processor_time();
    let speaking = with_each(devices, usize::MAX, |mut device: Device| async move {
        let told = device.speak(target, resumes).await;
        (device, told)
    });
    let (devices, spoken): (Vec<_>, Vec<_>) = speaking.await.into_iter().unzip();
    let used = realm.processor_time().saturating_sub(before);
    let longest = spoken.iter().map(|one| one.took).max().unwrap_or_default();
    let count_of = |is: fn(&&Spoken) -> bool| spoken.iter().filter(is).count();
    let resumed = count_of(|one| one.is_resumed);
    let ended = count_of(|one| one.ended > 0);
    let unanswered = count_of(|one| !one.is_stored);
    let each = used.as_secs_f64() * 1e6 / count as f64;
    let how = if resumes {
        "with resumption"
    } else {
        "without"
    };
    let promised = if resumes { "≤ 10 s" } else { "" };
    row(
        &format!("{count} devices speak right after the start, {how}: longest wait"),
        &format!(
            "{longest:.2?}; {each:.0} µs of the realm's processor each; {resumed} resumed, the links of {ended} ended meanwhile, {unanswered} without an answer"
        ),
        promised,
        !resumes || longest <= Duration::from_secs(10) && unanswered == 0,
    );
    (realm, devices, each)
}

/// Sends a message of each device, all at the same moment: over its open link, or over a resumed
/// one. In both cases the same number of messages shares a sync of the realm's disk, which costs
/// more than most other work.
async fn burst(target: Target, devices: Vec<(Device, Option<Link>)>) -> Vec<(Device, Link)> {
    let mut ready = Vec::new();
    for (mut device, link) in devices {
        let mut link = match link {
            Some(link) => link,
            None => device.begin(target, true).await,
        };
        let asked = device.prepare(&mut link);
        ready.push((device, link, asked));
    }
    for (_, link, _) in &mut ready {
        link.release();
    }
    let finish = |(mut device, mut link, asked): (Device, Link, _)| async move {
        device.finish(&mut link, asked).await;
        (device, link)
    };
    with_each(ready, AT_ONCE, finish).await
}

/// Measures the realm's processor time for sends by resumption, and for sends on open links.
async fn sends(realm: &Realm, mut devices: Vec<Device>, count: usize) -> Vec<Device> {
    let target = Target::of(realm);
    let (mut resumed, mut open) = (Duration::ZERO, Duration::ZERO);
    let each = count / TURNS / AT_ONCE;
    for _ in 0..TURNS {
        let talkers = devices.split_off(devices.len() - AT_ONCE);
        let talkers = talkers.into_iter().map(|device| (device, None));
        let mut talkers = burst(target, talkers.collect()).await;
        let before = realm.processor_time();
        for _ in 0..each {
            let talking = talkers
                .into_iter()
                .map(|(device, link)| (device, Some(link)));
            talkers = burst(target, talking.collect()).await;
        }
        open += realm.processor_time().saturating_sub(before);
        let before = realm.processor_time();
        for _ in 0..each {
            let some = devices.split_off(devices.len() - AT_ONCE);
            let some = some.into_iter().map(|device| (device, None));
            let come_back = burst(target, some.collect()).await;
            assert!(come_back.iter().all(|(_, link)| link.is_resumed));
            devices.splice(0..0, come_back.into_iter().map(|(device, _)| device));
        }
        resumed += realm.processor_time().saturating_sub(before);
        devices.splice(0..0, talkers.into_iter().map(|(device, _)| device));
    }
    let micros = |used: Duration| used.as_secs_f64() * 1e6 / (each * AT_ONCE * TURNS) as f64;
    let ratio = resumed.as_secs_f64() / open.as_secs_f64();
    row(
        "the realm's processor for a resumed send, against one on an open link",
        &format!(
            "{:.1} µs against {:.1} µs: {ratio:.2} ×",
            micros(resumed),
            micros(open)
        ),
        "≤ 1.5 ×",
        ratio <= 1.5,
    );
    devices
}

async fn measure(part: u16, only: Option<&str>) {
    let is_wanted = |name| only.is_none_or(|only| only == name);
    let home = Home::new();
    let mut realm = realm(&home);
    let mut devices = register_all(Target::of(&realm), DEVICES / part).await;
    println!("| what | measured | promised |");
    println!("| --- | --- | --- |");
    if is_wanted("sends") {
        devices = sends(&realm, devices, SENDS / usize::from(part.min(2))).await;
    }
    if is_wanted("devices") {
        let (with, without);
        (realm, devices, with) = all_speak(realm, devices, true).await;
        (realm, devices, without) = all_speak(realm, devices, false).await;
        row(
            "the realm's processor for them, with resumption against without",
            &format!("{:.2}", with / without),
            "≤ 0.20",
            with / without <= 0.2,
        );
    }
    if is_wanted("watches") {
        let count = usize::from(WATCHES / part);
        devices.truncate(count);
        (realm, _) = unasked(realm, devices).await;
        watches(realm, &home, count).await;
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let only = arguments.iter().skip_while(|one| *one != "--only").nth(1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let measuring = measure(if is_quick { 10 } else { 1 }, only.map(String::as_str));
    LocalSet::new().block_on(&runtime, measuring);
}
