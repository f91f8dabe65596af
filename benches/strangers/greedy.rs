//! Greedy parties. Each prepares itself, and then does as much as it may.

use std::{
    future::Future,
    net::Ipv4Addr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use merpati::{
    client::system_rng,
    crypto::SecretKey,
    wire::{
        Answer, Command, Cursors, GroupName, Mailbox, Operation, OperationNumber, PacketNumber,
        Password, PeerRequest, Position, Protection, SessionRef, Text, command, link_header, peer,
    },
};
use rand::Rng as _;
use tokio::net::UdpSocket;

use crate::{
    insiders::Control,
    logins::join_all,
    support::device::{Device, Told, bytes, new_key, socket, user},
};

/// The address of a party. It differs from that of the honest users.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 7);
/// Links of a party that has several.
const LINKS: usize = 4;
/// Requests a second on each link: twice the limit of a link, so that some are always refused.
const ASKED_A_SECOND: u32 = 1000;
/// Requests in flight on each link.
const IN_FLIGHT: usize = 32;
/// The interval at which a party checks whether it is its turn.
const LOOK: Duration = Duration::from_millis(20);

/// The activity of a party.
type Running<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A greedy party.
pub struct Party {
    pub name: &'static str,
    pub what: &'static str,
    /// Returns the realm's configuration for a party that may prove this key.
    pub config: fn(&SecretKey) -> String,
    pub run: for<'a> fn(&'a Control) -> Running<'a>,
}

fn defaults(_: &SecretKey) -> String {
    String::new()
}

/// All parties. With `nobody`, the first, the difference of the columns is that of the machine.
pub const PARTIES: &[Party] = &[
    Party {
        name: "nobody",
        what: "nobody",
        config: defaults,
        run: |control| Box::pin(nobody(control)),
    },
    Party {
        name: "groups",
        what: "an account lists all its groups, and their members, on 4 links",
        config: defaults,
        run: |control| Box::pin(groups(control)),
    },
    Party {
        name: "links",
        what: "400 links of devices without an account, from one address",
        config: defaults,
        run: |control| Box::pin(links(control)),
    },
    Party {
        name: "nameless",
        what: "4,000 links from one socket, half open, and 500 datagrams a second there that name none",
        config: |_| "[limits]\nhandshakes = \"1/m\"\nhandshakes_per_subnet = \"500/s\"".into(),
        run: |control| Box::pin(nameless(control)),
    },
    Party {
        name: "fill",
        what: "an account sends the longest messages to 10 users from 4 devices",
        config: defaults,
        run: |control| Box::pin(fill(control)),
    },
    Party {
        name: "watches",
        what: "16 watches of an account over 100 groups, which never say that a message has arrived",
        config: defaults,
        run: |control| Box::pin(watches(control)),
    },
    Party {
        name: "cursors",
        what: "an account asks what it has not read, and names 2,000 groups each time, on 4 links",
        config: defaults,
        run: |control| Box::pin(cursors(control)),
    },
    Party {
        name: "guesses",
        what: "guesses at a password, from 8 networks",
        config: defaults,
        run: |control| Box::pin(guesses(control)),
    },
    Party {
        name: "taken",
        what: "accounts of names that are taken, from 8 networks",
        config: defaults,
        run: |control| Box::pin(taken(control)),
    },
    Party {
        name: "withdraw",
        what: "a peer withdraws what it never sent, under ever other epochs, on 4 links",
        config: |key| {
            let key = key.public();
            format!(
                "[realm]\nid = \"alpha\"\n[[peer]]\nrealm = \"beta\"\naddress = \"127.0.0.1:9\"\nkey = \"{key}\""
            )
        },
        run: |control| Box::pin(withdraw(control)),
    },
];

/// Sends requests at this rate during the party's turns, whatever the answers.
async fn hammer(
    control: &Control,
    device: &mut Device,
    a_second: u32,
    mut make: impl FnMut(&mut Device) -> Vec<u8>,
) {
    let gap = Duration::from_secs(1) / a_second;
    let (mut due, mut in_flight) = (Instant::now(), 0);
    while !control.is_over() {
        let now = Instant::now();
        // Late requests are sent later. Those that are late by more than 40 ms, as after a turn of
        // the others, are dropped.
        due = due.max(now.checked_sub(LOOK * 2).unwrap_or(now));
        while control.is_on() && in_flight < IN_FLIGHT && due <= now {
            let request = make(device);
            if device.ask(request).is_none() {
                break;
            }
            (due, in_flight) = (due + gap, in_flight + 1);
        }
        let until = if control.is_on() && in_flight < IN_FLIGHT {
            due.min(now + LOOK)
        } else {
            now + LOOK
        };
        device.step(until.max(now + Duration::from_millis(1))).await;
        while let Some(told) = device.told.pop_front() {
            match told {
                Told::Answer { bytes, .. } => {
                    control.count(Answer::is_refusal(&bytes));
                    in_flight -= 1;
                }
                Told::Unanswered { .. } => in_flight -= 1,
                Told::Ended => {
                    in_flight = 0;
                    device.begin_again();
                }
            }
        }
    }
}

