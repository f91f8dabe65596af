//! A device without a profile, which comes back.

use std::{
    io,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use merpati::{
    client::{PathMemory, Silence, system_rng},
    crypto::SecretKey,
    endpoint::{Config, EarlyData, Endpoint, Event, LinkId, LinkStatus, Ticket},
    link::Time,
    wire::{
        Answer, Body, Command, ErrorCode, Life, Operation, Password, Request, RequestId,
        SessionRef, Text, Username, command,
    },
};
use rand::Rng as _;
use tokio::net::UdpSocket;

use super::{
    MESSAGE, PATIENCE,
    support::{PASSWORD, device::Target},
};

/// The pause before a device repeats a command after the realm was busy.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// A device without a profile. It holds here what a profile remembers of its realm.
pub struct Device {
    from: Ipv4Addr,
    key: SecretKey,
    user: Username,
    /// The highest operation number that was used.
    highest: u64,
    ticket: Option<Ticket>,
    life: Option<Life>,
    path: Option<PathMemory>,
}

/// The result of a message over a link of its own.
pub struct Spoken {
    pub is_stored: bool,
    pub is_resumed: bool,
    /// The number of times that the realm has ended its link meanwhile.
    pub ended: usize,
    pub took: Duration,
}

/// The result of a request.
enum Told {
    Answer(Vec<u8>),
    Unanswered,
    Ended,
}

/// A link of a device.
pub struct Link {
    target: Target,
    /// The number of times that the realm has ended it.
    ended: usize,
    socket: UdpSocket,
    endpoint: Endpoint,
    id: LinkId,
    started: Instant,
    pub is_resumed: bool,
    out: Vec<u8>,
    /// A datagram that is ready to be sent.
    ready: Vec<u8>,
}

impl Device {
    /// Returns the device of this number. Each is in a network of its own.
    pub fn new(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        Self {
            from: Ipv4Addr::new(127, high + 1, low, 1),
            key: SecretKey::generate(&mut system_rng().unwrap()),
            user: format!("device{number}").parse().unwrap(),
            highest: 0,
            ticket: None,
            life: None,
            path: None,
        }
    }

    /// Opens a link, with the ticket if there is one and `resumes` is set.
    pub async fn begin(&self, target: Target, resumes: bool) -> Link {
        let socket = UdpSocket::bind((self.from, 0)).await.unwrap();
        // From here on the socket accepts datagrams without waiting.
        socket.writable().await.unwrap();
        let mut seed = [0; 32];
        system_rng().unwrap().fill_bytes(&mut seed);
        let config = Config {
            early_data: resumes,
            resumes,
            ..Config::default()
        };
        let mut endpoint = Endpoint::new(config, &self.key.clone().into(), seed);
        let rtt = self.path.and_then(|path| path.rtt).map(|(rtt, _)| rtt);
        let id = endpoint.connect(Time(0), target.address, target.key, rtt);
        endpoint.claim_life(id, self.life);
        if let Some(path) = &self.path {
            endpoint.start_from(id, path);
        }
        if let Some(ticket) = self.ticket.clone().filter(|_| resumes) {
            endpoint.come_back(id, ticket);
        }
        Link {
            target,
            ended: 0,
            socket,
            endpoint,
            id,
            started: Instant::now(),
            is_resumed: false,
            out: Vec::new(),
            ready: Vec::new(),
        }
    }

    const fn operation(&mut self) -> Operation {
        self.highest += 1;
        Operation::new(self.highest, *b"qz")
    }

    /// Returns a message to the device's own user.
    pub fn send(&mut self) -> Vec<u8> {
        let send = Command::Send(command::Send {
            operation: self.operation(),
            session: SessionRef::Bound,
            to: self.user,
            message: Body(MESSAGE),
        });
        Request::from(send).to_bytes()
    }

    /// Sends a request, and returns the answer; `None` after a minute without one. If the link has
    /// ended, the request is sent again on another link, as a client does.
    pub async fn answer(
        &mut self,
        link: &mut Link,
        request: Vec<u8>,
        early: bool,
    ) -> Option<Answer> {
        let deadline = link.now() + PATIENCE;
        let mut asked = link.ask(request.clone(), deadline, early);
        let answer = loop {
            match self.until_answered(link, asked).await {
                Told::Answer(bytes) => break Some(Answer::parse(&bytes).unwrap()),
                Told::Unanswered => break None,
                Told::Ended => {
                    link.ended += 1;
                    link.begin_again();
                    asked = link.ask(request.clone(), deadline, early);
                }
            }
        };
        self.path = link.endpoint.link(link.id).map(LinkStatus::path_memory);
        answer
    }

    /// Prepares a message that [`Link::release`] sends, so that many are sent at the same moment.
    pub fn prepare(&mut self, link: &mut Link) -> RequestId {
        let send = self.send();
        let asked = link.ask(send, link.now() + PATIENCE, true);
        let now = link.now();
        link.endpoint.poll_transmit(now, &mut link.ready);
        asked
    }

    /// Waits until a prepared message is stored.
    pub async fn finish(&mut self, link: &mut Link, asked: RequestId) {
        let told = self.until_answered(link, asked).await;
        assert!(matches!(told, Told::Answer(_)), "it is answered");
        self.path = link.endpoint.link(link.id).map(LinkStatus::path_memory);
    }

    async fn until_answered(&mut self, link: &mut Link, asked: RequestId) -> Told {
        loop {
            while let Some(event) = link.endpoint.poll_event() {
                match event {
                    Event::Opened {
                        welcome,
                        is_resumed,
                        ..
                    } => {
                        self.highest = self.highest.max(welcome.highest.0);
                        self.life = welcome.life.or(self.life);
                        self.ticket = link
                            .endpoint
                            .link(link.id)
                            .and_then(LinkStatus::ticket)
                            .cloned();
                        link.is_resumed = is_resumed;
                    }
                    Event::Reply { number, bytes, .. } if number == asked => {
                        return Told::Answer(bytes);
                    }
                    Event::Expired { .. } => return Told::Unanswered,
                    Event::Closed { .. } => return Told::Ended,
                    _ => {}
                }
            }
            link.step().await;
        }
    }

    pub async fn register(&mut self, target: Target) {
        let mut link = self.begin(target, true).await;
        let register = Command::Register(command::Register {
            operation: self.operation(),
            full_name: Text("Some One"),
            country: Text("id"),
            username: self.user,
            password: Password(PASSWORD.as_bytes()),
        });
        let register = Request::from(register).to_bytes();
        let answer = self.answer(&mut link, register, false).await;
        assert!(matches!(answer, Some(Answer::Session(_))), "{answer:?}");
    }

    /// Sends a message over a link of its own.
    pub async fn speak(&mut self, target: Target, resumes: bool) -> Spoken {
        let begun = Instant::now();
        let mut link = self.begin(target, resumes).await;
        let send = self.send();
        let mut answer = self.answer(&mut link, send.clone(), resumes).await;
        // A busy realm is asked again, as a client does.
        while let Some(Answer::Refused(refusal)) = &answer
            && refusal.code == ErrorCode::Busy
            && begun.elapsed() < PATIENCE
        {
            tokio::time::sleep(BUSY_PAUSE).await;
            answer = self.answer(&mut link, send.clone(), resumes).await;
        }
        let is_stored = matches!(answer, Some(Answer::Sent(_)));
        Spoken {
            is_stored,
            is_resumed: link.is_resumed,
            ended: link.ended,
            took: begun.elapsed(),
        }
    }
}

impl Link {
    fn ask(&mut self, request: Vec<u8>, deadline: Time, early: bool) -> RequestId {
        let now = self.now();
        let early = EarlyData::allowed_if(early);
        let asked = self
            .endpoint
            .request(now, self.id, request, deadline, early);
        asked.expect("one at a time is taken")
    }

    /// Sends the datagram that is ready.
    pub fn release(&mut self) {
        // A datagram that cannot be sent counts as lost.
        let _ = self.socket.try_send_to(&self.ready, self.target.address);
        self.ready.clear();
    }

    fn begin_again(&mut self) {
        let (now, to) = (self.now(), self.target);
        self.id = self.endpoint.connect(now, to.address, to.key, None);
    }

    /// Makes the endpoint keep the link alive, as for a watch.
    pub fn keep_alive(&mut self) {
        let silence = Silence::fixed(Duration::from_secs(30));
        let now = self.now();
        self.endpoint.keep_alive(now, self.id, Some(silence));
    }

    /// Returns the number of datagrams that have arrived and were not read.
    pub fn take_waiting(&self) -> usize {
        let (mut came, mut buffer) = (0, [0; 2048]);
        loop {
            match self.socket.try_recv_from(&mut buffer) {
                Ok(_) => came += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return came,
                // This is an error of the network about an earlier datagram.
                Err(_) => {}
            }
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_micros()).unwrap())
    }

    async fn transmit(&mut self) {
        loop {
            let now = self.now();
            let Some(to) = self.endpoint.poll_transmit(now, &mut self.out) else {
                return;
            };
            // A datagram that cannot be sent counts as lost.
            let _ = self.socket.send_to(&self.out, to.remote).await;
        }
    }

    /// Sends the datagrams that are due, and waits for a datagram or a timer.
    async fn step(&mut self) {
        self.transmit().await;
        let due = self.endpoint.poll_timeout().map(|at| at.0);
        let due = self.started + Duration::from_micros(due.unwrap_or(u64::from(u32::MAX)));
        let mut buffer = [0; 2048];
        tokio::select! {
            came = self.socket.recv_from(&mut buffer) => if let Ok((len, from)) = came {
                let now = self.now();
                self.endpoint.handle_datagram(now, from, &buffer[..len]);
            },
            () = tokio::time::sleep_until(due.into()) => {}
        }
        let now = self.now();
        self.endpoint.handle_timeout(now);
        self.transmit().await;
    }
}
