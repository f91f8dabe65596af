//! A device without a profile, for tests and measurements of clients that follow the rules of links
//! and no others. It sends from any address, sends any requests at any rate, and need not
//! acknowledge messages.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use merpati::{
    client::system_rng,
    crypto::{PublicKey, SecretKey},
    endpoint::{Config, EarlyData, Endpoint, Event, LinkId, Pushes},
    link::Time,
    wire::{
        Answer, Body, Command, Operation, Packet, Password, Request, RequestId, SessionRef, Text,
        Username, command,
    },
};
use rand::Rng as _;
use tokio::net::UdpSocket;

use super::{PASSWORD, Realm};

/// A request that has not been answered within this time never will be.
const PATIENCE: Duration = Duration::from_secs(30);

/// A device that is not asked for a cookie within this time is admitted without one.
const ASKED_TO_SHOW: Duration = Duration::from_millis(500);

/// A realm's address and key.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub key: PublicKey,
}

impl Target {
    pub fn of(realm: &Realm) -> Self {
        let (_, key) = realm.connect.split_once('#').unwrap();
        Self {
            address: realm.address,
            key: key.parse().unwrap(),
        }
    }
}

/// What a device receives.
#[derive(Debug)]
pub enum Told {
    /// The answer to a request.
    Answer { number: RequestId, bytes: Vec<u8> },
    /// A request has not been answered.
    Unanswered { number: RequestId },
    /// The link has ended, with all requests on it.
    Ended,
}

/// One link of a device.
pub struct Device {
    socket: Arc<UdpSocket>,
    endpoint: Endpoint,
    link: LinkId,
    target: Target,
    started: Instant,
    next_operation: u64,
    buffer: Vec<u8>,
    out: Vec<u8>,
    /// Received events that have not been taken yet.
    pub told: VecDeque<Told>,
    /// Number of pushed messages.
    pub pushed: u64,
}

/// Binds a socket at an address of this machine. Each address of 127.0.0.0/8 is another one.
pub async fn socket(from: Ipv4Addr) -> Arc<UdpSocket> {
    Arc::new(UdpSocket::bind((IpAddr::V4(from), 0)).await.unwrap())
}

/// Generates a new key.
pub fn new_key() -> SecretKey {
    SecretKey::generate(&mut system_rng().unwrap())
}

impl Device {
    /// Begins a link.
    pub async fn begin(key: &SecretKey, from: Ipv4Addr, target: Target) -> Self {
        Self::begin_at(key, socket(from).await, target)
    }

    /// Begins a link over a socket that other devices may share.
    pub fn begin_at(key: &SecretKey, socket: Arc<UdpSocket>, target: Target) -> Self {
        let mut seed = [0; 32];
        system_rng().unwrap().fill_bytes(&mut seed);
        let mut endpoint = Endpoint::new(Config::default(), &key.clone().into(), seed);
        let link = endpoint.connect(Time(0), target.address, target.key, None);
        Self {
            socket,
            endpoint,
            link,
            target,
            started: Instant::now(),
            next_operation: 1,
            buffer: vec![0; 65_535],
            out: Vec::new(),
            told: VecDeque::new(),
            pushed: 0,
        }
    }

    /// Returns an operation that the device has not begun yet.
    pub const fn operation(&mut self) -> Operation {
        let number = self.next_operation;
        self.next_operation += 1;
        Operation::new(number, [1, 2])
    }

    /// Drops all pushed messages as if lost, so that they are never acknowledged.
    pub fn takes_nothing_pushed(&mut self) {
        self.endpoint.set_pushes(self.link, Pushes::Refused);
    }

    /// Sends a request. `None` if the link accepts no more at present.
    pub fn ask(&mut self, request: Vec<u8>) -> Option<RequestId> {
        let now = self.now();
        self.endpoint.request(
            now,
            self.link,
            request,
            now + PATIENCE,
            EarlyData::Forbidden,
        )
    }

    /// Sends a request and waits for its answer.
    pub async fn answer(&mut self, request: Vec<u8>) -> Answer {
        let asked = self.ask(request).expect("a link that takes a request");
        loop {
            match self.told.pop_front() {
                Some(Told::Answer { number, bytes }) if number == asked => {
                    return Answer::parse(&bytes).unwrap();
                }
                Some(Told::Answer { .. }) => {}
                Some(Told::Unanswered { number }) => {
                    assert_ne!(number, asked, "the realm does not answer");
                }
                Some(Told::Ended) => panic!("the link has ended"),
                None => self.step(Instant::now() + PATIENCE).await,
            }
        }
    }

