//! The one link of a driver: an endpoint that has no other, on the clock of the runtime.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    client::{ask::Ask, route::REALM},
    crypto::PublicKey,
    endpoint::{EarlyData, Endpoint, Event, LinkId, LinkStatus, Pushes, Ticket},
    link::{
        LinkStats, PathMemory, Silence, Time,
        trace::{Trace, TraceId, trace},
    },
    wire::{CloseReason, Life, RequestId},
};

/// What a link begins with.
#[derive(Default)]
pub(super) struct Beginning {
    /// The remembered round-trip time.
    pub rtt: Option<Duration>,
    /// The life of the realm's store that the link claims.
    pub life: Option<Life>,
    /// The path memory.
    pub path: Option<PathMemory>,
    /// The ticket for resumption.
    pub ticket: Option<Ticket>,
}

/// The link to the realm, if there is one.
pub(super) struct RealmLink {
    endpoint: Endpoint,
    /// The realm's key. `None` for a plain link.
    key: Option<PublicKey>,
    /// The keepalive of a link with a watch.
    keepalive: Option<Silence>,
    /// The time 0 of the endpoint.
    started: Instant,
    current: Option<LinkId>,
}

impl RealmLink {
    pub(super) fn new(
        endpoint: Endpoint,
        key: Option<PublicKey>,
        keepalive: Option<Silence>,
    ) -> Self {
        Self {
            endpoint,
            key,
            keepalive,
            started: Instant::now(),
            current: None,
        }
    }

    fn time(&self, at: Instant) -> Time {
        Time(0) + at.saturating_duration_since(self.started)
    }

    fn now(&self) -> Time {
        self.time(Instant::now())
    }

    /// Returns the realm's key. `None` for a plain link.
    pub(super) const fn key(&self) -> Option<PublicKey> {
        self.key
    }

    /// True if there is a link, open or being opened.
    pub(super) const fn is_there(&self) -> bool {
        self.current.is_some()
    }

    /// True if `link` is the link, and not one that it has replaced or that is to replace it.
    pub(super) fn is_current(&self, link: LinkId) -> bool {
        self.current == Some(link)
    }

    fn status(&self) -> Option<LinkStatus<'_>> {
        self.endpoint.link(self.current?)
    }

    /// True if the link is open.
    pub(super) fn is_open(&self) -> bool {
        self.status().is_some_and(LinkStatus::is_open)
    }

    /// True if the link is being opened.
    pub(super) fn is_opening(&self) -> bool {
        self.is_there() && !self.is_open()
    }

    /// True if the link was resumed, and so has no forward secrecy.
    pub(super) fn is_resumed(&self) -> bool {
        self.status().is_some_and(LinkStatus::is_resumed)
    }

    /// Opens a link to the realm, which is at `address`.
    pub(super) fn open(&mut self, beginning: Beginning, address: Option<SocketAddr>) {
        let now = self.now();
        let link = match self.key {
            Some(key) => self.endpoint.connect(now, REALM, key, beginning.rtt),
            None => self.endpoint.connect_plain(now, REALM, beginning.rtt),
        };
        self.current = Some(link);
        self.trace_address(address);
        self.endpoint.claim_life(link, beginning.life);
        if let Some(memory) = &beginning.path {
            self.endpoint.start_from(link, memory);
        }
        if let Some(ticket) = beginning.ticket.filter(|_| self.key.is_some()) {
            self.endpoint.come_back(link, ticket);
        }
    }

    /// Traces the address of the realm, which the endpoint does not know.
    pub(super) fn trace_address(&self, address: Option<SocketAddr>) {
        if let Some((link, address)) = self.current.zip(address) {
            trace(TraceId::new(link.0), || Trace::Moved { remote: &address });
        }
    }

    /// Uses another link that has opened: it replaces the last one.
    pub(super) const fn replace(&mut self, link: LinkId) {
        self.current = Some(link);
    }

    /// Records that the link has ended.
    pub(super) const fn forget(&mut self) {
        self.current = None;
    }

    /// Closes the link, if there is one. An event tells when it has ended.
    pub(super) fn close(&mut self) {
        if let Some(link) = self.current {
            let now = self.now();
            self.endpoint.close(now, link, CloseReason::Done);
        }
    }

    /// Keeps the link alive: there is a watch.
    pub(super) fn keep_alive(&mut self) {
        if let Some(link) = self.current {
            let now = self.now();
            self.endpoint.keep_alive(now, link, self.keepalive);
        }
    }

    /// Sends a probe, so that the realm learns this side's address.
    pub(super) fn probe(&mut self) {
        if let Some(link) = self.current {
            let now = self.now();
            self.endpoint.probe(now, link);
        }
    }

    /// Accepts or refuses pushes from now on.
    pub(super) fn set_pushes(&mut self, pushes: Pushes) {
        if let Some(link) = self.current {
            self.endpoint.set_pushes(link, pushes);
        }
    }

    /// Uses the ticket for `left` from now on, and no longer.
    pub(super) fn show_ticket_for(&mut self, left: Duration) {
        if let Some(link) = self.current {
            let until = self.now() + left;
            self.endpoint.show_ticket_until(link, until);
        }
    }

    /// Puts a request on the link. `None` if there is no link, or it accepts no more.
    pub(super) fn request(&mut self, ask: &Ask) -> Option<RequestId> {
        let (now, deadline) = (self.now(), self.time(ask.deadline));
        let bytes = ask.bytes.clone();
        let early = EarlyData::allowed_if(ask.early);
        self.endpoint
            .request(now, self.current?, bytes, deadline, early)
    }

    /// Asks for the key at the realm's address.
    pub(super) fn ask_key(&mut self) {
        let now = self.now();
        self.endpoint.ask_hello(now, REALM);
    }

    pub(super) fn stop_asking_key(&mut self) {
        self.endpoint.stop_asking(REALM);
    }

    /// Returns the ticket of a link.
    pub(super) fn ticket(&self, link: LinkId) -> Option<Ticket> {
        let status = self.endpoint.link(link);
        status.and_then(LinkStatus::ticket).cloned()
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.status().and_then(LinkStatus::rtt)
    }

    pub(super) fn path_memory(&self) -> Option<PathMemory> {
        self.status().map(LinkStatus::path_memory)
    }

    pub(super) fn stats(&self) -> Option<LinkStats> {
        self.status().map(LinkStatus::stats)
    }

    /// True if the realm owes a sign of life.
    pub(super) fn awaits_sign(&self) -> bool {
        self.status().is_some_and(LinkStatus::awaits_keepalive)
    }

    /// Handles a datagram. True if it is authentic.
    pub(super) fn handle_datagram(&mut self, datagram: &[u8]) -> bool {
        let now = self.now();
        let before = self.status().and_then(LinkStatus::heard);
        self.endpoint.handle_datagram(now, REALM, datagram);
        self.status().and_then(LinkStatus::heard) > before
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.endpoint.poll_event()
    }

    pub(super) fn has_events(&self) -> bool {
        self.endpoint.has_events()
    }

    /// Writes the next datagram to send. False if there is none.
    pub(super) fn poll_transmit(&mut self, datagram: &mut Vec<u8>) -> bool {
        let now = self.now();
        self.endpoint.poll_transmit(now, datagram).is_some()
    }

    /// Returns the next timeout.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let at = self.endpoint.poll_timeout()?;
        Some(self.started + Duration::from_micros(at.0))
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(self.time(now));
    }
}
