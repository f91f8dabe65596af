//! The task that drives one socket and one link for a [`super::Client`]: opens the link when there is
//! something to ask, opens it again when it has ended, and gives every question an answer or says why
//! there is none.

mod lives;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::Meter;
use crate::{
    crypto::PublicKey,
    endpoint::{Endpoint, Event, LinkId},
    host::{Host, Socket},
    link::{Silence, Time},
    wire::{CloseReason, Life, OperationNumber, Welcome},
};

/// When nothing was heard for so long, the realm is asked who it is: its key may have changed.
const DOUBT: Duration = Duration::from_secs(10);
/// A socket that cannot send is replaced so often at most.
const REBIND_EVERY: Duration = Duration::from_secs(1);
/// A datagram longer than this is no realm's.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// A question.
pub struct Ask {
    pub bytes: Vec<u8>,
    pub deadline: Instant,
    pub early: bool,
    pub answer: oneshot::Sender<Result<Vec<u8>, AskError>>,
}

/// What there is to do.
pub enum Job {
    /// Ask something.
    Ask(Ask),
    /// Tell what is pushed.
    Tell(mpsc::Sender<Told>),
}

/// What is told to who watches.
#[derive(Debug)]
pub enum Told {
    /// The realm has pushed this.
    Pushed(Vec<u8>),
    /// The link is a new one: what was asked of the realm for the one before is to be asked again.
    Opened,
    /// The realm was restored from a backup: positions that are remembered are those of a lost store (READ-9).
    CursorsLost,
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskError {
    /// Its deadline is over.
    Expired {
        /// Something was heard from the realm.
        heard: bool,
        /// The machine there says that nothing listens on the port.
        refused: bool,
    },
    /// Whoever answers has another key.
    KeyChanged(PublicKey),
}

/// What is known of the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The highest operation number that the realm has seen from this device.
    pub highest: OperationNumber,
    /// The round-trip time.
    pub rtt: Option<Duration>,
    /// The realm goes by this key now; the one it was known by has vouched for it.
    pub successor: Option<PublicKey>,
    /// The life of the realm's store, if the realm has told it.
    pub life: Option<Life>,
    /// The realm does not know the life that the link claimed.
    pub is_life_unknown: bool,
}

/// Whom to talk to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub address: SocketAddr,
    /// None for a plain link.
    pub key: Option<PublicKey>,
    /// What is remembered of the path.
    pub rtt: Option<Duration>,
    /// The life of the realm's store that is remembered.
    pub life: Option<Life>,
}

pub struct Driver {
    target: Target,
    host: Host,
    socket: Socket,
    endpoint: Endpoint,
    meter: Meter,
    started: Instant,
    link: Option<LinkId>,
    waiting: VecDeque<Ask>,
    asked: BTreeMap<u64, Ask>,
    status: watch::Sender<Status>,
    heard: bool,
    refused: bool,
    /// When to ask who is there, while nothing is heard.
    doubt: Option<Instant>,
    /// Who is there goes by this key, and may still answer to the one that is known, until then.
    changed: Option<(PublicKey, Instant)>,
    rebound: Option<Instant>,
    watcher: Option<mpsc::Sender<Told>>,
    /// The link is open; and the watcher came before it was, so that its opening is no news.
    is_open: bool,
    is_expected: bool,
    /// A link on which no cursor is believed (READ-9).
    outdated: Option<LinkId>,
    /// What the watcher has not taken yet.
    pushed: VecDeque<Told>,
    keepalive: Option<Silence>,
}

impl Driver {
    pub fn new(
        target: Target,
        (host, socket): (Host, Socket),
        endpoint: Endpoint,
        meter: Meter,
        status: watch::Sender<Status>,
        keepalive: Option<Silence>,
    ) -> Self {
        Self {
            target,
            host,
            socket,
            endpoint,
            meter,
            started: Instant::now(),
            link: None,
            waiting: VecDeque::new(),
            asked: BTreeMap::new(),
            status,
            heard: false,
            refused: false,
            doubt: None,
            changed: None,
            rebound: None,
            watcher: None,
            is_open: false,
            is_expected: false,
            outdated: None,
            pushed: VecDeque::new(),
            keepalive,
        }
    }

