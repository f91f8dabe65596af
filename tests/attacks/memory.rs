//! Compares the memory that a realm can be made to hold with what `merpati limits` says. Small
//! limits, clients that exhaust each of them, and the memory of the process.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use merpati::{
    crypto::SecretKey,
    wire::{
        Answer, Body, CURSORS_MAX, Command, Cursors, Frame, GroupName, Mailbox, MessageId,
        Password, Position, RequestId, SessionRef, command,
    },
};
use serde_json::Value;

use crate::{
    stranger::{Intruder, OPEN, Stranger, init, key},
    support::{
        Home, Realm,
        device::{Device, Target, Told, bytes, new_key, user},
        finished, program,
    },
};

/// Small thread counts make the limits reachable. Unlimited rates slow no attacker down.
const LIMITS: &str = "[limits]\nworkers = 1\npassword_threads = 1\n\
    handshakes = \"unlimited\"\nhandshakes_per_subnet = \"unlimited\"\ncommands_per_link = \"unlimited\"\n\
    commands_per_account = \"unlimited\"\ncommands_per_subnet = \"unlimited\"\n\
    registrations_per_subnet = \"unlimited\"\nlogins_per_subnet = \"unlimited\"\njoins_per_subnet = \"unlimited\"\n";

const SESSION: SessionRef = SessionRef::Bound;

/// The allocator takes memory from the system in chunks of a megabyte and more, for each thread.
/// Held memory cannot be measured more precisely.
const PIECES: u64 = 4 << 20;

/// A realm with these limits, and the rows of `merpati limits` for it.
struct Held {
    _home: Home,
    realm: Realm,
    rows: Vec<Value>,
    /// Sends a Hello behind the datagrams of others, to learn that all of them have been handled.
    probe: Stranger,
    before: u64,
    most: u64,
}

impl Held {
    fn with(limits: &str) -> Self {
        let home = Home::new();
        let realm = home.realm_as(&format!("{LIMITS}{limits}"));
        let config = home.directory.path().join("realm.toml");
        let config = ["limits", "--json", "--config", config.to_str().unwrap()];
        let rows = finished(program().args(config)).objects();
        // The first client causes the allocations that happen once.
        home.register("first", &realm.connect);
        let before = realm.memory();
        Self {
            probe: Stranger::at(Ipv4Addr::LOCALHOST, &realm),
            _home: home,
            realm,
            rows,
            before,
            most: before,
        }
    }

    /// Records the memory before the attack.
    fn begin(&mut self) {
        self.before = self.realm.memory();
        self.most = self.before;
    }

    /// Waits until everything sent has been handled, and measures the memory.
    fn look(&mut self) {
        self.probe.answers();
        self.most = self.most.max(self.realm.memory());
    }

    /// Returns the sum of what these rows allow.
    fn allowed(&self, rows: &[&str]) -> u64 {
        let total = |what: &&str| {
            let row = self.rows.iter().find(|row| row["what"] == **what);
            row.unwrap_or_else(|| panic!("no row {what}"))["total"]
                .as_u64()
                .unwrap()
        };
        rows.iter().map(total).sum()
    }

    /// Checks that the growth is within these rows.
    fn is_within(&mut self, rows: &[&str]) -> (u64, u64) {
        self.look();
        let (grown, allowed) = (self.most - self.before, self.allowed(rows));
        println!("{rows:?}: {} KiB of {} KiB", grown >> 10, allowed >> 10);
        assert!(
            grown <= allowed + PIECES,
            "{grown} bytes are held, and {rows:?} allow {allowed}"
        );
        (grown, allowed)
    }

