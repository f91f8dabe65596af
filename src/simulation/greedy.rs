//! A greedy account. It opens links of ever more devices and watches that never acknowledge an
//! entry, sends the longest messages as fast as the realm takes them, guesses another user's
//! password, and opens links of unknown devices. It follows the protocol of links and no other
//! rule. Other users must still get everything that was acknowledged, and what the account holds
//! must be bounded.

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
    endpoint::{Config, EarlyData, Endpoint, Event, LinkId, Pushes},
    link::Time,
    rate_limit::RateLimit,
    wire::{
        Answer, Body, Command, Cursors, Operation, Password, Request, RequestId, SessionRef, Text,
        Username, command,
    },
};

/// The account's username.
pub const NAME: &str = "greta";
const PASSWORD: &[u8] = b"more, more, more";
/// The number of its devices at once: all link slots of its realm, and some more.
const DEVICES_MAX: usize = LINKS_MAX + 10;
/// The number of devices that try to begin a watch, over the whole run.
const WATCHES_MAX: usize = 4;
/// After this many requests it only keeps what it holds, so that a run ends.
const ASKED_MAX: usize = 400;
/// It is active for this time. Then it is silent, and what it holds stays as it is.
const LASTS: Duration = Duration::from_mins(5);
/// An idle device sends a request this often to show that it is there.
const KEEPS: Duration = Duration::from_mins(4);
/// A request without an answer is repeated under another number after this time.
const PATIENCE: Duration = Duration::from_mins(5);

/// The number of link slots of its realm.
pub const LINKS_MAX: usize = 24;
/// The memory for watches of its realm, in bytes. A watch and what it reads ahead fit into the
/// share of one account.
pub const WATCH_MEMORY: usize = 1 << 20;
/// The bytes that each account may store there in an hour.
const STORED_AN_HOUR: u32 = 60_000;
pub const STORED: RateLimit = RateLimit::per_hour(STORED_AN_HOUR);

/// Returns the most bytes that it may have stored after this time, at a realm that has started this
/// often.
pub fn may_have_kept(lasted: Duration, starts: usize) -> usize {
    let hours = usize::try_from(lasted.as_secs().div_ceil(3600)).unwrap();
    // Four hours' quota can be used at once, and messages are under way when it is used up.
    let at_once = STORED_AN_HOUR as usize * 4 + MESSAGE_MAX * 20;
    at_once * starts + STORED_AN_HOUR as usize * hours
}

/// The task of one of its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// Fills the disk with messages.
    Fill,
    /// Watches, and takes no pushed entry.
    Watch,
    /// Guesses another user's password.
    Guess(Username),
    /// Never logs in, and holds a link slot.
    Stay,
}

/// The address and key of a realm.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub key: PublicKey,
}

/// Runs the greedy account until its time is over.
pub async fn take_all(machine: &Machine, target: Target, victim: Username) {
    let _ = tokio::time::timeout(LASTS, take(machine, target, victim)).await;
}

async fn take(machine: &Machine, target: Target, victim: Username) {
    let mut rng = machine.rng();
    let mut devices = JoinSet::new();
    // All devices are of one account. The first one to register creates it.
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
        // Devices whose links have ended are replaced.
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
    /// The request that it waits for an answer to.
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
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap())
    }

    /// Performs its task until its link ends.
    async fn live(mut self, aim: Aim) {
        if aim == Aim::Watch {
            self.endpoint.set_pushes(self.link, Pushes::Refused);
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
                // A failed send counts as loss on the path.
                let _ = self.socket.send(&out).await;
            }
            let timeout = self.endpoint.poll_timeout();
            let timeout = timeout.map(|at| self.started + Duration::from_micros(at.0));
            // While it waits for an answer it sends no request.
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

    /// Sends the next request. Returns the time until the one after it.
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
        self.waits_for =
            self.endpoint
                .request(now, self.link, bytes, now + PATIENCE, EarlyData::Forbidden);
        let most = match aim {
            _ if rests => return KEEPS,
            Aim::Fill => 2000,
            Aim::Watch | Aim::Guess(_) if !self.is_logged_in => 20_000,
            Aim::Watch | Aim::Guess(_) | Aim::Stay => return KEEPS,
        };
        Duration::from_millis(self.rng.random_range(1..most))
    }
}