    fn time(&self, at: Instant) -> Time {
        let since = at.saturating_duration_since(self.started);
        Time(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    fn now(&self) -> Time {
        self.time(Instant::now())
    }

    /// Drives until nobody is left who could ask.
    pub async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            self.ask_waiting();
            self.take_events();
            self.transmit().await;
            if self.endpoint.has_events() {
                continue;
            }
            let timeout = self.next_timeout();
            tokio::select! {
                biased;
                () = sleep_until(timeout) => {
                    self.handle_timeout();
                    self.receive(&mut buffer);
                }
                job = jobs.recv() => match job {
                    Some(Job::Ask(ask)) => self.waiting.push_back(ask),
                    Some(Job::Tell(watcher)) => self.begin_telling(watcher),
                    None => return,
                },
                ready = self.socket.readable() => match ready {
                    Ok(()) => self.receive(&mut buffer),
                    Err(error) => self.note(&error),
                },
                () = room_for(self.watcher.as_ref()), if !self.pushed.is_empty() => self.tell(),
                () = watched_no_more(self.watcher.as_ref()) => self.end_telling(),
            }
        }
    }

    /// Puts the waiting questions on the link, as far as it takes them.
    fn ask_waiting(&mut self) {
        if self.waits_for_outdated() {
            return;
        }
        while let Some(ask) = self.waiting.pop_front() {
            if ask.answer.is_closed() {
                // A watch that nobody wants any more must not begin on a later link. What changes something is asked
                // again by the next call.
                continue;
            }
            let now = self.now();
            let link = match self.link {
                Some(link) => link,
                None => self.open(now),
            };
            let deadline = self.time(ask.deadline);
            let bytes = ask.bytes.clone();
            match self.endpoint.request(now, link, bytes, deadline, ask.early) {
                Some(number) => {
                    self.asked.insert(number, ask);
                }
                None => {
                    self.waiting.push_front(ask);
                    return;
                }
            }
        }
    }

    fn open(&mut self, now: Time) -> LinkId {
        let Target { address, key, .. } = self.target;
        let rtt = self.status.borrow().rtt.or(self.target.rtt);
        let link = match key {
            Some(key) => self.endpoint.connect(now, address, key, rtt),
            None => self.endpoint.connect_plain(now, address, rtt),
        };
        self.endpoint.claim_life(link, self.target.life);
        if !self.heard && key.is_some() {
            self.doubt = Some(Instant::now() + DOUBT);
        }
        if self.watcher.is_some() {
            self.endpoint.keep_alive(now, link, self.keepalive);
        }
        self.link = Some(link);
        link
    }

    fn begin_telling(&mut self, watcher: mpsc::Sender<Told>) {
        let now = self.now();
        if self.watcher.is_some() {
            self.end_telling();
            self.take_events();
        }
        self.watcher = Some(watcher);
        self.is_expected = !self.is_open;
        self.pushed.clear();
        let link = match self.link {
            Some(link) => link,
            None => self.open(now),
        };
        self.endpoint.keep_alive(now, link, self.keepalive);
    }

    /// The link ends with the watch: what is still pushed on it could be taken for part of a later one (WATCH-3).
    fn end_telling(&mut self) {
        let now = self.now();
        self.watcher = None;
        self.pushed.clear();
        if let Some(link) = self.link {
            self.endpoint.close(now, link, CloseReason::Done);
        }
    }