    /// Checks the same, and that the attack comes within a factor of four of the bound: the table
    /// is not overly pessimistic.
    fn fills(&mut self, rows: &[&str]) {
        let (grown, allowed) = self.is_within(rows);
        // The allocator's chunks count here, too.
        assert!(
            grown + PIECES / 4 >= allowed / 4,
            "only {grown} bytes are held, and {rows:?} allow {allowed}"
        );
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Returns the keys of devices that are logged in as one user.
fn devices(realm: &Realm, name: &str, count: usize) -> Vec<SecretKey> {
    let target = Target::of(realm);
    runtime().block_on(async {
        let mut keys = Vec::new();
        for n in 0..count {
            let key = new_key();
            let mut device = Device::begin(&key, Ipv4Addr::LOCALHOST, target).await;
            if n == 0 {
                device.register(name).await;
            } else {
                device.auth(name).await;
            }
            keys.push(key);
        }
        keys
    })
}

/// Returns the address with number `n`. Each 16 numbers share a subnet of their own.
fn elsewhere(n: usize) -> Ipv4Addr {
    let [.., a, b] = (n / 16 + 256).to_be_bytes();
    Ipv4Addr::new(127, a, b, 1 + u8::try_from(n % 16).unwrap())
}

/// HS-4, HS-13: handshakes that are begun and never completed, each with as many requests as fit,
/// all of which are answered.
#[test]
fn memory_of_begun_handshakes_stays_within_limits() {
    let mut held = Held::with("links = 2000\ncommands = 1\nlink_memory = \"8MiB\"");
    let realm = key(&held.realm);
    let requests: Vec<_> = (0..128)
        .map(|number| Frame::Request {
            number: RequestId(number),
            command: &[0x1a],
        })
        .collect();
    let frames = [&[OPEN][..], &requests[..], &[Frame::Padding; 100][..]].concat();
    let mut stranger = Stranger::at(Ipv4Addr::LOCALHOST, &held.realm);
    held.begin();
    for n in 0..700 {
        stranger.send(&init(&realm, &frames).1);
        if n % 10 == 0 {
            held.look();
        }
    }
    held.fills(&[
        "links that have begun",
        "answers to handshakes",
        "what links hold for them",
    ]);
}

/// HS-7, HS-13: handshakes that are begun and never completed, on a realm where early requests wait
/// until the link is validated.
#[test]
fn memory_of_requests_awaiting_validation_stays_within_limits() {
    let mut held = Held::with(
        "links = 2000\ncommands = 1\nlink_memory = \"1MiB\"\n[link]\nearly_data = false",
    );
    let realm = key(&held.realm);
    let requests: Vec<_> = (0..128)
        .map(|number| Frame::Request {
            number: RequestId(number),
            command: &[0x1a],
        })
        .collect();
    let frames = [&[OPEN][..], &requests[..], &[Frame::Padding; 100][..]].concat();
    let mut stranger = Stranger::at(Ipv4Addr::LOCALHOST, &held.realm);
    held.begin();
    for n in 0..700 {
        stranger.send(&init(&realm, &frames).1);
        if n % 10 == 0 {
            held.look();
        }
    }
    held.fills(&[
        "links that have begun",
        "answers to handshakes",
        "what links hold for them",
    ]);
}

/// LINK-23: links of devices without an account that repeat the same requests in as few packets as
/// possible.
#[test]
fn memory_of_links_repeating_requests_stays_within_limits() {
    let mut held = Held::with("links = 50\ncommands = 1\nlink_memory = \"1MiB\"");
    held.begin();
    let mut links = Vec::new();
    for n in 0..40 {
        let mut intruder = Intruder::of(&new_key(), elsewhere(n), &held.realm);
        let request = |number| Frame::Request {
            number: RequestId(number),
            command: &[],
        };
        intruder.send(&[Frame::Ping]);
        for _ in 0..64 {
            let again: Vec<_> = (0..360).map(|n| request(n % 8)).collect();
            intruder.send(&again);
        }
        held.look();
        links.push(intruder);
    }
    held.is_within(&["links", "what links hold for them"]);
}

/// LINK-23: answers that are announced, and never acknowledged.
#[test]
fn memory_of_unacknowledged_answers_stays_within_limits() {
    let mut held = Held::with("links = 100\ncommands = 1\nlink_memory = \"1MiB\"");
    let keys = devices(&held.realm, "greedy", 3);
    held.begin();
    let mut links = Vec::new();
    for n in 0..24 {
        let mut intruder = Intruder::of(&keys[n / 8], elsewhere(n), &held.realm);
        for round in 0..64 {
            let requests: Vec<_> = (0..120)
                .map(|n| Frame::Request {
                    number: RequestId(round * 120 + n),
                    command: &[0x1a],
                })
                .collect();
            let frames = [&[Frame::Ping], &requests[..]].concat();
            intruder.send(&frames);
            held.look();
        }
        links.push(intruder);
    }
    held.fills(&["links", "what links hold for them"]);
}

/// LINK-13, LINK-23: long messages whose last fragment never arrives.
#[test]
fn memory_of_incomplete_messages_stays_within_limits() {
    let mut held =
        Held::with("links = 200\ncommands = 1\nmax_message = \"64KiB\"\nlink_memory = \"1MiB\"");
    let keys = devices(&held.realm, "greedy", 13);
    held.begin();
    let mut links = Vec::new();
    for n in 0..100 {
        let mut intruder = Intruder::of(&keys[n / 8], elsewhere(n), &held.realm);
        for number in 0..2 {
            for at in 0..60 {
                intruder.send(&[Frame::Fragment {
                    message: MessageId::Request(RequestId(number)),
                    total: 65_000,
                    offset: at * 1080,
                    bytes: &[1; 1080],
                }]);
            }
        }
        held.look();
        links.push(intruder);
    }
    held.fills(&["links", "what links hold for them"]);
}

/// LINK-23: long answers that are never acknowledged.
#[test]
fn memory_of_unacknowledged_long_answers_stays_within_limits() {
    let mut held = Held::with("links = 200\ncommands = 16\nlink_memory = \"2MiB\"");
    let keys = devices(&held.realm, "greedy", 5);
    let long = [b'x'; 16 << 10];
    write(
        &held.realm,
        &keys[0],
        &[&|device| vec![device.send(user("greedy"), &long)]],
    );
    let inbox = bytes(Command::Inbox(command::Inbox { session: SESSION }));
    held.begin();
    let mut links = Vec::new();
    for n in 0..40 {
        let mut intruder = Intruder::of(&keys[n / 8], elsewhere(n), &held.realm);
        let requests: Vec<_> = (0..64)
            .map(|number| Frame::Request {
                number: RequestId(number),
                command: &inbox,
            })
            .collect();
        for _ in 0..4 {
            intruder.send(&requests);
            held.look();
        }
        links.push(intruder);
    }
    held.fills(&["links", "what links hold for them", "commands in work"]);
}

/// The requests that a device is to send.
type Batch<'a> = dyn Fn(&mut Device) -> Vec<Vec<u8>> + 'a;

/// Sends all requests of a batch at once, awaits their answers, and continues with the next batch.
fn write(realm: &Realm, key: &SecretKey, batches: &[&Batch]) {
    runtime().block_on(async {
        let mut device = Device::begin(key, Ipv4Addr::LOCALHOST, Target::of(realm)).await;
        // From this answer on the device knows which operation numbers it has used before.
        device.answer(bytes(Command::WhoAmI(command::WhoAmI { session: SESSION }))).await;
        for batch in batches {
            for some in batch(&mut device).chunks(32) {
                for request in some {
                    assert!(device.ask(request.clone()).is_some());
                }
                let mut answers = 0;
                while answers < some.len() {
                    device.step(Instant::now() + Duration::from_secs(30)).await;
                    while let Some(told) = device.told.pop_front() {
                        assert!(
                            matches!(&told, Told::Answer { bytes, .. } if !Answer::is_refusal(bytes)),
                            "{told:?}"
                        );
                        answers += 1;
                    }
                }
            }
        }
    });
}

/// LINK-23, WATCH-1: watches over many groups that acknowledge one message of each, so that more of
/// each is read, and then never acknowledge again.
#[test]
fn memory_of_watches_of_many_groups_stays_within_limits() {
    const GROUPS: usize = 120;
    let mut held =
        Held::with("links = 20\ncommands = 64\nlink_memory = \"8MiB\"\nwatch_memory = \"24MiB\"");
    let keys = devices(&held.realm, "greedy", 3);
    let group = |n: usize| -> GroupName { format!("group-{n}").parse().unwrap() };
    let send = |device: &mut Device, n, message: &[u8]| {
        bytes(Command::SendGroup(command::SendGroup {
            operation: device.operation(),
            session: SESSION,
            group: group(n),
            message: Body(message),
        }))
    };
    let add = |device: &mut Device, n| {
        bytes(Command::AddGroup(command::AddGroup {
            operation: device.operation(),
            session: SESSION,
            group: group(n),
            password: Password(b""),
        }))
    };
    let read = |n| {
        bytes(Command::InboxGroup(command::InboxGroup {
            session: SESSION,
            group: group(n),
        }))
    };
    let long = [b'x'; 16 << 10];
    write(
        &held.realm,
        &keys[0],
        &[
            &|device| (0..GROUPS).map(|n| add(device, n)).collect(),
            &|device| (0..GROUPS).map(|n| send(device, n, b"short")).collect(),
            &|device| (0..GROUPS).map(|n| send(device, n, &long)).collect(),
            // Stored messages are in memory because they were written and read, whoever watches.
            &|_| (0..GROUPS).map(read).collect(),
        ],
    );
    held.begin();
    let watch = bytes(Command::Watch(command::Watch {
        session: SESSION,
        cursors: Cursors::default(),
    }));
    let target = Target::of(&held.realm);
    runtime().block_on(async {
        let mut links = Vec::new();
        for n in 0..16 {
            let mut device = Device::begin(&keys[1 + n / 8], elsewhere(n), target).await;
            device.answer(watch.clone()).await;
            while device.pushed < GROUPS as u64 {
                device.step(Instant::now() + Duration::from_secs(30)).await;
            }
            device.takes_nothing_pushed();
            links.push(device);
            held.look();
        }
    });
    held.is_within(&[
        "links",
        "what links hold for them",
        "what watches hold",
        "commands in work",
    ]);
}

/// WATCH-1: watches that begin with as many cursors as fit a message, nearly all of which name
/// nothing.
#[test]
fn memory_of_watches_with_many_cursors_stays_within_limits() {
    let mut held =
        Held::with("links = 20\ncommands = 16\nlink_memory = \"1MiB\"\nwatch_memory = \"2MiB\"");
    let keys = devices(&held.realm, "greedy", 2);
    let cursors = Cursors(vec![(Mailbox::Private, Position(1)); CURSORS_MAX]);
    let watch = bytes(Command::Watch(command::Watch {
        session: SESSION,
        cursors,
    }));
    held.begin();
    let target = Target::of(&held.realm);
    runtime().block_on(async {
        let mut links = Vec::new();
        for n in 0..16 {
            let mut device = Device::begin(&keys[n / 8], elsewhere(n), target).await;
            assert_eq!(device.answer(watch.clone()).await, Answer::Done);
            links.push(device);
            held.look();
        }
    });
    held.is_within(&[
        "links",
        "what links hold for them",
        "what watches hold",
        "commands in work",
    ]);
}
