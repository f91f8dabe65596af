//! A device without a profile, for tests and measurements of what somebody does who keeps to the rules of links and to no other: it
//! sends from the address it likes, asks what it likes as fast as it likes, and need not say that a message has arrived.

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
    endpoint::{Config, Endpoint, Event, LinkId},
    link::Time,
    wire::{
        Answer, Body, Command, Operation, Packet, Password, Request, RequestId, SessionRef, Text,
        Username, command,
    },
};
use rand::Rng as _;
use tokio::net::UdpSocket;

use super::{PASSWORD, Realm};

/// What is not answered by then is never answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who is not asked by then to show where they are is let in as they are.
const ASKED_TO_SHOW: Duration = Duration::from_millis(500);

/// Where a realm is, and its key.
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

/// What a device hears.
#[derive(Debug)]
pub enum Told {
    /// The answer to a request.
    Answer { number: RequestId, bytes: Vec<u8> },
    /// A request has not been answered.
    Unanswered { number: RequestId },
    /// The link has ended, with all that was asked on it.
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
    /// What has been heard and not been taken.
    pub told: VecDeque<Told>,
    /// Messages that have been pushed.
    pub pushed: u64,
}

/// A socket at an address of this machine; each of 127.0.0.0/8 is another.
pub async fn socket(from: Ipv4Addr) -> Arc<UdpSocket> {
    Arc::new(UdpSocket::bind((IpAddr::V4(from), 0)).await.unwrap())
}

/// A key that nobody knows yet.
pub fn new_key() -> SecretKey {
    SecretKey::generate(&mut system_rng().unwrap())
}

impl Device {
    /// Begins a link.
    pub async fn begin(key: &SecretKey, from: Ipv4Addr, target: Target) -> Self {
        Self::begin_at(key, socket(from).await, target)
    }

    /// Begins a link over a socket that others may use too.
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

    /// An operation that the device has not begun yet.
    pub const fn operation(&mut self) -> Operation {
        let number = self.next_operation;
        self.next_operation += 1;
        Operation::new(number, [1, 2])
    }

    /// Whatever is pushed counts as lost on the way, and so is never said to have arrived.
    pub fn takes_nothing_pushed(&mut self) {
        self.endpoint.hold_pushes(self.link, true);
    }

    /// Asks. None when the link takes no more at present.
    pub fn ask(&mut self, request: Vec<u8>) -> Option<RequestId> {
        let now = self.now();
        self.endpoint
            .request(now, self.link, request, now + PATIENCE, false)
    }

    /// Asks, and waits for the answer.
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

    /// Makes an account.
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

    /// A message to a user.
    pub fn send(&mut self, to: Username, message: &[u8]) -> Vec<u8> {
        bytes(Command::Send(command::Send {
            operation: self.operation(),
            session: SessionRef::Bound,
            to,
            message: Body(message),
        }))
    }

    /// Begins another link in place of one that has ended.
    pub fn begin_again(&mut self) {
        let now = self.now();
        let (address, key) = (self.target.address, self.target.key);
        self.link = self.endpoint.connect(now, address, key, None);
    }

    /// Sends what is to be sent, and takes in what has come: waits for that until something has come or is due, but not for longer
    /// than `until`.
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

    /// Begins a handshake, shows that it receives at its address when it is asked to, and says no more.
    pub async fn show_where(&mut self) {
        self.transmit().await;
        let until = Instant::now() + ASKED_TO_SHOW;
        loop {
            let came = self.socket.recv_from(&mut self.buffer);
            let Ok(came) = tokio::time::timeout_at(until.into(), came).await else {
                // It is let in as it is.
                return;
            };
            let (len, from) = came.unwrap();
            let answer = self.buffer.get(..len).unwrap_or_default();
            // Other devices may share the socket, and what they have been sent is not for this one.
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
            // As good as lost on the way.
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
                // What the network says of an earlier datagram.
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

/// A command's bytes.
pub fn bytes(command: Command<'_>) -> Vec<u8> {
    Request::from(command).to_bytes()
}

/// A user's name.
pub fn user(name: &str) -> Username {
    name.parse().unwrap()
}