    /// Hands on what was pushed, as far as it is taken; what comes beyond that is as good as lost on the way.
    fn tell(&mut self) {
        while let (Some(told), Some(watcher)) = (self.pushed.pop_front(), &self.watcher) {
            if let Err(mpsc::error::TrySendError::Full(told)) = watcher.try_send(told) {
                self.pushed.push_front(told);
                break;
            }
        }
        if let Some(link) = self.link {
            self.endpoint.hold_pushes(link, !self.pushed.is_empty());
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Opened { link, welcome } => self.opened(link, &welcome),
                Event::Pushed { link, bytes } => {
                    self.heard();
                    // What still comes on a link that has been replaced comes again on this one (LINK-21).
                    if self.watcher.is_some() && self.link == Some(link) {
                        self.pushed.push_back(Told::Pushed(bytes));
                        self.tell();
                    }
                }
                Event::Reply { number, bytes, .. } => {
                    self.heard();
                    self.settle(number, Ok(bytes));
                }
                Event::Expired { number, heard, .. } => {
                    self.heard |= heard;
                    self.settle(number, Err(self.why_silent()));
                }
                // One that has been replaced, or that was to replace another.
                Event::Closed { link, .. } if self.link != Some(link) => {}
                Event::Closed { .. } => {
                    // Whatever has no answer yet is asked again on a fresh link.
                    self.link = None;
                    self.is_open = false;
                    self.waiting
                        .extend(std::mem::take(&mut self.asked).into_values());
                    self.ask_waiting();
                    if self.watcher.is_some() && self.link.is_none() {
                        let now = self.now();
                        self.open(now);
                    }
                }
                Event::Hello { reply, .. } => self.doubts_answered(PublicKey(reply.key)),
                // As many have been moved before as the new link has numbers below: it is free.
                Event::Moved {
                    number, as_number, ..
                } => {
                    if let Some(ask) = self.asked.remove(&number) {
                        self.asked.insert(as_number, ask);
                    }
                }
                // Nobody asks a client anything.
                Event::Incoming { .. }
                | Event::Request { .. }
                | Event::Oversized { .. }
                | Event::Delivered { .. } => {}
            }
        }
    }

    fn opened(&mut self, link: LinkId, welcome: &Welcome) {
        if self.watcher.is_some() && self.link != Some(link) {
            let now = self.now();
            self.endpoint.keep_alive(now, link, self.keepalive);
        }
        // Maybe one that replaces the last.
        self.link = Some(link);
        self.heard();
        self.is_open = true;
        if self.watcher.is_some() && welcome.is_life_unknown {
            self.pushed.push_back(Told::CursorsLost);
        }
        if self.watcher.is_some() && !std::mem::take(&mut self.is_expected) {
            self.pushed.push_back(Told::Opened);
            self.tell();
        }
        self.status.send_modify(|status| {
            status.highest = status.highest.max(welcome.highest);
            status.successor = welcome.successor.map(PublicKey);
        });
        self.learn_life(link, welcome);
    }

    fn heard(&mut self) {
        self.heard = true;
        self.doubt = None;
        self.changed = None;
        self.endpoint.stop_asking(self.target.address);
        let rtt = self.link.and_then(|link| self.endpoint.rtt(link));
        self.status
            .send_modify(|status| status.rtt = rtt.or(status.rtt));
    }

    fn settle(&mut self, number: u64, outcome: Result<Vec<u8>, AskError>) {
        if let Some(ask) = self.asked.remove(&number) {
            // Whoever asked may have stopped waiting.
            let _ = ask.answer.send(outcome);
        }
    }

    /// The realm is silent to those who do not know its key, so a changed key looks like no realm at
    /// all: until it is asked who it is. It may answer to its former key all the same (HS-11) and the
    /// link be a bad one: so it is tried for as long again.
    fn doubts_answered(&mut self, found: PublicKey) {
        if self.target.key.is_some_and(|pinned| pinned != found) {
            let now = Instant::now();
            self.changed = Some((found, now + DOUBT));
        }
    }

    /// Why nothing is heard.
    fn why_silent(&self) -> AskError {
        match self.changed {
            Some((found, _)) => AskError::KeyChanged(found),
            None => AskError::Expired {
                heard: self.heard,
                refused: self.refused,
            },
        }
    }

    /// Whoever is there does not answer to the key that is known.
    fn give_up(&mut self) {
        let why = self.why_silent();
        let asked = std::mem::take(&mut self.asked).into_values();
        for ask in asked.chain(self.waiting.drain(..)) {
            let _ = ask.answer.send(Err(why));
        }
    }

    async fn transmit(&mut self) {
        let mut datagram = Vec::new();
        loop {
            let now = self.now();
            if self.endpoint.poll_transmit(now, &mut datagram).is_none() {
                return;
            }
            self.meter.up(datagram.len());
            if let Err(error) = self.socket.send(&datagram).await {
                self.note(&error);
                self.rebind().await;
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        loop {
            match self.socket.try_recv_from(buffer) {
                Ok((len, _)) => {
                    self.meter.down(len);
                    let now = self.now();
                    let datagram = buffer.get(..len).unwrap_or_default();
                    self.endpoint
                        .handle_datagram(now, self.target.address, datagram);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => self.note(&error),
            }
        }
    }

    /// A socket is tied to the address that this machine had when it was made; where that is gone, as after a
    /// change of networks, another is needed. The link goes on over it.
    async fn rebind(&mut self) {
        if self.rebound.is_some_and(|at| at.elapsed() < REBIND_EVERY) {
            return;
        }
        self.rebound = Some(Instant::now());
        // Without a network at present, what could not be sent is sent again later.
        if let Ok(socket) = self.host.connect(self.target.address).await {
            self.socket = socket;
        }
    }

    /// What the network says of a datagram is a hint for people, and no reason to stop: a realm that
    /// is being restarted looks the same.
    fn note(&mut self, error: &io::Error) {
        self.refused |= error.kind() == io::ErrorKind::ConnectionRefused;
    }

    fn next_timeout(&self) -> Option<Instant> {
        let protocol = self
            .endpoint
            .poll_timeout()
            .map(|at| self.started + Duration::from_micros(at.0));
        let waiting = self.waiting.iter().map(|ask| ask.deadline);
        let changed = self.changed.map(|(_, until)| until);
        let doubts = self.doubt.into_iter().chain(changed);
        protocol.into_iter().chain(doubts).chain(waiting).min()
    }

    fn handle_timeout(&mut self) {
        let now = Instant::now();
        self.endpoint.handle_timeout(self.time(now));
        if self.doubt.is_some_and(|doubt| doubt <= now) {
            self.doubt = None;
            self.endpoint.ask_hello(self.time(now), self.target.address);
        }
        if self.changed.is_some_and(|(_, until)| until <= now) {
            self.give_up();
            self.changed = None;
        }
        let expired = self.why_silent();
        let (late, waiting): (VecDeque<_>, _) =
            self.waiting.drain(..).partition(|ask| ask.deadline <= now);
        self.waiting = waiting;
        for ask in late {
            let _ = ask.answer.send(Err(expired));
        }
    }
}

/// Waits until the watcher takes something.
async fn room_for(watcher: Option<&mpsc::Sender<Told>>) {
    match watcher {
        // A watcher that has gone is noticed elsewhere.
        Some(watcher) => drop(watcher.reserve().await),
        None => std::future::pending().await,
    }
}

/// Waits until nobody watches any more.
async fn watched_no_more(watcher: Option<&mpsc::Sender<Told>>) {
    match watcher {
        Some(watcher) => watcher.closed().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Asks whoever is at `address` who they are.
pub async fn ask_who(
    (socket, meter): (&Socket, &Meter),
    endpoint: &mut Endpoint,
    address: SocketAddr,
    deadline: Instant,
) -> Result<PublicKey, AskError> {
    let started = Instant::now();
    let time = |at: Instant| {
        let since = at.saturating_duration_since(started);
        Time(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    };
    let (mut buffer, mut datagram) = (vec![0; DATAGRAM_BYTES_MAX], Vec::new());
    let mut refused = false;
    endpoint.ask_hello(time(started), address);
    loop {
        while endpoint
            .poll_transmit(time(Instant::now()), &mut datagram)
            .is_some()
        {
            // As good as lost on the way: it is sent again.
            meter.up(datagram.len());
            let _ = socket.send(&datagram).await;
        }
        let again = endpoint
            .poll_timeout()
            .map(|at| started + Duration::from_micros(at.0));
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(deadline) => {
                return Err(AskError::Expired { heard: false, refused });
            }
            () = sleep_until(again) => {}
            ready = socket.readable() => if let Err(error) = ready {
                refused |= error.kind() == io::ErrorKind::ConnectionRefused;
            }
        }
        match socket.try_recv_from(&mut buffer) {
            Ok((len, _)) => {
                meter.down(len);
                let datagram = buffer.get(..len).unwrap_or_default();
                endpoint.handle_datagram(time(Instant::now()), address, datagram);
            }
            Err(error) => refused |= error.kind() == io::ErrorKind::ConnectionRefused,
        }
        while let Some(event) = endpoint.poll_event() {
            if let Event::Hello { reply, .. } = event {
                return Ok(PublicKey(reply.key));
            }
        }
    }
}