/// Does the same on several links at once.
async fn hammer_all<F: FnMut(&mut Device) -> Vec<u8>>(
    control: &Control,
    devices: &mut [Device],
    a_second: u32,
    make: impl Fn(usize) -> F,
) {
    control.ready();
    let all = devices.iter_mut().enumerate();
    let all = all.map(|(n, device)| Box::pin(hammer(control, device, a_second, make(n))));
    join_all(all.collect()).await;
}

/// Returns the party's address `n`, each in a subnet of its own.
fn network(n: usize) -> Ipv4Addr {
    let [.., n] = n.to_be_bytes();
    Ipv4Addr::new(127, 2, n, 7)
}

/// Sends all requests, and waits until all are done.
async fn prepare(device: &mut Device, requests: Vec<Vec<u8>>) {
    let (mut requests, mut in_flight) = (requests.into_iter().peekable(), 0);
    while requests.peek().is_some() || in_flight > 0 {
        while in_flight < IN_FLIGHT
            && let Some(request) = requests.peek()
            && device.ask(request.clone()).is_some()
        {
            requests.next();
            in_flight += 1;
        }
        device.step(Instant::now() + LOOK).await;
        while let Some(told) = device.told.pop_front() {
            match told {
                Told::Answer { bytes, .. } if !Answer::is_refusal(&bytes) => in_flight -= 1,
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn nobody(control: &Control) {
    control.ready();
    while !control.is_over() {
        tokio::time::sleep(LOOK).await;
    }
}

fn group(n: usize) -> GroupName {
    format!("group-{n}").parse().unwrap()
}

fn add_group(operation: Operation, n: usize) -> Vec<u8> {
    bytes(Command::AddGroup(command::AddGroup {
        operation,
        session: SessionRef::Bound,
        group: group(n),
        password: Password(b""),
    }))
}

async fn groups(control: &Control) {
    let key = new_key();
    let mut devices = Vec::new();
    for _ in 0..LINKS {
        devices.push(Device::begin(&key, ELSEWHERE, control.target).await);
    }
    let [maker, ..] = devices.as_mut_slice() else {
        unreachable!()
    };
    maker.register("greedy").await;
    let (begun, mut count) = (Instant::now(), 0);
    let mut in_flight = 0;
    while begun.elapsed() < control.length.gather || in_flight > 0 {
        while in_flight < IN_FLIGHT && begun.elapsed() < control.length.gather {
            let operation = maker.operation();
            if maker.ask(add_group(operation, count)).is_none() {
                break;
            }
            (in_flight, count) = (in_flight + 1, count + 1);
        }
        maker.step(Instant::now() + LOOK).await;
        in_flight -= maker.told.drain(..).count();
    }
    let groups = bytes(Command::Groups(command::Groups {
        session: SessionRef::Bound,
    }));
    hammer_all(control, &mut devices, ASKED_A_SECOND, |n| {
        let mut at = n;
        let groups = groups.clone();
        move |_| {
            at += 1;
            if at % 2 == 0 {
                groups.clone()
            } else {
                bytes(Command::Members(command::Members {
                    session: SessionRef::Bound,
                    group: group(at % count),
                }))
            }
        }
    })
    .await;
}

async fn links(control: &Control) {
    let mut devices = Vec::new();
    let whoami = bytes(Command::WhoAmI(command::WhoAmI {
        session: SessionRef::Bound,
    }));
    let count = if control.length.turns == 1 { 40 } else { 400 };
    for _ in 0..count {
        let mut device = Device::begin(&new_key(), ELSEWHERE, control.target).await;
        // The command is refused, and the link is proven.
        device.answer(whoami.clone()).await;
        devices.push(device);
    }
    // Devices whose links were evicted come back again and again.
    hammer_all(control, &mut devices, 1, |_| {
        |_: &mut Device| whoami.clone()
    })
    .await;
}

async fn nameless(control: &Control) {
    let socket = socket(ELSEWHERE).await;
    let count = if control.length.turns == 1 { 100 } else { 4000 };
    for _ in 0..count {
        half_open(control, &socket).await;
    }
    control.ready();
    let mut rng = system_rng().unwrap();
    let mut number = 0;
    while !control.is_over() {
        tokio::time::sleep(Duration::from_millis(2)).await;
        if control.is_on() {
            let mut datagram = Vec::new();
            number += 1;
            link_header(
                Protection::Sealed,
                None,
                PacketNumber(number),
                None,
                &mut datagram,
            );
            let header = datagram.len();
            datagram.resize(1000, 0);
            rng.fill_bytes(&mut datagram[header..]);
            let _ = socket.send_to(&datagram, control.target.address).await;
        }
    }
}

/// Opens a link, proves the address of its device, and then stays silent.
async fn half_open(control: &Control, socket: &Arc<UdpSocket>) {
    let mut device = Device::begin_at(&new_key(), Arc::clone(socket), control.target);
    device.show_where().await;
}

async fn fill(control: &Control) {
    const MAILBOXES: usize = 10;
    for n in 0..MAILBOXES {
        let mut device = Device::begin(&new_key(), ELSEWHERE, control.target).await;
        device.register(&format!("mailbox{n}")).await;
    }
    let mut devices = Vec::new();
    for n in 0..LINKS {
        let mut device = Device::begin(&new_key(), ELSEWHERE, control.target).await;
        if n == 0 {
            device.register("greedy").await;
        } else {
            device.auth("greedy").await;
        }
        devices.push(device);
    }
    let message = vec![b'x'; 16 << 10];
    hammer_all(control, &mut devices, ASKED_A_SECOND, |n| {
        let (mut at, message) = (n, message.clone());
        move |device: &mut Device| {
            at += 1;
            device.send(user(&format!("mailbox{}", at % MAILBOXES)), &message)
        }
    })
    .await;
}

async fn watches(control: &Control) {
    const GROUPS: usize = 100;
    const MESSAGES: usize = 8;
    let mut writer = Device::begin(&new_key(), ELSEWHERE, control.target).await;
    writer.register("greedy").await;
    let made = (0..GROUPS)
        .map(|n| add_group(writer.operation(), n))
        .collect();
    prepare(&mut writer, made).await;
    // This is done before the messages are sent, because a device is shown only later messages.
    let mut devices = Vec::new();
    for _ in 0..2 {
        let key = new_key();
        for n in 0..8 {
            let mut device = Device::begin(&key, ELSEWHERE, control.target).await;
            if n == 0 {
                device.auth("greedy").await;
            }
            devices.push(device);
        }
    }
    let message = vec![b'x'; 16 << 10];
    for n in 0..GROUPS {
        let send = |device: &mut Device| {
            bytes(Command::SendGroup(command::SendGroup {
                operation: device.operation(),
                session: SessionRef::Bound,
                group: group(n),
                message: merpati::wire::Body(&message),
            }))
        };
        let sent = (0..MESSAGES).map(|_| send(&mut writer)).collect();
        prepare(&mut writer, sent).await;
    }
    // Each starts a new watch twice a second.
    hammer_all(control, &mut devices, 2, |_| {
        |device: &mut Device| {
            device.takes_nothing_pushed();
            bytes(Command::Watch(command::Watch {
                session: SessionRef::Bound,
                cursors: Cursors::default(),
            }))
        }
    })
    .await;
}

async fn cursors(control: &Control) {
    let key = new_key();
    let mut devices = Vec::new();
    for _ in 0..LINKS {
        devices.push(Device::begin(&key, ELSEWHERE, control.target).await);
    }
    let [first, ..] = devices.as_mut_slice() else {
        unreachable!()
    };
    first.register("greedy").await;
    // None of these groups exists, as far as the party knows.
    let named = |n| {
        (
            Mailbox::Group(format!("g{n}").parse().unwrap()),
            Position(1),
        )
    };
    let unread = bytes(Command::Unread(command::Unread {
        session: SessionRef::Bound,
        cursors: Cursors((0..2000).map(named).collect()),
    }));
    hammer_all(control, &mut devices, ASKED_A_SECOND, |_| {
        |_: &mut Device| unread.clone()
    })
    .await;
}

/// Returns devices without an account, each in a network of its own.
async fn devices_everywhere(control: &Control) -> Vec<Device> {
    let mut devices = Vec::new();
    for n in 0..8 {
        devices.push(Device::begin(&new_key(), network(n), control.target).await);
    }
    devices
}

async fn guesses(control: &Control) {
    let mut devices = devices_everywhere(control).await;
    hammer_all(control, &mut devices, 100, |_| {
        |device: &mut Device| {
            bytes(Command::Auth(command::Auth {
                operation: device.operation(),
                username: user("honest0"),
                password: Password(b"battery staple"),
            }))
        }
    })
    .await;
}

async fn taken(control: &Control) {
    let mut devices = devices_everywhere(control).await;
    hammer_all(control, &mut devices, 100, |_| {
        |device: &mut Device| {
            bytes(Command::Register(command::Register {
                operation: device.operation(),
                full_name: Text("Some One"),
                country: Text("id"),
                username: user("honest0"),
                password: Password(b"battery staple"),
            }))
        }
    })
    .await;
}

async fn withdraw(control: &Control) {
    let mut devices = Vec::new();
    for _ in 0..LINKS {
        devices.push(Device::begin(&control.key, ELSEWHERE, control.target).await);
    }
    hammer_all(control, &mut devices, ASKED_A_SECOND, |_| {
        let mut rng = system_rng().unwrap();
        move |_: &mut Device| {
            let withdraw = PeerRequest::Withdraw(peer::Withdraw {
                epoch: rng.next_u64(),
                sequence: OperationNumber(1),
            });
            withdraw.to_bytes()
        }
    })
    .await;
}
