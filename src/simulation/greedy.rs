//! An account that takes all it can: links of ever more devices, watches that never say that anything has arrived, the longest messages as
//! fast as the realm takes them, guesses at somebody's password, and links of devices that nobody knows. It keeps to the rules of links
//! and to no other. What others are told must come true beside it, and what it holds has an end.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{task::JoinSet, time::Instant};

use super::{machine::Machine, network::Socket, node::MESSAGE_MAX};
use crate::{
    crypto::{PublicKey, SecretKey},
    endpoint::{Config, Endpoint, Event, LinkId},
    link::Time,
    rate_limit::RateLimit,
    wire::{
        Answer, Body, Command, Cursors, Operation, Password, Request, RequestId, SessionRef, Text,
        Username, command,
    },
};

/// Its name.
pub const NAME: &str = "greta";
const PASSWORD: &[u8] = b"more, more, more";
/// Devices that it has at once: as many as all places of its realm, and some more.
const DEVICES_MAX: usize = LINKS_MAX + 10;
/// Of these so many try to begin a watch, over the whole run.
const WATCHES_MAX: usize = 4;
/// After so much has been asked it rests, and keeps what it has: a run is to come to an end.
const ASKED_MAX: usize = 400;
/// For so long it takes all it can; then it falls silent, and what it holds stays as it is.
const LASTS: Duration = Duration::from_mins(5);
/// A device that has nothing else to do says so often that it is still there.
const KEEPS: Duration = Duration::from_mins(4);
/// What is not answered by then is asked again under another number.
const PATIENCE: Duration = Duration::from_mins(5);

/// Places for links at a realm that it is at.
pub const LINKS_MAX: usize = 24;
/// What watches hold there, in bytes: a watch and what it reads ahead find room in the share of one account.
pub const WATCH_MEMORY: usize = 1 << 20;
/// What each account has kept there.
const STORED_AN_HOUR: u32 = 60_000;
pub const STORED: RateLimit = RateLimit::per_hour(STORED_AN_HOUR);

/// What it may have kept there after so long, at a realm that has started so often, in bytes.
pub fn may_have_kept(lasted: Duration, starts: usize) -> usize {
    let hours = usize::try_from(lasted.as_secs().div_ceil(3600)).unwrap_or(usize::MAX);
    // Four hours' worth at once, and what is under way when they are used up.
    let at_once = STORED_AN_HOUR as usize * 4 + MESSAGE_MAX * 20;
    at_once * starts + STORED_AN_HOUR as usize * hours
}

/// What one of its devices is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// Its messages fill the disk.
    Fill,
    /// It watches, and takes nothing of what is pushed.
    Watch,
    /// It tries passwords of somebody else's.
    Guess(Username),
    /// Nobody has let it in: it holds a place.
    Stay,
}

/// Where a realm is, and its key.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub key: PublicKey,
}

/// Takes all it can, for a while.
pub async fn take_all(machine: &Machine, target: Target, victim: Username) {
    let _ = tokio::time::timeout(LASTS, take(machine, target, victim)).await;
}

async fn take(machine: &Machine, target: Target, victim: Username) {
    let mut rng = machine.rng();
    let mut devices = JoinSet::new();
    // All of them are one account's. Whichever is the first to register makes it.
    let (mut aim, mut watches) = (Aim::Fill, 0);
    let asked = Arc::new(AtomicUsize::new(0));
    loop {
        if devices.len() < DEVICES_MAX {
            // Without a network it tries again later.
            if let Ok(mut device) = Device::begin(machine, target, &mut rng).await {
                device.asked = Arc::clone(&asked);
                devices.spawn(device.live(aim));
            }
        }
        let pause = Duration::from_millis(rng.random_range(500..8000));
        let until = Instant::now() + pause;
        // Those whose links have ended are forgotten, and others begun.
        while let Ok(Some(_)) = tokio::time::timeout_at(until, devices.join_next()).await {}
        tokio::time::sleep_until(until).await;
        aim = match rng.random_range(0..10) {
            0..3 => Aim::Fill,
            3..6 if watches < WATCHES_MAX => {
                watches += 1;
                Aim::Watch
            }
            6..7 => Aim::Guess(victim),
            _ => Aim::Stay,
        };
    }
}

/// One link of a device without a profile.
struct Device {
    socket: Socket,
    endpoint: Endpoint,
    link: LinkId,
    started: Instant,
    next_operation: u64,
    rng: StdRng,
    asked: Arc<AtomicUsize>,
    /// What it waits for an answer to.
    waits_for: Option<RequestId>,
    is_logged_in: bool,
    is_over: bool,
}