    /// Registers an account.
    pub async fn register(&mut self, name: &str) {
        let register = Command::Register(command::Register {
            operation: self.operation(),
            full_name: Text("Some One"),
            country: Text("id"),
            username: user(name),
            password: Password(PASSWORD.as_bytes()),
        });
        let answer = self.answer(bytes(register)).await;
        assert!(matches!(answer, Answer::Session(_)), "{answer:?}");
    }

    /// Logs in.
    pub async fn auth(&mut self, name: &str) {
        let auth = Command::Auth(command::Auth {
            operation: self.operation(),
            username: user(name),
            password: Password(PASSWORD.as_bytes()),
        });
        let answer = self.answer(bytes(auth)).await;
        assert!(matches!(answer, Answer::Session(_)), "{answer:?}");
    }

    /// Returns the bytes of a message to a user.
    pub fn send(&mut self, to: Username, message: &[u8]) -> Vec<u8> {
        bytes(Command::Send(command::Send {
            operation: self.operation(),
            session: SessionRef::Bound,
            to,
            message: Body(message),
        }))
    }

    /// Begins another link to replace one that has ended.
    pub fn begin_again(&mut self) {
        let now = self.now();
        let (address, key) = (self.target.address, self.target.key);
        self.link = self.endpoint.connect(now, address, key, None);
    }

    /// Sends what is queued, and handles what has arrived. Waits until something arrives or is due,
    /// but no longer than `until`.
    pub async fn step(&mut self, until: Instant) {
        self.transmit().await;
        self.take_events();
        if !self.told.is_empty() {
            return;
        }
        let due = self.endpoint.poll_timeout();
        let due = due.map(|at| self.started + Duration::from_micros(at.0));
        let until = due.map_or(until, |due| due.min(until));
        tokio::select! {
            ready = self.socket.readable() => if ready.is_ok() {
                self.receive();
            },
            () = tokio::time::sleep_until(until.into()) => {}
        }
        let now = self.now();
        self.endpoint.handle_timeout(now);
        self.take_events();
        self.transmit().await;
    }

    /// Begins a handshake, answers a cookie challenge if one comes, and then sends nothing more.
    pub async fn show_where(&mut self) {
        self.transmit().await;
        let until = Instant::now() + ASKED_TO_SHOW;
        loop {
            let came = self.socket.recv_from(&mut self.buffer);
            let Ok(came) = tokio::time::timeout_at(until.into(), came).await else {
                // The device is admitted without a cookie.
                return;
            };
            let (len, from) = came.unwrap();
            let answer = self.buffer.get(..len).unwrap_or_default();
            // Other devices may share the socket, and their answers are not for this one.
            if matches!(Packet::parse(answer), Ok(Packet::Retry { .. })) {
                let now = self.now();
                self.endpoint.handle_datagram(now, from, answer);
                self.transmit().await;
                return;
            }
        }
    }

    async fn transmit(&mut self) {
        loop {
            let now = self.now();
            let Some(to) = self.endpoint.poll_transmit(now, &mut self.out) else {
                return;
            };
            // A failed send counts as a datagram lost on the way.
            let _ = self.socket.send_to(&self.out, to.remote).await;
        }
    }

    fn receive(&mut self) {
        loop {
            match self.socket.try_recv_from(&mut self.buffer) {
                Ok((len, from)) => {
                    let now = self.now();
                    let datagram = self.buffer.get(..len).unwrap_or_default();
                    self.endpoint.handle_datagram(now, from, datagram);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An error of the network about an earlier datagram.
                Err(_) => {}
            }
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Opened { welcome, .. } => {
                    self.next_operation = self.next_operation.max(welcome.highest.0 + 1);
                }
                Event::Reply { number, bytes, .. } => {
                    self.told.push_back(Told::Answer { number, bytes });
                }
                Event::Expired { number, .. } => self.told.push_back(Told::Unanswered { number }),
                Event::Closed { .. } => self.told.push_back(Told::Ended),
                Event::Pushed { .. } => self.pushed += 1,
                _ => {}
            }
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap())
    }
}

/// Returns a command's bytes.
pub fn bytes(command: Command<'_>) -> Vec<u8> {
    Request::from(command).to_bytes()
}

/// Parses a username.
pub fn user(name: &str) -> Username {
    name.parse().unwrap()
}
