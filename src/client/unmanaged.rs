//! A link without a profile, for programs that measure a realm and for tests. Nothing is
//! remembered, and commands are neither numbered nor retried for the caller.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::Rng as _;

use super::{Traffic, driver::RECEIVED_AT_ONCE, route::sleep_until, system_rng};
use crate::{
    crypto::{PublicKey, SecretKey},
    endpoint::{Config, EarlyData, Endpoint, Event, LinkId, LinkStatus},
    host::{Host, Socket},
    link::Time,
    wire::{Answer, ErrorCode, OperationNumber, RequestId},
};

/// After this time a command counts as unanswered.
const PATIENCE: Duration = Duration::from_secs(30);

/// The outcome of a command on a [`Direct`] link.
#[derive(Clone, Copy, Debug)]
pub enum DirectOutcome {
    /// It was answered after this time.
    Done(Duration),
    /// It was refused.
    Refused(ErrorCode),
    /// No answer came in 30 s.
    Unanswered,
}

/// A link to a realm, and its commands in flight.
#[derive(Debug)]
pub struct Direct {
    socket: Socket,
    endpoint: Endpoint,
    link: LinkId,
    started: Instant,
    is_open: bool,
    in_flight: BTreeMap<RequestId, Instant>,
    next_operation: u64,
    buffer: Vec<u8>,
    out: Vec<u8>,
    sent: Traffic,
    received: Traffic,
}

impl Direct {
    /// Starts a link from a device to the realm at `address` with the key `realm`. Without a key
    /// the link is plain. `highest` is the highest operation number that the device has used.
    ///
    /// # Errors
    /// If the system provides no socket or no randomness.
    pub async fn begin(
        device: &SecretKey,
        highest: OperationNumber,
        address: SocketAddr,
        realm: Option<PublicKey>,
    ) -> io::Result<Self> {
        let socket = Host::Real.connect(address).await?;
        let mut seed = [0; 32];
        system_rng()?.fill_bytes(&mut seed);
        let mut endpoint = Endpoint::new(Config::default(), &device.clone().into(), seed);
        let link = match realm {
            Some(key) => endpoint.connect(Time(0), address, key, None),
            None => endpoint.connect_plain(Time(0), address, None),
        };
        Ok(Self {
            socket,
            endpoint,
            link,
            started: Instant::now(),
            is_open: false,
            in_flight: BTreeMap::new(),
            next_operation: highest.0 + 1,
            buffer: vec![0; 65_535],
            out: Vec::new(),
            sent: Traffic::default(),
            received: Traffic::default(),
        })
    }

    /// True if the handshake is complete.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Returns the highest operation number used.
    pub const fn highest(&self) -> OperationNumber {
        OperationNumber(self.next_operation - 1)
    }

    /// Returns the number of unanswered commands.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Returns how often a command, or the handshake with the first command, was retransmitted.
    pub fn repeats(&self) -> u64 {
        let stats = self.endpoint.link(self.link).map(LinkStatus::stats);
        stats.map_or(0, |stats| {
            let repeats = stats.counters.repeats;
            repeats.requests + repeats.openings
        })
    }

    /// Returns the traffic sent since the last reset.
    pub const fn sent(&self) -> Traffic {
        self.sent
    }

    /// Returns the traffic received since the last reset.
    pub const fn received(&self) -> Traffic {
        self.received
    }

    /// Resets the traffic counters.
    pub fn reset_traffic(&mut self) {
        (self.sent, self.received) = (Traffic::default(), Traffic::default());
    }

    /// Returns an unused operation number.
    pub const fn take_operation(&mut self) -> OperationNumber {
        self.next_operation += 1;
        OperationNumber(self.next_operation - 1)
    }

    /// Sends a command, given as its bytes. Returns false if the link accepts no more at present:
    /// [`Direct::step`] makes room.
    pub fn ask(&mut self, command: Vec<u8>) -> bool {
        let now = self.now();
        let number = self.endpoint.request(
            now,
            self.link,
            command,
            now + PATIENCE,
            EarlyData::Forbidden,
        );
        number.is_some_and(|number| {
            self.in_flight.insert(number, Instant::now());
            true
        })
    }

    /// Sends what is due, waits for a datagram or a timeout, and adds the outcomes of commands to
    /// `told`.
    ///
    /// # Errors
    /// If the link has ended.
    pub async fn step(&mut self, told: &mut Vec<DirectOutcome>) -> io::Result<()> {
        self.take_events(told)?;
        self.transmit().await;
        if !told.is_empty() || self.endpoint.has_events() {
            return self.take_events(told);
        }
        let due = self.endpoint.poll_timeout();
        let due = due.map(|at| self.started + Duration::from_micros(at.0));
        tokio::select! {
            // An ICMP error for an earlier datagram is no reason to end.
            _ = self.socket.readable() => self.receive(),
            () = sleep_until(due.map(Into::into)) => {
                // The task may have been scheduled late: a datagram that has arrived by now needs
                // no retransmission (LINK-8). The runtime learns of it once it has been polled.
                tokio::task::yield_now().await;
                self.receive();
            }
        }
        let now = self.now();
        self.endpoint.handle_timeout(now);
        self.take_events(told)
    }

    /// Closes the link.
    pub async fn close(&mut self) {
        let now = self.now();
        self.endpoint.close_all(now);
        self.transmit().await;
    }

    async fn transmit(&mut self) {
        loop {
            let now = self.now();
            if self.endpoint.poll_transmit(now, &mut self.out).is_none() {
                return;
            }
            self.sent.add_datagram(self.out.len());
            // It counts as lost on the path.
            let _ = self.socket.send(&self.out).await;
        }
    }

    fn receive(&mut self) {
        for _ in 0..RECEIVED_AT_ONCE {
            match self.socket.try_recv_from(&mut self.buffer) {
                Ok((len, from)) => {
                    let now = self.now();
                    self.received.add_datagram(len);
                    if let Some(datagram) = self.buffer.get(..len) {
                        self.endpoint.handle_datagram(now, from, datagram);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error for an earlier datagram.
                Err(_) => {}
            }
        }
    }

    fn take_events(&mut self, told: &mut Vec<DirectOutcome>) -> io::Result<()> {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Opened { welcome, .. } => {
                    self.is_open = true;
                    self.next_operation = self.next_operation.max(welcome.highest.0 + 1);
                }
                Event::Reply { number, bytes, .. } => {
                    let Some(asked) = self.in_flight.remove(&number) else {
                        continue;
                    };
                    told.push(match Answer::parse(&bytes) {
                        Ok(Answer::Refused(refusal)) => DirectOutcome::Refused(refusal.code),
                        Ok(_) => DirectOutcome::Done(asked.elapsed()),
                        Err(error) => {
                            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                        }
                    });
                }
                Event::Expired { number, .. } => {
                    self.in_flight.remove(&number);
                    told.push(DirectOutcome::Unanswered);
                }
                Event::Closed { .. } => {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                // It watches nothing, remembers nothing, and gets no requests.
                Event::HighestOperation { .. }
                | Event::Pushed { .. }
                | Event::Hello { .. }
                | Event::TicketRefused { .. }
                | Event::Moved { .. }
                | Event::Incoming { .. }
                | Event::Proven { .. }
                | Event::Request { .. }
                | Event::Oversized { .. }
                | Event::PathProven { .. }
                | Event::UnknownTicket { .. }
                | Event::TicketDue { .. }
                | Event::TicketAddress { .. }
                | Event::Delivered { .. } => {}
            }
        }
        Ok(())
    }

    fn now(&self) -> Time {
        Time(0) + self.started.elapsed()
    }
}