impl Device {
    async fn begin(machine: &Machine, target: Target, rng: &mut StdRng) -> io::Result<Self> {
        let socket = machine.connect(target.address).await?;
        let key = SecretKey::generate(rng);
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let mut endpoint = Endpoint::new(Config::default(), &key.into(), seed);
        let link = endpoint.connect(Time(0), target.address, target.key, None);
        Ok(Self {
            socket,
            endpoint,
            link,
            started: Instant::now(),
            next_operation: 1,
            rng: StdRng::from_seed(seed),
            asked: Arc::default(),
            waits_for: None,
            is_logged_in: false,
            is_over: false,
        })
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Does what it is for until its link ends.
    async fn live(mut self, aim: Aim) {
        if aim == Aim::Watch {
            self.endpoint.hold_pushes(self.link, true);
        }
        let mut next = Instant::now();
        let mut buffer = vec![0; 2000];
        let mut out = Vec::new();
        while !self.is_over {
            if self.waits_for.is_none() && next <= Instant::now() {
                next = Instant::now() + self.ask(aim);
            }
            loop {
                let now = self.now();
                if self.endpoint.poll_transmit(now, &mut out).is_none() {
                    break;
                }
                // As good as lost on the way.
                let _ = self.socket.send(&out).await;
            }
            let timeout = self.endpoint.poll_timeout();
            let timeout = timeout.map(|at| self.started + Duration::from_micros(at.0));
            // While it waits for an answer it has nothing to ask.
            let ask = self.waits_for.is_none().then_some(next);
            let due = timeout.into_iter().chain(ask).min();
            let now = Instant::now();
            let due = due
                .unwrap_or(now + KEEPS)
                .max(now + Duration::from_millis(1));
            tokio::select! {
                biased;
                _ = self.socket.readable() => {
                    while let Ok((len, from)) = self.socket.try_recv_from(&mut buffer) {
                        let now = self.now();
                        self.endpoint.handle_datagram(now, from, &buffer[..len]);
                    }
                }
                () = tokio::time::sleep_until(due) => {}
            }
            let now = self.now();
            self.endpoint.handle_timeout(now);
            self.take_events();
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Opened { welcome, .. } => {
                    self.next_operation = self.next_operation.max(welcome.highest.0 + 1);
                }
                Event::Reply { number, bytes, .. } if Some(number) == self.waits_for => {
                    self.waits_for = None;
                    self.is_logged_in |= matches!(Answer::parse(&bytes), Ok(Answer::Session(_)));
                }
                Event::Expired { number, .. } if Some(number) == self.waits_for => {
                    self.waits_for = None;
                }
                Event::Closed { .. } => self.is_over = true,
                _ => {}
            }
        }
    }

    /// Asks the next thing; when something is to be asked again.
    fn ask(&mut self, aim: Aim) -> Duration {
        let name: Username = NAME.parse().expect("a name");
        let operation = Operation::new(self.next_operation, [1, 2]);
        let filler = [b'x'; MESSAGE_MAX - 100];
        let rests = self.asked.fetch_add(1, Ordering::Relaxed) > ASKED_MAX;
        let session = SessionRef::Bound;
        let command = match aim {
            Aim::Stay => Command::WhoAmI(command::WhoAmI { session }),
            Aim::Guess(victim) => Command::Auth(command::Auth {
                operation,
                username: victim,
                password: Password(b"incorrect horse"),
            }),
            _ if !self.is_logged_in && self.rng.random_bool(0.3) => {
                Command::Register(command::Register {
                    operation,
                    full_name: Text("More"),
                    country: Text("id"),
                    username: name,
                    password: Password(PASSWORD),
                })
            }
            _ if !self.is_logged_in => Command::Auth(command::Auth {
                operation,
                username: name,
                password: Password(PASSWORD),
            }),
            _ if rests => Command::WhoAmI(command::WhoAmI { session }),
            Aim::Watch => Command::Watch(command::Watch {
                session,
                cursors: Cursors(Vec::new()),
            }),
            Aim::Fill => Command::Send(command::Send {
                operation,
                session,
                to: name,
                message: Body(&filler),
            }),
        };
        self.next_operation += 1;
        let bytes = Request::from(command).to_bytes();
        let now = self.now();
        self.waits_for = self
            .endpoint
            .request(now, self.link, bytes, now + PATIENCE, false);
        let most = match aim {
            _ if rests => return KEEPS,
            Aim::Fill => 2000,
            Aim::Watch | Aim::Guess(_) if !self.is_logged_in => 20_000,
            Aim::Watch | Aim::Guess(_) | Aim::Stay => return KEEPS,
        };
        Duration::from_millis(self.rng.random_range(1..most))
    }
}
